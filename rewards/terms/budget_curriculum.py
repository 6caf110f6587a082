"""Train Long, Think Short: answer with just the budget that the prompt tells, a budget that shrinks (2508.08940)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats, choose
from rewards.bounds import Bounds, Interval
from rewards.progress import Progress
from rewards.schedule import Number, Tokens, at


class BudgetCurriculum(Reward):
    """correctness * [correct] + length * R(L / B) + format * (think_tag * [think] + answer_tag * [answer]).

    R: "triangular" rises from 0 to 1 at L = B and falls to 0 at 2B; "band" is 1 up to B, then falls as well. B: `target`,
    else the budget told in the prompt; rounded down, at least 1 token. Published: 256 * 0.7 ** (step // 150), so 256, 179,
    125, 87 over 600 steps. L: the whole response; with `think_end`, the token id of `</think>`, the tokens before the first
    one (the paper has both readings). think, answer: the tag opens and closes once, apart from the other.

    Length and format pay wrong answers too: with the length-heavy weights (0.3, 0.6, 0.1) a wrong answer at the budget
    earns more than a correct one beyond twice the budget. `gate_on_correct` pays neither to wrong ones. No correct answer,
    groups of one: nothing special. The weights of the main run, the rewards they multiply (1 here) and the two tags' shares
    are not published; these are the ablation's correctness-heavy ones, which leave 0.1 to the format.
    """

    type: Literal["budget_curriculum"] = "budget_curriculum"
    paper: ClassVar[str] = "2508.08940"
    own_kind: ClassVar[Kind] = "whole"
    shape: Literal["triangular", "band"] = "triangular"
    correctness: Number = 0.6
    length: Number = 0.3
    format: Number = 0.1
    think_tag: float = 0.5
    answer_tag: float = 0.5
    target: Tokens | None = Field(default=None, description="tokens; None: the budget told in the prompt")
    think_end: int | None = Field(default=None, ge=0, description="token id of </think>: count the tokens before it")
    gate_on_correct: bool = False

    @property
    def own_needs(self) -> frozenset[str]:
        """`tags`; `budget` without a `target`; `tokens` to find the end of thinking."""
        columns = {"tags": True, "budget": self.target is None, "tokens": self.think_end is not None}
        return frozenset(name for name, read in columns.items() if read)

    def bounds(self, progress: Progress) -> Bounds:
        """Any length may meet any budget."""
        tags = [0.0, self.think_tag, self.answer_tag, self.think_tag + self.answer_tag]
        ends = [at(self.format, progress) * paid for paid in tags]
        length = at(self.length, progress)
        paid = Interval(min(0.0, length), max(0.0, length)) + Interval(min(ends), max(ends))
        correctness = at(self.correctness, progress)
        return Bounds(Interval(correctness, correctness) + paid, Interval(0.0, 0.0) if self.gate_on_correct else paid)

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        budget = batch.column("budget") if self.target is None else at(self.target, progress)
        share = self._lengths(batch) / np.maximum(1.0, np.floor(budget))
        fall = np.maximum(0.0, 2.0 - share)
        near = np.minimum(share if self.shape == "triangular" else 1.0, fall)
        both = [0.0, self.think_tag, self.answer_tag, self.think_tag + self.answer_tag]
        tags = choose(both, batch.has_tag("think"), batch.has_tag("answer"))
        paid = at(self.length, progress) * near + at(self.format, progress) * tags
        if self.gate_on_correct:
            paid *= batch.correct
        return at(self.correctness, progress) * batch.correct + paid

    def _lengths(self, batch: Batch) -> Floats:
        """(N,) tokens that count."""
        if self.think_end is None:
            return batch.length.astype(np.float64)
        ends = (np.flatnonzero(ids == self.think_end) for ids in batch.column("tokens"))
        return np.array([at[0] if len(at) else n for at, n in zip(ends, batch.length, strict=True)], dtype=np.float64)
