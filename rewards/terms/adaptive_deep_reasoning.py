"""Adaptive Deep Reasoning: pay the mode, long or short, that a problem needs (2505.20101): a reconstruction."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats, choose
from rewards.bounds import Bounds
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.schedule import Number, at


class AdaptiveDeepReasoning(Reward):
    """Correct: `preferred` in the mode that suits the problem, else `other`; wrong: `wrong`. Long ones less an overlong term.

    A problem is simple, and suits "short", when acc_short >= theta and acc_short >= acc_long, the accuracies of the group's
    halves; else it suits "long" (so where all are wrong). In the first `warmup_steps` steps no mode suits. overlong: from 0
    to `penalty` over the last `overlong` share of the cap, for mode "long", right or wrong.

    A reconstruction: nothing but +1.5 for short and +1 for long on a simple problem is known, and that a warm-up and a soft
    length penalty exist; every other number and the rule itself are our choice (the penalty: DAPO's, 4096 of 20480 tokens).
    Rollouts of another mode, or of none (the model did not do as asked), are in neither accuracy and have no `preferred`; so
    are all rollouts of a group that lacks one of the modes. Halves may be uneven: unknown verdicts are absent. `samples`,
    the rollouts asked for a problem, must be even; a group of that size, from which nothing is absent, is refused when all
    its rollouts are of one mode, and so is a larger one: then the sampling plan is not the one meant.
    """

    type: Literal["adaptive_deep_reasoning"] = "adaptive_deep_reasoning"
    paper: ClassVar[str] = "2505.20101"
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "group"
    shorter_pays: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"mode"})
    reads_modes: ClassVar[frozenset[str]] = frozenset({"long", "short"})
    theta: float = Field(default=0.5, ge=0, le=1)
    preferred: float = 1.5
    other: float = 1.0
    wrong: float = -1.0
    warmup_steps: int = Field(default=0, ge=0)
    penalty: Number = 1.0
    overlong: float = Field(default=0.2, ge=0, le=1, description="share of the cap over which the penalty grows")
    samples: int | None = Field(default=None, ge=2, multiple_of=2, description="rollouts a problem, to be checked")

    def bounds(self, progress: Progress) -> Bounds:
        """The penalty meets right and wrong alike."""
        penalty = at(self.penalty, progress) if self.overlong else 0.0
        less, more = min(0.0, -penalty), max(0.0, -penalty)
        right = (self.preferred, self.other) if progress.step >= self.warmup_steps else (self.other, self.other)
        return Bounds.of((min(right) + less, max(right) + more), (self.wrong + less, self.wrong + more))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        long, short = batch.in_mode("long"), batch.in_mode("short")
        longs, shorts = batch.group_count(long), batch.group_count(short)
        if self.samples is not None:
            self._check(batch, longs, shorts, self.samples)
        of_short, of_long = batch.group_mean(batch.correct, short), batch.group_mean(batch.correct, long)
        simple = (of_short >= self.theta) & (of_short >= of_long)
        judged = (longs > 0) & (shorts > 0) & (progress.step >= self.warmup_steps)
        suits = (short & batch.spread(judged & simple)) | (long & batch.spread(judged & ~simple))
        reward = choose([self.wrong, self.wrong, self.other, self.preferred], suits, batch.correct)
        if not self.overlong:
            return reward
        rows = np.flatnonzero(long)
        tail = np.maximum(self.overlong * batch.max_tokens[rows], 1.0)
        over = np.clip((batch.length[rows] - batch.max_tokens[rows]) / tail + 1.0, 0.0, 1.0)
        reward[rows] -= at(self.penalty, progress) * over
        return reward

    def _check(self, batch: Batch, longs: Floats, shorts: Floats, samples: int) -> None:
        """Refuse groups that `samples` rules out. Smaller ones are let pass: unknown verdicts may be absent from them."""
        size = batch.group_size
        alike = (size == samples) & (np.maximum(longs, shorts) == size)
        if not (bad := np.flatnonzero(alike | (size > samples))).size:
            return
        lone = (
            f"all of mode {'long' if longs[bad[0]] else 'short'!r}" if alike[bad[0]] else f"but `samples` is {samples}"
        )
        raise TautError(
            f"reward {self.title}: problem {batch.first(batch.problem_id)[bad[0]]!r} has {size[bad[0]]} rollouts, {lone}; "
            "ask for half of each group in mode long and half in mode short (sampling: {type: modes, ...})"
        )
