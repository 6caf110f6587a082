"""AdaptThink's loss: one ratio a response, in which the choice of the mode counts as sampled (Zhang et al., 2505.13417)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rewards.errors import TautError
from trainers.objectives.data import Micro, MiniBatch, in_mode
from trainers.objectives.gspo import Gspo


class AdaptThinkLoss(Gspo):
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), a mean over responses; s = exp(mean over tokens of log new / old),
    with the first token's old probability replaced by the share of its mode: nothinking_ratio where the mode is
    `nothinking`, else 1 - nothinking_ratio.

    The plan forces the first token (`</think>`, or a word that starts to think) for a share of every group, so it was
    sampled with that share as its probability; hence the forced first token is part of the ratio and is trained: that is
    how the policy learns which mode to choose. A first token that the engine chose in its mode is treated alike, as the
    official code does. Forced tokens after the first have no sampling probability and are left out; a rollout without a
    mode keeps its old probability. Raises TautError when no kept rollout has a mode.

    Published: clip 0.2 and 0.2, nothinking_ratio 0.5, 16 samples a problem, advantage c - reference accuracy + delta [no thinking],
    delta 0.05. The official code reads the advantage of the first token; here each token's own counts (equal there). It
    takes ratios 0 and 1 as a probability of e**-1e9; these are refused here, one mode alone is nothing to choose from.
    """

    type: Literal["adaptthink"] = "adaptthink"
    paper: ClassVar[str] = "2505.13417"
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    clip_high: float = Field(default=0.2, ge=0)
    nothinking_ratio: float = Field(default=0.5, gt=0, lt=1)
    nothinking: str = Field(default="no_think", min_length=1, description="the mode whose first token is `</think>`")

    @property
    def reads_modes(self) -> frozenset[str]:
        """Its mode without thinking."""
        return frozenset({self.nothinking})

    def trained(self, micro: Micro) -> Tensor:
        """(B, T) bool: what the engine chose, and the first token, forced or not."""
        first = torch.zeros_like(micro.mask)
        first[:, :1] = micro.mask[:, :1]
        return micro.chosen | (first & (micro.mode >= 0)[:, None])

    def old_log_prob(self, micro: Micro) -> Tensor:
        """(B, T) log-probs of the sampling policy, the mode's share at the first token."""
        old = micro.old_log_prob.clone()
        share = torch.full_like(old[:, :1], self.nothinking_ratio)
        share = torch.where(in_mode(micro, self.nothinking)[:, None], share, 1 - share).log()
        old[:, :1] = torch.where((micro.mode >= 0)[:, None], share, old[:, :1])
        return old

    def plan(self, data: MiniBatch) -> dict[str, Tensor]:
        """Nothing; refuses rollouts that were sampled without modes."""
        if bool(data.keep.any()) and not bool((data.mode[data.keep] >= 0).any()):
            raise TautError(
                f"objective {self.type}: no rollout has a mode; use a sampling plan that gives them "
                f"(sampling.type=modes, with the mode {self.nothinking!r} among them)"
            )
        return {}
