"""Correctness: what the verdict alone pays."""

from __future__ import annotations

from typing import ClassVar, Literal

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats, choose
from rewards.bounds import Bounds
from rewards.progress import Progress


class Correct(Reward):
    """`right` for a verified answer, `wrong` otherwise; plain GRPO's reward is the default 1 and 0."""

    type: Literal["correct"] = "correct"
    own_kind: ClassVar[Kind] = "whole"
    shorter_pays: ClassVar[bool] = True
    right: float = 1.0
    wrong: float = 0.0

    def bounds(self, progress: Progress) -> Bounds:
        """The two values."""
        return Bounds.of((self.right, self.right), (self.wrong, self.wrong))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        return choose([self.wrong, self.right], batch.correct)
