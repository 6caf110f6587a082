"""L1: length-controlled policy optimisation to a budget told in the prompt (Aggarwal and Welleck, 2503.04697)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, Tokens, at


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), dtype=np.float64)  # no overflow however far the budget is missed


class _Budgeted(Reward):
    paper: ClassVar[str] = "2503.04697"
    own_kind: ClassVar[Kind] = "whole"
    target: Tokens | None = Field(default=None, description="tokens; None: the budget told in the prompt")
    alpha: Number = Field(default=3e-4, description="per token")

    @property
    def own_needs(self) -> frozenset[str]:
        """`budget`, unless a `target` is set."""
        return frozenset({"budget"}) if self.target is None else frozenset()

    def _left(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) alpha * tokens left of the budget; below 0 beyond it."""
        target = batch.column("budget") if self.target is None else at(self.target, progress)
        return np.float64(at(self.alpha, progress)) * (target - batch.length)


class L1Exact(_Budgeted):
    """c - alpha * |n - L|, n the budget in output tokens (L1-Exact).

    Not clipped: a correct rollout more than 1 / alpha = 3333 tokens off earns less than a wrong one on budget. Wrong and
    truncated rollouts keep the length term; no correct one, a group of one: nothing special. shape "sigmoid" reproduces the
    official option c + sigmoid(alpha * |n - L|), which *rises* with the deviation: not for use. Published: alpha 0.0003, n
    from U(100, 4000).
    """

    type: Literal["l1_exact"] = "l1_exact"
    shape: Literal["linear", "sigmoid"] = "linear"

    def bounds(self, progress: Progress) -> Bounds:
        """A told budget may be as far away as it likes."""
        if self.shape == "sigmoid":
            return Bounds.of((1.0, 2.0), (0.0, 1.0))
        target, alpha = self.target, at(self.alpha, progress)
        far = math.inf if target is None else max(at(target, progress), progress.max_length - at(target, progress))
        most = alpha * far if alpha else 0.0
        return Bounds.of((1.0, 1.0 - most), (0.0, -most))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        missed = np.abs(self._left(batch, progress))
        return batch.correct.astype(np.float64) + (_sigmoid(missed) if self.shape == "sigmoid" else -missed)


class L1Max(_Budgeted):
    """c * clip(alpha * (n - L) + 0.5, 0, 1), n the budget in output tokens (L1-Max).

    Within the budget a correct rollout earns at least 0.5; wrong and truncated ones 0. Code and paper differ: slope "half" is
    the official 0.5 + 0.5 * alpha * (n - L); combine "add" is c + term, which pays wrong rollouts too (at most what the worst
    correct one earns); shape "sigmoid" is min(1, sigmoid(alpha * (n - L)) + 0.1 [L <= n]), whatever the slope. The shipped
    script sets none of the switches and so trains on plain correctness. Published: alpha 0.0003, n from U(100, 4000).
    """

    type: Literal["l1_max"] = "l1_max"
    shorter_pays: ClassVar[bool] = True
    shape: Literal["linear", "sigmoid"] = "linear"
    combine: Literal["multiply", "add"] = "multiply"
    slope: Literal["full", "half"] = "full"

    def bounds(self, progress: Progress) -> Bounds:
        """The length term lies between 0 and 1."""
        return Bounds.of((1.0, 2.0), (0.0, 1.0)) if self.combine == "add" else Bounds.of((0.0, 1.0), (0.0, 0.0))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        left = self._left(batch, progress)
        if self.shape == "sigmoid":
            term = np.minimum(1.0, _sigmoid(left) + 0.1 * (left >= 0))
        else:
            term = np.clip(0.5 + (left if self.slope == "full" else 0.5 * left), 0.0, 1.0)
        correct = batch.correct.astype(np.float64)
        return correct + term if self.combine == "add" else correct * term
