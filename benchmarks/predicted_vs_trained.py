"""Does the predicted step rank configurations as training does? Finished sweeps against a log of their base model.

    python -m benchmarks.predicted_vs_trained LOG benchmarks/results/table gathered=my_sweep.yaml [--out DIR]

A folder is what `python -m benchmarks.study.gather` made of the sweep file of its name, or of the one after `=`.

LOG: rollouts of the base model on training problems: what `taut eval samples=8` writes, or a training run with `optim.lr=0`,
whose log holds each problem several times (for rewards with a history) and the columns that its reward and advantage read. Groups
should be as large as in training. Each run's reward and advantage are replayed on it; its slopes of accuracy and tokens are held
against what training did: in its first steps and later ones, from the runs' own logs (`benchmarks.predicted_reach`), and at its
end, on the held-out problems.

The rank correlations (Spearman) have two 95 % intervals: over the problems of the log, those of training or evaluation, and the
seeds of these configurations; and over configurations too, as if they had been drawn from many, which few of them leave wide. As
a measure of what any prediction could reach: the rank correlation between two seeds.

Beside the arrows each configuration is rehearsed on the log (`benchmarks.rehearsal`), and held against training in the same way.

Out: report.md, predicted.csv, predicted.png and rehearsed.png in DIR (default: predicted).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import predicted_rehearsed
from benchmarks.collect import PLAIN
from benchmarks.metrics import aes
from benchmarks.predicted_ranks import MEASURES, Row
from benchmarks.predicted_reach import course
from benchmarks.predicted_report import draw, report
from benchmarks.predicted_step import STATISTICS, SUMS, arrow
from benchmarks.predicted_step import statistics as step_statistics
from benchmarks.rehearsal import Course, Rehearsal
from benchmarks.statistics import RESAMPLES, SEED, Floats, resampled_means, resampling_weights
from benchmarks.study.runs import Study, load
from benchmarks.sweep_plan import Planned, load_sweep, plan
from benchmarks.sweep_predict import KL, Log, Prediction, prediction, untold, what_if
from rewards.errors import TautError
from rollout.foreign import Foreign
from trainers.config import TrainConfig

SLOPES = {"accuracy": "slope_accuracy", "tokens": "slope_tokens"}


@dataclass(frozen=True)
class Predicted:
    """What the log says of a configuration: arrows at KL nats, slopes on resampled problems, and what `first:` goes by."""

    arrows: dict[str, float]
    draws: dict[str, Floats]
    whole: Prediction
    rehearsed: dict[str, Floats]


def predict(
    planned: Sequence[Planned], path: Path, resamples: int, repeats: int
) -> tuple[dict[str, Predicted], dict[str, str], str]:
    """({configuration: what the log says}, {configuration: why it says nothing}, a line about the log)."""
    configs = {run.configuration: run.config for run in planned if run.config is not None}
    log, place = Log(path, Foreign()), {name: i for i, name in enumerate(SUMS)}
    rehearsal = Rehearsal(log) if repeats else None
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
        drawn = {m: np.asarray(STATISTICS[SLOPES[m]](_columns(draws, place))) for m in MEASURES}
        rehearsed = {}
        if rehearsal:
            steps = Course(config.steps, config.prompts, config.sampling.samples, repeats)
            course = rehearsal(what_if(name, config), steps)
            rehearsed = {m: course[:, :, i] for i, m in enumerate(MEASURES)}
        found[name] = Predicted(arrows, drawn, prediction(replayer), rehearsed)
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
    study: Study, planned: Sequence[Planned], log: Path, resamples: int = RESAMPLES, repeats: int = 0
) -> tuple[list[Row], dict[str, str], str]:
    """A row a configuration that was trained and has an arrow; those without an arrow and why; a line about the log."""
    found, refused, about = predict(planned, log, resamples, repeats)
    base = {m: float(np.nanmean(getattr(study.base, m))) for m in MEASURES}
    kinds = {run.configuration: kind_of(run.config) for run in planned if run.config is not None}
    rows = []
    for c in study.trained:
        if c.name in found:
            values, draws = changes(study, c.name, resamples)
            told = found[c.name]
            change = {m: float(values[m].mean()) for m in MEASURES}
            ends = [base[m] + change[m] for m in MEASURES]
            score = aes(ends[0], ends[1], base["accuracy"], base["tokens"], "o1-pruner")
            end = Prediction(change["accuracy"], change["tokens"], float(score))
            logged = {m: {seed: study.steps[c.name, seed][m] for seed in c.seeds} for m in MEASURES}
            rows.append(
                Row(
                    c.name,
                    kinds[c.name],
                    told.arrows,
                    values,
                    told.draws,
                    draws,
                    told.whole,
                    end,
                    logged,
                    told.rehearsed,
                )
            )
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
    parser.add_argument("--repeats", type=int, default=8, help="rehearsals of each configuration; 0: none")
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
            found, untold_here, about = compare(
                load(Path(folder)), plan(sweep, Path(folder)), options.log, repeats=options.repeats
            )
            if twice := {r.name for r in rows} & {r.name for r in found}:
                raise TautError(f"{text}: {min(twice)} is in a folder before it; give each configuration once")
            rows, refused, labels = [*rows, *found], refused | untold_here, labels | sweep.labels
        if len(rows) < 3:
            raise TautError(f"{len(rows)} configurations have an arrow and a run; ranks need at least 3")
    except TautError as error:
        print(f"benchmarks.predicted_vs_trained: {error}", file=sys.stderr)
        return 2
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    reach = course(rows)
    text = report(rows, reach, about, labels, options.title, refused)
    (out / "report.md").write_text(text, encoding="utf-8")
    with (out / "predicted.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "kind", "measure", "predicted", "seed", "trained"])
        for r, m in itertools.product(rows, MEASURES):
            writer.writerows(
                [r.name, r.kind, m, f"{r.predicted[m]:.6g}", i, f"{v:.6g}"] for i, v in enumerate(r.trained[m])
            )
    draw(rows, reach, labels, out / "predicted.png")
    if rows[0].rehearsed:
        predicted_rehearsed.draw(rows, out / "rehearsed.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
