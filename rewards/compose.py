"""The algebra: sum, product, weight. Each node reports its own array, so every record shows which term paid what."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from rewards.base import AnyReward, Breakdown, Reward, Scores
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.gates import refuse_filtered_overlong
from rewards.progress import Progress
from rewards.schedule import Number, at


class Sum(Reward):
    """The terms' sum. Adding two rewards that each contain correctness is refused unless `allow_wholes`: it would count
    correctness twice, almost always by mistake."""

    type: Literal["sum"] = "sum"
    terms: list[AnyReward] = Field(
        min_length=1, examples=[["correct", {"type": "weight", "weight": -0.5, "term": "linear_length"}]]
    )
    allow_wholes: bool = False

    @model_validator(mode="after")
    def _one_whole(self) -> Sum:
        wholes = [t.title for t in self.terms if t.kind == "whole"]
        if len(wholes) > 1 and not self.allow_wholes:
            raise ValueError(
                f"{' and '.join(wholes)} each contain correctness, so their sum would count it more than once; "
                "leave one out, or set allow_wholes: true"
            )
        refuse_filtered_overlong(self)
        return self

    def bounds(self, progress: Progress) -> Bounds | None:
        """The sum of the terms'."""
        return _fold_bounds(self, progress, operator.add)

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """Sum of the children's totals; a rollout is kept when every child keeps it."""
        return _fold(self, batch, progress, np.add)


class Product(Reward):
    """The factors' product."""

    type: Literal["product"] = "product"
    factors: list[AnyReward] = Field(min_length=1, examples=[["correct", "linear_length"]])

    @model_validator(mode="after")
    def _tree(self) -> Product:
        refuse_filtered_overlong(self)
        return self

    def bounds(self, progress: Progress) -> Bounds | None:
        """The product of the factors'."""
        return _fold_bounds(self, progress, operator.mul)

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """Product of the children's totals; a rollout is kept when every child keeps it."""
        return _fold(self, batch, progress, np.multiply)


def _fold_bounds(node: Reward, progress: Progress, operate: Callable[[Bounds, Bounds], Bounds]) -> Bounds | None:
    parts = [bounds for _, child in node.children() if (bounds := child.bounds(progress))]
    return functools.reduce(operate, parts) if len(parts) == len(list(node.children())) else None


def _fold(node: Reward, batch: Batch, progress: Progress, operate: np.ufunc) -> Scores:
    breakdown, keep, total = Breakdown(node.title), np.ones(len(batch), dtype=bool), None
    for element, child in node.children():
        scores = child.score(batch, progress)
        breakdown.add(element, child, scores)
        keep &= scores.keep
        total = scores.total if total is None else operate(total, scores.total)
    assert total is not None  # min_length=1
    return Scores(total, {node.title: total, **breakdown.terms}, keep)


class Weight(Reward):
    """weight * term; the weight is a number or a schedule. A term keeps its kind under a weight."""

    type: Literal["weight"] = "weight"
    weight: Number = Field(examples=[0.5])
    term: AnyReward = Field(examples=["linear_length"])

    def bounds(self, progress: Progress) -> Bounds | None:
        """The term's, times the weight."""
        weight = at(self.weight, progress)
        inner = self.term.bounds(progress)
        return None if inner is None else inner * Bounds.same(weight, weight)

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """The child's total times the weight at this step."""
        scores = self.term.score(batch, progress)
        total = at(self.weight, progress) * scores.total
        breakdown = Breakdown(self.title)
        breakdown.add(self.term.title, self.term, scores)
        return Scores(total, {self.title: total, **breakdown.terms}, scores.keep)


class Constant(Reward):
    """The same value for every rollout, a number or a schedule."""

    type: Literal["constant"] = "constant"
    value: Number = Field(examples=[1.0])

    def bounds(self, progress: Progress) -> Bounds:
        """The value."""
        return Bounds.same(at(self.value, progress), at(self.value, progress))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) of the value at this step."""
        return np.full(len(batch), at(self.value, progress))
