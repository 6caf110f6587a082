"""GRPO: rewards standardised within their group (DeepSeekMath, 2402.03300, section 4.1.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rewards.batch import Batch, Floats
from trainers.advantages.base import GroupAdvantage


class Grpo(GroupAdvantage):
    """(r - mean) / (std + eps) over the kept rollouts of a group. ddof 1 and eps 1e-6 as in verl.

    Dividing by the std gives a tiny length difference in an all-correct group full strength: see `dr_grpo`.
    singleton=raw: r / (1 + eps).
    """

    type: Literal["grpo"] = "grpo"
    paper: ClassVar[str] = "2402.03300"
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-6, gt=0)

    def of_groups(self, batch: Batch, reward: Floats) -> Floats:
        """(N,)."""
        mean, std = batch.group_moments(reward, ddof=self.ddof)
        return (reward - batch.spread(mean)) * batch.spread(1.0 / (std + self.eps))

    def of_singleton(self, reward: Floats) -> Floats:
        """(n,): mean 0, std 1."""
        return reward / (1.0 + self.eps)
