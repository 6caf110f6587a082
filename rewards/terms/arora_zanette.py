"""Training language models to reason efficiently: lengths z-scored over a group's correct rollouts (Arora and Zanette,
2502.04463)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class AroraZanette(Reward):
    """c * (1 - alpha * sigmoid((length - mean) / (std + eps))), mean and std over the group's correct rollouts.

    A rollout cut at its cap counts as wrong and is left out of the mean (official code); `unfinished_is_wrong: false`
    judges it by its verdict. One correct rollout: z = 0, reward 1 - alpha / 2. No correct one: all 0. Published: alpha in
    {0.05, 0.1, 0.2, 0.4}, ddof 0, eps 1e-7.
    """

    type: Literal["arora_zanette"] = "arora_zanette"
    paper: ClassVar[str] = "2502.04463"
    shorter_pays: ClassVar[bool] = True
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "group"
    alpha: Number = 0.2
    ddof: int = Field(default=0, ge=0, le=1)
    eps: float = Field(default=1e-7, gt=0)
    unfinished_is_wrong: bool = True

    def bounds(self, progress: Progress) -> Bounds:
        """The sigmoid lies between 0 and 1."""
        return Bounds.of((1.0, 1.0 - at(self.alpha, progress)), (0.0, 0.0))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        correct = batch.correct & ~batch.truncated if self.unfinished_is_wrong else batch.correct
        mean, std = batch.group_mean(batch.length, correct), batch.group_std(batch.length, correct, self.ddof)
        z = (batch.length - mean[batch.group_index]) / (std[batch.group_index] + self.eps)
        penalty = 1.0 / (1.0 + np.exp(-np.where(correct, z, 0.0)))  # z of a wrong rollout is not read and may be huge
        return np.where(correct, 1.0 - at(self.alpha, progress) * penalty, 0.0)
