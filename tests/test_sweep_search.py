"""What a sweep trains and what it does not: predictions from a log, and Optuna's trials, which outlive a kill."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import pareto
from benchmarks.predicted_step import statistics
from benchmarks.replay import replay
from benchmarks.replay_plan import configurations
from benchmarks.search import main as search_main
from benchmarks.sweep_plan import load_sweep
from benchmarks.sweep_predict import Log, Prediction, choose, layers
from benchmarks.sweep_space import SearchConfig, spread
from benchmarks.sweep_trials import FILE, Trials
from rewards.errors import TautError
from rollout.foreign_logs import Foreign
from taut import main
from tests.test_replay import rows, write
from tests.test_sweep import install, sweep_file

LOGGED = """
base: {steps: 4, sampling.max_tokens: 128}
runs:
  plain: {reward: correct}
  laser: {recipe: laser, reward.format: false, grid: {reward.target: [10, 30, 60, 1000]}}
  hapo: {reward: hapo}
  repeated: {reward: {type: repetition, ngram: 3, max_penalty: -0.1}}
first: {replay: LOG, keep: KEEP}
evaluation: {samples: 2, problems: 30}
"""


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers only."""
    monkeypatch.setattr(pareto, "draw_picture", lambda *_: None)


def test_predictions_are_those_of_replay(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", rows(30, 8))
    found = configurations(
        {"laser": {"reward": {"type": "laser", "target": 30, "format": False}}, "kimi": {"reward": "kimi"}}
    )
    log = Log(path, Foreign())
    assert (log.problems, log.rollouts, log.repeats) == (30, 240, False)
    for c, r in zip(found, replay([path], found, Foreign(), say=lambda _: None).replayers, strict=True):
        assert r.sums is not None
        want = statistics(r.sums.table, r.terms, 10)[0]
        got = log.predict(c)
        assert (got.accuracy, got.tokens) == (want["slope_accuracy"].value, want["slope_tokens"].value)
        assert got.score == want["score"].value and not got.why
    with pytest.raises(TautError, match="two rollouts with a verdict"):
        Log(write(tmp_path / "lone.jsonl", rows(5, 1)), Foreign())


def test_layers_are_those_of_taking_fronts_away() -> None:
    rng = np.random.default_rng(0)
    points = [(float(a), float(t)) for a, t in rng.integers(0, 6, (40, 2))]
    found = layers(points)
    for i, (a, t) in enumerate(points):
        better = [found[j] for j, (x, y) in enumerate(points) if x >= a and y <= t and (x, y) != (a, t)]
        assert found[i] == max(better, default=-1) + 1


def test_the_kept_are_the_first_fronts_plain_and_what_cannot_be_predicted() -> None:
    predictions = {
        "plain": Prediction(0.0, 5.0, -9.0), "short": Prediction(0.1, -9.0, 3.0), "right": Prediction(0.9, -1.0, 2.0),
        "twin": Prediction(0.1, -9.0, 3.0), "behind": Prediction(0.05, -1.0, 1.0),
        "silent": Prediction(math.nan, math.nan, math.nan), "odd": Prediction(why="needs tokens"),
    }  # fmt: skip

    def kept(keep: float) -> list[str]:
        return [c.name for c in choose(predictions, ["plain"], keep) if c.trained]

    assert kept(1) == ["plain", "short", "twin", "odd"]  # what the log cannot tell apart stands together
    assert kept(0.6) == kept(3) == ["plain", "short", "right", "twin", "odd"]
    assert kept(4) == ["plain", "short", "right", "twin", "behind", "odd"] and len(kept(99)) == 7
    why = {c.name: c.why for c in choose(predictions, ["plain"], 1)}
    assert why["behind"] == "place 4 of 5, front 2" and "no group" in why["silent"] and "needs tokens" in why["odd"]


def test_a_sweep_trains_what_the_log_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    log = write(tmp_path / "log.jsonl", rows(30, 8))
    call, calls = install(tmp_path, monkeypatch, LOGGED.replace("LOG", str(log)).replace("KEEP", "2"))
    assert call() == 0
    out = capsys.readouterr().out
    trained = {c.split("out=")[1].rsplit("/", 1)[1] for c in calls() if c.startswith("train")}
    assert {"plain-s0", "hapo-s0", "repeated-s0"} < trained and len(trained) == 5
    assert "its reward has state, and the log holds each problem once" in out and "'tokens'" in out
    report = (tmp_path / "out/report.md").read_text()
    assert "## Before training" in report and "240 rollouts of 30 problems" in report
    assert sum("place " in line and " no " in line for line in report.splitlines()) == 2
    assert call() == 0 and calls() == []


def search(**more: Any) -> SearchConfig:
    space = {
        "a": {"low": 0.01, "high": 1, "log": True},
        "b": ["x", {"type": "y"}],
        "n": {"low": 1, "high": 9, "integer": True},
    }
    return SearchConfig.model_validate({"space": space, "trials": 8, "together": 3, "population": 4, **more})


def objective(settings: dict[str, Any]) -> tuple[float, float]:
    return settings["a"], settings["n"] + (settings["b"] == "x")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_that_is_killed_anywhere_makes_the_same_trials(sampler: str, tmp_path: Path) -> None:
    def go(folder: Path, kills: random.Random | None) -> dict[str, Any]:
        folder.mkdir()
        while True:
            trials = Trials(search(sampler=sampler), folder)
            if not (batch := trials.batch()):
                return trials.made()
            file = folder / FILE
            if kills and kills.random() < 0.6:  # cut off while it draws: the end of the file is torn
                content = file.read_bytes()
                file.write_bytes(content[: max(len(content) - kills.randrange(600), 900)])
                continue
            told = list(batch)[: kills.randrange(1, len(batch) + 1) if kills else None]
            trials.tell({name: None if name == "trial-4" else objective(batch[name]) for name in told})

    whole = go(tmp_path / "whole", None)
    assert len(whole) == 8 and whole["trial-4"][1] is None and whole["trial-5"][1] == objective(whole["trial-5"][0])
    assert len({json.dumps(settings) for settings, _ in whole.values()}) == 8
    for seed in range(3):
        assert go(tmp_path / f"killed{seed}", random.Random(seed)) == whole


def test_another_search_in_the_folder_is_refused_more_trials_are_not(tmp_path: Path) -> None:
    trials = Trials(search(trials=3), tmp_path)
    trials.tell({name: objective(settings) for name, settings in trials.batch().items()})
    assert trials.batch() == {}
    assert list(Trials(search(trials=5), tmp_path).batch()) == ["trial-3", "trial-4"]
    with pytest.raises(TautError, match=r"search\.seed=0, the sweep asks for 1"):
        Trials(search(seed=1), tmp_path)


SEARCH = """
base: {steps: 4, sampling.max_tokens: 128}
runs: {plain: {}}
search:
  settings: {reward: {type: laser, format: false, target: 10}}
  space: {reward.target: {low: 10, high: 60, integer: true}, advantage: [grpo, dr_grpo]}
  trials: 4
  together: 2
evaluation: {samples: 2, problems: 30}
"""


def test_a_sweep_trains_the_trials_of_its_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    call, calls = install(tmp_path, monkeypatch, SEARCH, [f"x{i}" for i in range(5)])
    for i in range(5):
        (tmp_path / f"x{i}-s0.2.parquet").rename(tmp_path / f"trial-{i}-s0.2.parquet")
    monkeypatch.setenv("FAIL", "trial-1-s0")
    assert call() == 1
    assert sum(c.startswith("train") for c in calls()) == 1 + 4 + 1  # plain, the trials, one of them twice
    report = (tmp_path / "out/report.md").read_text()
    assert "## Search" in report and "reward.target=" in report and "trial-1 " in report and "failed" in report
    front = (tmp_path / "out/front.csv").read_text()
    assert "trial-3" in front and "trial-1" not in front
    monkeypatch.delenv("FAIL")
    assert call() == 0 and calls() == []
    assert (tmp_path / "out/front.csv").read_text() == front
    assert call("search.trials=5") == 0 and sum(c.startswith("train") for c in calls()) == 1
    capsys.readouterr()
    assert call("--dry-run") == 0 and "search: 4 trials with 1 seeds each" in capsys.readouterr().out


OFFLINE = """
title: Found
base: {steps: 4, sampling.max_tokens: 128}
search:
  settings: {reward: {type: sum, terms: [correct, {type: weight, weight: -0.1, term: linear_length}]}}
  space: {reward.terms.1.weight: {low: -4, high: 0}, advantage: [grpo, dr_grpo], drop_zero_signal: [false, 3]}
  predicted: 40
  propose: 3
evaluation: {samples: 2, problems: 30}
"""


def test_a_search_of_a_log_writes_a_sweep_that_can_be_trained(tmp_path: Path, capsys: Any) -> None:
    log, out = write(tmp_path / "log.jsonl", rows(30, 8)), tmp_path / "found.yaml"
    command = ["search", str(log), sweep_file(tmp_path, OFFLINE), "--out", str(out)]
    assert main(command) == 0
    told, first = capsys.readouterr().out, out.read_text()
    assert "trials a second" in told and "cannot be trained" in told and "drop_zero_signal" in told
    sweep = load_sweep(str(out))[0]
    assert sweep.search is None and sweep.evaluation and sweep.title == "Found"
    assert next(iter(sweep.runs)) == "plain" and 1 < len(sweep.runs) <= 4
    weights = {settings["reward.terms.1.weight"] for name, settings in sweep.runs.items() if name != "plain"}
    assert len(weights) == len(sweep.runs) - 1 and all(-4 <= w <= 0 for w in weights)
    assert main(["sweep", str(out), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "found-1-s0: train" in capsys.readouterr().out
    assert main(command) == 0 and out.read_text() == first
    assert main([*command[:3], "search.predicted=3", "--out", str(out)]) == 0
    with pytest.raises(TautError, match="none of 40 configurations could be predicted"):
        search_main([*command[1:], "search.space={advantage: [none_such]}"])
    with pytest.raises(TautError, match="no `search:`"):
        search_main([str(log), str(out), "--out", str(tmp_path / "x.yaml")])
    with pytest.raises(TautError, match="--out: missing"):
        search_main(command[1:3])


@pytest.mark.parametrize("text, message", [
    ("search: {space: {a: {low: 3, high: 1}}}", "low 3 is not below high 1"),
    ("search: {space: {a: {low: 0, high: 1, log: true}}}", "a logarithmic range is above 0"),
    ("search: {space: {a: {low: 0.5, high: 3, integer: true}}}", "give whole numbers"),
    ("search: {space: {a: []}}", "an empty list"),
    ("search: {space: {a: [1]}}", "give an evaluation"),
    ("runs: {trial-3: {}}", "run 'trial-3': a name is"),
    ("seeds: [0]", "give runs, or a search"),
])  # fmt: skip
def test_a_bad_search_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TautError, match=message):
        load_sweep(sweep_file(tmp_path, text))


def test_the_proposed_are_the_ends_and_what_is_far_from_them() -> None:
    points = [(0.0, -10.0), (0.01, -9.9), (0.5, -5.0), (0.52, -5.1), (1.0, 0.0)]
    assert spread(points, 3) in ([0, 2, 4], [0, 3, 4])
    assert spread(points, 9) == [0, 1, 2, 3, 4] and len(spread(points, 1)) == 1
