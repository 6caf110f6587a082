"""CANON: the group split in halves by length or entropy, each rollout against the other half, its own, or a mixture
(2509.23962, eqs. 3 to 9)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.batch import Batch, Floats
from rewards.progress import Progress
from rewards.ranks import group_rank
from rewards.schedule import Number, at
from trainers.advantages.base import Advantage


class Canon(Advantage):
    """A = [mu inter + (1 - mu) intra] / divisor, no std. The floor(n/2) rollouts lowest in the metric (ties by sample_id)
    are the low half, the others the high half; r_low and r_high: mean rewards of the halves, a_low and a_high: `alpha` on
    the `weighted_side`, 1 on the other.

        high half: inter = a_high R - a_low r_low + beta    intra = R - r_high
        low half:  inter = a_low R - a_high r_high - beta   intra = R - r_low

    metric: "length"; "entropy" (mean over the response's tokens at the sampling temperature); "random" (the official
    code's: the first half of the group in sample_id order). weighted_side: the disfavoured half; None: high for length, low
    for entropy (each as the official code). mu: a number, a schedule, "one_minus_accuracy" (First-Inter-Later-Intra, the
    better of the two) or "accuracy" (First-Intra-Later-Inter; the repository's `annel`): the mean over the step's kept
    rollouts of the verdict (official: of the reward, the same where that is 0/1).

    Published: mu 1 (CANON-Inter), 0 (-Intra), alpha 1; CANON-Eff: length, mu 0.5, alpha 0.96, 0.88, 0.8, 0.7 or 0.5; beta 0
    (not in the paper). mu 0.5 and alpha 1 in an even group is Dr. GRPO; in an odd one it is not. All correct: alpha < 1 still
    pushes the high half down and the low half up; all wrong: 0. Truncated: a long rollout with its reward. Group of one: 0;
    singleton=raw: the formula with r_low = r_high = 0 and the rollout in the high half (official). all_equal: a group whose
    metrics are all equal is "split" by sample_id (official), or "dr_grpo": R - mean. divisor: max_response_length for a loss
    that sums a sequence's tokens (`sequence_sum`), as in the official code; `sequence_sum_constant` divides by itself.
    """

    type: Literal["canon"] = "canon"
    paper: ClassVar[str] = "2509.23962"
    metric: Literal["length", "entropy", "random"] = "length"
    mu: Literal["accuracy", "one_minus_accuracy"] | Number = 1.0
    alpha: Number = 1.0
    beta: Number = 0.0
    weighted_side: Literal["high", "low"] | None = None
    all_equal: Literal["split", "dr_grpo"] = "split"
    divisor: float = Field(default=1.0, gt=0)
    singleton: Literal["zero", "raw"] = "zero"

    @property
    def needs(self) -> frozenset[str]:
        """`entropy_all`, where that is the metric."""
        return frozenset({"entropy_all"}) if self.metric == "entropy" else frozenset()

    def mu_at(self, batch: Batch, progress: Progress) -> float:
        """mu of this step."""
        if not isinstance(self.mu, str):
            return at(self.mu, progress)
        accuracy = float(batch.correct.mean()) if len(batch) else 0.0
        return accuracy if self.mu == "accuracy" else 1.0 - accuracy

    def compute(self, batch: Batch, reward: Floats, progress: Progress) -> Floats:
        """(N,)."""
        size = batch.group_size
        metrics = {"length": batch.length, "entropy": batch.entropy_all, "random": batch.sample_id}
        metric = np.asarray(metrics[self.metric])
        high = group_rank(batch, metric) >= batch.spread(size // 2)
        r_high, r_low = (np.where(size == 1, 0.0, batch.group_exact_mean(reward, half)) for half in (high, ~high))
        side = self.weighted_side or ("low" if self.metric == "entropy" else "high")
        alpha, beta, mu = at(self.alpha, progress), at(self.beta, progress), self.mu_at(batch, progress)
        a_high, a_low = (alpha, 1.0) if side == "high" else (1.0, alpha)
        half, ends = 2 * batch.group_index + high, ((r_low, r_high), (a_high * r_high + beta, a_low * r_low - beta))
        own, other = (np.stack(pair, axis=1).ravel()[half] for pair in ends)  # of the rollout's half; of the other half
        out = mu * ((a_low + (a_high - a_low) * high) * reward - other) + (1.0 - mu) * (reward - own)
        lone = batch.spread(size == 1)
        if self.all_equal == "dr_grpo" and self.metric != "random":
            equal = batch.spread(batch.group_min(metric) == batch.group_max(metric)) & ~lone
            out = np.where(equal, reward - batch.spread(batch.group_exact_mean(reward)), out)
        return out * batch.spread(((size > 1) | (self.singleton == "raw")) / self.divisor)
