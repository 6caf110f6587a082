"""AutoThink, learning when to think: rewards for answering with and without thinking, in three stages (2505.10832)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Bools, Floats
from rewards.bounds import Bounds, Interval
from rewards.progress import Progress
from rewards.schedule import Number, at

STAGES = {1: (0.0, 0.0, 0.5), 2: (0.0, 0.0, 1.0), 3: (0.05, 0.05, 1.0)}  # alpha, beta, balance
MIN_STD, LONGEST_NGRAM, TIMES, LOOPING = 1e-6, 30, 10, -2.0  # official code


class AutoThink(Reward):
    """base + length, then drawn towards base - 1 while its mode is too common in the step.

    base: thinking 1 right, 0 wrong; not thinking 2 right, -1 wrong; `malformed` (which counts as wrong) in either mode.
    length, z-scored over the problem's right or wrong rollouts (sample std, 0 for a lone one): right exp(-alpha z) - 1,
    wrong 1 - exp(-beta z). balance: where a mode's share of the step exceeds `balance`, its rewards become
    (1 - a) reward + a target with a = clip(slope (share - balance), 0, 1); the targets are the base of the mode's right and
    wrong answers less 1, also for malformed ones.

    `stage` sets alpha, beta and balance as published: 1 balances the modes (0, 0, 0.5), 2 rewards answers (0, 0, 1), 3
    shortens (0.05, 0.05, 1); a number or schedule given for one of them goes before. Every mode but "no_think" thinks.
    `looping` is the official code's -2 for a wrong answer without thinking that repeats an n-gram (up to 30) ten times
    running; it counts words, we token ids, and its test for words of 120 letters is left out. `format: false`: the verdict
    alone. All right or all wrong: as usual. Empty responses count with length 0.
    """

    type: Literal["autothink"] = "autothink"
    paper: ClassVar[str] = "2505.10832"
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "step"
    shorter_pays: ClassVar[bool] = True
    reads_modes: ClassVar[frozenset[str]] = frozenset({"no_think"})
    stage: Literal[1, 2, 3] = 1
    alpha: Number | None = Field(default=None, description="weight of z among right rollouts; None: the stage's")
    beta: Number | None = Field(default=None, description="weight of z among wrong rollouts; None: the stage's")
    balance: Number | None = Field(default=None, description="largest share of a mode; None: the stage's")
    slope: float = Field(default=2.0, ge=0)
    think_correct: float = 1.0
    think_wrong: float = 0.0
    no_think_correct: float = 2.0
    no_think_wrong: float = -1.0
    malformed: float = 0.0
    format: bool = True
    looping: bool = False

    @property
    def own_needs(self) -> frozenset[str]:
        """`mode`; `format_ok` and `tokens` where they play a part."""
        columns = {"mode": True, "format_ok": self.format, "tokens": self.looping}
        return frozenset(name for name, read in columns.items() if read)

    def _stage(self, progress: Progress) -> tuple[float, ...]:
        """alpha, beta and balance of this step."""
        given = zip((self.alpha, self.beta, self.balance), STAGES[self.stage], strict=True)
        return tuple(of_stage if number is None else at(number, progress) for number, of_stage in given)

    def bounds(self, progress: Progress) -> Bounds:
        """z has no end that holds for groups of every size."""
        alpha, beta, balance = self._stage(progress)
        up = Interval(-1.0, math.inf) if alpha else Interval(0.0, 0.0)
        down = Interval(-math.inf, 1.0) if beta else Interval(0.0, 0.0)

        def paid(bases: list[float], change: Interval, target: float) -> Interval:
            reward = Interval(min(bases), max(bases)) + change
            return reward | Interval(target, target) if balance < 1 else reward

        modes = ((self.think_correct, self.think_wrong), (self.no_think_correct, self.no_think_wrong))
        looping = [LOOPING] if self.looping else []
        ends = [(paid([r], up, r - 1), paid([w, *looping], down, w - 1)) for r, w in modes]
        bounds = Bounds(ends[0][0] | ends[1][0], ends[0][1] | ends[1][1])
        bad = [self.malformed, *(looping if self.malformed < 0 else [])]
        broken = paid(bad, down, self.think_wrong - 1) | paid(bad, down, self.no_think_wrong - 1)
        return bounds | Bounds(broken, broken) if self.format else bounds

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        alpha, beta, balance = self._stage(progress)
        think = ~batch.in_mode("no_think")
        formed = batch.column("format_ok") if self.format else np.ones(len(batch), dtype=bool)
        correct = batch.correct & formed
        reward = np.where(think, self.think_wrong, self.no_think_wrong)
        goal = np.where(correct, np.where(think, self.think_correct, self.no_think_correct), reward)
        reward = np.where(formed, goal, self.malformed)
        if self.looping:
            tokens = batch.column("tokens")
            rows = np.flatnonzero((reward < 0) & ~correct)
            reward[rows] = [LOOPING if _loops(tokens[i]) else reward[i] for i in rows]
        reward = reward + _length(batch, correct, alpha) - _length(batch, ~correct, beta)
        for mode in (think, ~think):
            share = mode.sum() / max(len(batch), 1)
            drawn = np.clip(self.slope * (share - balance), 0.0, 1.0)
            reward = np.where(mode, (1.0 - drawn) * reward + drawn * (goal - 1.0), reward)
        return reward


def _length(batch: Batch, members: Bools, weight: float) -> Floats:
    """(N,) exp(-weight z) - 1 with z over a group's members, 0 for others and for a lone one."""
    index = batch.group_index
    mean, std = batch.group_mean(batch.length, members), batch.group_std(batch.length, members, ddof=1)
    compared = members & (batch.group_count(members) > 1)[index]
    z = np.where(compared, batch.length - mean[index], 0.0) / np.maximum(std, MIN_STD)[index]
    return np.expm1(np.clip(-weight * z, -700.0, 700.0))  # finite for any weight


def _loops(ids: NDArray[np.int64]) -> bool:
    """Whether a text cut into n-grams holds ten equal ones in a row, for some n up to 30."""
    for n in range(1, min(LONGEST_NGRAM, len(ids) // TIMES) + 1):
        grams = ids[: len(ids) // n * n].reshape(-1, n)
        same = (grams[1:] == grams[:-1]).all(axis=1)
        if np.lib.stride_tricks.sliding_window_view(same, TIMES - 1).all(axis=1).any():
            return True
    return False
