"""DAST: a token budget by the problem's difficulty (Difficulty-Adaptive Slow Thinking, 2503.04472).

No official code was at hand: the rule is from a third-party note of the paper, which uses it offline to rank pairs for SimPO.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Tokens, at


class Dast(Reward):
    """lambda = L / B - 1 with the budget B = p * L_c + (1 - p) * max_length; correct max(0.5 - 0.5 lambda, 0.1), wrong
    min(0.9 lambda - 0.1, -0.1).

    p: the group's pass rate, L_c: the mean length of its correct rollouts, as the paper takes both from its own samples of
    the problem (20). difficulty "reference" takes p and L_c from the columns reference_accuracy and reference_length instead;
    the latter is the reference's mean over all its responses, an approximation of L_c. max_length None: each request's cap.
    None correct: B = max_length. A group of one: B is its own length or the cap. B is at least 1 token. Truncated: wrong, at
    the cap, hence -0.1 at most. Correct lies in [0.1, 1], wrong in [-1, -0.1]: wrong answers are paid for using the budget.
    """

    type: Literal["dast"] = "dast"
    paper: ClassVar[str] = "2503.04472"
    own_kind: ClassVar[Kind] = "whole"
    own_scope: ClassVar[Scope] = "group"
    shorter_pays: ClassVar[bool] = True
    max_length: Tokens | None = Field(default=None, description="tokens; None: the request's cap")
    difficulty: Literal["group", "reference"] = "group"

    @property
    def own_needs(self) -> frozenset[str]:
        """The reference's columns, where it tells the difficulty."""
        own = self.difficulty == "group"
        return frozenset() if own else frozenset({"reference_accuracy", "reference_length"})

    def bounds(self, progress: Progress) -> Bounds:
        """An empty response has lambda = -1."""
        return Bounds.of((0.1, 1.0), (-1.0, -0.1))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        if self.difficulty == "reference":
            p, length = batch.column("reference_accuracy"), batch.column("reference_length")
        else:
            p = batch.group_mean(batch.correct)[batch.group_index]
            length = batch.group_mean(batch.length, batch.correct)[batch.group_index]
        most = batch.max_tokens if self.max_length is None else at(self.max_length, progress)
        excess = batch.length / np.maximum(p * length + (1.0 - p) * most, 1.0) - 1.0
        return np.where(batch.correct, np.maximum(0.5 - 0.5 * excess, 0.1), np.minimum(0.9 * excess - 0.1, -0.1))
