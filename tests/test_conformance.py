"""Every reference case through the public classes; TAUT_ORACLES names a folder with more of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.conformance.__main__ import ADAPTERS, INFORMATIVE, judge, main
from benchmarks.conformance.judge import error
from tests.oracle import FOLDER, cases, folder

FILES = sorted(file.stem for file in folder().glob("*.json"))


@pytest.mark.parametrize("name", FILES)
def test_cases(name: str) -> None:
    result = judge(name, cases(name))
    assert name in INFORMATIVE or not result["missed"], "\n".join(result["missed"][:5])


def test_every_adapter_has_cases_here() -> None:
    assert sorted(ADAPTERS) == sorted(file.stem for file in FOLDER.glob("*.json")), "a clean clone tests every method"


def test_the_judge() -> None:
    assert error([1.0, 0.0], [1.0, 1e-10]) <= 5e-6 and error([1.0, 0.0], [1.0, 1e-4]) > 5e-6
    assert error([3.0], None) == 0 and error([math.nan], None) == math.inf == error([1.0], [1.0, 2.0])
    assert error([0.0, 7.0], [0.0, None]) == 0 and error({"b": 2, "a": 1}, {"a": 1, "b": 2}) == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, unknown = (tmp_path / name for name in ("good", "bad", "unknown"))
    for at in (good, bad, unknown):
        at.mkdir()
    content = json.loads((FOLDER / "laser_step.json").read_text())
    (good / "laser_step.json").write_text(json.dumps(content))
    (unknown / "no_such.json").write_text(json.dumps(content))
    content["cases"][1]["expected"]["reward"][0] += 0.01
    (bad / "laser_step.json").write_text(json.dumps(content))
    assert main([str(good), "--json", str(tmp_path / "out.json")]) == 0
    files = json.loads((tmp_path / "out.json").read_text())["files"]
    assert files["laser_step"]["passed"] == files["laser_step"]["cases"] > 0
    assert main([str(bad)]) == 1 and "laser_step[1]: error" in capsys.readouterr().out
    assert main([str(unknown)]) == 2 and main([str(tmp_path)]) == 2
