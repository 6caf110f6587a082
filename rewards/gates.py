"""Gates and filters: who a reward applies to. A condition says yes or no to each rollout, or to each group."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from rewards.base import SCOPES, AnyReward, Breakdown, Reward, Scope, Scores
from rewards.batch import Batch
from rewards.bounds import Bounds
from rewards.conditions import CONDITIONS, Condition, Finished
from rewards.progress import Progress

AnyCondition = Annotated[SerializeAsAny[Condition], BeforeValidator(CONDITIONS.build)]


def refuse_filtered_overlong(node: Reward) -> None:
    """Raises ValueError where a tree has overlong filtering and a soft overlong punishment, wherever they stand. Every node with
    several children calls it when it is made, so the outermost sees all."""
    nodes = list(node.walk())
    filters = [path for path, n in nodes if isinstance(n, Keep) and isinstance(n.when, Finished)]
    punishments = [path for path, n in nodes if type(n).label() == "soft_overlong"]
    if filters and punishments:
        raise ValueError(
            f"{filters[0]} leaves truncated rollouts out, {punishments[0]} is there to punish them: responses just below the cap "
            "would be punished and those cut at it would not, so running into the cap would pay; use one of the two"
        )


def _picks_rollouts(when: Condition) -> bool:
    """Whether the condition answers for each rollout, though it may look at the whole group."""
    return when.own_scope == "rollout" or getattr(when, "picks_rollouts", False)


class _Gate(Reward):
    when: AnyCondition
    then: AnyReward
    otherwise: AnyReward | None = None

    @model_validator(mode="after")
    def _tree(self) -> _Gate:
        refuse_filtered_overlong(self)
        return self

    @property
    def scope(self) -> Scope:
        """At least the condition's."""
        return max([super().scope, self.when.own_scope], key=SCOPES.index)

    @property
    def own_needs(self) -> frozenset[str]:
        """Columns that the condition reads."""
        return self.when.reads

    def bounds(self, progress: Progress) -> Bounds | None:
        """Those of the branches that a rollout of each verdict can end in."""
        then = self.then.bounds(progress)
        other = self.otherwise.bounds(progress) if self.otherwise else Bounds.same(0, 0)
        if then is None or other is None:
            return None
        right, wrong = self.when.decides(True), self.when.decides(False)
        either = then | other
        return Bounds(
            either.correct if right is None else (then if right else other).correct,
            either.wrong if wrong is None else (then if wrong else other).wrong,
        )

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
    when: AnyCondition = Field(examples=["is_correct"])
    then: AnyReward = Field(examples=["linear_length"])

    @model_validator(mode="after")
    def _scope(self) -> RolloutGate:
        if not _picks_rollouts(self.when):
            raise ValueError(f"condition {self.when.type!r} decides whole groups; use group_gate")
        return self


class GroupGate(_Gate):
    """`then` for the groups that meet the condition, `otherwise` for the rest (GRPO-lambda, 2505.18086, is
    group_gate(top_correct_ratio) over arora_zanette and correct)."""

    type: Literal["group_gate"] = "group_gate"
    when: AnyCondition = Field(examples=["top_correct_ratio"])
    then: AnyReward = Field(examples=["arora_zanette"])

    own_scope: ClassVar[Scope] = "group"

    @model_validator(mode="after")
    def _scope(self) -> GroupGate:
        if _picks_rollouts(self.when):
            raise ValueError(f"condition {self.when.type!r} decides single rollouts; use rollout_gate")
        return self


class Keep(Reward):
    """The term, with the rollouts that fail the condition left out of its statistics, of its state and of the advantage. They
    earn 0 and get no gradient. Terms beside it in a sum still see them: put keep around all. Monitored rollouts move its state
    whether they meet the condition or not.

    keep(when: finished) is overlong filtering (DAPO, 2503.14476, section 3.4); it is refused together with soft_overlong, in
    either order and anywhere in the tree. keep(when: best_of_group) is GFPO (2508.09726).
    """

    type: Literal["keep"] = "keep"
    when: AnyCondition = Field(examples=["finished"])
    term: AnyReward = Field(examples=["correct"])

    @model_validator(mode="after")
    def _tree(self) -> Keep:
        refuse_filtered_overlong(self)
        return self

    @property
    def own_needs(self) -> frozenset[str]:
        """Columns that the condition reads."""
        return self.when.reads

    @property
    def compares(self) -> bool:
        """When the condition does."""
        return self.when.own_scope != "rollout"

    @property
    def scope(self) -> Scope:
        """At least the condition's."""
        return max([super().scope, self.when.own_scope], key=SCOPES.index)

    def bounds(self, progress: Progress) -> Bounds | None:
        """The term's: what is left out is not compared."""
        return self.term.bounds(progress)

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

    def _observe(self, batch: Batch, progress: Progress) -> None:
        seen = (batch.origin == "monitor") | self.when.holds(batch, progress)
        self.term._observe(batch.take(seen), progress)
