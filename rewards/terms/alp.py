"""ALP: a length penalty that grows with how often the group solves the problem (Adaptive Length Penalty, 2506.05256).

No official code was at hand: the rule is from third-party descriptions, which disagree on the scale of the length.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class Alp(Reward):
    """c - beta * L * max(p, 1 / K), p the share of the group's K rollouts that are correct.

    L in tokens; `per_cap: true` divides it by the request's cap, the other reading. Correct and wrong rollouts both pay. None
    correct: 1 / K of the price remains; a group of one pays the full price. Truncated: judged by verdict and length. Where all
    are correct only length is left, and an advantage divided by the group's std gives any small beta full strength: see
    `dr_grpo`. Published: beta 1e-7; DRPO's comparison (2510.04474) ran 1e-9.
    """

    type: Literal["alp"] = "alp"
    paper: ClassVar[str] = "2506.05256"
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "group"
    shorter_pays: ClassVar[bool] = True
    beta: Number = 1e-7
    per_cap: bool = False

    def bounds(self, progress: Progress) -> Bounds:
        """At most the longest response at full price."""
        most = at(self.beta, progress) * (1.0 if self.per_cap else progress.max_length)
        return Bounds.of((1.0, 1.0 - most), (0.0, -most))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        price = np.maximum(batch.group_mean(batch.correct), 1.0 / batch.group_size)[batch.group_index]
        scale = np.maximum(batch.max_tokens, 1) if self.per_cap else 1.0
        return batch.correct - at(self.beta, progress) * (batch.length / scale * price)
