"""ShorterBetter: the distance to the shortest correct response of the group (2504.21370)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class ShorterBetter(Reward):
    """alpha * c - beta * |length - target|, the target the length of the group's shortest correct rollout.

    No correct one: the target is the mean length of the group (official code; some notes say the longest), so wrong answers are
    pulled together. Wrong rollouts shorter than the target lose as well. Not clipped: a correct rollout more than alpha / beta
    = 2000 tokens off earns less than a wrong one on target. A group of one: alpha * c. Truncated: judged by verdict and
    length. Published: alpha 2, beta 0.001 per token.
    """

    type: Literal["shorter_better"] = "shorter_better"
    paper: ClassVar[str] = "2504.21370"
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "group"
    shorter_pays: ClassVar[bool] = True
    alpha: Number = 2.0
    beta: Number = 0.001

    def bounds(self, progress: Progress) -> Bounds:
        """The target may be the whole context away."""
        alpha, most = at(self.alpha, progress), at(self.beta, progress) * progress.max_length
        return Bounds.of((alpha, alpha - most), (0.0, -most))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        shortest = batch.group_min(batch.length, batch.correct)
        target = np.where(np.isfinite(shortest), shortest, batch.group_mean(batch.length))
        away = np.abs(batch.length - batch.spread(target))
        return at(self.alpha, progress) * batch.correct - at(self.beta, progress) * away
