"""Runs that are shot at: the plan of the shots, what the check finds, and six real ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.faults import PHASES, check, main, plan
from benchmarks.faults_run import Case, Kill, left_over, run_case, unbroken


def test_a_hundred_kills_are_spread_over_phases_engines_and_modes() -> None:
    cases = plan(100, 0)
    shots = [(case, kill) for case in cases for kill in case.kills]
    assert len(shots) == 100 and plan(100, 0) == cases != plan(100, 1)
    assert Counter(case.engine for case, _ in shots) == {"transformers": 80, "vllm": 20}
    assert all(n >= 10 for n in Counter(kill.phase for _, kill in shots).values())
    assert {kill.phase for _, kill in shots} == set(PHASES) and {c.mode for c in cases} == {"sync", "overlap", "async"}
    assert {kill.victim for _, kill in shots} == {"driver", "worker", "rank", "verifier"}
    assert {case.in_flight for case in cases if case.mode == "async"} == {True, False}


def test_what_is_lost_doubled_or_too_old_is_found(tmp_path: Path) -> None:
    case = Case("x", "transformers", "async", 0, 2, ())
    (tmp_path / "rollouts").mkdir()
    for step, ids, version in ((1, [*range(15), 3], 0), (2, [*range(16, 32)], -2)):
        table = pa.table({"sample_id": ids, "oldest_version": [version] * 16})
        pq.write_table(table, tmp_path / f"rollouts/step-{step:06d}.parquet")
    assert check(case, tmp_path, tmp_path) == [
        "step 1: samples [15] are lost",
        "step 1: samples [3] are doubled",
        "step 2: rollouts older than 2 versions",
    ]


def test_a_run_that_is_not_among_them_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--kills", "6", "--out", str(tmp_path), "--runs", "run-000,run-007"])
    assert "--runs run-007: 6 kills make run-000, run-001" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_six_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kills", "6", "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    assert "6 recoveries" in capsys.readouterr().out
    done = [json.loads(line) for line in (tmp_path / "faults-6-0.jsonl").read_text().splitlines()]
    assert [len(row["fired"]) for row in done] == [5, 1] and not any(row["wrong"] for row in done)
    assert main(["--kills", "6", "--out", str(tmp_path)]) == 0  # at once: all is done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_is_restarted_when_the_checkpoint_that_the_run_began_from_is_gone(tmp_path: Path) -> None:
    kills = (Kill("driver", "checkpoint", 2, 0.4), Kill("worker", "sample", 4, 0.1))
    case = Case("run", "transformers", "sync", 1, 7, kills)
    whole = unbroken(case, tmp_path)
    assert run_case(case, tmp_path / "run", whole)[1:] == (2, [])
    assert check(case, tmp_path / "run", whole) == [] and left_over(tmp_path / "run") == []
