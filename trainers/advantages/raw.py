"""The reward itself: for rewards that are advantages already (AdaptThink, 2505.13417; GDPO; constrained composition)."""

from __future__ import annotations

from typing import ClassVar, Literal

from rewards.batch import Batch, Floats
from rewards.progress import Progress
from trainers.advantages.base import Advantage


class Raw(Advantage):
    """A = r: no mean, no std, no groups needed. A group of one keeps its reward.

    A reward that is never negative then only ever pushes up: give it a baseline of its own (`adaptthink`, `normalise`,
    `constrained`), or use `dr_grpo`.
    """

    type: Literal["raw"] = "raw"
    paper: ClassVar[str] = "2505.13417"
    grouped: ClassVar[bool] = False

    def compute(self, batch: Batch, reward: Floats, progress: Progress) -> Floats:
        """(N,)."""
        return reward
