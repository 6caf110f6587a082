"""The pieces that objectives are made of: means over tokens and groups, KL estimators, importance weights, diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from trainers.objectives.data import Micro, Scale

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "sequence_sum_constant", "token_sum_constant"]
Estimator = Literal["k1", "k2", "k3", "low_var_kl"]
Diagnostics = dict[str, tuple[Tensor, Tensor]]  # name -> (sum, count); names ending in "_max" hold (maximum, 1)
LOG_RATIO_BOUND = 20.0  # exp stays finite; e**20 is far outside any clip range


def aggregate(
    values: Tensor, mask: Tensor, how: Aggregation, scale: Scale, tokens: float, constant: float | None = None
) -> Tensor:
    """Share of the mini-batch's mean of `values` (B, T) over `mask`; in brackets verl's loss_agg_mode:

    - token_mean (token-mean): sum / tokens. DAPO, 2503.14476.
    - sequence_mean (seq-mean-token-mean): mean over sequences of token means. GRPO, 2402.03300.
    - sequence_sum (seq-mean-token-sum): mean over sequences of token sums.
    - sequence_sum_constant: mean over sequences of token sums / `constant`. Dr. GRPO, 2503.20783.
    - token_sum_constant (seq-mean-token-sum-norm, as coded): sum / `constant`, so it grows with the mini-batch.

    constant: in tokens, default the request cap. tokens: the mini-batch's count of `mask`. No tokens at all give 0.
    """
    values = torch.where(mask, values, 0.0)
    constant = constant or max(scale.max_length, 1.0)
    if how == "token_mean":
        return values.sum() / max(tokens, 1.0)
    if how == "token_sum_constant":
        return values.sum() / constant
    per_sequence = values.sum(1)
    if how == "sequence_mean":
        per_sequence = per_sequence / mask.sum(1).clamp(min=1)
    elif how == "sequence_sum_constant":
        per_sequence = per_sequence / constant
    return per_sequence.sum() / max(scale.sequences, 1.0)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) mean of `values` (B, T) over each row's `mask`; 0 where a row has none."""
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def group_sum(values: Tensor, group: Tensor) -> Tensor:
    """(N,) float64 sums of `values` (N,) by `group`, which is numbered 0..P-1: those of group g at g, 0 from P on."""
    return torch.zeros(len(values), dtype=torch.float64, device=values.device).index_add_(0, group, values.double())


