"""Taut's entries in verl's registries: an estimator that hands on finished advantages, and DRPO's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss
from verl.workers.config import PolicyLossConfig

from trainers.objectives.parts import kl, token_mean
from trainers.verl.settings import DRPO_LOSS, ESTIMATOR


@register_adv_est(ESTIMATOR)
def finished(token_level_rewards: Tensor, response_mask: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """(B, T) advantages and returns: what the sampler wrote on each response's last token, masked or not, at all tokens of the
    mask. Padded rows have an empty mask and get 0."""
    advantage = token_level_rewards.sum(-1, keepdim=True) * response_mask
    return advantage, advantage


@dataclass
class TautPolicyLossConfig(PolicyLossConfig):
    """`actor.policy_loss` with DRPO's settings. samples: rollouts a problem."""

    beta: float = 1000.0
    delta: float = 1e-4
    kl_estimator: str = "k1"
    samples: int = 8


@register_policy_loss(DRPO_LOSS)
def drpo(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """DRPO (2510.04474, eq. 7) and DisCO: -(1 / Q) sum_i a_i s_i + beta max(K - delta, 0) K, s the mean log-prob of a response, a
    its weight, which came as its advantage.

    Exact where a step is one update: the weights of wrong responses are a softmax of s under the policy that sampled. With
    several updates a step they are not computed anew, and K is that of the micro-batch, as in the official code.
    """
    mask, settings, whole = response_mask.bool(), config.policy_loss, config.global_batch_info
    ranks = whole.get("dp_size") or 1
    rows = whole.get("global_batch_size") or int(mask.any(1).sum())
    tokens = whole.get("batch_num_tokens") or int(mask.sum())
    weight = (advantages * mask).sum(1) / mask.sum(1).clamp(min=1)
    value = (weight * token_mean(log_prob, mask)).sum() / max(rows / settings.samples, 1.0)
    divergence = torch.where(mask, kl(old_log_prob, log_prob, settings.kl_estimator), 0.0)
    drift = divergence.detach().sum() / mask.sum().clamp(min=1)
    factor = settings.beta * (drift - settings.delta).clamp(min=0)
    loss = (factor * divergence.sum() / max(tokens, 1) - value) * ranks
    return loss, {"actor/ppo_kl": drift.item(), "actor/constraint_active": float(factor > 0)}
