"""Entropies by phase: the trainer's chunked pass against the whole vocabulary at once, and where thinking ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards import Verdict, build_reward
from rollout.sampler import to_batch
from rollout.types import Problem, Request, Rollout
from tests.tiny import VOCABULARY, qwen3
from trainers.optim import make_optimizer
from trainers.policy import Policy
from trainers.settings import load_config
from trainers.update import PHASES, Updater, _phases

OPEN, CLOSE, TEMPERATURE = 10, 11, 0.6
ALL = frozenset(f"{prefix}entropy_{phase}" for prefix in ("", "untempered_") for phase in PHASES)
RESPONSES = {  # (prompt, forced beginning, what follows)
    "no tag": ((20, 21), (), (30, 31, 32)),
    "tag first": ((20,), (), (CLOSE, 31, 32, 33)),
    "tag last": ((22, 23), (), (OPEN, 31, 32, CLOSE)),
    "tag alone": ((22,), (), (CLOSE,)),
    "two tags": ((24,), (), (OPEN, 31, CLOSE, 32, 33, CLOSE, 34)),
    "forced tag": ((25, 26, 27), (CLOSE,), (31, 32)),
    "forced thinking": ((25,), (OPEN, 40), (31, CLOSE, 33)),
    "prompt opens": ((28, OPEN), (), (31, 32, CLOSE, 33)),
    "prompt opens, cut": ((28, OPEN), (), (31, 32, 33, 34)),
    "opens twice": ((29,), (), (OPEN, 31, OPEN, 32, CLOSE, 33)),
}
THINKING_ENDS = {  # tokens before the first `</think>` of the response
    "no tag": 3, "tag first": 0, "tag last": 3, "tag alone": 0, "two tags": 2, "forced tag": 0, "forced thinking": 3,
    "prompt opens": 2, "prompt opens, cut": 4, "opens twice": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3(tmp_path_factory.mktemp("tiny"), seed=3)


def rollouts() -> list[Rollout]:
    out = []
    for i, (prompt, prefix, rest) in enumerate(RESPONSES.values()):
        request = Request(Problem(str(i), "1+1", "2"), i, i, "1+1", 32)
        log_probs = (*[float("nan")] * len(prefix), *[-1.0] * len(rest))
        ids = (*prefix, *rest)
        out.append(Rollout(request, prompt, ids, log_probs, "stop", (0,) * len(ids), "x", forced=len(prefix)))
    return out


def updater(folder: Path, chunk: int = 4) -> Updater:
    config = load_config([f"rollout.temperature={TEMPERATURE}", "micro_tokens=20"])
    policy = Policy.load(folder, device="cpu", logit_chunk=chunk)
    return Updater(policy, make_optimizer(policy.model, config.optim), config, think_end=CLOSE)


def whole(policy: Policy, rollout: Rollout, temperature: float) -> np.ndarray:
    """(T,) -sum p ln p over the vocabulary, in float64, from the model's own logits."""
    row = torch.tensor([[*rollout.prompt_ids, *rollout.token_ids]])
    with torch.no_grad():
        logits = policy.model(input_ids=row).logits[0, len(rollout.prompt_ids) - 1 : -1].double().numpy()
    assert logits.shape == (len(rollout.token_ids), VOCABULARY)
    p = np.exp(logits / temperature - (logits / temperature).max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -(p * np.log(p)).sum(1)


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def test_phases_are_those_of_the_whole_vocabulary(folder: Path) -> None:
    some, u = rollouts(), updater(folder)
    columns, _ = u.measure(some, ALL)
    for i, (name, rollout) in enumerate(zip(RESPONSES, some, strict=True)):
        k = THINKING_ENDS[name]
        for prefix, temperature in (("", TEMPERATURE), ("untempered_", 1.0)):
            entropy = whole(u.policy, rollout, temperature)
            parts = {"all": entropy, "think": entropy[:k], "answer": entropy[k + 1 :]}
            for phase, values in parts.items():
                assert columns[f"{prefix}entropy_{phase}"][i] == pytest.approx(mean(values), abs=1e-5), (name, phase)
    assert columns["entropy_temperature"] == [TEMPERATURE] * len(some)
    gap = np.subtract(columns["untempered_entropy_all"], columns["entropy_all"])
    assert (gap > 0.01).all(), "a temperature below 1 sharpens"


def test_pear_reads_them(folder: Path) -> None:
    some, u = rollouts(), updater(folder)
    reward = build_reward("pear")
    columns, _ = u.measure(some, reward.needs)
    assert set(columns) >= reward.needs and "entropy_all" not in columns
    for r in some:
        r.verdict = Verdict.CORRECT
    paid = reward.score(to_batch(some, **columns)).total
    for name, rollout, value in zip(RESPONSES, some, paid, strict=True):
        entropy, k = whole(u.policy, rollout, 1.0), THINKING_ENDS[name]
        assert value == pytest.approx(1 - max(0.0, mean(entropy[:k]) - mean(entropy[k + 1 :])), abs=1e-5), name


def test_no_more_logits_than_a_chunk_are_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, seen, results = Policy._logits, [], []
    monkeypatch.setattr(Policy, "_logits", lambda self, h: seen.append(h.shape[0]) or logits(self, h))
    for chunk in (1, 3, 4096):
        u = updater(folder, chunk)
        seen.clear()  # loading checks the head
        results.append(u.measure(rollouts(), ALL)[0])
        assert 0 < max(seen) <= chunk
    for other in results[1:]:
        for name in ALL:
            np.testing.assert_allclose(other[name], results[0][name], atol=1e-5)


@given(st.lists(st.sampled_from([CLOSE, OPEN, 30, 31]), max_size=12), st.booleans(), st.integers(0, 999))
def test_both_phases_and_the_tag_make_the_whole(ids: list[int], known: bool, seed: int) -> None:
    entropy = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed))
    every, think, answer = _phases(tuple(ids), entropy, CLOSE if known else None)
    k = ids.index(CLOSE) if known and CLOSE in ids else len(ids)
    tag = float(entropy[k]) if k < len(ids) else 0.0
    after = max(len(ids) - k - 1, 0)
    assert think * k + tag + answer * after == pytest.approx(every * len(ids), abs=1e-6)
    assert (think == 0) == (k == 0) and (answer == 0) == (after == 0)
