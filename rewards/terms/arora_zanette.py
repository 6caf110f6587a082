"""Training language models to reason efficiently: lengths z-scored over a group's correct rollouts (Arora and Zanette,
2502.04463)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Scope
from rewards.batch import Batch, Bools, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at
from rewards.terms.laser import BaseScore


class AroraZanette(BaseScore):
    """c * (1 - alpha * sigmoid((length - mean) / (std + eps))), mean and std over the group's correct rollouts.

    A rollout cut at its cap counts as wrong and is left out of the mean (official code); `unfinished_is_wrong: false`
    judges it by its verdict. One correct rollout: z = 0, reward 1 - alpha / 2. No correct one: all 0. Published: alpha in
    {0.05, 0.1, 0.2, 0.4}, ddof 0, eps 1e-7.
    CANON's "Length Reward *" is `ddof: 1`. LASER's repository has `ddof: 1`, eps 1e-6, R = 1, -0.5, -1 in place of c (`wrong`,
    `format: true`, `malformed`), and takes the length itself for the z of an only correct rollout (`singleton: raw`).
    """

    type: Literal["arora_zanette"] = "arora_zanette"
    paper: ClassVar[str] = "2502.04463"
    shorter_pays: ClassVar[bool] = True
    own_scope: ClassVar[Scope] = "group"
    alpha: Number = 0.2
    ddof: int = Field(default=0, ge=0, le=1)
    eps: float = Field(default=1e-7, gt=0)
    unfinished_is_wrong: bool = True
    singleton: Literal["zero", "raw"] = "zero"
    wrong: float = 0.0
    malformed: float = 0.0
    format: bool = False

    def bounds(self, progress: Progress) -> Bounds:
        """The sigmoid lies between 0 and 1."""
        return self.around((0.0, -at(self.alpha, progress)))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        correct = batch.correct & ~batch.truncated if self.unfinished_is_wrong else batch.correct
        base, correct = self.base(batch, correct)
        mean, std = self._moments(batch, correct)
        half_z = (batch.length - batch.spread(mean)) * batch.spread(0.5 / (std + self.eps))
        sigmoid = 0.5 * (1.0 + np.tanh(half_z))  # does not overflow
        return base * (1.0 - at(self.alpha, progress) * sigmoid * correct)

    def _moments(self, batch: Batch, correct: Bools) -> tuple[Floats, Floats]:
        mean, std = batch.group_moments(batch.length, correct, self.ddof)
        if self.singleton == "zero":
            return mean, std
        lone = batch.group_count(correct) == 1
        return np.where(lone, 0.0, mean), np.where(lone, 1.0, std)
