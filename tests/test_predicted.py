"""The predicted step against training: rank correlations, their intervals, and the whole on a real, tiny sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.predicted_ranks import MEASURES, Row, correlate, ranks, spearman
from benchmarks.predicted_reach import course, reached, windows
from benchmarks.predicted_report import report, survival
from benchmarks.predicted_vs_trained import main
from benchmarks.study.gather import main as gather
from benchmarks.sweep_predict import Prediction
from taut import main as taut

TINY = ["rollout.engine=transformers", "evaluation.rollout.engine=transformers"]


def test_ranks_and_their_correlation() -> None:
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 1000.0])) == pytest.approx(1.0)
    a, b = np.asarray(np.random.default_rng(0).normal(size=(2, 9)), dtype=np.float64)
    distance = float(((ranks(a) - ranks(b)) ** 2).sum())
    assert spearman(a, b) == pytest.approx(1 - 6 * distance / (9 * 80))  # the closed form without ties
    assert np.isnan(spearman(np.ones(4), np.array([0.0, 1.0, 2.0, 3.0])))


def made(noise: float, configurations: int = 10, seeds: int = 3) -> list[Row]:
    """Changes that follow the prediction up to noise of the seeds."""
    rng = np.random.default_rng(1)
    rows = []
    for c in range(configurations):
        trained = {m: c + noise * rng.normal(size=seeds) for m in MEASURES}
        rows.append(
            Row(
                f"c{c}", "reward", {m: float(c) for m in MEASURES}, trained,
                {m: c + 0.01 * rng.normal(size=200) for m in MEASURES},
                {m: v + 0.01 * rng.normal(size=(200, seeds)) for m, v in trained.items()},
                Prediction(c, c, c), Prediction(c, c, c), _course(c, seeds, rng),
            )
        )  # fmt: skip
    return rows


def _course(c: int, seeds: int, rng: np.random.Generator) -> dict[str, dict[int, np.ndarray]]:
    """Step 1 tells nothing, then all follow the prediction for eight steps, then none does."""
    values = np.concatenate(
        [np.zeros((seeds, 1)), c + 0.1 * rng.normal(size=(seeds, 8)), rng.normal(size=(seeds, 11))], axis=1
    )
    return {m: dict(enumerate(values)) for m in MEASURES}


def test_an_arrow_reaches_as_far_as_it_is_true() -> None:
    rows = made(0.0)
    assert windows(20) == [(2, 5), (6, 9), (10, 13), (14, 17), (18, 20)] and windows(1) == [] and windows(3) == [(2, 3)]
    at = course(rows, 200)
    assert [r.value["tokens"] > 0.95 for r in at] == [True, True, False, False, False]
    assert all(r.interval["tokens"][0] <= r.value["tokens"] <= r.interval["tokens"][1] for r in at)
    assert at[0].seeds["tokens"] > 0.95 > at[3].seeds["tokens"]
    rows[0].course["tokens"].clear()
    assert course(rows, 200) == []
    with pytest.raises(ValueError, match="no seed in common"):
        reached(rows, 2, 5)


def test_intervals_are_wider_over_other_configurations_and_noise_costs() -> None:
    clean, noisy = (correlate(made(noise), "tokens", 200, 0) for noise in (0.0, 4.0))
    assert clean["value"] == pytest.approx(1.0) and clean["seeds"] == pytest.approx(1.0)
    assert noisy["value"] < 1 and noisy["seeds"] < 1
    assert np.diff(noisy["others"]) > np.diff(noisy["these"]) > 0


def test_pruning_keeps_the_best_where_arrows_are_true() -> None:
    """Accuracy and tokens rise together here, so that all are on the front, and order alone decides."""
    rows = made(0.0)
    true = survival(rows, {r.name: r.arrow for r in rows})
    assert (true.kept, true.all) == (5, 10) and true.best == (5, 5)
    turned = {r.name: Prediction(-r.arrow.accuracy, -r.arrow.tokens, -r.arrow.score) for r in rows}
    assert survival(rows, turned).best[0] < 5


def test_the_report_names_every_configuration() -> None:
    rows = made(1.0)
    text = report(rows, course(rows), "10 rollouts", {"c3": "third"})
    assert "| all " in text and "third" in text and all(f"c{i} " in text for i in range(10) if i != 3)


@pytest.mark.slow
def test_a_tiny_sweep_is_held_against_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"steps": 1, "prompts": 2, "sampling.samples": 4, "sampling.max_tokens": 64, "heldout.data": None}
    short = {"type": "sum", "terms": ["correct", {"type": "weight", "weight": -1.0, "term": "linear_length"}]}
    runs = {
        "plain": {"reward": {"type": "correct"}},
        "linear-1": {"reward": short},
        "laser": {"recipe": "laser", "reward.target": 50},
    }
    runs |= {"disco": {"reward": {"type": "correct"}, "objective": {"type": "disco"}}}
    heldout = {"data": "benchmarks:overthinker/data/heldout.jsonl", "problems": 8, "samples": 1}
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(yaml.safe_dump({"base": {"recipe": "overthinker", **small}, "runs": runs, "evaluation": heldout}))
    assert taut(["sweep", str(sweep), "--out", str(tmp_path / "runs"), *TINY]) == 0
    train, log = "benchmarks:overthinker/data/train.jsonl", tmp_path / "log.parquet"
    assert taut(["eval", f"data={train}", "problems=12", "samples=4", "max_tokens=64", f"out={log}", TINY[0]]) == 0
    capsys.readouterr()
    gathered = f"{tmp_path / 'gathered'}={sweep}"
    assert gather([f"{tmp_path / 'runs'}={sweep}", "--out", str(tmp_path / "gathered")]) == 0
    assert main([str(log), gathered, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "48 rollouts of 12 problems" in told and "disco: objective disco weighs rollouts by itself" in told
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "report.md", "predicted.csv", "predicted.png", "rehearsed.png",
    }  # fmt: skip
    assert len((tmp_path / "out" / "predicted.csv").read_text().splitlines()) == 1 + 3 * 2
    assert main([str(log), f"{tmp_path / 'nothing'}={sweep}"]) == 2
