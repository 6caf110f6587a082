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


class IsCorrect(Condition):
    """The verifier says correct."""

    type: Literal["is_correct"] = "is_correct"

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return batch.correct


class IsWrong(Condition):
    """The verifier says wrong."""

    type: Literal["is_wrong"] = "is_wrong"

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return ~batch.correct


class Finished(Condition):
    """The response ended by itself, not at the cap."""

    type: Literal["finished"] = "finished"

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return ~batch.truncated


class ShorterThan(Condition):
    """length <= target tokens, the target a number or a schedule."""

    type: Literal["shorter_than"] = "shorter_than"
    target: Tokens

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return batch.length <= at(self.target, progress)


class CorrectRatio(Condition):
    """Groups whose share of correct rollouts is at least `at_least`."""

    type: Literal["correct_ratio"] = "correct_ratio"
    own_scope: ClassVar[Literal["rollout", "group", "step"]] = "group"
    at_least: Number

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        return (batch.group_mean(batch.correct) >= at(self.at_least, progress) - 1e-12)[batch.group_index]


class TopCorrectRatio(Condition):
    """The `share` of the step's groups with the highest ratio of correct rollouts (GRPO-lambda, 2505.18086, section 3).

    max(1, floor(share * P + 0.5)) groups, at a ratio of at least `min_ratio` (0: the paper). Ties at the cut, which the
    paper leaves open: larger spread of lengths first, then the problem id, so that the order of the batch never matters.
    """

    type: Literal["top_correct_ratio"] = "top_correct_ratio"
    own_scope: ClassVar[Literal["rollout", "group", "step"]] = "step"
    share: float = Field(default=0.2, gt=0, le=1)
    min_ratio: float = Field(default=0.0, ge=0, le=1)

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        groups = [index[0] for index in batch.groups()]  # one member stands for its group
        ratio, spread = batch.group_mean(batch.correct), batch.group_std(batch.length)
        order = sorted(
            range(len(groups)),
            key=lambda g: (-ratio[g], -spread[g], str(batch.problem_id[groups[g]]), batch.group[groups[g]]),
        )
        chosen = np.zeros(len(groups), dtype=bool)
        chosen[order[: max(1, int(self.share * len(groups) + 0.5))]] = True
        return (chosen & (ratio >= self.min_ratio))[batch.group_index]
