"""Sampling ahead of training: in every mode each group is trained on once, none too old, and a killed run goes on."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.batch import Verdict
from rewards.errors import TautError
from rollout.types import Problem, Request, Rollout
from taut import main
from tests.runs import SMALL, assert_same_run, launch, ray_head, rows
from trainers.assemble import progress_at
from trainers.checks import reasons, uncorrected
from trainers.fill import fill_requests
from trainers.pending import read_pending, write_pending
from trainers.pipeline import _parts, refuse_shared_vllm, staleness
from trainers.settings import load_config

PROBLEMS = [Problem("a", "1+1", "2"), Problem("b", "2+2", "4", level="hard")]
OPTIONS = [*SMALL, "rollout.engine=transformers", "objective.importance=truncate"]


def rollout(request: Request, **more: Any) -> Rollout:
    values: dict[str, Any] = {
        "prompt_ids": (1, 2), "token_ids": (3, 4), "log_probs": (-0.1, -1 / 3), "finish_reason": "stop", "versions": (4, 5),
        "text": "é", "tags": frozenset({"think"}), "verdict": Verdict.CORRECT, "reason": "equal", "answer": "2",
    }  # fmt: skip
    return Rollout(request=request, **(values | more))


def test_what_is_pending_comes_back_as_it_was(tmp_path: Path) -> None:
    asked = [Request(PROBLEMS[i % 2], i // 2, 10 + i, "p", 64, budget=7 if i else None, mode="x") for i in range(4)]
    made = [rollout(r, mode="y", forced=i % 2) for i, r in enumerate(asked)]
    made[1] = dataclasses.replace(made[1], token_ids=(), log_probs=(), versions=(), tags=frozenset())
    pending = [(7, asked, made, 1e-7), (8, asked[:2], None, 0.0)]
    write_pending(tmp_path / "p.parquet", pending)
    assert read_pending(tmp_path / "p.parquet", PROBLEMS) == pending
    assert read_pending(tmp_path / "none.parquet", PROBLEMS) == []
    with pytest.raises(TautError, match=r"p\.parquet: problem 'b' is not in the data any more"):
        read_pending(tmp_path / "p.parquet", PROBLEMS[:1])


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(1, 12))
def test_parts_keep_groups_whole_and_the_order(sizes: list[int], parts: int) -> None:
    requests = [Request(PROBLEMS[0], g, 0, "p", 1) for g, size in enumerate(sizes) for _ in range(size)]
    pieces = _parts(requests, parts)
    assert [r for piece in pieces for r in piece] == requests and all(pieces) and len(pieces) <= parts
    groups = [g for piece in pieces for g in {r.group for r in piece}]
    assert len(groups) == len(sizes)


def test_staleness_is_counted_by_token() -> None:
    asked = Request(PROBLEMS[0], 0, 0, "p", 64)
    assert staleness([rollout(asked), rollout(asked, versions=(5, 5, 6, 6))], 6) == {
        "staleness": pytest.approx(5 / 6),
        "staleness_max": 2,
        "mixed_versions": 1.0,
    }


def test_modes_that_make_no_sense_are_named() -> None:
    (reason,) = reasons(load_config(["max_staleness=3"], refused=False))
    assert reason.startswith("max_staleness=3: has no effect with mode=sync")
    assert uncorrected(load_config(["mode=async", "max_staleness=0"])) is None
    assert "objective.importance=truncate" in str(uncorrected(load_config(["mode=overlap"])))
    assert uncorrected(load_config(["mode=overlap", "objective.importance=truncate"])) is None


def train(run: Path, log: Path, *options: str) -> None:
    process = launch(["train", f"out={run}", *OPTIONS, *options], log)
    process.join()
    assert process.exitcode == 0, log.read_text()


def sampled_once(run: Path, steps: int) -> list[int]:
    """The versions by step; every sample of every step is in the log, once."""
    tables = [pq.read_table(run / f"rollouts/step-{s:06d}.parquet") for s in range(1, steps + 1)]
    assert [i for t in tables for i in t["sample_id"].to_pylist()] == list(range(16 * steps))
    return [min(t["oldest_version"].to_pylist()) for t in tables]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_async_without_staleness_is_sync_bit_for_bit(tmp_path: Path) -> None:
    train(tmp_path / "sync", tmp_path / "log.txt", "steps=4")
    train(tmp_path / "async", tmp_path / "log.txt", "steps=4", "mode=async", "max_staleness=0")
    assert_same_run(tmp_path / "sync", tmp_path / "async")
    assert sampled_once(tmp_path / "async", 4) == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", [["mode=overlap"], ["mode=async", "max_staleness=2", "sampling_parts=2"]])
def test_killed_at_any_moment_nothing_is_lost_or_trained_on_twice(mode: list[str], tmp_path: Path) -> None:
    whole, broken, log, steps = tmp_path / "whole", tmp_path / "broken", tmp_path / "log.txt", 8
    process = launch(["train", f"out={broken}", *OPTIONS, f"steps={steps}", *mode], log)
    for kill in range(3):
        while process.is_alive() and len(list(broken.glob("checkpoints/step-*"))) == 0:
            time.sleep(0.01)
        before = last(broken)
        while process.is_alive() and last(broken) == before:
            time.sleep(0.01)
        time.sleep(0.11 * kill)
        assert process.exitcode is None, log.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process = launch(["train", f"resume={broken}"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    versions = sampled_once(broken, steps)
    bound = 1 if mode == ["mode=overlap"] else 2
    assert all(0 <= step - version <= bound for step, version in enumerate(versions))
    assert [row["step"] for row in rows(broken)] == list(range(1, steps + 1))
    if mode == ["mode=overlap"]:
        assert versions == [0, *range(steps - 1)]
        train(whole, log, f"steps={steps}", *mode)
        assert_same_run(whole, broken)


def last(run: Path) -> int:
    return max((int(p.name[5:]) for p in run.glob("checkpoints/step-*")), default=0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sigterm_lets_the_step_end_and_saves(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    process = launch(["train", f"out={run}", *OPTIONS, "steps=200", "checkpoint.every=100", "mode=overlap"], log)
    while process.is_alive() and not rows_of(run):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode is not None and '"interrupted"' in (run / "status.json").read_text(), log.read_text()
    assert last(run) == rows_of(run) > 0


def rows_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_overlap_on_a_ray_cluster_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_head(tmp_path) as (address, head):
        monkeypatch.setenv("RAY_ADDRESS", address)
        run = [sys.executable, "-m", "taut", "train", f"out={tmp_path / 'run'}", *OPTIONS, "steps=3", "mode=overlap"]
        done = subprocess.run([*run, "rollout.workers=1"], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sampled_once(tmp_path / "run", 3) == [0, 0, 1] and head.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_overlap_on_vllm_in_an_actor(tmp_path: Path) -> None:
    with pytest.raises(
        TautError, match=r"mode=overlap: vLLM cannot sample in the process that trains; set rollout\.workers=1"
    ):
        refuse_shared_vllm(load_config(["mode=overlap", "rollout.engine=vllm"]))
    train(tmp_path / "run", tmp_path / "log.txt", "steps=3", "mode=overlap", "rollout.engine=vllm", "rollout.workers=1")
    assert [row["staleness_max"] for row in rows(tmp_path / "run")] == [0, 1, 1]
    assert sampled_once(tmp_path / "run", 3) == [0, 0, 1]


def test_filling_up_asks_for_as_many_groups_as_lack_signal_of_new_problems() -> None:
    config = load_config(["prompts=3", "sampling.samples=2", "drop_zero_signal=true", "fill_rounds=2"])
    problems = [Problem(str(i), "1+1", "2") for i in range(8)]
    progress = progress_at(5, config)
    asked = [Request(problems[i // 2], i // 2, 30 + i, "p", 64) for i in range(6)]
    verdicts = [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG, Verdict.WRONG, Verdict.CORRECT, Verdict.UNKNOWN]
    sampled = [rollout(r, verdict=v) for r, v in zip(asked, verdicts, strict=True)]

    def more(turn: int) -> list[Request]:
        return fill_requests(config, problems, lambda p, budget: p.problem, progress, sampled, turn)

    assert [r.group for r in more(0)] == [3, 3, 4, 4] and more(0) == more(0)
    assert not {r.problem.id for r in more(0)} & {"0", "1", "2"}
    assert (
        not {r.sample_id for r in more(0)} & {r.sample_id for r in more(1)}
        and min(r.sample_id for r in more(0)) > 2**40
    )
    few = problems[:4]
    assert (
        len(fill_requests(config, few, lambda p, budget: p.problem, progress, sampled, 0)) == 2
    )  # one problem is left
    (reason,) = reasons(load_config(["fill_rounds=2"], refused=False))
    assert reason.startswith("fill_rounds=2: replaces groups without signal; set drop_zero_signal=true")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_filled_steps_have_more_groups_with_signal_in_every_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["steps=3", "drop_zero_signal=true", "fill_rounds=3"]
    train(tmp_path / "sync", tmp_path / "log.txt", *options)
    train(tmp_path / "overlap", tmp_path / "log.txt", *options, "mode=overlap")
    for name in ("sync", "overlap"):
        for row in rows(tmp_path / name):
            with_signal = row["groups"] * (1 - row["zero_signal"])
            assert row["rollouts"] == 4 * row["groups"] and row["kept"] == pytest.approx(with_signal / row["groups"])
        assert any(row["groups"] > 4 for row in rows(tmp_path / name))
    assert main(["replay", str(tmp_path / "sync"), "--out", str(tmp_path / "replay")]) == 0
    assert "bit for bit" in capsys.readouterr().out
