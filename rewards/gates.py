"""Gates and filters: who a reward applies to. A condition says yes or no to each rollout, or to each group."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny, model_validator

from rewards.base import AnyReward, Breakdown, Reward, Scores
from rewards.batch import Batch
from rewards.conditions import CONDITIONS, Condition
from rewards.progress import Progress

AnyCondition = Annotated[SerializeAsAny[Condition], BeforeValidator(CONDITIONS.build)]


class _Gate(Reward):
    when: AnyCondition
    then: AnyReward
    otherwise: AnyReward | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Columns that the condition or a branch reads."""
        return super().needs | self.when.reads

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """`then` where the condition holds, else `otherwise` (0 where there is none).

        Both branches see the whole batch, so that a group statistic inside a branch means what it means without the gate.
        """
        yes = self.when.holds(batch, progress)
        total, keep, breakdown = np.zeros(len(batch)), np.ones(len(batch), dtype=bool), Breakdown(self.title)
        for element, child in self.children():
            scores, open_here = child.score(batch, progress), yes if child is self.then else ~yes
            paid = Scores(
                np.where(open_here, scores.total, 0.0),
                {path: np.where(open_here, values, 0.0) for path, values in scores.terms.items()},
                scores.keep | ~open_here,
            )
            breakdown.add(element, child, paid)
            total, keep = total + paid.total, keep & paid.keep
        return Scores(total, {self.title: total, f"{self.title}/open": yes.astype(float), **breakdown.terms}, keep)


class RolloutGate(_Gate):
    """`then` for the rollouts that meet the condition, `otherwise` for the rest."""

    type: Literal["rollout_gate"] = "rollout_gate"

    @model_validator(mode="after")
    def _scope(self) -> RolloutGate:
        if self.when.own_scope != "rollout":
            raise ValueError(f"condition {self.when.type!r} decides whole groups; use group_gate")
        return self


class GroupGate(_Gate):
    """`then` for the groups that meet the condition, `otherwise` for the rest (GRPO-lambda, 2505.18086, is
    group_gate(top_correct_ratio) over arora_zanette and correct)."""

    type: Literal["group_gate"] = "group_gate"

    @property
    def scope(self) -> Literal["rollout", "group", "step", "dataset"]:
        """At least the condition's."""
        inner = super().scope
        return self.when.own_scope if inner in ("rollout", "group") else inner

    @model_validator(mode="after")
    def _scope(self) -> GroupGate:
        if self.when.own_scope == "rollout":
            raise ValueError(f"condition {self.when.type!r} decides single rollouts; use rollout_gate")
        return self


class Keep(Reward):
    """The term, with the rollouts that fail the condition left out of every statistic (overlong filtering:
    keep(when: finished)). They earn 0 and get no gradient."""

    type: Literal["keep"] = "keep"
    when: AnyCondition
    term: AnyReward

    @property
    def needs(self) -> frozenset[str]:
        """Columns that the condition or the term reads."""
        return super().needs | self.when.reads

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """The child's scores on the kept rollouts alone; the others are absent from its statistics too."""
        kept = self.when.holds(batch, progress)
        scores = self.term.score(batch.take(kept), progress)

        def spread(values: np.ndarray) -> np.ndarray:
            out = np.zeros(len(batch), dtype=values.dtype)
            out[kept] = values
            return out

        breakdown = Breakdown(self.title)
        breakdown.add(
            self.term.title,
            self.term,
            Scores(scores.total, {k: spread(v) for k, v in scores.terms.items()}, scores.keep),
        )
        total = spread(scores.total)
        return Scores(total, {self.title: total, **breakdown.terms}, spread(scores.keep))
