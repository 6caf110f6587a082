"""DisCO with the log-likelihood score: DRPO without the length term (Li et al., 2505.12366)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from trainers.objectives.data import MiniBatch
from trainers.objectives.drpo import Discriminative
from trainers.objectives.parts import group_sum


class Disco(Discriminative):
    """`Discriminative` with equal weights over a group's correct rollouts: DRPO at lambda = infinity, and its reference
    without a length term. Published with the scores of log-likelihood: tau 10, beta 1000, delta 1e-4."""

    type: Literal["disco"] = "disco"
    paper: ClassVar[str] = "2505.12366"

    def weights(self, data: MiniBatch, right: Tensor) -> Tensor:
        """See Discriminative."""
        return right / group_sum(right, data.group).clamp(min=1)[data.group]
