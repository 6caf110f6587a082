"""DRPO's weights as advantages: an approximation of the `drpo` objective for a loss of policy ratios (2510.04474, eq. 7)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.batch import Batch, Bools, Floats
from rewards.progress import Progress
from trainers.advantages.base import Advantage


class DrpoAdvantage(Advantage):
    """Correct: + n w_i, w = softmax over the group's correct of -length / (C lam). Wrong: - n v_j, v = softmax over
    its wrong ones of s / tau, s the mean log-prob of the response under the policy that sampled it.

    An approximation, ours: with `sequence_mean` and ratios near 1 its gradient is that of DRPO's loss at the sampling policy,
    to first order and without the KL constraint; the exact loss is the objective `drpo`. n: rollouts a group (mean over the
    step), so that dividing by the number of rollouts leaves the official 1 / groups; scale "weights" leaves n out (the
    official coefficients). Verdicts decide, the reward is not read. A group without both verdicts gets 0 and still
    counts (official); one correct rollout: w = 1, so length has no say. Empty responses: 0, in neither softmax (official:
    NaN). A truncated correct rollout has the smallest weight. Published: lam 0.1 (0.2, 0.5), tau 10 (wrong ones
    nearly alike). max_length: C, tokens; None: the request cap (official: data.max_response_length).
    """

    type: Literal["drpo"] = "drpo"
    paper: ClassVar[str] = "2510.04474"
    lam: float = Field(default=0.1, gt=0)
    tau: float = Field(default=10.0, gt=0)
    max_length: int | None = Field(default=None, ge=1)
    scale: Literal["group_size", "weights"] = "group_size"

    @property
    def needs(self) -> frozenset[str]:
        """`mean_log_prob`."""
        return frozenset({"mean_log_prob"})

    def compute(self, batch: Batch, reward: Floats, progress: Progress) -> Floats:
        """(N,)."""
        spoken = batch.length > 0
        right, wrong = batch.correct & spoken, ~batch.correct & spoken
        cap = self.max_length or max(int(batch.max_tokens.max(initial=1)), 1)
        shorter = _softmax(batch, -batch.length / (cap * self.lam), right)
        likelier = _softmax(batch, batch.column("mean_log_prob") / self.tau, wrong)
        both = (batch.group_count(right) > 0) & (batch.group_count(wrong) > 0)
        n = len(batch) / max(batch.num_groups, 1) if self.scale == "group_size" else 1.0
        return (shorter - likelier) * batch.spread(n * both)


def _softmax(batch: Batch, x: Floats, where: Bools) -> Floats:
    """(N,) softmax over each group's rollouts in `where`; 0 elsewhere."""
    some = batch.group_count(where) > 0
    x = np.where(where, x, 0.0)  # the mean log-prob of an empty response need not be a number
    top = np.where(some, batch.group_max(x, where), 0.0)
    weight = np.exp(np.minimum(x - batch.spread(top), 0.0)) * where
    return weight * batch.spread(1.0 / np.where(some, batch.group_sum(weight), 1.0))
