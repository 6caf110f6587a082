"""How far into training a predicted step reaches: its rank correlation with the runs' own logs, by steps.

A run's first step is sampled by the base model; from the second on its log shows what its reward has done. Only seeds that all
configurations have are used: they meet the same problems in the same steps, whose noise is then common to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.predicted_ranks import MEASURES, Row, interval_of, seeds_agree, spearman
from benchmarks.statistics import RESAMPLES, SEED, Floats

WIDTH = 4  # steps of a window
EARLY = (2, 9)  # the first eight updates' effects: two windows


@dataclass(frozen=True)
class Reached:
    """Steps first to last: rank correlation of predicted slopes with the mean over these steps, by measure; its interval over the
    log's problems, the seeds and the steps; and that of two seeds among themselves (NaN with one)."""

    first: int
    last: int
    value: dict[str, float]
    interval: dict[str, tuple[float, float]]
    seeds: dict[str, float]


def windows(steps: int) -> list[tuple[int, int]]:
    """(2, 5), (6, 9) and so on up to the last step, none shorter than half of WIDTH."""
    starts = range(2, steps + 1, WIDTH)
    return [(a, min(a + WIDTH - 1, steps)) for a in starts if min(a + WIDTH - 1, steps) - a + 1 >= WIDTH / 2]


def common_seeds(rows: Sequence[Row]) -> list[int]:
    """Seeds that every configuration was trained with."""
    return sorted(set.intersection(*(set(r.course.get(m, {})) for r in rows for m in MEASURES))) if rows else []


def common_steps(rows: Sequence[Row]) -> int:
    """How many steps all runs of these seeds have; 0 without a common seed."""
    seeds = common_seeds(rows)
    return min((len(r.course[m][s]) for r in rows for m in MEASURES for s in seeds), default=0)


def reached(rows: Sequence[Row], first: int, last: int, resamples: int = RESAMPLES, seed: int = SEED) -> Reached:
    """The correlations in steps `first` to `last`, counted from 1. Raises ValueError where the rows have no seed in common."""
    seeds = common_seeds(rows)
    if not seeds:
        raise ValueError("the configurations have no seed in common")
    rng = np.random.default_rng(seed)
    value, interval, agree = {}, {}, {}
    for m in MEASURES:
        logged = np.array([[r.course[m][s][first - 1 : last] for s in seeds] for r in rows])  # (C, S, W)
        predicted = np.array([r.predicted[m] for r in rows])
        value[m] = float(spearman(predicted, logged.mean(axis=(1, 2))))
        drawn = np.stack([r.predicted_draws[m][:resamples] for r in rows], axis=1)  # (R, C)
        interval[m] = interval_of(spearman(drawn, _resampled(logged, len(drawn), rng)))
        agree[m] = seeds_agree(logged.mean(axis=2))
    return Reached(first, last, value, interval, agree)


def _resampled(logged: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """(R, C) means over seeds drawn again, and within each over steps drawn again; the same for all configurations."""
    _, seeds, steps = logged.shape
    which = rng.integers(0, seeds, (resamples, seeds))
    when = rng.integers(0, steps, (resamples, seeds, steps))
    return logged[:, which[:, :, None], when].mean(axis=(2, 3)).T


def course(rows: Sequence[Row], resamples: int = RESAMPLES) -> list[Reached]:
    """Window by window, to the last step that all runs have; none without a common seed."""
    return [reached(rows, first, last, resamples) for first, last in windows(common_steps(rows))]
