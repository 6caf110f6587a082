"""Mean over length, the "Length Reward +" that CANON (2509.23962) is compared with; after O1-Pruner's length term."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class MeanOverLength(Reward):
    """c + coefficient * (mean / length - 1), the mean over all rollouts of the group, right and wrong.

    Wrong rollouts are paid for being short too, whatever the others do; a group of one, or of one length, gets c. Length 0
    counts as 1 token, which keeps the quotient finite (the official code would divide by 0). Truncated: judged by verdict and
    length. Official coefficients: 0.001, 0.004, 0.005 (which already collapses) and 0.1; which one the table reports is not
    published.
    """

    type: Literal["mean_over_length"] = "mean_over_length"
    paper: ClassVar[str] = "2509.23962"
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "group"
    shorter_pays: ClassVar[bool] = True
    coefficient: Number = Field(default=0.001, description="0 or more")

    def bounds(self, progress: Progress) -> Bounds:
        """The quotient lies between 0 (all empty) and the longest response there is (one of a single token)."""
        a = at(self.coefficient, progress)
        low, high = -a, a * (max(progress.max_length, 1) - 1.0)
        return Bounds.of((1.0 + low, 1.0 + high), (low, high))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        length = np.maximum(batch.length, 1)
        mean = batch.spread(batch.group_mean(length))
        return batch.correct + at(self.coefficient, progress) * (mean / length - 1.0)
