"""The benchmark of a trainer step: what it compares computes the same, and a small run of it says so in a table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.trainer_step import Case, _at_once, apart, main, measure, table
from tests.test_policy import far, gradients, make, sequences

SMALL = Case("step", "chunked", True, 1, 32, 50, 40, 1)


def test_all_logits_at_once_are_the_chunks() -> None:
    found = []
    for full in (False, True):
        policy = make()
        if full:
            policy.chunk = 1 << 62
            policy._measure = lambda hidden, target, policy=policy, **kinds: _at_once(policy, hidden, target)  # type: ignore[method-assign]
        out = policy.log_probs(*sequences(), grad=True).log_prob
        out.sum().backward()
        found.append((out.detach(), gradients(policy)))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6) and far(found[0][1], found[1][1]) < 1e-5


def test_a_case_is_measured() -> None:
    row = measure(SMALL)
    assert row["seconds"] > 0 and row["parameters"] > 1000 and row["peak_mib"] >= 0


@pytest.mark.slow
def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    few = [
        "--layers",
        "1",
        "--width",
        "64",
        "--vocabulary",
        "20000",
        "--tokens",
        "600",
        "--repeats",
        "1",
        "--json",
        str(file),
    ]
    assert main(few) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("| ") and "20,000" in line]
    assert len(lines) == 4 and all(line.count("|") == 10 for line in lines) and file.exists()


def test_what_failed_is_said_in_the_table() -> None:
    row = {**vars(SMALL), "seconds": 1.0, "peak_mib": 5.0}
    other = {**vars(SMALL), "logits": "full", "failed": "out of memory"}
    assert "| 1.000 | out of memory |  |" in table([row, other])
    assert apart(Case("step", "chunked", False, 1, 32, 50, 10**13, 1))["failed"]
