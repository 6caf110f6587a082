"""docs/extending.md is run: its reward, its YAML, its entry point."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from rewards import Batch, Progress, Reward, build_reward, dump
from taut import main

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BATCH = Batch(
    group=[0, 0, 0, 1],
    problem_id=["a", "a", "a", "b"],
    length=[30, 20, 10, 50],
    verdict=[1, 1, 0, 1],
    origin=["train"] * 4,
)


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's module where Python finds it, and only for the test."""
    (tmp_path / "my_rewards.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_rewards", None)
    importlib.invalidate_caches()


def test_the_example_is_short() -> None:
    assert len(block("python").splitlines()) < 40 and max(map(len, block("python").splitlines())) <= 120


def test_the_example_from_yaml(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = build_reward(yaml.safe_load(block("yaml"))["reward"])
    progress = Progress(max_length=64)
    np.testing.assert_array_equal(reward.score(BATCH, progress).total, [1.25, 1.25, 0, 1.25])
    reward.observe(BATCH, progress)
    np.testing.assert_array_equal(reward.score(BATCH, progress).total, [1, 1.25, 0, 1.25])
    before = reward.state_dict()
    assert before["(self)"]["best"] == {"a": 20, "b": 50}
    moved = build_reward(dump(reward))
    moved.observe(BATCH.take([3, 2, 1, 0]), progress)
    assert moved.state_dict() == before
    again = build_reward(dump(reward))
    again.load_state_dict(json.loads(json.dumps(before)))
    np.testing.assert_array_equal(again.score(BATCH, progress).total, reward.score(BATCH, progress).total)
    held = Batch(group=[0], problem_id=["a"], length=[1], verdict=[1], origin=["validation"])
    reward.observe(held, progress)
    assert reward.state_dict() == before
    bounds = reward.bounds(progress)
    assert bounds is not None and bounds.ordered and bounds.correct.high == 1.25
    assert isinstance(0.5 * reward, Reward) and reward.kind == "whole"
    with pytest.raises(ValueError, match="did you mean 'bonus'"):
        build_reward({"type": "my_rewards:PersonalBest", "bonsu": 1})
    assert main(["methods", "my_rewards:PersonalBest"]) == 0
    shown = capsys.readouterr().out
    assert "has state" in shown and "for reaching the best" in shown and "number, ≥ 0" in shown


def test_the_example_by_its_entry_point(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unknown reward 'personal_best'"):
        build_reward("personal_best")
    groups = tomllib.loads(block("toml"))["project"]["entry-points"]
    groups["taut.reward"] |= {"laser": "my_rewards:PersonalBest", "gone": "my_rewards:Gone"}
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    info = installed / "my_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    importlib.invalidate_caches()
    reward = build_reward({"type": "personal_best", "bonus": 1})
    assert dump(reward) == {"type": "personal_best", "bonus": 1.0} and build_reward(dump(reward)) == reward
    assert type(build_reward({"type": "laser", "target": 9})).__module__ == "rewards.terms.laser"  # the name is taken
    with pytest.raises(ValueError, match="did you mean 'personal_best'"):
        build_reward("personal_bets")
    assert main(["methods"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^ +personal_best +rollout +yes$", shown.out, re.MULTILINE)
    assert "reward 'gone' cannot be imported" in shown.err and "laser_de" in shown.out
    assert main(["methods", "personal_best"]) == 0
    assert "my_rewards:PersonalBest" in capsys.readouterr().out
