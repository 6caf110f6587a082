"""Conditions: yes or no to each rollout, or to each group. Taken on verdicts and lengths, never on shaped rewards."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.batch import Batch, Bools
from rewards.progress import Progress
from rewards.registry import Node, Registry
from rewards.schedule import Number, Tokens, at

CONDITIONS = Registry(
    "condition",
    {
        "is_correct": "rewards.conditions:IsCorrect",
        "is_wrong": "rewards.conditions:IsWrong",
        "finished": "rewards.conditions:Finished",
        "shorter_than": "rewards.conditions:ShorterThan",
        "correct_ratio": "rewards.conditions:CorrectRatio",
        "top_correct_ratio": "rewards.conditions:TopCorrectRatio",
        "best_of_group": "rewards.best_of_group:BestOfGroup",
    },
)


class Condition(Node):
    """Yes or no, (N,) bool; a group condition gives all members of a group the same answer."""

    registry: ClassVar[Registry] = CONDITIONS
    reads: ClassVar[frozenset[str]] = frozenset()
    own_scope: ClassVar[Literal["rollout", "group", "step"]] = "rollout"

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        raise NotImplementedError

    def decides(self, correct: bool) -> bool | None:
        """Its answer for every correct (or every wrong) rollout, where the verdict alone settles it; else None."""
        return None


class IsCorrect(Condition):
    """The verifier says correct."""

    type: Literal["is_correct"] = "is_correct"

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return batch.correct

    def decides(self, correct: bool) -> bool:
        """By the verdict."""
        return correct


class IsWrong(Condition):
    """The verifier says wrong."""

    type: Literal["is_wrong"] = "is_wrong"

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return ~batch.correct

    def decides(self, correct: bool) -> bool:
        """By the verdict."""
        return not correct


class Finished(Condition):
    """The response ended by itself, not at the cap."""

    type: Literal["finished"] = "finished"

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return ~batch.truncated


class ShorterThan(Condition):
    """length <= target tokens, the target a number or a schedule."""

    type: Literal["shorter_than"] = "shorter_than"
    target: Tokens = Field(examples=[100])

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return batch.length <= at(self.target, progress)


class CorrectRatio(Condition):
    """Groups whose share of correct rollouts is at least `at_least`."""

    type: Literal["correct_ratio"] = "correct_ratio"
    own_scope: ClassVar[Literal["rollout", "group", "step"]] = "group"
    at_least: Number = Field(examples=[0.5])

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return (batch.group_mean(batch.correct) >= at(self.at_least, progress) - 1e-12)[batch.group_index]


class TopCorrectRatio(Condition):
    """The `share` of the step's groups with the highest ratio of correct rollouts (GRPO-lambda, 2505.18086, section 3).

    max(1, floor(share * P + 0.5)) groups, at a ratio of at least `min_ratio` (0: the paper). Ties at the cut, which the
    paper leaves open: larger spread of lengths first, then the problem id, so that the order of the batch never matters.
    """

    type: Literal["top_correct_ratio"] = "top_correct_ratio"
    paper: ClassVar[str] = "2505.18086"
    own_scope: ClassVar[Literal["rollout", "group", "step"]] = "step"
    share: float = Field(default=0.2, gt=0, le=1)
    min_ratio: float = Field(default=0.0, ge=0, le=1)

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        ratio, spread = batch.group_mean(batch.correct), batch.group_std(batch.length)
        wanted = max(1, int(self.share * batch.num_groups + 0.5))
        order = np.lexsort((-spread, -ratio))
        if 0 < wanted < len(order):
            last = order[wanted - 1]  # who is as good as the last that fits in: the problem id decides
            ahead = (ratio > ratio[last]) | ((ratio == ratio[last]) & (spread > spread[last]))
            ties = np.flatnonzero((ratio == ratio[last]) & (spread == spread[last]))
            names, group = batch.first(batch.problem_id), batch.first(batch.group)
            ties = sorted(ties.tolist(), key=lambda g: (str(names[g]), group[g]))
            order = np.concatenate([np.flatnonzero(ahead), ties])
        chosen = np.zeros(batch.num_groups, dtype=bool)
        chosen[order[:wanted].astype(np.int64)] = True
        return (chosen & (ratio >= self.min_ratio))[batch.group_index]
