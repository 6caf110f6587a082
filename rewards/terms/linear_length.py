"""Length as a share of the cap: the plainest term there is. Weight it below zero; gate it to correct rollouts."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress


class LinearLength(Reward):
    """length / scale, the scale in tokens; None: each request's own cap (`max_tokens`), so the value lies in [0, 1].

    correct + -a * linear_length gated on is_correct is c (1 - a l / L)."""

    type: Literal["linear_length"] = "linear_length"
    own_kind: ClassVar[Kind] = "term"
    scale: float | None = Field(default=None, gt=0)

    def bounds(self, progress: Progress) -> Bounds:
        """0 to the longest response there is."""
        return Bounds.same(0.0, progress.max_length / self.scale if self.scale else 1.0)

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) shares."""
        return batch.length / (self.scale or np.maximum(batch.max_tokens, 1))
