"""DRPO: correct rollouts weighted by length among themselves alone (Decoupled Reward Policy Optimization, 2510.04474, eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.objectives.base import Objective
from trainers.objectives.data import Micro, MiniBatch
from trainers.objectives.parts import Diagnostics, common_diagnostics, group_softmax, group_sum, kl, over, token_mean


class Discriminative(Objective):
    """What `drpo` and `disco` share; they differ in the weights of the correct rollouts. See Drpo."""

    whole_groups: ClassVar[bool] = True
    reads_advantage: ClassVar[bool] = False
    tau: float = Field(default=10.0, gt=0, description="temperature over the scores of wrong rollouts")
    beta: float = Field(default=1000.0, ge=0, description="strength of the KL constraint")
    delta: float = Field(default=1e-4, ge=0, description="nats a token that are free")
    kl_estimator: Literal["k1", "k3"] = "k1"
    denominator: Literal["all", "valid"] = "all"

    def weights(self, data: MiniBatch, right: Tensor) -> Tensor:
        """(N,) float64 weights of the correct rollouts, 1 in total in each group that has any."""
        raise NotImplementedError

    def plan(self, data: MiniBatch) -> dict[str, Tensor]:
        """coefficient (N,): d loss / d s; constraint (): the factor of K; value, share (N,): the true value of each group
        and its share in the mean, spread over the group's rollouts."""
        assert data.log_prob is not None, "whole_groups asks for log_prob"
        score, group = token_mean(data.log_prob, data.chosen).double(), data.group
        counted = data.keep & data.chosen.any(1)
        right, wrong = counted & (data.verdict == 1), counted & (data.verdict == 0)
        pull, (push, log_sum, wrongs) = self.weights(data, right), group_softmax(score, wrong, group, self.tau)
        valid = (group_sum(right, group) > 0) & (wrongs > 0)
        groups = float(valid.sum()) if self.denominator == "valid" else data.scale.groups
        value = group_sum(pull * score, group) - self.tau * (log_sum - wrongs.clamp(min=1).log())
        share = data.keep / group_sum(data.keep, group).clamp(min=1)[group]
        drift = over(self._divergence(data.old_log_prob, data.log_prob), data.chosen)[0] / max(data.scale.chosen, 1.0)
        return {
            "coefficient": torch.where(valid[group], push - pull, 0.0) / max(groups, 1.0),
            "constraint": self.beta * (drift - self.delta).clamp(min=0),
            "value": torch.where(valid[group], value[group], 0.0) * share,
            "share": torch.where(valid[group], share, 0.0) if self.denominator == "valid" else share,
        }

    def loss(self, micro: Micro, plan: Mapping[str, Tensor]) -> tuple[Tensor, Diagnostics]:
        """This micro-batch's share of the surrogate; diagnostics objective_value, constraint_kl (K), constraint_active."""
        score = token_mean(micro.log_prob, micro.chosen)
        coefficient = plan["coefficient"][micro.index].to(score)
        # sum of tau e^(s/tau) over its own constant value: worth tau, with the gradient of tau log sum e^(s/tau)
        surrogate = torch.where(coefficient > 0, score - score.detach() + self.tau, score)
        divergence = self._divergence(micro.old_log_prob, micro.log_prob)
        drift = torch.where(micro.chosen, divergence, 0.0).sum() / max(micro.scale.chosen, 1.0)
        loss = (coefficient * surrogate).sum() + plan["constraint"].to(score) * drift
        size = micro.chosen.any(1).sum(dtype=torch.float64)
        return loss, common_diagnostics(micro) | {
            "objective_value": (plan["value"][micro.index].sum(), plan["share"][micro.index].sum()),
            "constraint_kl": over(divergence.detach(), micro.chosen),
            "constraint_active": (size * (plan["constraint"] > 0), size),
        }

    def _divergence(self, old: Tensor, new: Tensor) -> Tensor:
        return kl(old, new, self.kl_estimator)


class Drpo(Discriminative):
    """-(1 / Q) sum over groups of [sum_P w s - tau log mean_N exp(s / tau)] + (beta / 2) max(K - delta, 0)**2,
    w = softmax over P of r / length_temperature.

    P, N: the group's correct and wrong rollouts. s: mean log-prob of a response's tokens, at the training temperature. r: a
    length reward of x = length / cap: linear 1 - x (published), concave 1 - x**2, cosine (1 + cos(pi x)) / 2. So d loss / d s
    is -w / Q for the correct and softmax_N(s / tau) / Q for the wrong: no ratio, no clipping, no advantage, verdicts
    alone count, and length only divides the pull among the correct.

    A group without correct or without wrong rollouts has no term; Q counts it (`denominator: all`, the official code) or
    not (`valid`). One correct rollout: w = 1, whatever its length. Equal lengths: equal weights. Truncated but correct: the
    least weight, still positive. Unknown verdicts and empty responses are in neither set (official code: NaN for empty
    ones). Forced tokens are in neither s nor K. The cap is the request's; a length counts all output tokens. exp(r / lambda)
    overflows in the official code below about 0.011 (float32); here the largest is taken off first.

    K: mean over the mini-batch's tokens of kl_estimator k1 (official kl_type `kl`; may be negative: no constraint then) or
    k3 (`low_var_kl`). The official code takes it over a micro-batch; here nothing depends on the split. Its factor
    beta max(K - delta, 0) is held constant, which gives the gradient written above; the paper's beta_0 is beta / 2.
    `loss` is the official surrogate, where the wrong ones' term is worth tau; the bracket's true mean is the diagnostic
    `objective_value`. Published: length_temperature (lambda) 0.1 of 0.1, 0.2, 0.5; tau 10, beta 1000, delta 1e-4. lambda =
    infinity: `disco`. A first-order approximation for a trainer whose loss cannot be changed: advantage `drpo`.
    """

    type: Literal["drpo"] = "drpo"
    paper: ClassVar[str] = "2510.04474"
    length_temperature: float = Field(default=0.1, gt=0, description="lambda: the smaller, the more the shortest count")
    length_reward: Literal["linear", "concave", "cosine"] = "linear"

    def weights(self, data: MiniBatch, right: Tensor) -> Tensor:
        """See Discriminative."""
        x = data.length.double() / max(data.scale.max_length, 1.0)
        reward = {"linear": -x, "concave": -(x**2), "cosine": (torch.pi * x).cos() / 2}[self.length_reward]
        return group_softmax(reward, right, data.group, self.length_temperature)[0]
