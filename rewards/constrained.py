"""Constrained: maximise one reward subject to others, by learned multipliers (Confronting Reward Model Overoptimization with
Constrained RLHF, 2310.04373, ICLR 2024: mu-PPO for at_least, xi-PPO for equals)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from rewards.base import SCOPES, AnyReward, Breakdown, Reward, Scope, Scores
from rewards.batch import Batch
from rewards.bounds import Bounds, Interval
from rewards.errors import TautError
from rewards.gates import refuse_filtered_overlong
from rewards.multipliers import REACH, Multipliers, Squash
from rewards.normalise import standardise, standardised_bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class Constraint(BaseModel):
    """term's mean over the step's rollouts: at least this, or equal to this; raw, before any normalisation."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
    term: AnyReward
    at_least: Number | None = None
    equals: Number | None = None

    @model_validator(mode="after")
    def _one(self) -> Constraint:
        if (self.at_least is None) == (self.equals is None):
            raise ValueError(f"constraint on {self.term.title!r}: give at_least or equals, and not both")
        return self

    def wanted(self, progress: Progress) -> float:
        """The threshold of this step."""
        number = self.equals if self.at_least is None else self.at_least
        assert number is not None  # _one
        return at(number, progress)


class Constrained(Reward):
    """A = (N - sum of lambda) Z(maximise) + sum of lambda_i Z(term_i), Z = (r - mean) / (std + eps) over the step or the
    group, N constraints. lambda_i = sigmoid(x_i) for at_least, tanh(x_i) for equals (below 0: pushes the term down).

    `observe` moves each x_i once a step by SGD on sum of lambda_i (mean of the raw term_i - wanted_i): short of the wanted
    value, lambda rises. Paper and code: the task is -KL in the place of `maximise`, one update a mini-batch, critics; here
    any reward, one update a step. A length goes in as a negative reward (at_least: -200 tokens is: 200 or fewer). The result
    is an advantage: use `raw`; a std after it (grpo) would undo lambda. A term without spread: Z = 0. A step in which a
    constraint has no kept rollout, or lacks its column, leaves that multiplier alone; monitor and validation move nothing.
    Breakdown: multiplier-i, and `saturated`, 1 where sum of lambda > 0.95 N: the constraints cannot all be met and
    `maximise` has no weight left.

    squash none: lambda = x, kept at 0 or above (the official mix is off by one there and is not copied). Defaults: ddof 1, eps
    1e-8, momentum 0.1, max_grad_norm 0.5 official, lr 0.1 the shipped config (class default 0.01, a mini-batch each).
    initial, of x: 0 (official: N(0, 0.01)), and 0.5 with squash none.
    """

    type: Literal["constrained"] = "constrained"
    paper: ClassVar[str] = "2310.04373"
    own_scope: ClassVar[Scope] = "group"
    state_version: ClassVar[int] = 1
    maximise: AnyReward = Field(examples=["linear_length"])
    subject_to: list[Constraint] = Field(min_length=1, examples=[[{"term": "correct", "at_least": 0.6}]])
    squash: Squash | None = Field(default=None, description="None: sigmoid for at_least, tanh for equals")
    over: Literal["step", "group"] = "step"
    lr: float = Field(default=0.1, ge=0)
    momentum: float = Field(default=0.1, ge=0, lt=1)
    max_grad_norm: float = Field(default=0.5, gt=0)
    initial: float | None = None
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-8, gt=0)
    _multipliers: Multipliers | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _tree(self) -> Constrained:
        refuse_filtered_overlong(self)
        return self

    @property
    def scope(self) -> Scope:
        """At least what `over` says."""
        return max([super().scope, self.over], key=SCOPES.index)

    @property
    def multipliers(self) -> Multipliers:
        """As they stand."""
        if self._multipliers is None:
            kinds: list[Squash] = [
                self.squash or ("tanh" if c.at_least is None else "sigmoid") for c in self.subject_to
            ]
            first = (0.5 if self.squash == "none" else 0.0) if self.initial is None else self.initial
            return Multipliers.start([first] * len(kinds), kinds)
        return self._multipliers

    def bounds(self, progress: Progress) -> Bounds:
        """Any multipliers that can be reached, times the bounds of what is standardised."""
        reach = [REACH[s] for s in self.multipliers.squash]
        n = len(reach)
        weight = Interval(n - sum(r.high for r in reach), n - sum(r.low for r in reach))
        total = standardised_bounds(self.maximise.bounds(progress)) * Bounds(weight, weight)
        for constraint, r in zip(self.subject_to, reach, strict=True):
            total = total + standardised_bounds(constraint.term.bounds(progress)) * Bounds(r, r)
        return total

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """The mixture; the breakdown holds the parts' raw numbers."""
        breakdown, keep, paid = Breakdown(self.title), np.ones(len(batch), dtype=bool), []
        for element, child in self.children():
            paid.append(child.score(batch, progress))
            breakdown.add(element, child, paid[-1])
            keep &= paid[-1].keep
        main, *parts = (standardise(batch, s.total, keep, self.over, self.ddof, self.eps) for s in paid)
        total, values = self.multipliers.mix(main, parts), self.multipliers.values
        told = {f"multiplier-{i}": v for i, v in enumerate(values, 1)}
        told["saturated"] = float(sum(values) > 0.95 * len(values))
        terms = {f"{self.title}/{name}": np.full(len(batch), value) for name, value in told.items()}
        return Scores(total, {self.title: total, **breakdown.terms, **terms}, keep)

    def _observe(self, batch: Batch, progress: Progress) -> None:
        train = batch.take(batch.order[(batch.origin == "train")[batch.order]])
        excess: list[float | None] = []
        for constraint in self.subject_to:
            seen = all(getattr(train, column) is not None for column in constraint.term.needs)
            scores = constraint.term.score(train, progress) if len(train) and seen else None
            some = scores is not None and scores.keep.any()
            excess.append(
                float(scores.total[scores.keep].mean()) - constraint.wanted(progress) if scores and some else None
            )
        if any(e is not None for e in excess):
            self._multipliers = self.multipliers.update(excess, self.lr, self.momentum, self.max_grad_norm)
        super()._observe(batch, progress)

    def _state(self) -> dict[str, Any]:
        return {"raw": list(self.multipliers.raw), "momentum": list(self.multipliers.momentum)}

    def _load_state(self, state: dict[str, Any]) -> None:
        raw, momentum = state["raw"], state["momentum"]
        if len(raw) != len(self.subject_to):
            raise TautError(
                f"reward {self.title}: the checkpoint holds {len(raw)} multipliers for {len(self.subject_to)} constraints; "
                "use the constraints that it was written with"
            )
        self._multipliers = Multipliers(tuple(raw), tuple(momentum), self.multipliers.squash)