def group_softmax(
    values: Tensor, where: Tensor, group: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of values / temperature over the members `where` of each group, float64, finite at any temperature > 0.

    Returns (weights (N,), 0 outside `where`; log sum exp(values / temperature) and number of members, at g for group g
    as in `group_sum`; both 0 for a group without members).
    """
    low = torch.where(where, values.double(), -torch.inf)
    top = torch.full_like(low, -torch.inf).scatter_reduce_(0, group, low, "amax")
    # the largest is taken off before the division, so that its exponent is exactly 0 and no other one is positive
    shifted = torch.where(where, low - top[group], 0.0) / temperature
    terms = torch.where(where, shifted.exp(), 0.0)
    total, members = group_sum(terms, group), group_sum(where, group)
    log_sum = torch.where(members > 0, top / temperature + total.clamp(min=1).log(), 0.0)
    return terms / total.clamp(min=1)[group], log_sum, members


def kl(log_prob: Tensor, other: Tensor, estimator: Estimator) -> Tensor:
    """Per-token estimate of KL(p || other) from tokens sampled from p, nats (Schulman, "Approximating KL
    divergence").

    k1 = log p/other, unbiased, may be negative; k2 = k1**2 / 2; k3 = other/p - 1 - log other/p, unbiased, never
    negative; low_var_kl: k3 as verl codes it, at most 10, beyond which it has no gradient. As a loss, in expectation:
    k1 has no gradient, k2 has that of KL(p || other), k3 that of KL(other || p).
    """
    d = (other - log_prob).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d**2 / 2
    return torch.expm1(d) - d if estimator == "k3" else (d.exp() - d - 1).clamp(-10, 10)


def importance_weight(
    micro: Micro, how: Literal["truncate", "mask"], level: Literal["token", "sequence"], low: float, high: float
) -> tuple[Tensor, Diagnostics]:
    """(weights w (B, T) of the tokens that the engine chose, diagnostics) for w = old / engine: of the token, or of the
    response (product over its chosen tokens).

    truncate: min(w, high). mask: w where low <= w <= high, else 0. Diagnostics, over tokens: importance_weight, the mean
    of what is returned; importance_truncated or importance_masked, the share that was.
    """
    assert micro.engine_log_prob is not None, "needs names engine_log_prob"
    gap = torch.where(micro.chosen, micro.old_log_prob - micro.engine_log_prob, 0.0)
    if level == "sequence":
        gap = gap.sum(1, keepdim=True).expand_as(gap)
    weight = gap.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    outside = (weight > high) if how == "truncate" else (weight > high) | (weight < low)
    weight = weight.clamp(max=high) if how == "truncate" else torch.where(outside, 0.0, weight)
    name = "importance_truncated" if how == "truncate" else "importance_masked"
    return weight, {"importance_weight": over(weight, micro.chosen), name: over(outside, micro.chosen)}


def common_diagnostics(micro: Micro) -> Diagnostics:
    """What every objective reports: ratio, approx_kl (old || new, k3), entropy, ref_kl (k3), and the gap between
    engine and trainer: mismatch (mean |engine - old|), mismatch_max, mismatch_kl (engine || old, k3). Nats per token.
    """
    chosen = micro.chosen
    new, old = micro.log_prob.detach(), micro.old_log_prob
    out = {
        "ratio": over(((new - old).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)).exp(), chosen),
        "approx_kl": over(kl(old, new, "k3"), chosen),
    }
    if micro.entropy is not None:
        out["entropy"] = over(micro.entropy.detach(), micro.mask)
    if micro.ref_log_prob is not None:
        out["ref_kl"] = over(kl(new, micro.ref_log_prob, "k3"), chosen)
    if micro.engine_log_prob is not None:
        gap = torch.where(chosen, (micro.engine_log_prob - old).abs(), 0.0)
        out["mismatch"] = over(gap, chosen)
        out["mismatch_max"] = (gap.max() if gap.numel() else gap.sum(), torch.ones((), device=gap.device))
        out["mismatch_kl"] = over(kl(micro.engine_log_prob, old, "k3"), chosen)
    return out


def over(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of `values` over `mask`, float64 so that the order of the micro-batches shows in the last bits
    only."""
    return torch.where(mask, values, 0).sum(dtype=torch.float64), mask.sum(dtype=torch.float64)


class Tally:
    """Collects diagnostics of many micro-batches and mini-batches; tensors stay on their device until `means`."""

    def __init__(self) -> None:
        self.totals: Diagnostics = {}

    def add(self, diagnostics: Diagnostics) -> None:
        """Add (sum, count) pairs; names ending in "_max" keep the largest."""
        for name, (value, count) in diagnostics.items():
            if name not in self.totals:
                self.totals[name] = (value, count)
            elif name.endswith("_max"):
                self.totals[name] = (torch.maximum(self.totals[name][0], value), count)
            else:
                self.totals[name] = (self.totals[name][0] + value, self.totals[name][1] + count)

    @classmethod
    def of(cls, parts: Sequence[Diagnostics]) -> Tally:
        """The tally of several that were taken apart."""
        tally = cls()
        for part in parts:
            tally.add(part)
        return tally

    def on_cpu(self) -> Diagnostics:
        """The totals as they may travel to another process."""
        return {name: (value.cpu(), count.cpu()) for name, (value, count) in self.totals.items()}

    def means(self) -> dict[str, float]:
        """sum / count by name (the maximum for "_max"); 0 where nothing was counted."""
        return {name: float(value) / max(float(count), 1.0) for name, (value, count) in self.totals.items()}
