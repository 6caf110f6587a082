"""Batch std: the group's mean is subtracted, the step's std divides (REINFORCE++ with baseline, 2501.03262; the batch-wise
normalisation of DLER, 2510.15110)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rewards.batch import Batch, Floats
from rewards.progress import Progress
from trainers.advantages.base import GroupAdvantage


class BatchStd(GroupAdvantage):
    """(r - group mean) / (std + eps), one std over all kept rollouts of the step.

    std_of: "centred" (default, both papers): of r - group mean, whose mean over the step is 0 by itself; "rewards": of r
    (TRL's scale_rewards="batch", eps 1e-4), larger because prompts differ in difficulty. Groups without signal count in the
    std as zeros; DLER leaves them out (`drop_zero_signal`). verl whitens over tokens, so that a long response weighs more;
    here each rollout counts once. A step whose centred rewards are all equal, or of one rollout: std 0, advantages 0.
    A tiny length difference in one all-correct group stays tiny, unlike under `grpo`. Neither paper states ddof and eps:
    1 and 1e-6 as in verl. singleton=raw: mean 0, so r / (std + eps).
    """

    type: Literal["batch_std"] = "batch_std"
    paper: ClassVar[str] = "2501.03262"
    std_of: Literal["centred", "rewards"] = "centred"
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-6, gt=0)

    def of_groups(self, batch: Batch, reward: Floats) -> Floats:
        """(N,) centred rewards."""
        return reward - batch.spread(batch.group_mean(reward))

    def compute(self, batch: Batch, reward: Floats, progress: Progress) -> Floats:
        """(N,)."""
        centred = super().compute(batch, reward, progress)
        x = (centred if self.std_of == "centred" else reward)[
            batch.order
        ]  # summed in one order, whatever arrived first
        varied = len(x) > self.ddof and x.min() < x.max()
        return centred / ((x.std(ddof=self.ddof) if varied else 0.0) + self.eps)
