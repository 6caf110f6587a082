"""Rows of unequal length, such as the token ids of a step's rollouts, as one array."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

PORTION = 50_000  # numbers that are converted at once, in some milliseconds: meanwhile no other thread has its turn


def flat(rows: Sequence[Sequence[float]], kind: type[np.number]) -> tuple[NDArray, NDArray[np.int64]]:
    """(values, ends): all rows one after the other, and where they end, with a 0 before the first: row i is
    values[ends[i] : ends[i + 1]]."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    values = np.empty(ends[-1], kind)
    first = 0
    while first < len(rows):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + PORTION, side="right")) - 1)
        count = int(ends[last] - ends[first])
        values[ends[first] : ends[last]] = np.fromiter(chain.from_iterable(rows[first:last]), kind, count)
        first = last
    return values, ends
