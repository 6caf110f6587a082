"""Weights by broadcast: vLLM's engines have them as by the object store, also when one dies within a broadcast."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewards.errors import TautError
from rollout import cluster as clusters
from rollout.choose import make_engine
from rollout.engine import EngineConfig
from rollout.sync import Canary, sync
from rollout.transfer import Broadcast, as_bytes
from tests import tiny
from trainers.checks import refuse
from trainers.settings import load_config

CANARY = Canary(tuple(range(20, 44)))


@pytest.fixture
def cluster() -> Iterator[None]:
    import ray

    assert clusters.connect(2)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_broadcast_is_survived_and_loads_what_the_store_would(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [tiny.qwen3(tmp_path / name, seed) for seed, name in enumerate("ab")]
    scores = [tiny.trainer_scores(model, 0.8) for model in models]
    config = EngineConfig(engine="vllm", temperature=0.8, max_num_seqs=16, workers=2, weights="broadcast")
    pool: Any = make_engine(config, str(models[0]), tiny.STOPS)
    asked = tiny.prompts(4, 2, (20, 40))

    def load(which: int, version: int) -> None:
        assert sync(pool, tiny.weights(models[which]), version, CANARY, scores[which]) < 1e-5
        given = pool.generate(asked)
        assert tiny.largest_gap(scores[which], asked, given) < 1e-5
        assert {v for c in given for v in c.versions} == {version}

    def kill(worker: int) -> None:
        process = psutil.Process(pool.facts[worker]["pid"])
        process.kill()
        psutil.wait_procs([process], timeout=30)

    try:
        load(1, 1)
        group = pool._broadcast._group
        load(0, 2)
        assert (
            pool._broadcast.sent == 2 and pool._broadcast._group is group and pool._weights is None
        )  # none in the store

        whole = Broadcast._send

        def interrupted(self: Broadcast, tensors: Sequence[Any]) -> None:
            whole(self, tensors[:3])
            kill(0)
            whole(self, tensors[3:])

        with monkeypatch.context() as patch:
            patch.setattr(Broadcast, "_send", interrupted)
            load(1, 3)
        assert [e["worker"] for e in pool.take_events()] == [0]  # the other one loads again what broke off
        assert pool._broadcast.sent == 2
        load(0, 4)
        assert pool._broadcast.sent == 3 and pool.take_events() == []  # in a new group
    finally:
        pool.close()


@pytest.mark.slow
def test_only_vllm_receives_a_broadcast(cluster: None, tmp_path: Path) -> None:
    config = EngineConfig(engine="transformers", workers=1, weights="broadcast")
    with pytest.raises(TautError, match=r"rollout.weights=broadcast: only vLLM's .* these are transformers"):
        make_engine(config, str(tiny.qwen3(tmp_path / "a", 0)), tiny.STOPS)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "add rollout.workers=N"),
        (["rollout.workers=1", "trainer.ranks=2"], "the ranks put their weights into Ray's object store"),
        (["rollout.workers=1", "mode=async", "in_flight=true"], "a broadcast needs all at once"),
    ],
)
def test_where_no_broadcast_is_possible_it_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(TautError, match=rf"rollout\.weights=broadcast.*{said}"):
        refuse(load_config(["rollout.weights=broadcast", *settings]))


def test_bytes_are_those_of_the_tensor() -> None:
    import torch

    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        for tensor in (torch.arange(12).reshape(3, 4).to(dtype).T, torch.tensor(3).to(dtype)):
            taken = torch.empty(tensor.shape, dtype=dtype)
            as_bytes(taken).copy_(as_bytes(tensor))
            assert torch.equal(taken, tensor)
