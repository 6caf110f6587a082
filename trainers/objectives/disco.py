"""DisCO with the log-likelihood score: DRPO without the length term (Li et al., 2505.12366)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from trainers.objectives.data import MiniBatch
from trainers.objectives.drpo import Discriminative
from trainers.objectives.parts import group_sum


class Disco(Discriminative):
    """-(1 / Q) sum over groups of [mean_P s - tau log mean_N exp(s / tau)] + (beta / 2) max(K - delta, 0)**2.

    P, N: the group's correct and wrong rollouts; s: mean log-prob of a response's tokens; K: mean KL a token from the policy
    that sampled. DRPO at lambda = infinity and its reference without a length term; symbols, settings and edge cases as in
    `drpo`. Of the paper's scores only the log-likelihood is here. Published for it: tau 10, beta 1000, delta 1e-4.
    """

    type: Literal["disco"] = "disco"
    paper: ClassVar[str] = "2505.12366"

    def weights(self, data: MiniBatch, right: Tensor) -> Tensor:
        """See Discriminative."""
        return right / group_sum(right, data.group).clamp(min=1)[data.group]
