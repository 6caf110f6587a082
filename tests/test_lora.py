"""LoRA: only the factors move, what engines get is the model that was trained, and a checkpoint goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rewards.errors import TautError
from tests.test_ranks import TokenizerStub, apart, learner, train
from trainers.policy import Policy

LORA = ["lora.rank=4", "lora.alpha=8", "optim.lr=1e-2"]


def test_only_the_factors_move_and_the_merged_weights_are_the_policy(tmp_path: Path) -> None:
    one, base = learner(LORA), learner([])
    before = {name: p.detach().clone() for name, p in one.policy.model.named_parameters()}
    assert apart(dict(one.weights()), dict(base.weights())) == 0, "B is 0 at first"
    train(one, range(3))
    moved = {name for name, p in one.policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".lora_" in name}
    assert apart(dict(one.weights()), dict(base.weights())) > 1e-4
    one.export(tmp_path, TokenizerStub())
    exported = Policy.load(tmp_path, device="cpu")
    ids = [7, 8, 9, 10, 11]
    assert exported.score(ids) == pytest.approx(one.score(ids), abs=1e-4)  # of -10, after the factors are merged
    assert exported.score(ids) != pytest.approx(base.score(ids), abs=1e-3)


def test_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    one, other = learner(LORA), learner(LORA)
    train(one, range(2))
    one.save(tmp_path, TokenizerStub())
    other.restore(tmp_path)
    assert train(one, range(2, 4)) == train(other, range(2, 4))
    assert apart(dict(one.weights()), dict(other.weights())) == 0


def test_refusals() -> None:
    with pytest.raises(TautError, match=r"lora\.targets=\['q_porj'\]"):
        learner([*LORA, "lora.targets=[q_porj]"])
    with pytest.raises(TautError, match=r"lora\.rank"):
        learner(["lora.rank=0"])
