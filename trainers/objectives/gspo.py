"""GSPO: the clipped surrogate with one ratio a response (Zheng et al., 2507.18071, equations 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.objectives.base import Objective
from trainers.objectives.data import Micro
from trainers.objectives.parts import LOG_RATIO_BOUND, Diagnostics, aggregate, common_diagnostics, over, token_mean


class Gspo(Objective):
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), a mean over responses; s = exp(mean over tokens of log new / old).

    Published: clip_low 3e-4, clip_high 4e-4, no KL; the ratio is a geometric mean, so its range is far narrower than a
    token's. Where tokens have advantages of their own, A is the token's and the response's term the mean over its tokens
    (GSPO-token, equation 13; what verl codes); one advantage a response gives equation 5 in value and gradient. Forced
    tokens have no sampling probability and are left out; a response without any other token has no term, but counts in the
    mean. With one optimiser step a batch s is 1 and nothing is ever clipped.
    """

    type: Literal["gspo"] = "gspo"
    paper: ClassVar[str] = "2507.18071"
    clip_low: float = Field(default=3e-4, ge=0, lt=1)
    clip_high: float = Field(default=4e-4, ge=0)

    def trained(self, micro: Micro) -> Tensor:
        """(B, T) bool: the tokens that make up the ratio."""
        return micro.chosen

    def old_log_prob(self, micro: Micro) -> Tensor:
        """(B, T) log-probs of the policy that sampled."""
        return micro.old_log_prob

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        """This micro-batch's share of the loss; diagnostics clip_low, clip_high: shares of tokens whose response's ratio is
        clipped; sequence_ratio: its mean over tokens."""
        advantage, mask = micro.advantage, self.trained(micro)
        mean = token_mean(micro.log_prob.detach() - self.old_log_prob(micro), mask)[:, None]
        # every token holds its response's ratio; the gradient flows through the token's own log-prob alone, and the mean
        # over the tokens makes of that the gradient of the response's ratio
        own = micro.log_prob - micro.log_prob.detach() + mean
        ratio = own.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
        plain = -advantage * ratio
        clipped = -advantage * ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        binds = clipped > plain
        diagnostics = common_diagnostics(micro)
        diagnostics["sequence_ratio"] = over(ratio.detach(), mask)
        diagnostics["clip_low"] = over(binds & (advantage < 0), mask)
        diagnostics["clip_high"] = over(binds & (advantage > 0), mask)
        token = torch.maximum(plain, clipped)
        return aggregate(token, mask, "sequence_mean", micro.scale, micro.scale.tokens), diagnostics
