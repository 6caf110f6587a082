"""LASER: a step bonus for correct rollouts within a target length (Liu et al., 2505.15612, table 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward
from rewards.batch import Batch, Bools, Floats, choose
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, Tokens, at

Bonus = Literal["reward", "penalty", "hybrid"]
PAYS: dict[Bonus, tuple[float, float]] = {"reward": (1.0, 0.0), "penalty": (0.0, -1.0), "hybrid": (1.0, -1.0)}


class BaseScore(Reward):
    """R, on which the rewards of LASER's framework build: 1 correct, `wrong` wrong, `malformed` where the format is bad, which
    overrides correctness (official code); with `format: false` 1 or `wrong` by the verdict alone."""

    own_kind: ClassVar[Kind] = "whole"
    wrong: float = -0.5
    malformed: float = -1.0
    format: bool = True

    @property
    def own_needs(self) -> frozenset[str]:
        """`format_ok`, unless the format plays no part."""
        return frozenset({"format_ok"}) if self.format else frozenset()

    def base(self, batch: Batch, correct: Bools) -> tuple[Floats, Bools]:
        """(N,) R, and which rollouts are correct and well-formed."""
        if not self.format:
            return choose([self.wrong, 1.0], correct), correct
        well = batch.column("format_ok")
        return choose([self.malformed, self.malformed, self.wrong, 1.0], correct, well), correct & well

    def around(self, correct: tuple[float, float], wrong: tuple[float, float] = (0.0, 0.0)) -> Bounds:
        """Bounds of R plus at least and at most so much for well-formed rollouts of either verdict."""
        bad = [self.malformed] if self.format else []
        right, other = [1.0 + x for x in correct] + bad, [self.wrong + x for x in wrong] + bad
        return Bounds.of((min(right), max(right)), (min(other), max(other)))


class Laser(BaseScore):
    """R + alpha * [correct, well-formed, length <= target].

    R as in BaseScore: 1, -0.5 or -1. The comparison is inclusive. `bonus` is the official `length_reward_type`: "reward" +alpha
    within the target (published), "penalty" -alpha beyond it, "hybrid" both. Wrong rollouts, truncated ones too, get R: the rule
    looks at nothing else, so a group of one or without a correct rollout is no special case. Length 0 is within any target.
    Target: output tokens. Published: alpha 0.5, targets 2048, 4096, 8192.
    """

    type: Literal["laser"] = "laser"
    paper: ClassVar[str] = "2505.15612"
    shorter_pays: ClassVar[bool] = True
    target: Tokens = Field(examples=[4096])
    alpha: Number = 0.5
    bonus: Bonus = "reward"

    def bounds(self, progress: Progress) -> Bounds:
        """A correct answer that is badly formed earns `malformed`."""
        within, beyond = (at(self.alpha, progress) * x for x in PAYS[self.bonus])
        return self.around((within, beyond))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        within, beyond = (1.0 + at(self.alpha, progress) * x for x in PAYS[self.bonus])
        well = batch.column("format_ok") if self.format else np.ones(len(batch), dtype=bool)
        values = [*[self.malformed] * 4, self.wrong, self.wrong, beyond, within]
        return choose(values, batch.length <= at(self.target, progress), batch.correct, well)
