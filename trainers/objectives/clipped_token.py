"""The clipped surrogate per token (PPO, 1707.06347 eq. 7), as GRPO, DAPO and Dr. GRPO use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainers.objectives.base import Need, Objective
from trainers.objectives.data import Micro
from trainers.objectives.parts import (
    LOG_RATIO_BOUND,
    Aggregation,
    Diagnostics,
    Estimator,
    aggregate,
    common_diagnostics,
    importance_weight,
    kl,
    over,
)


class ClippedToken(Objective):
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef KL(new || ref) - entropy_coef H, r = new / old.

    clip_low, clip_high: 0.2 and 0.2 (PPO); 0.2 and 0.28 is clip-higher (DAPO, 2503.14476 eq. 10). dual_clip c > 1:
    for A < 0 the loss is at most -c A (1912.09729 eq. 5; CANON uses 3). aggregation: see `aggregate`;
    constant_length: in tokens, default the request cap. kl_estimator: against `ref_log_prob`, see `kl`.
    Forced tokens have no sampling probability and are left out, of the totals too.

    importance, for an engine whose probabilities are not the trainer's: the surrogate (not KL nor entropy) is weighted by
    w = old / engine, of each token or (importance_level) of the whole response. "truncate": min(w, importance_high),
    truncated importance sampling. "mask": w within [importance_low, importance_high], else 0; what is masked stays in the
    totals, so that the scale of the others does not move (IcePop masks tokens by such a range). TRL's default: mask,
    sequence, importance_high 3.

    With rollouts of older policies (mode overlap or async) `engine` is the behaviour policy, `old` the one at the start of the
    step, computed anew by the trainer, and `new` the one that moves: importance then gives the decoupled objective
    (2110.00641; AReaL, 2505.24298), its weight truncated at importance_high.
    """

    type: Literal["clipped_token"] = "clipped_token"
    paper: ClassVar[str] = "1707.06347"
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    clip_high: float = Field(default=0.2, ge=0)
    dual_clip: float | None = Field(default=None, gt=1)
    aggregation: Aggregation = "token_mean"
    constant_length: int | None = Field(default=None, gt=0)
    kl_coef: float = Field(default=0.0, ge=0)
    kl_estimator: Estimator = "k3"
    entropy_coef: float = 0.0
    importance: Literal["off", "truncate", "mask"] = "off"
    importance_level: Literal["token", "sequence"] = "token"
    importance_low: float = Field(default=0.0, ge=0)
    importance_high: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.importance != "mask" and self.importance_low:
            raise ValueError(f"importance_low is a bound of importance: mask, not of importance: {self.importance}")
        if self.importance_low >= self.importance_high:
            raise ValueError(
                f"importance_low {self.importance_low} must be below importance_high {self.importance_high}"
            )
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """What the coefficients that are not zero read."""
        wanted: dict[Need, bool] = {
            "ref_log_prob": self.kl_coef != 0,
            "entropy": self.entropy_coef != 0,
            "engine_log_prob": self.importance != "off",
        }
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        """This micro-batch's share of the loss; diagnostics clip_low, clip_high, clip_dual: shares of tokens where it
        binds."""
        advantage, mask = micro.advantage, micro.chosen
        log_ratio = (micro.log_prob - micro.old_log_prob).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        ratio = log_ratio.exp()
        plain = -advantage * ratio
        clipped = -advantage * ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        token = torch.maximum(plain, clipped)
        diagnostics = common_diagnostics(micro)
        binds = clipped > plain
        diagnostics["clip_low"] = over(binds & (advantage < 0), mask)
        diagnostics["clip_high"] = over(binds & (advantage > 0), mask)
        if self.dual_clip is not None:
            bound = -advantage * self.dual_clip
            diagnostics["clip_dual"] = over((token > bound) & (advantage < 0), mask)
            token = torch.where(advantage < 0, torch.minimum(token, bound), token)
        if self.importance != "off":
            bounds = self.importance_low, self.importance_high
            weight, seen = importance_weight(micro, self.importance, self.importance_level, *bounds)
            token, diagnostics = token * weight, diagnostics | seen
        if self.kl_coef:
            assert micro.ref_log_prob is not None, "needs names ref_log_prob"
            token = token + self.kl_coef * kl(micro.log_prob, micro.ref_log_prob, self.kl_estimator)
        if self.entropy_coef:
            assert micro.entropy is not None, "needs names entropy"
            token = token - self.entropy_coef * micro.entropy
        loss = aggregate(token, mask, self.aggregation, micro.scale, micro.scale.chosen, self.constant_length)
        return loss, diagnostics
