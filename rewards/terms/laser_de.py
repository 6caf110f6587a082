"""LASER-DE: LASER-D that also pays wrong rollouts to explore beyond the target (Liu et al., 2505.15612)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rewards.batch import Batch, Bools, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import at
from rewards.terms.laser_d import AdaptiveTarget
from rewards.terms.token_loops import loop_start


class LaserDE(AdaptiveTarget):
    """R + alpha * [well-formed] * [correct and length <= target, or wrong and length > target].

    With alpha 0.5 a long wrong answer earns 0 instead of -0.5; a badly formed one, as truncated ones are, stays at -1. Targets
    as in AdaptiveTarget. No correct rollout in the group: hard, and length alone decides, in favour of long ones. There is no
    `bonus`: the official code ignores its `length_reward_type` here. With `format: false` the official code never pays wrong
    rollouts (it looks for R = -0.5); the paper's formula, and this, does.
    `skip_loops`: wrong rollouts that repeat themselves (`loop_start`) are not paid. The official code means to, but its test
    never finds any, and the paper has no such rule: off reproduces the released models.
    """

    type: Literal["laser_de"] = "laser_de"
    skip_loops: bool = False

    @property
    def own_needs(self) -> frozenset[str]:
        """`format_ok`, and `tokens` where repetitions are looked for."""
        return super().own_needs | ({"tokens"} if self.skip_loops else set())

    def bounds(self, progress: Progress) -> Bounds:
        """Either verdict may earn alpha."""
        alpha = at(self.alpha, progress)
        return self.around((0.0, alpha), (0.0, alpha))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        base, right = self.base(batch, batch.correct)
        within = batch.length <= self.target_of(batch, progress)
        explores = ~batch.correct & ~within
        if self.format:
            explores &= batch.column("format_ok")
        if self.skip_loops:
            explores = self._without_loops(batch, explores)
        return base + at(self.alpha, progress) * (right & within | explores)

    def _without_loops(self, batch: Batch, explores: Bools) -> Bools:
        tokens, at_work = batch.column("tokens"), np.flatnonzero(explores)
        ends_well = [loop_start(tokens[i]) == len(tokens[i]) for i in at_work]
        out = np.zeros_like(explores)
        out[at_work] = ends_well
        return out
