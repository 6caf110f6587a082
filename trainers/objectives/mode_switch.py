"""Reasoning-mode switching loss of Adaptive Deep Reasoning (2505.20101): a margin on the first token. A reconstruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from trainers.objectives.base import AnyObjective, Need, Objective
from trainers.objectives.data import Micro, MiniBatch, in_mode
from trainers.objectives.parts import Diagnostics, group_sum


class ModeTokens(BaseModel):
    """The token that opens a response of each mode: one token each in the tokenizer of the model."""

    model_config = ConfigDict(extra="forbid")

    long: str = Field(default="<long>", min_length=1)
    short: str = Field(default="<short>", min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.long == self.short:
            raise ValueError(f"both modes begin with {self.long!r}; give each a token of its own")
        return self


class ModeSwitch(Objective):
    """inner + weight * mean over prompts of max(0, margin - (z_preferred - z_other)), z the two mode tokens' logits at the
    first token of the response.

    One token in thousands gets next to no gradient from the inner loss; this term trains it alone. With acc the accuracy of
    the group's rollouts of mode `long` and `short`: short is preferred where acc_short >= threshold and acc_short >= acc_long
    (also when both are all right), else long. No term, but a place in the mean, for a group that has rollouts of one mode
    only or in which nothing is right; unknown verdicts and other modes are left out of acc. Rollouts of a group share the
    context of the first token, so the mean is over prompts. The policy must be trained on the prompt without the mode's
    instruction (`train_plain` of the plan): with it there would be nothing to choose.

    Paper: the loss' form and place. Our reconstruction, as no code and no numbers were released: threshold 0.5, margin 1,
    weight 0.1, and the rule for the preferred mode.
    """

    type: Literal["mode_switch"] = "mode_switch"
    paper: ClassVar[str] = "2505.20101"
    inner: AnyObjective = Field(default_factory=lambda: {"type": "clipped_token"}, validate_default=True)
    weight: float = Field(default=0.1, ge=0)
    margin: float = Field(default=1.0, ge=0, description="of logits")
    threshold: float = Field(default=0.5, ge=0, le=1, description="accuracy from which a prompt may count as simple")
    tokens: ModeTokens = ModeTokens()

    @property
    def whole_groups(self) -> bool:  # type: ignore[override]
        """The inner objective's."""
        return self.inner.whole_groups

    @property
    def reads_advantage(self) -> bool:  # type: ignore[override]
        """The inner objective's."""
        return self.inner.reads_advantage

    @property
    def needs(self) -> frozenset[Need]:
        """Probes, and what the inner objective reads."""
        return self.inner.needs | frozenset[Need]({"probes"})

    @property
    def reads_modes(self) -> frozenset[str]:
        """Long and short, and the inner objective's."""
        return self.inner.reads_modes | {"long", "short"}

    @property
    def probe_tokens(self) -> tuple[tuple[int, str], ...]:
        """The inner objective's, then long and short."""
        return (*self.inner.probe_tokens, (0, self.tokens.long), (0, self.tokens.short))

    def plan(self, data: MiniBatch) -> dict[str, Tensor]:
        """The inner objective's; mode_switch (N,): +1 where long is preferred, -1 short, 0 no term, over the group's size."""
        group, kept = data.group, data.keep & data.mask.any(1)
        halves = [kept & (data.verdict >= 0) & in_mode(data, name) for name in ("long", "short")]
        sizes = [group_sum(half, group) for half in halves]
        rights = [group_sum(half & (data.verdict == 1), group) for half in halves]
        long, short = (right / size.clamp(min=1) for right, size in zip(rights, sizes, strict=True))
        decided = (sizes[0] > 0) & (sizes[1] > 0) & (long + short > 0)
        prefers = torch.where((short >= self.threshold) & (short >= long), -1.0, 1.0)
        sign = torch.where(decided, prefers, 0.0) / group_sum(kept, group).clamp(min=1)
        return {**self.inner.plan(data), "mode_switch": sign[group] * kept}

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        """This micro-batch's share; diagnostics of the inner objective, and over the prompts that have a term
        mode_switch_loss, mode_prefers_short."""
        assert micro.probes is not None, "needs names probes"
        loss, diagnostics = self.inner.loss(dataclasses.replace(micro, probes=micro.probes[:, :-2]), plan)
        sign = plan["mode_switch"][micro.index].to(loss)
        probes = torch.where(sign[:, None] != 0, micro.probes[:, -2:], 0.0)  # an empty response has NaN there
        gap = (probes[:, 0] - probes[:, 1]) * micro.scale.temperature  # log-probs at T differ by the logits over T
        hinge = (self.margin - gap * sign.sign()).clamp(min=0) * sign.abs()
        share = sign.abs().sum(dtype=torch.float64)
        diagnostics = diagnostics | {
            "mode_switch_loss": (hinge.detach().sum(dtype=torch.float64), share),
            "mode_prefers_short": (sign.clamp(max=0).neg().sum(dtype=torch.float64), share),
        }
        return loss + self.weight * hinge.sum() / max(micro.scale.groups, 1.0), diagnostics
