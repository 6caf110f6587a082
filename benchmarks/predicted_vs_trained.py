"""Does the predicted step rank configurations as training does? Finished sweeps against a log of their base model.

    python -m benchmarks.predicted_vs_trained LOG runs/table runs/mine=my_sweep.yaml [--out DIR]

A folder is that of the sweep file of its name, or of the one after `=`.

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

from benchmarks.collect import PLAIN, evaluation_of
from benchmarks.evaluate import read_evaluation
from benchmarks.predicted_step import STATISTICS, SUMS, arrow
from benchmarks.predicted_step import statistics as step_statistics
from benchmarks.replay import replay
from benchmarks.replay_plan import Configuration
from benchmarks.statistics import RESAMPLES, SEED, Floats, Samples, resampling_weights, summarise
from benchmarks.sweep_plan import Planned, load_sweep, plan
from benchmarks.sweep_predict import what_if
from rewards.errors import TautError
from rollout.foreign import Foreign

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
    common = min(len(r.trained[measure]) for r in rows)
    by_seed = np.array([r.trained[measure][:common] for r in rows])  # (C, S)
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


def predict(runs: Sequence[Planned], log: Path, resamples: int) -> tuple[dict[str, Any], str]:
    """{configuration: (arrows, draws)} of the sweep's configurations on the log, and a line about the log. Raises TautError."""
    wanted: dict[str, Configuration] = {}
    for run in runs:
        if run.config is not None and run.configuration not in wanted:
            wanted[run.configuration] = what_if(run.configuration, run.config)
    result = replay([log], list(wanted.values()), Foreign(), lambda line: None)
    place = {name: i for i, name in enumerate(SUMS)}
    found: dict[str, Any] = {}
    for r in result.replayers:
        if r.refused or r.sums is None:
            raise TautError(f"{log}: {r.configuration.name} cannot be replayed: {r.refused}")
        estimates, _, _ = step_statistics(r.sums.table, r.terms, resamples)
        sums = r.sums.table[r.sums.table[:, 0] > 0]
        draws = resampling_weights(len(sums), resamples, SEED) @ sums
        drawn = {m: np.asarray(STATISTICS[SLOPES[m]](_columns(draws, place))) for m in MEASURES}
        found[r.configuration.name] = ({m: arrow(estimates[SLOPES[m]], KL).value for m in MEASURES}, drawn)
    size = len(result.groups.starts)
    about = f"{result.rollouts:,} rollouts of {size:,} problems, accuracy {result.groups.correct.mean():.3f}"
    return found, f"{about}, {result.groups.length.mean():.1f} tokens"


def _columns(draws: Floats, place: dict[str, int]) -> Callable[[str], Floats]:
    return lambda name: draws[:, place[name]]


def trained(runs: Sequence[Planned], resamples: int) -> dict[str, tuple[str, dict[str, Floats], dict[str, Floats]]]:
    """{configuration: (kind, change of each seed, its draws)} against the base model, on the same held-out problems."""
    base = next((r for r in runs if r.kind == "base"), None)
    if base is None:
        raise TautError("the sweep has no evaluation of its base model; give `evaluation` in the sweep file")
    by_name: dict[str, list[Samples]] = {}
    kinds: dict[str, str] = {}
    for run in runs:
        if run.config is not None:
            if not (run.folder / "eval.parquet").is_file():
                print(f"warning: {run.folder}: not evaluated, left out", file=sys.stderr)
                continue
            by_name.setdefault(run.configuration, []).append(read_evaluation(evaluation_of(run.folder))[0])
            stateful = run.config.reward.state_dict() != {}
            own = run.config.advantage.type not in PLAIN
            kinds[run.configuration] = "stateful" if stateful else "own advantage" if own else "reward"
    if not by_name:
        raise TautError(f"{base.folder.parent}: none of its runs is evaluated; let the sweep finish")
    start = read_evaluation(evaluation_of(base.folder))[0]
    before = summarise(start, resamples=resamples)
    out = {}
    for name, seeds in by_name.items():
        each = [summarise(s, resamples=resamples) for s in seeds]
        values = {m: np.array([getattr(s, m).value - getattr(before, m).value for s in each]) for m in MEASURES}
        draws = {
            m: np.stack([s.draws[:, i] - before.draws[:, i] for s in each], axis=1) for i, m in enumerate(MEASURES)
        }
        out[name] = kinds[name], values, draws
    return out


def study(runs: Sequence[Planned], log: Path, resamples: int = RESAMPLES) -> tuple[list[Row], str]:
    """A row a configuration, and a line about the log. Raises TautError for runs without an evaluation."""
    found, about = predict(runs, log, resamples)
    rows = [
        Row(name, kind, found[name][0], values, found[name][1], draws)
        for name, (kind, values, draws) in trained(runs, resamples).items()
    ]
    return rows, about


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
    about = ""
    try:
        for text in options.folders:
            folder, _, name = text.partition("=")
            sweep, _ = load_sweep(name or Path(folder).name)
            found, about = study(plan(sweep, Path(folder)), options.log)
            if twice := {r.name for r in rows} & {r.name for r in found}:
                raise TautError(f"{text}: {min(twice)} is in a folder before it; give each configuration once")
            rows, labels = [*rows, *found], labels | sweep.labels
    except TautError as error:
        print(f"benchmarks.predicted_vs_trained: {error}", file=sys.stderr)
        return 2
    from benchmarks.predicted_report import draw, report  # they need what is here

    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    text = report(rows, about, labels, options.title)
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
