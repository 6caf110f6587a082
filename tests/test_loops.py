"""Every reward and advantage is written twice, as a class and as a plain loop; the two must agree."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rewards import LOOPS, PROGRESS, call, main
from rewards import REWARDS, Batch, Reward, build_reward, dump
from tests.batches import CAP, batches, make
from trainers.advantages import ADVANTAGES

OPERATORS = {"sum", "product", "weight", "constant", "keep", "rollout_gate", "group_gate"}


@pytest.mark.parametrize("name", LOOPS)
@settings(max_examples=25, deadline=None)
@given(batch=batches(unknown=False), seed=st.integers(0, 999))
def test_class_and_loop_agree(name: str, batch: Batch, seed: int) -> None:
    method, loop = LOOPS[name]
    rng = np.random.default_rng(seed)
    reward = batch.correct + rng.choice([0.0, 0.0, 0.25, -0.5], len(batch))
    if isinstance(method, Reward):
        method = build_reward(dump(method))
        method.observe(make([(4, "mixed")] * 5, rng, origin="monitor" if method.monitor() else "train"), PROGRESS)
    columns = {key: value.tolist() for key, value in vars(batch).items() if isinstance(value, np.ndarray)}
    want = np.array(loop(method, SimpleNamespace(**columns, reward=reward.tolist()), PROGRESS), dtype=float)
    got = call(method, batch, reward)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9 * max(1.0, np.abs(want).max(initial=0.0)))


def test_every_method_has_a_loop() -> None:
    assert not (set(REWARDS.table) | set(ADVANTAGES.table)) - OPERATORS - set(LOOPS)


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rollouts", "4096", "--loop-rollouts", "1024", "--repeats", "1", "hapo", "grpo", "repetition"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["grpo", "hapo", "repetition"] and CAP
    with pytest.raises(SystemExit):
        main(["no_such_method"])
