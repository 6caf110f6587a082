"""RLOO: each reward against the mean of the others in its group (Ahmadian et al., 2402.14740, eq. 6)."""

from __future__ import annotations

from typing import Literal

from rewards.batch import Floats
from trainers.advantages.base import GroupAdvantage


class Rloo(GroupAdvantage):
    """r_i - mean of the other kept rollouts of the group, which is n / (n - 1) times Dr. GRPO's. singleton=raw: r."""

    type: Literal["rloo"] = "rloo"

    def of_group(self, rewards: Floats) -> Floats:
        """(n,) leave-one-out differences."""
        n = len(rewards)
        return (rewards - rewards.mean()) * (n / (n - 1))
