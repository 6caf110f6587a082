"""LASER: a step bonus for correct rollouts within a target length (Liu et al., 2505.15612, table 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, Tokens, at


class Laser(Reward):
    """R + alpha * [correct, well-formed, length <= target].

    R: 1 correct, `wrong` wrong, `malformed` where the format is bad, which overrides correctness (official code; with
    `format: false` R is `right` or `wrong` by the verdict alone). The comparison is inclusive. `bonus` is the official
    `length_reward_type`: "reward" +alpha within the target (published), "penalty" -alpha beyond it, "hybrid" both.
    Target: output tokens. Published: alpha 0.5, targets 2048, 4096, 8192.
    """

    type: Literal["laser"] = "laser"
    paper: ClassVar[str] = "2505.15612"
    shorter_pays: ClassVar[bool] = True
    own_kind: ClassVar[Kind] = "whole"
    target: Tokens = Field(examples=[4096])
    alpha: Number = 0.5
    bonus: Literal["reward", "penalty", "hybrid"] = "reward"
    wrong: float = -0.5
    malformed: float = -1.0
    format: bool = True

    @property
    def own_needs(self) -> frozenset[str]:
        """`format_ok`, unless the format plays no part."""
        return frozenset({"format_ok"}) if self.format else frozenset()

    def bounds(self, progress: Progress) -> Bounds:
        """A correct answer that is badly formed earns `malformed`."""
        alpha = at(self.alpha, progress)
        paid = [1.0 + alpha * x for x in {"reward": (0, 1), "penalty": (-1, 0), "hybrid": (-1, 1)}[self.bonus]]
        bad = [self.malformed] if self.format else []
        return Bounds.of((min(paid + bad), max(paid + bad)), (min([self.wrong, *bad]), max([self.wrong, *bad])))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        base = np.where(batch.correct, 1.0, self.wrong)
        if self.format:
            base = np.where(batch.column("format_ok"), base, self.malformed)
        earns = batch.correct & batch.column("format_ok") if self.format else batch.correct
        within = batch.length <= at(self.target, progress)
        up = 0.0 if self.bonus == "penalty" else 1.0
        down = 0.0 if self.bonus == "reward" else -1.0
        return base + at(self.alpha, progress) * np.where(earns, np.where(within, up, down), 0.0)
