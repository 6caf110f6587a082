"""LASER-D's targets (2505.15612): which difficulty a problem is of, how much of a band's responses
a length covers, and the shortest length at which a right answer can be expected. Pure functions; `AdaptiveTarget` keeps the
table between monitorings.

Bands are numbered 0 hard, 1 medium, 2 easy, by a problem's share of correct rollouts and the edges 1/3 and 2/3.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rewards.batch import Batch, Floats, Ints

BANDS = ("hard", "medium", "easy")
Edge = Literal["easier", "harder"]
Rounding = Literal["ceil", "floor"]


def bands(batch: Batch, edge: Edge = "easier") -> Ints:
    """(P,) band of each problem. `edge`: where an accuracy of exactly 1/3 or 2/3 belongs. Whole numbers are compared, so that
    1/3 is 1/3."""
    right, size = 3 * batch.group_count(batch.correct).astype(np.int64), batch.group_size
    if edge == "easier":
        return (right >= size).astype(np.int64) + (right >= 2 * size)
    return (right > size).astype(np.int64) + (right > 2 * size)


def shares(band: Ints) -> Floats:
    """(3,) share of the problems in each band; 0 where there is no problem at all."""
    return np.bincount(band, minlength=len(BANDS)) / max(len(band), 1)


def grid(lower: int, upper: int, interval: int) -> Ints:
    """(K,) candidate lengths: `lower`, then steps of `interval` up to the first that reaches `upper`. A lower bound below the
    interval is followed by the interval's own multiples (the official code has both rules, for its interval of 1024)."""
    first = [lower] if lower < interval else []
    return np.array([*first, *range(max(lower, interval), upper + interval, interval)], dtype=np.int64)


def coverage(batch: Batch, band: Ints, lengths: Ints) -> Floats:
    """(3, K) share of each band's rollouts, right and wrong, with length <= lengths[k]; 0 for a band without problems."""
    of_rollout = batch.spread(band)
    rows = [np.sort(batch.length[of_rollout == b]) for b in range(len(BANDS))]
    return np.stack([np.searchsorted(row, lengths, side="right") / max(len(row), 1) for row in rows])


def least_correct(size: Ints, rounding: Rounding) -> Ints:
    """(S, 3) least number of correct rollouts, of `size`, that puts a problem in each band: 1, size/3, 2 size/3. For 8: 1, 3, 6
    rounded up (the paper), 1, 2, 5 rounded down (the official code)."""
    up = 2 if rounding == "ceil" else 0
    return np.stack([np.ones_like(size), (size + up) // 3, (2 * size + up) // 3], axis=-1)


def targets(
    lengths: Ints, covered: Floats, least: Ints, expected: float, rounding: Rounding, fallback: float
) -> Floats:
    """(S, 3) tokens: the shortest length whose expected number of correct rollouts, coverage (3, K) x least (S, 3), is at least
    `expected`; `fallback` where no length is, and where that is longer. Rounding "floor" also rounds the product down."""
    number = covered * least[:, :, None]
    enough = (np.floor(number) if rounding == "floor" else number) >= expected
    return np.where(enough, lengths.astype(np.float64), fallback).min(axis=-1, initial=fallback)
