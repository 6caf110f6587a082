"""Sampling plans, seeds, the rollout log: what is asked is reproducible, and what is written can be read back."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Batch, Linear, Progress, TautError, Verdict, build_reward
from rewards.batch import OPTIONAL
from rollout import ragged
from rollout.log import read_rollouts, write_rollouts
from rollout.sampler import to_batch, well_formed
from rollout.sampling import GroupPlan
from rollout.seeds import draw_order, generator, seed_of, seeds_of
from rollout.types import Problem, Request, Rollout

PROBLEMS = [Problem(f"p{i}", f"{i}+1", str(i + 1), level=str(i % 2)) for i in range(3)]


def render(problem: Problem, budget: int | None) -> str:
    return f"{problem.problem} in {budget}"


def rollouts() -> list[Rollout]:
    requests = GroupPlan(samples=2, max_tokens=8).requests(PROBLEMS, render, Progress(step=2), generator(0, "plan", 2))
    out = []
    for i, r in enumerate(requests):
        verdict = [Verdict.CORRECT, Verdict.WRONG, Verdict.UNKNOWN][i % 3]
        ids, probs = tuple(range(i + 1)), (float("nan"), *[-0.5] * i)
        out.append(
            Rollout(r, (1, 2), ids, probs, "stop", (2,) * (i + 1), "text é", forced=1, verdict=verdict, format_ok=i > 1)
        )
    return out


def test_requests_are_whole_groups_with_ids_of_their_own() -> None:
    plan = GroupPlan(samples=2, max_tokens=Linear(start=10, end=20), budget=64)
    seen: list[int] = []
    for step in range(3):
        asked = plan.requests(PROBLEMS, render, Progress(step=step, total_steps=2), generator(0, "plan", step))
        assert [r.group for r in asked] == [0, 0, 1, 1, 2, 2] and {r.max_tokens for r in asked} == {10 + 5 * step}
        assert asked[0].prompt == "0+1 in 64" and asked[0].budget == 64
        seen += [r.sample_id for r in asked]
    assert len(set(seen)) == len(seen)
    with pytest.raises(TautError, match=r"sampling\.max_tokens is 0 at step 0"):
        GroupPlan(max_tokens=0).requests(PROBLEMS, render, Progress(), generator(0, "plan", 0))
    with pytest.raises(TautError, match="no state"):
        plan.load_state_dict({"cap": 3})


@given(size=st.integers(1, 30), count=st.integers(1, 50), seed=st.integers(0, 3))
def test_the_data_position_is_a_number(size: int, count: int, seed: int) -> None:
    whole = draw_order(size, count, 0, seed)
    cut = count // 2
    assert whole == draw_order(size, cut, 0, seed) + draw_order(size, count - cut, cut, seed)
    for epoch in range(count // size):
        assert Counter(whole[epoch * size : (epoch + 1) * size]) == Counter(range(size))


def test_seeds_differ_by_run_stream_and_number() -> None:
    seeds = {seed_of(s, stream, n) for s in (0, 1) for stream in ("train", "validation") for n in range(50)}
    assert len(seeds) == 200 and all(0 <= s < 2**63 for s in seeds)


@given(seed=st.integers(0, 2**33), numbers=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 2**40), max_size=5))
def test_seeds_of_many_are_those_of_each(seed: int, numbers: list[int]) -> None:
    for stream in ("train", "fill"):
        assert seeds_of(seed, stream, numbers) == [seed_of(seed, stream, n) for n in numbers]


def test_a_written_step_is_read_back(tmp_path: Path) -> None:
    done = rollouts()
    batch = to_batch(done, mean_log_prob=np.linspace(-1, 0, 6))
    scores = build_reward("correct").score(batch)
    meta = {"step": 3, "state": {"reward": {"h": 1}}}
    write_rollouts(tmp_path / "step.parquet", done, batch, meta, scores, np.arange(6.0))
    step = read_rollouts(tmp_path / "step.parquet")
    assert step.meta == meta
    for name in ("group", "length", "verdict", "problem_id", "sample_id", "truncated", "format_ok", "mean_log_prob"):
        np.testing.assert_array_equal(getattr(step.batch, name), getattr(batch, name))
    np.testing.assert_array_equal(build_reward("correct").score(step.batch).total, step.columns["reward"])
    assert step.columns["text"][0] == "text é" and step.columns["advantage"] == list(range(6))
    assert list(step.batch.column("tokens")[2]) == [0, 1, 2]
    assert "text" in step.columns and "nothing" not in step.columns and len(step.columns) == len(list(step.columns))
    without = read_rollouts(tmp_path / "step.parquet", lambda meta: frozenset())
    assert without.batch.tokens is None and without.columns["token_ids"][2] == [0, 1, 2]


def test_mean_log_probs_are_those_of_the_engine_where_none_were_logged(tmp_path: Path) -> None:
    done = rollouts()
    done[1].log_probs = (float("nan"), -1.0, -2.0)  # the first was forced
    done[2].log_probs = (float("nan"),)
    write_rollouts(tmp_path / "step.parquet", done, to_batch(done), {})
    batch = read_rollouts(tmp_path / "step.parquet", lambda meta: frozenset({"mean_log_prob"})).batch
    assert batch.column("mean_log_prob")[1:3].tolist() == [-1.5, 0.0]
    assert batch.column("mean_log_prob")[3] == -0.5


def test_the_batch_is_read_back_whole(tmp_path: Path) -> None:
    """What any method may read, so that each can be replayed: tags, modes, budgets, references, entropies."""
    done = rollouts()
    for i, rollout in enumerate(done):
        rollout.mode = (None, "think", "no_think")[i % 3]
        rollout.tags = (frozenset(), frozenset({"think"}), frozenset({"think", "answer"}))[i % 3]
    plain = {"budget", "format_ok", "mode", "tags", "tokens"}
    measured = {name: np.linspace(0.1, 0.7, 6) for name in OPTIONAL if name not in plain}
    batch = dataclasses.replace(to_batch(done, **measured), budget=np.arange(6.0))
    write_rollouts(tmp_path / "step.parquet", done, batch, {})
    again = read_rollouts(tmp_path / "step.parquet").batch
    for field in dataclasses.fields(Batch):
        a, b = getattr(batch, field.name), getattr(again, field.name)
        assert a.dtype == b.dtype and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)), field.name
    reward = build_reward("budget_curriculum")
    np.testing.assert_array_equal(reward.score(again).total, reward.score(batch).total)
    write_rollouts(tmp_path / "held.parquet", done, dataclasses.replace(batch, tags=None), {})
    assert read_rollouts(tmp_path / "held.parquet").batch.tags is None


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(TautError, match=r"x\.parquet: cannot be read as parquet"):
        read_rollouts(tmp_path / "x.parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(TautError, match=r"y\.parquet: no Taut rollout log"):
        read_rollouts(tmp_path / "y.parquet")


def test_reference_statistics_become_columns() -> None:
    problem = Problem("a", "1", "1", extra={"reference_accuracy": 0.5, "reference_length": 80})
    rollout = Rollout(Request(problem, 0, 0, "1", 5), (1,), (1,), (0.0,), "stop", (0,), "1")
    assert to_batch([rollout]).column("reference_length")[0] == 80
    assert to_batch(rollouts()).reference_length is None
    problem.extra["reference_accuracy"] = "high"  # a column of the data that happens to have this name
    assert to_batch([rollout]).reference_accuracy is None


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 8))
def test_rows_of_any_lengths_become_one_array(lengths: list[int], portion: int) -> None:
    """Whatever portions they are converted in."""
    rows = [tuple(range(i, i + n)) for i, n in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "PORTION", portion)
        values, ends = ragged.flat(rows, np.int32)
    assert values.dtype == np.int32 and ends[0] == 0 and len(ends) == len(rows) + 1
    assert [tuple(values[a:b].tolist()) for a, b in pairwise(ends)] == rows


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("<think>a</think><answer>b</answer>", {"think", "answer"}),
        ("<think>a</think>b", {"think"}),
        ("</think>a<think>", set()),
        ("<think><answer>a</answer></think>", set()),
        ("<think>a</think><think>b</think>", set()),
    ],
)
def test_well_formed_tags(text: str, tags: set[str]) -> None:
    assert well_formed(text) == tags
