"""How well rehearsals on the base model's log (`benchmarks.rehearsal`) foretell training: ranks, and how far off the ends are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.predicted_ranks import MARKS, MEASURES, Row, by_kind, draw_seeds, interval_of, is_worth_a_row, spearman
from benchmarks.predicted_reach import EARLY, common_seeds, common_steps
from benchmarks.statistics import RESAMPLES, SEED, Floats
from benchmarks.tables import table


def ended(rows: Sequence[Row], measure: str) -> Floats:
    """(C,): the rehearsed change from start to end, a mean over rehearsals."""
    return np.array([_change(r.rehearsed[measure]).mean() for r in rows])


def _change(course: Floats) -> Floats:
    return course[:, -1] - course[:, 0]


def at_the_end(rows: Sequence[Row], measure: str, resamples: int = RESAMPLES) -> tuple[float, tuple[float, float]]:
    """Rank correlation of rehearsed and trained change at the end, with its interval over rehearsals, training seeds and held-out
    problems of these configurations."""
    rng = np.random.default_rng(SEED)
    changes = np.array([_change(r.rehearsed[measure]) for r in rows])  # (C, R)
    trained = draw_seeds(rows, measure, resamples, rng)  # (D, C)
    drawn = changes[:, rng.integers(0, changes.shape[1], (len(trained), changes.shape[1]))].mean(axis=2).T
    value = spearman(changes.mean(axis=1), np.array([r.trained[measure].mean() for r in rows]))
    return float(value), interval_of(spearman(drawn, trained))


def in_steps(
    rows: Sequence[Row], measure: str, first: int, last: int, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """As `at_the_end`, with the runs' own logs in steps `first` to `last`, counted from 1; the interval is over rehearsals and
    training seeds."""
    rng = np.random.default_rng(SEED)
    seeds = common_seeds(rows)
    logged = np.array([[r.course[measure][s][first - 1 : last].mean() for s in seeds] for r in rows])  # (C, S)
    told = np.array([r.rehearsed[measure][:, first - 1 : last].mean(axis=1) for r in rows])  # (C, R)
    value = float(spearman(told.mean(axis=1), logged.mean(axis=1)))
    which = [rng.integers(0, of.shape[1], (resamples, of.shape[1])) for of in (told, logged)]
    drawn = [of[:, w].mean(axis=2).T for of, w in zip((told, logged), which, strict=True)]
    return value, interval_of(spearman(*drawn))


def section(rows: Sequence[Row], resamples: int = RESAMPLES) -> str:
    """A row a kind of configuration: ranks in the first steps, of what training costs, and at the end; how far off the ends are."""
    first, last = EARLY
    steps = common_steps(rows)
    heads = ["configurations", "number"]
    if steps >= last:
        heads += [*(f"{m}, steps {first} to {last}" for m in MEASURES), f"tokens, steps 2 to {steps}"]
    lines = [[*heads, *(f"{m}, at the end" for m in MEASURES), "tokens off by, in the median"]]
    for kind, some in by_kind(rows).items():
        if not is_worth_a_row(kind, some, rows):
            continue
        found = []
        if steps >= last:
            found = [in_steps(some, m, first, last, resamples) for m in MEASURES]
            found.append(in_steps(some, "tokens", 2, steps, resamples))
        found += [at_the_end(some, m, resamples) for m in MEASURES]
        off = np.abs(ended(some, "tokens") - [r.trained["tokens"].mean() for r in some])
        cells = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, (low, high) in found]
        lines.append([kind, str(len(some)), *cells, f"{np.median(off):.1f}"])
    return table(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Trained against rehearsed change at the end, a panel a measure, with the line on which both are equal; bars: the range of the
    seeds, and of the rehearsals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 2)
    for axes, m in zip(panels, MEASURES, strict=True):
        for r in rows:
            x, y = _change(r.rehearsed[m]), r.trained[m]
            bars = [[[v.mean() - v.min()], [v.max() - v.mean()]] for v in (x, y)]
            axes.errorbar(
                x.mean(), y.mean(), xerr=bars[0], yerr=bars[1], fmt=MARKS[r.kind], markersize=5, capsize=2, elinewidth=0.8,
                color="#0072B2" if r.kind == "reward" else "#D55E00", alpha=0.8,
            )  # fmt: skip
        low, high = (of(*axes.get_xlim(), *axes.get_ylim()) for of in (min, max))
        axes.plot([low, high], [low, high], color="#bbbbbb", linewidth=0.9, zorder=0)
        axes.set_title(
            f"{m}: rank correlation {at_the_end(rows, m, 2)[0]:.2f}", loc="left", fontsize=12, fontweight="bold"
        )
        axes.set_xlabel("change in a rehearsal on the log")
        axes.set_ylabel("change after training")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
