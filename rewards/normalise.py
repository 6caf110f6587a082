"""Normalise: a term's scores standardised in their group or over the step. GDPO (2601.05242) is made of it: each reward
normalised in its group, the weighted sum of them normalised over the batch."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import SCOPES, AnyReward, Breakdown, Reward, Scope, Scores
from rewards.batch import Batch, Bools, Floats
from rewards.bounds import Bounds, Interval
from rewards.progress import Progress


def standardise(batch: Batch, x: Floats, keep: Bools, over: Literal["group", "step"], ddof: int, eps: float) -> Floats:
    """(N,) (x - mean) / (std + eps) over the kept rollouts of each group, or of the step. 0 where there is nothing to compare:
    not kept, equal values, no more than `ddof` rollouts. Independent of the order of the rollouts."""
    if over == "group":
        mean, std = batch.group_moments(x, keep, ddof)
        return (x - batch.spread(mean)) * batch.spread((std > 0) / (std + eps)) * keep
    kept = x[batch.order][keep[batch.order]]
    if len(kept) <= ddof or kept.min() == kept.max():
        return np.zeros(len(batch))
    std = x.dtype.type(kept.std(ddof=ddof, dtype=np.float64))  # summed in doubles whatever x is, as torch does
    return (x - kept.mean()) * keep / (std + eps)


def standardised_bounds(inner: Bounds | None) -> Bounds:
    """Of standardised scores: unbounded, as groups may be of any size, but never below 0 for what always earns the most, nor
    above 0 for what always earns the least."""
    if inner is None:
        return Bounds.same(-math.inf, math.inf)
    top, bottom = max(inner.correct.high, inner.wrong.high), min(inner.correct.low, inner.wrong.low)

    def of(side: Interval) -> tuple[float, float]:
        return 0.0 if side.low >= top else -math.inf, 0.0 if side.high <= bottom else math.inf

    return Bounds.of(of(inner.correct), of(inner.wrong))


class Normalise(Reward):
    """(r - mean) / (std + eps) of the term's scores over the kept rollouts of the group, or of the step (over).

    Equal scores, a lone rollout: 0, so that a group without signal in this term is silent in it while other terms speak. What
    is normalised to std 1 has forgotten its scale: weights belong around this node, not inside it. GDPO: normalise over the
    step a sum of weight * normalise over the group, with advantage `raw` (grpo would divide once more in each group).
    ddof 1, eps 1e-6: verl's gdpo estimator; the paper does not state them. verl's last step weighs rollouts by their tokens,
    ours counts each once.
    """

    type: Literal["normalise"] = "normalise"
    paper: ClassVar[str] = "2601.05242"
    own_scope: ClassVar[Scope] = "group"
    term: AnyReward = Field(examples=["correct"])
    over: Literal["group", "step"] = "group"
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-6, gt=0)

    @property
    def scope(self) -> Scope:
        """At least what `over` says."""
        return max([super().scope, self.over], key=SCOPES.index)

    def bounds(self, progress: Progress) -> Bounds:
        """See `standardised_bounds`."""
        return standardised_bounds(self.term.bounds(progress))

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """The child's total, standardised; its own numbers stay in the breakdown."""
        scores = self.term.score(batch, progress)
        total = standardise(batch, scores.total, scores.keep, self.over, self.ddof, self.eps)
        breakdown = Breakdown(self.title)
        breakdown.add(self.term.title, self.term, scores)
        return Scores(total, {self.title: total, **breakdown.terms}, scores.keep)
