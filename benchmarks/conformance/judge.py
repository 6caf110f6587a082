"""How a reference case is judged: |got - want| <= tolerance * max|want| over an array, plus 1e-9."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Pair = tuple[Any, Any]  # (got, wanted): numbers, or nested lists, mappings and arrays of them
Case = dict[str, Any]
Adapter = Callable[[Case], Iterable[Pair]]

TOLERANCE = 5e-6  # many of the sources ran in float32
ABSOLUTE = 1e-9


def flat(value: Any) -> Iterator[float | None]:
    """The numbers of a nested value in order (mappings by key); None stays None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield None if value is None else float(value)


def error(got: Any, want: Any, tolerance: float = TOLERANCE) -> float:
    """Largest error, relative to max|want| (+ the absolute allowance): a pair passes when it is <= tolerance.

    Where `want` is None (the official code gave NaN, or failed) anything finite is right; a whole None stands for every
    number of `got`. inf for another number of values, or for a value that is not finite.
    """
    mine = list(flat(got))
    theirs = [None] * len(mine) if want is None else list(flat(want))
    if len(mine) != len(theirs) or not all(g is not None and math.isfinite(g) for g in mine):
        return math.inf
    scale = max((abs(w) for w in theirs if w is not None), default=0.0) + ABSOLUTE / tolerance
    return max(
        (abs(g - w) / scale for g, w in zip(mine, theirs, strict=True) if g is not None and w is not None), default=0.0
    )
