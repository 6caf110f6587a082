"""The speed and memory benchmarks: what they compute from what they measured, and small real runs of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import engines, memory, overlap, speed, weight_sync
from benchmarks.peers.__main__ import table as peers_table
from benchmarks.peers.programs import Work, endless, taut
from benchmarks.tables import MARK, publish
from rewards.errors import TautError
from rollout.memory import parameters
from rollout.paths import locate

CHECKPOINT = locate("benchmarks:overthinker/checkpoint")
WORK = Work(str(CHECKPOINT), "benchmarks:overthinker/data/train.jsonl", 2, 2, 16, 1, 4)


def found(**changed: float) -> dict[str, Any]:
    """A measurement of `benchmarks.speed`, some phases slower than in another."""
    seconds = {"sample": 0.3, "update": 0.5, "score": 0.001, "log": 0.002, "sync": 0.001, "verify": 0.0} | changed
    rows = [{"prompts": n, "samples": 8, "cap": 128, "workers": n / 4, **seconds} for n in (4, 8)]
    return {
        "rates": {"flops": 1e11, "bytes": 1e10}, "step": 0.8, "seconds": seconds, "limits": {"sample": 0.1, "update": 0.2},
        "ratios": {"sample": seconds["sample"] / 0.1, "update": seconds["update"] / 0.2}, "share": 0.01,
        "growth": {axis: rows for axis in speed.AXES},
        "exponents": {axis: dict.fromkeys(speed.PHASES, 0.9) for axis in ("rollouts", "cap")},
    }  # fmt: skip


def test_two_revisions_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, same, slower = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    for path, values in ((before, {}), (same, {"sample": 0.31}), (slower, {"sample": 0.36})):
        path.write_text(json.dumps(found(**values)))
    assert speed.main(["--compare", str(before), str(same)]) == 0
    assert speed.main(["--compare", str(before), str(slower)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("WORSE") == 1 and "| sample, times its limit | 3.000 | 3.600 | 1.20 WORSE |" in printed


def test_the_table_and_the_picture_of_growth(tmp_path: Path) -> None:
    text = speed.table(found())
    assert "| sample | 0.3000 | 37.5% | 0.100 | 3.0 |" in text and "1.0% of a step of 0.800 s" in text
    speed.draw(found(), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_exponents_and_operations() -> None:
    assert speed.exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert speed.exponent([1, 2, 4], [1, 4, 16]) == pytest.approx(2)
    assert speed.exponent([2, 2, 2], [1, 4, 16]) is None
    model = speed.Model.of(str(CHECKPOINT))
    total = parameters(CHECKPOINT)
    assert total is not None and model.weights == pytest.approx(total, rel=0.01)  # norms are not in matrices
    assert model.forward(1, 10, 4) + model.forward(1, 4) == pytest.approx(model.forward(1, 10))
    one, two = (speed.works(model, Work(**{**vars(WORK), "prompts": n}), 20) for n in (2, 4))
    assert {phase: two[phase] / one[phase] for phase in one} == pytest.approx(dict.fromkeys(speed.PHASES, 2.0))


@pytest.mark.parametrize("way", ["all logits", "Taut"])
def test_a_pass_is_measured_in_memory_and_its_gradient_is_the_same(way: str) -> None:
    row, full = memory.child(way, 24, 300), memory.child("all logits", 24, 300)
    assert row["peak"] < 1 << 30 and row["seconds"] > 0
    np.testing.assert_allclose(row["projections"], full["projections"], atol=1e-5 * full["norm"])


def test_slopes_and_failures_of_memory() -> None:
    rows = [
        {"way": "Taut", "tokens": 10, "vocabulary": v, "peak": 5000 + 40 * v, "seconds": 1.0, "projections": [1.0], "norm": 2.0}
        for v in (100, 200, 300)
    ]  # fmt: skip
    assert memory.slope(rows, "Taut", 10) == pytest.approx(1.0)
    text = memory.table([*rows, *({**r, "way": "all logits", "projections": [1.002]} for r in rows)])
    assert "| 4 x 10 | 100 |" in text and "1e-03" in text and "| 4 x 10 tokens | 1.000 | 1.000 |" in text
    failed = [{"way": "all logits", "tokens": 10, "vocabulary": v, "failed": "killed"} for v in (100, 200, 300)]
    assert "killed" in memory.table([*rows, *failed])


def test_the_other_tables() -> None:
    speeds = {
        name: [{"speed": value, "parameters": 4e5}] for name, value in zip(engines.ENGINES, (30, 20, 10), strict=True)
    }
    assert engines.table({("folder/tiny", 1): speeds}).endswith("| 10 [10, 10] | 1.50 |")
    with pytest.raises(TautError, match="random-7: there are random-5"):
        engines.random_model(7, Path("."))
    times = {
        name: [{"mean": m, "sample": 1.0, "update": 1.0}]
        for name, m in zip(overlap.KINDS, (3.0, 2.4, 2.0), strict=True)
    }
    lines = overlap.table(times).splitlines()
    assert (
        "| 1.50 [1.50, 1.50] |" in lines[2] and "| 1.20 [1.20, 1.20] |" in lines[3] and lines[4].startswith("| overlap")
    )
    one = {
        "step": 1.0,
        "tokens": 100.0,
        "memory": 5.0,
        **dict.fromkeys(("sample", "score", "update", "sync", "rest"), 0.2),
    }
    text = peers_table("title", {"Taut": [one], "verl": [one | {"step": 2.0, "memory": float("nan")}]}, False)
    assert "verl takes 2.00 times as long as Taut" in text and "not measured" in text
    sizes = sum(int(np.prod(shape)) for shape in weight_sync.shapes(120).values())
    assert 110e6 < sizes < 130e6


@pytest.mark.slow
def test_a_real_step_is_timed_at_equal_lengths() -> None:
    with endless(WORK) as work:
        seen = taut(work, 1)
    assert seen["tokens"] == 2 * 2 * 16 and seen["prompt"] > 5
    assert seen["step"] == pytest.approx(sum(seen[p] for p in ("sample", "score", "update", "sync", "rest")))


@pytest.mark.slow
def test_an_engine_is_timed() -> None:
    for engine in ("taut", "generate"):
        assert engines.child(engine, str(CHECKPOINT), 4, 8, 1)["speed"] > 10


@pytest.mark.slow
def test_weights_are_timed_on_their_way() -> None:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        seen = weight_sync.measure(5, 2)
    finally:
        ray.shutdown()
    assert seen["bytes"] > 1e7 and min(seen.values()) > 0


@pytest.mark.slow
def test_the_pool_is_timed_in_a_process_of_its_own() -> None:
    """All that the timers let end are judged and logged, and each step is in one row of the table."""
    command = [sys.executable, "-m", "benchmarks.pool", "--rollouts", "6144"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    rows = re.findall(r"^(?:less than \d+%|\d+% to \d+%) +([\d,]+) +([\d.]+) +([\d,]+)$", printed, re.M)
    assert printed.startswith("6,144 rollouts of ") and "MiB after 6,144" in printed and rows
    assert sum(int(rollouts.replace(",", "")) for rollouts, _, _ in rows) == 6144
    assert all(float(latest) > 0 for _, latest, _ in rows)


def test_what_was_measured_goes_below_the_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.md"
    file.write_text(f"# Title\n\nWords.\n\n{MARK}\n\nold\n")
    for _ in range(2):
        publish("new\n", file)
    assert file.read_text() == f"# Title\n\nWords.\n\n{MARK}\n\nnew\n" and capsys.readouterr().out == "new\n\n" * 2
    publish("new\n", tmp_path / "other.md")
    assert (tmp_path / "other.md").read_text() == f"{MARK}\n\nnew\n"
