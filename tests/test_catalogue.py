"""`taut methods`, and docs/methods.md and the table of docs/frameworks.md, which are generated from the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewards import TautError
from taut import main
from trainers import catalogue, frameworks
from trainers.settings import recipes

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def test_the_page_is_generated() -> None:
    mend = "run: python -m trainers.catalogue --write docs/methods.md"
    assert PAGE.is_file() and PAGE.read_text(encoding="utf-8") == catalogue.page(), mend


def test_the_table_of_frameworks_is_generated() -> None:
    mend = "run: python -m trainers.frameworks --write docs/frameworks.md"
    page = (PAGE.parent / "frameworks.md").read_text(encoding="utf-8")
    assert frameworks.table() in page, mend
    rows = [line.split("|") for line in frameworks.table().splitlines()[2:]]
    in_verl, in_trl = (sum(row[i].strip().startswith("yes") for row in rows) for i in (2, 3))
    readme = " ".join((PAGE.parents[1] / "README.md").read_text(encoding="utf-8").split())
    assert f"{in_verl} of the {len(rows)} recipes in verl" in readme and f"{in_trl} in TRL" in readme


def test_every_name_is_there() -> None:
    found = catalogue.entries()
    assert len(found) == sum(len(registry.table) for registry in catalogue.REGISTRIES)
    assert all(e.text for e in found), "every piece says what it does"
    by_name = {(e.kind, e.name): e for e in found}
    laser = by_name["reward", "laser_d"]
    assert (laser.paper, laser.state, laser.scope, laser.needs) == ("2505.15612", True, "group", ("format_ok",))
    assert by_name["sampling plan", "length_controller"].state and not by_name["sampling plan", "group"].state
    assert "grpo_lambda" in by_name["condition", "top_correct_ratio"].recipes  # a recipe names it deep inside
    assert {name for e in found for name in e.recipes} == set(recipes())


def test_settings_in_the_words_of_yaml() -> None:
    found = {e.name: catalogue.settings(e.cls) for e in catalogue.entries() if e.kind in ("reward", "condition")}
    laser = {key: (values, default) for key, values, default, _ in found["laser"]}
    assert laser["target"] == ("tokens or schedule", "required, such as 4096")
    assert laser["alpha"] == ("number or schedule", "0.5") and laser["format"] == ("true or false", "true")
    assert laser["bonus"] == ('"reward", "penalty", "hybrid"', "reward")
    assert not {"type", "name"} & laser.keys()
    gate = {key: values for key, values, _, _ in found["group_gate"]}
    assert gate["when"] == "condition" and gate["then"] == "reward" and gate["otherwise"].startswith("reward")
    assert ("terms", "list of reward, at least 1") in [row[:2] for row in found["sum"]]
    assert ("share", "number, > 0, ≤ 1", "0.2") in [row[:3] for row in found["top_correct_ratio"]]


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 144 and "rewards" in shown and "sampling plans" in shown
    assert main(["methods", "drpo"]) == 0  # an advantage, an objective and a recipe
    shown = capsys.readouterr().out
    assert "advantage drpo" in shown and "objective drpo" in shown and "recipe drpo" in shown
    assert main(["methods", "lsaer"]) == 2 and "did you mean 'laser'" in capsys.readouterr().err
    assert main(["methods", "nowhere:Class"]) == 2 and "cannot be imported" in capsys.readouterr().err
    assert main(["methods", "--list"]) == 2 and main(["methods", "--help"]) == 0
    assert catalogue.main(["--write", str(tmp_path / "new" / "methods.md")]) == 0
    assert (tmp_path / "new" / "methods.md").read_text(encoding="utf-8") == catalogue.page()
    with pytest.raises(TautError, match="unknown method"):
        catalogue.full("")
