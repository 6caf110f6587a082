"""Does the predicted step rank configurations as training does? Finished sweeps against a log of their base model.

    python -m benchmarks.predicted_vs_trained LOG benchmarks/results/table gathered=my_sweep.yaml [--out DIR]

A folder is what `python -m benchmarks.study.gather` made of the sweep file of its name, or of the one after `=`.

LOG: rollouts of the base model on training problems, such as `taut eval samples=16` writes. Each run's reward and advantage
are replayed on it; its slopes of accuracy and tokens are held against what its seeds changed on the held-out problems. The
rank correlations (Spearman) have two 95 % intervals: over the problems of the log, the held-out problems and the seeds of these
configurations; and over configurations too, as if they had been drawn from many, which few of them leave wide. As a measure
of what any prediction could reach: the rank correlation between the changes of two seeds.

Out: report.md, predicted.csv and predicted.png in DIR (default: predicted).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collect import PLAIN
from benchmarks.predicted_step import STATISTICS, SUMS, arrow
from benchmarks.predicted_step import statistics as step_statistics
from benchmarks.statistics import RESAMPLES, SEED, Floats, resampled_means, resampling_weights
from benchmarks.study.runs import Study, load
from benchmarks.sweep_plan import Planned, load_sweep, plan
from benchmarks.sweep_predict import Log, untold, what_if
from rewards.errors import TautError
from rollout.foreign import Foreign
from trainers.config import TrainConfig

KL = 0.02
MEASURES = ("accuracy", "tokens")
SLOPES = {"accuracy": "slope_accuracy", "tokens": "slope_tokens"}


@dataclass(frozen=True)
class Row:
    """One configuration. predicted: the arrow at KL nats; trained: the mean change of its seeds (S,); draws of both (R,)."""

    name: str
    kind: str
    predicted: dict[str, float]
    trained: dict[str, Floats]
    predicted_draws: dict[str, Floats]
    trained_draws: dict[str, Floats]  # (R, S): each seed's change on resampled problems


def ranks(values: Floats) -> Floats:
    """Ranks along the last axis, ties at their mean; 1 is the least."""
    order = values.argsort(axis=-1).argsort(axis=-1) + 1.0
    equal = values[..., :, None] == values[..., None, :]
    return (equal * order[..., None, :]).sum(axis=-1) / equal.sum(axis=-1)


def spearman(first: Floats, second: Floats) -> Floats:
    """Rank correlations along the last axis; NaN where one side is constant."""
    a, b = (ranks(np.asarray(x, dtype=np.float64)) for x in (first, second))
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def correlate(rows: Sequence[Row], measure: str, resamples: int, seed: int) -> dict[str, Any]:
    """Spearman's correlation of predicted and trained change, its two intervals, and the seeds' own agreement."""
    predicted = np.array([r.predicted[measure] for r in rows])
    trained = np.array([r.trained[measure].mean() for r in rows])
    rng = np.random.default_rng(seed)
    drawn_p = np.stack([r.predicted_draws[measure] for r in rows], axis=1)[:resamples]
    drawn_t = np.empty_like(drawn_p)
    for c, r in enumerate(rows):
        seeds = r.trained_draws[measure].shape[1]
        picked = rng.integers(0, seeds, (len(drawn_t), seeds))
        drawn_t[:, c] = np.take_along_axis(r.trained_draws[measure][: len(drawn_t)], picked, axis=1).mean(axis=1)
    which = rng.integers(0, len(rows), drawn_p.shape)
    over = spearman(np.take_along_axis(drawn_p, which, axis=1), np.take_along_axis(drawn_t, which, axis=1))
    several = [r.trained[measure] for r in rows if len(r.trained[measure]) > 1]
    common = min((len(v) for v in several), default=0)
    by_seed = np.array([v[:common] for v in several]).reshape(len(several), common)  # (C, S)
    pairs = [spearman(by_seed[:, i], by_seed[:, j]) for i, j in itertools.combinations(range(by_seed.shape[1]), 2)]
    return {
        "value": float(spearman(predicted, trained)),
        "these": _interval(spearman(drawn_p, drawn_t)),
        "others": _interval(over),
        "seeds": float(np.mean(pairs)) if pairs else float("nan"),
    }


def _interval(draws: Floats) -> tuple[float, float]:
    if np.isnan(draws).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def predict(
    planned: Sequence[Planned], path: Path, resamples: int
) -> tuple[dict[str, tuple[dict[str, float], dict[str, Floats]]], dict[str, str], str]:
    """({configuration: (arrows, draws)}, {configuration: why there is no arrow}, a line about the log)."""
    configs = {run.configuration: run.config for run in planned if run.config is not None}
    log, place = Log(path, Foreign()), {name: i for i, name in enumerate(SUMS)}
    found, refused = {}, {}
    for name, config in configs.items():
        if why := untold(config, log.longest):
            refused[name] = why
            continue
        replayer = log.replayed(what_if(name, config))
        if replayer.refused or replayer.sums is None:
            refused[name] = replayer.refused
            continue
        estimates, _, _ = step_statistics(replayer.sums.table, replayer.terms, resamples)
        arrows = {m: arrow(estimates[SLOPES[m]], KL).value for m in MEASURES}
        if np.isnan(list(arrows.values())).any():
            refused[name] = "no group of the log has any signal under it"
            continue
        sums = replayer.sums.table[replayer.sums.table[:, 0] > 0]
        draws = resampling_weights(len(sums), resamples, SEED) @ sums
        found[name] = arrows, {m: np.asarray(STATISTICS[SLOPES[m]](_columns(draws, place))) for m in MEASURES}
    return found, refused, f"{log.rollouts:,} rollouts of {log.problems:,} problems"


def _columns(draws: Floats, place: dict[str, int]) -> Callable[[str], Floats]:
    return lambda name: draws[:, place[name]]


def kind_of(config: TrainConfig) -> str:
    """What makes the configuration: stateful, own advantage, or reward."""
    stateful = config.reward.state_dict() != {}
    return "stateful" if stateful else "own advantage" if config.advantage.type not in PLAIN else "reward"


def changes(study: Study, name: str, resamples: int) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """(the change of each seed against the base model (S,), its draws over problems (R, S)), by measure."""
    c = study.configurations[name]
    values, draws = {}, {}
    for m in MEASURES:
        each = (getattr(c, m) - getattr(study.base, m)).T  # (P, S)
        values[m], draws[m] = np.nanmean(each, axis=0), resampled_means(each, resamples)
    return values, draws


def compare(
    study: Study, planned: Sequence[Planned], log: Path, resamples: int = RESAMPLES
) -> tuple[list[Row], dict[str, str], str]:
    """A row a configuration that was trained and has an arrow; those without an arrow and why; a line about the log."""
    found, refused, about = predict(planned, log, resamples)
    kinds = {run.configuration: kind_of(run.config) for run in planned if run.config is not None}
    rows = []
    for c in study.trained:
        if c.name in found:
            values, draws = changes(study, c.name, resamples)
            rows.append(Row(c.name, kinds[c.name], found[c.name][0], values, found[c.name][1], draws))
    return rows, {name: why for name, why in refused.items() if name in study.configurations}, about


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.predicted_vs_trained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", type=Path, metavar="LOG")
    parser.add_argument("folders", nargs="+", metavar="FOLDER[=SWEEP]")
    parser.add_argument("--out", type=Path, default=Path("predicted"))
    parser.add_argument("--title", default="Predicted from the base model's log, and trained")
    options = parser.parse_args(argv)
    labels: dict[str, str] = {}
    rows: list[Row] = []
    refused: dict[str, str] = {}
    about = ""
    try:
        for text in options.folders:
            folder, _, name = text.partition("=")
            sweep, _ = load_sweep(name or Path(folder).name)
            found, untold_here, about = compare(load(Path(folder)), plan(sweep, Path(folder)), options.log)
            if twice := {r.name for r in rows} & {r.name for r in found}:
                raise TautError(f"{text}: {min(twice)} is in a folder before it; give each configuration once")
            rows, refused, labels = [*rows, *found], refused | untold_here, labels | sweep.labels
        if len(rows) < 3:
            raise TautError(f"{len(rows)} configurations have an arrow and a run; ranks need at least 3")
    except TautError as error:
        print(f"benchmarks.predicted_vs_trained: {error}", file=sys.stderr)
        return 2
    from benchmarks.predicted_report import draw, report  # they need what is here

    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    text = report(rows, about, labels, options.title, refused)
    (out / "report.md").write_text(text, encoding="utf-8")
    with (out / "predicted.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "kind", "measure", "predicted", "seed", "trained"])
        for r, m in itertools.product(rows, MEASURES):
            writer.writerows(
                [r.name, r.kind, m, f"{r.predicted[m]:.6g}", i, f"{v:.6g}"] for i, v in enumerate(r.trained[m])
            )
    draw(rows, labels, out / "predicted.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
