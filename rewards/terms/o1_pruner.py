"""O1-Pruner: length against a reference model's, at no loss of accuracy (Length-Harmonizing Fine-Tuning, 2501.12570)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class O1Pruner(Reward):
    """clip(reference_length / L - 1 + alpha * (c - reference_accuracy), clip_low, clip_high), then standardised over the data
    set (population std).

    The reference columns are means over the reference's K responses to the problem. Offline the data set is the batch; in
    an online step it is the step's batch. No variance: 0 (the official code gives NaN). `standardise: false` leaves the
    clipped weight, with which a rollout does not depend on the others. An empty response counts as one token. Truncated: judged
    by verdict and length. A long correct rollout can earn less than a short wrong one when the reference is often right.
    Published: clip -2 to 4, K 12 to 16, alpha 5 in the official README.
    """

    type: Literal["o1_pruner"] = "o1_pruner"
    paper: ClassVar[str] = "2501.12570"
    reads: ClassVar[frozenset[str]] = frozenset({"reference_accuracy", "reference_length"})
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "dataset"
    shorter_pays: ClassVar[bool] = True
    alpha: Number = 5.0
    clip_low: float = -2.0
    clip_high: float = 4.0
    standardise: bool = Field(
        default=True, description="to mean 0 and std 1 over all rollouts that are scored together"
    )

    @model_validator(mode="after")
    def _check(self) -> O1Pruner:
        if self.clip_low >= self.clip_high:
            raise ValueError(f"clip_low={self.clip_low:g} must be below clip_high={self.clip_high:g}")
        return self

    def bounds(self, progress: Progress) -> Bounds:
        """Standardised, one of many alike rollouts can be as far off as it likes."""
        if self.standardise:
            return Bounds.same(-math.inf, math.inf)
        return Bounds.same(self.clip_low, self.clip_high)

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) weights."""
        gained = batch.column("reference_length") / np.maximum(batch.length, 1) - 1.0
        weight = gained + at(self.alpha, progress) * (batch.correct - batch.column("reference_accuracy"))
        weight = np.clip(weight, self.clip_low, self.clip_high)
        if not self.standardise:
            return weight
        if weight.max(initial=-math.inf) <= weight.min(initial=math.inf):  # all alike, or none at all
            return np.zeros(len(batch))
        ordered = weight[batch.order]  # a sum by arrival would differ in the last bit
        return (weight - ordered.mean()) / ordered.std()
