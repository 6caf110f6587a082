"""Dr. GRPO: the group mean is subtracted and nothing is divided (2503.20783, section 3.1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from rewards.batch import Batch, Floats
from trainers.advantages.base import GroupAdvantage


class DrGrpo(GroupAdvantage):
    """r - mean over the kept rollouts of a group; each group's advantages add up to 0. singleton=raw: r."""

    type: Literal["dr_grpo"] = "dr_grpo"
    paper: ClassVar[str] = "2503.20783"

    def of_groups(self, batch: Batch, reward: Floats) -> Floats:
        """(N,)."""
        return reward - batch.spread(batch.group_mean(reward))
