"""Lagrange multipliers of constraints on rewards: values, the mixture they make, and their one step of SGD (2310.04373)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rewards.batch import Floats
from rewards.bounds import Interval
from rewards.errors import TautError

Squash = Literal["sigmoid", "tanh", "none"]
REACH = {"sigmoid": Interval(0.0, 1.0), "tanh": Interval(-1.0, 1.0), "none": Interval(0.0, math.inf)}


@dataclass(frozen=True)
class Multipliers:
    """N multipliers: raw values, SGD momentum (None before a multiplier's first step), how each is squashed. Immutable."""

    raw: tuple[float, ...]
    momentum: tuple[float | None, ...]
    squash: tuple[Squash, ...]

    @classmethod
    def start(cls, raw: Sequence[float], squash: Sequence[Squash]) -> Multipliers:
        """Before the first step."""
        return cls(tuple(raw), (None,) * len(raw), tuple(squash))

    @property
    def values(self) -> tuple[float, ...]:
        """lambda: sigmoid(raw), tanh(raw), or max(raw, 0)."""
        kinds = {
            "sigmoid": lambda x: 0.5 * (1.0 + math.tanh(0.5 * x)),
            "tanh": math.tanh,
            "none": lambda x: max(x, 0.0),
        }
        return tuple(kinds[s](x) for x, s in zip(self.raw, self.squash, strict=True))

    def mix(self, main: Floats, parts: Sequence[Floats]) -> Floats:
        """(N - sum of lambda) * main + sum of lambda_i * parts_i."""
        values = np.asarray(self.values, dtype=main.dtype)  # all in the precision of what is mixed
        return (len(values) - values.sum()) * main + sum(v * part for v, part in zip(values, parts, strict=True))

    def update(self, excess: Sequence[float | None], lr: float, momentum: float, max_norm: float) -> Multipliers:
        """One step of SGD on sum of lambda_i * excess_i, excess = mean reached - wanted; None: that one is left as it is.

        The gradient is clipped jointly by its norm; the first step's momentum is the gradient itself (as PyTorch's SGD).
        Raises TautError for an excess that is not finite.
        """
        for i, e in enumerate(excess):
            if e is not None and not math.isfinite(e):
                raise TautError(f"constraint {i}: the mean reached minus the wanted one is {e}; look at that reward")
        slopes = {"sigmoid": lambda v: v * (1.0 - v), "tanh": lambda v: 1.0 - v * v, "none": lambda v: 1.0}
        gradient = [
            e if e is None else slopes[s](v) * e for e, v, s in zip(excess, self.values, self.squash, strict=True)
        ]
        norm = math.sqrt(sum(g * g for g in gradient if g is not None))
        scale, raw, buffers = min(1.0, max_norm / (norm + 1e-6)), [], []
        for x, old, g, s in zip(self.raw, self.momentum, gradient, self.squash, strict=True):
            new = old if g is None else scale * g if old is None else momentum * old + scale * g
            x = x if g is None or new is None else x - lr * new
            raw.append(max(x, 0.0) if s == "none" else x)
            buffers.append(new)
        return Multipliers(tuple(raw), tuple(buffers), self.squash)
