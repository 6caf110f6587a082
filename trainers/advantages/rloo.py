"""RLOO: each reward against the mean of the others in its group (Ahmadian et al., 2402.14740, eq. 6)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from rewards.batch import Batch, Floats
from trainers.advantages.base import GroupAdvantage


class Rloo(GroupAdvantage):
    """r_i - mean of the other kept rollouts of the group, which is n / (n - 1) times Dr. GRPO's. singleton=raw: r."""

    type: Literal["rloo"] = "rloo"
    paper: ClassVar[str] = "2402.14740"

    def of_groups(self, batch: Batch, reward: Floats) -> Floats:
        """(N,)."""
        n = batch.group_size
        return (reward - batch.spread(batch.group_mean(reward))) * batch.spread(n / np.maximum(n - 1, 1))
