"""Rank correlations of what was predicted and what was trained, over configurations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.statistics import Floats
from benchmarks.sweep_predict import Prediction

MEASURES = ("accuracy", "tokens")
MARKS = {"reward": "o", "own advantage": "s", "stateful": "^"}


@dataclass(frozen=True)
class Row:
    """One configuration. predicted: the arrow at KL nats; trained: the mean change of its seeds (S,); draws of both (R,)."""

    name: str
    kind: str
    predicted: dict[str, float]
    trained: dict[str, Floats]
    predicted_draws: dict[str, Floats]
    trained_draws: dict[str, Floats]  # (R, S): each seed's change on resampled problems
    arrow: Prediction  # what a sweep's `first:` would have gone by
    end: Prediction  # the same of the trained changes
    # By measure and seed: the mean of each training step.
    course: dict[str, dict[int, Floats]] = field(default_factory=dict)
    # By measure (R, T + 1): the policy's mean before each step of each rehearsal, and after the last; empty without rehearsals.
    rehearsed: dict[str, Floats] = field(default_factory=dict)


def ranks(values: Floats) -> Floats:
    """Ranks along the last axis, ties at their mean; 1 is the least. NaN where a value is."""
    order = values.argsort(axis=-1).argsort(axis=-1) + 1.0
    equal = values[..., :, None] == values[..., None, :]
    with np.errstate(invalid="ignore"):  # NaN is equal to nothing
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
    drawn_t = draw_seeds(rows, measure, len(drawn_p), rng)
    which = rng.integers(0, len(rows), drawn_p.shape)
    over = spearman(np.take_along_axis(drawn_p, which, axis=1), np.take_along_axis(drawn_t, which, axis=1))
    several = [r.trained[measure] for r in rows if len(r.trained[measure]) > 1]
    common = min((len(v) for v in several), default=0)
    by_seed = np.array([v[:common] for v in several]).reshape(len(several), common)
    return {
        "value": float(spearman(predicted, trained)),
        "these": interval_of(spearman(drawn_p, drawn_t)),
        "others": interval_of(over),
        "seeds": seeds_agree(by_seed),
    }


def draw_seeds(rows: Sequence[Row], measure: str, resamples: int, rng: np.random.Generator) -> Floats:
    """(resamples, C): the trained changes on resampled problems, means over seeds drawn again."""
    means = []
    for r in rows:
        draws = r.trained_draws[measure][:resamples]
        means.append(np.take_along_axis(draws, rng.integers(0, draws.shape[1], draws.shape), axis=1).mean(axis=1))
    return np.stack(means, axis=1)


def by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """All, then those of each kind."""
    kinds = dict.fromkeys(r.kind for r in rows)
    return {"all": list(rows)} | {kind: [r for r in rows if r.kind == kind] for kind in kinds}


def is_worth_a_row(kind: str, some: Sequence[Row], rows: Sequence[Row]) -> bool:
    """Whether a table by kind has these: ranks need a few, and what is all of them stands there already."""
    return len(some) >= 4 and (kind == "all" or len(some) < len(rows))


def seeds_agree(by_seed: Floats) -> float:
    """Mean rank correlation of two seeds (C, S), NaN with one."""
    pairs = [spearman(by_seed[:, i], by_seed[:, j]) for i, j in itertools.combinations(range(by_seed.shape[1]), 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def interval_of(draws: Floats) -> tuple[float, float]:
    """The middle 95 % of the draws, NaN ones left out; NaN where all are."""
    if np.isnan(draws).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)
