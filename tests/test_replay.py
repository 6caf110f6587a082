"""Replay: a run's log gives the run's own numbers back; slopes are those of brute force; bad logs are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.predicted_step import SUMS, Groups, ProblemSums, group_sums, statistics, tilt
from benchmarks.replay import replay
from benchmarks.replay_plan import AS_LOGGED, configurations, parse
from benchmarks.replay_speed import main as speed
from rewards import build_reward
from rewards.errors import TautError
from rollout.foreign import Foreign
from rollout.foreign_logs import read_log
from taut import main
from tests.batches import make
from trainers.advantages.base import build_advantage

TINY = [
    "prompts=2", "sampling.samples=4", "sampling.max_tokens=48", "heldout.problems=2", "checkpoint.every=4", "steps=4",
    "rollout.engine=transformers",
]  # fmt: skip
LASER_D = "{type: laser_d, target: 24, interval: 8, monitor_problems: 2, monitor_samples: 2, monitor_every: 2}"
CONSTRAINED = (
    "{type: constrained, maximise: {type: weight, weight: -1.0, term: linear_length}, "
    "subject_to: [{term: correct, at_least: 0.6}]}"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [["reward=hapo"], [f"reward={LASER_D}"], [f"reward={CONSTRAINED}", "advantage=raw"], ["advantage=canon"]],
    ids=["hapo", "laser_d", "constrained", "canon"],
)
def test_the_runs_own_configuration_replays_bit_for_bit(settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", f"out={run}", *TINY, *settings]) == 0
    for log in [run, *sorted((run / "rollouts").iterdir())]:
        own = replay([log], [], Foreign()).replayers[0]
        assert own.configuration.name == AS_LOGGED
        assert own.checked == (32 if log == run else 8) and not own.differs and not own.refused, log
    assert main(["replay", str(run), "recipe=hapo", "--out", str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"report.md", "replay.csv", "arrows.png"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(problems: int = 6, samples: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"problem_id": f"p{p}", "sample_id": k, "correct": bool(rng.random() < 0.5), "length": int(rng.integers(5, 90))}
        for p in range(problems)
        for k in range(samples)
    ]


def test_slopes_and_shares_are_those_of_plain_loops() -> None:
    batch = make([(4, "mixed"), (6, "mixed"), (3, "one right"), (5, "all right")], np.random.default_rng(3))
    scores = build_reward("kimi").score(batch)
    a = build_advantage("dr_grpo")(batch, scores)
    sums = ProblemSums(len(SUMS))
    sums.add(np.arange(4), group_sums(batch, scores, a))
    found, _, _ = statistics(sums.table, [])
    n, correct, length = len(batch), batch.correct.astype(float), batch.length.astype(float)
    centred = {
        k: np.concatenate([x[g] - x[g].mean() for g in batch.groups()])
        for k, x in (("a", a), ("c", correct), ("l", length))
    }
    sd = np.sqrt((centred["a"] ** 2).sum() / n)
    assert found["slope_accuracy"].value == pytest.approx((centred["a"] * centred["c"]).sum() / n / sd)
    assert found["slope_tokens"].value == pytest.approx((centred["a"] * centred["l"]).sum() / n / sd)
    assert found["correct_negative"].value == pytest.approx((a[batch.correct] < 0).mean())
    assert found["wrong_positive"].value == pytest.approx((a[~batch.correct] > 0).mean())
    mixed = [g for g in batch.groups() if 0 < batch.correct[g].sum() < len(g)]
    inverted = [scores.total[g][~batch.correct[g]].max() > scores.total[g][batch.correct[g]].min() for g in mixed]
    assert found["inverted"].value == pytest.approx(np.mean(inverted))


def test_a_small_tilt_is_the_slope_and_a_large_one_is_refused() -> None:
    rng = np.random.default_rng(0)
    correct, length = rng.random(4000) < 0.5, rng.integers(10, 100, 4000).astype(float)
    groups = Groups(np.arange(0, 4000, 8), correct, length, np.arange(500))
    a = correct - 0.01 * length
    centred = a - np.repeat(a.reshape(-1, 8).mean(axis=1), 8)
    slope = (centred * correct).mean() / np.sqrt((centred**2).mean())
    small = tilt(groups, a, 1e-4)
    assert small.accuracy is not None and small.accuracy.value == pytest.approx(np.sqrt(2e-4) * slope, rel=0.02)
    assert small.ess > 0.99
    assert "effective sample size" in tilt(groups, a, 1.5).refused
    assert "no group has any signal" in tilt(groups, np.zeros(4000), 0.1).refused


def test_configurations_grids_and_recipes() -> None:
    found = configurations({
        "short": {"recipe": "laser", "reward.target": 60},
        "grid": {"reward": ["correct", "kimi"], "advantage": ["grpo", "raw"]},
    })  # fmt: skip
    assert [c.name for c in found] == [
        "short", "reward=correct advantage=grpo", "reward=correct advantage=raw", "reward=kimi advantage=grpo",
        "reward=kimi advantage=raw",
    ]  # fmt: skip
    assert found[0].reward.model_dump()["target"] == 60 and found[4].advantage.type == "raw"
    with pytest.raises(TautError, match=r"'x'.*unknown.*reward"):
        configurations({"x": {"rewrd": "correct"}})
    with pytest.raises(TautError, match="no LOG"):
        parse(["kl=0.1"])


def test_logs_of_verl_and_trl(tmp_path: Path) -> None:
    verl = [
        {"input": f"q{p}", "output": "x" * k, "score": 0.3, "acc": k % 2, "step": 1} for p in (0, 1) for k in (1, 2)
    ]
    tokenizer = "benchmarks:overthinker/checkpoint"
    _, step = next(read_log(write(tmp_path / "1.jsonl", verl), Foreign(tokenizer=tokenizer)))
    assert step.batch.num_groups == 2 and step.batch.correct.tolist() == [True, False] * 2
    with pytest.raises(TautError, match=r"1\.jsonl.*tokenizer=FOLDER"):
        next(read_log(tmp_path / "1.jsonl", Foreign()))
    trl = {
        "step": [1, 1],
        "prompt": ["q", "q"],
        "completion": ["1", "2"],
        "right": [1.0, 0.0],
        "advantage": [1.0, -1.0],
    }
    path = tmp_path / "completions_00001.parquet"
    pq.write_table(pa.table(trl), path)
    _, step = next(read_log(path, Foreign({"correct": "right"}, tokenizer)))
    assert step.batch.num_groups == 1 and step.batch.correct.tolist() == [True, False]
    with pytest.raises(TautError, match=r"columns\.correct=NAME"):
        next(read_log(path, Foreign(tokenizer=tokenizer)))


def test_what_is_wrong_with_a_log_is_named(tmp_path: Path) -> None:
    good = rows()
    path = tmp_path / "log.jsonl"
    kimi = configurations({"k": {"reward": "kimi"}})
    found = replay([write(path, good)], kimi, Foreign())
    assert found.rollouts == 24 and len(found.groups.starts) == 6
    with pytest.raises(TautError, match=r"log\.jsonl:25.*sample 0.*log\.jsonl:1 already"):
        replay([write(path, [*good, good[0]])], kimi, Foreign())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(TautError, match=r"log\.jsonl:25: not JSON"):
        replay([path], kimi, Foreign())
    with pytest.raises(TautError, match=r"log\.jsonl:1: correct is 0\.7, no verdict"):
        replay([write(path, [good[0] | {"correct": 0.7}])], kimi, Foreign())
    with pytest.raises(TautError, match="no problem has two rollouts"):
        replay([write(path, good[::4])], kimi, Foreign())
    lone = replay([write(path, good[:5])], kimi, Foreign())
    assert any("row 5" in note and "one rollout" in note for note in lone.notes)
    with pytest.raises(TautError, match=r"where\.model=a"):
        replay([write(path, [r | {"model": "ab"[i % 2]} for i, r in enumerate(good)])], kimi, Foreign())
    repetition = configurations({"r": {"reward": {"type": "repetition", "ngram": 3, "max_penalty": -0.1}}})
    refused = replay([write(path, good)], repetition, Foreign()).replayers[0].refused
    assert "reward repetition" in refused and "'tokens'" in refused and "log token ids" in refused


def test_a_term_that_never_paid_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "log.jsonl", rows())
    assert main(["replay", str(log), "cap=90", "reward=hapo", "--out", str(tmp_path / "out")]) == 0
    assert "what if: hapo paid nothing" not in capsys.readouterr().out  # it pays for being right
    (tmp_path / "what_if.yaml").write_text("plain: {reward: correct}\nhapo: {reward: hapo}\n")
    assert (
        main(["replay", str(log), "cap=90", f"configs={tmp_path / 'what_if.yaml'}", "--out", str(tmp_path / "out")])
        == 0
    )
    assert "hapo: the same as plain on this log; a history needs problems" in capsys.readouterr().out
    kimi = "{type: sum, terms: [correct, {type: weight, weight: 0.0, term: kimi}]}"
    assert main(["replay", str(log), "cap=90", f"reward={kimi}", "--out", str(tmp_path / "out")]) == 0
    assert "/weight paid nothing on this log: a weight that starts at 0" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_replays_a_log_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed(["--rollouts", "6000", "--resamples", "200", "--json", str(tmp_path / "speed.json")]) == 0
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["configurations"] == 20 and 0 < found["replay_gib"] < 8
    assert "replay 6,000 rollouts under 20 configurations" in capsys.readouterr().out
