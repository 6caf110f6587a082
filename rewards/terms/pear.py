"""PEAR: thinking that is less certain than the answer costs (phase entropy aware reward, 2510.08026, equations 5 to 7)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward, Scores
from rewards.batch import Batch
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class Pear(Reward):
    """P = max(0, H_think - alpha * H_answer); a correct rollout earns min(1, right - P), any other `wrong`.

    H: mean token entropy in nats, full vocabulary, of the policy that sampled, before and after the first `</think>`, the tag
    in neither; without the tag all is thinking and H_answer is 0; an empty phase has entropy 0. Untempered: our choice, the
    temperature is not published. The policy moves, so rewards of different steps do not compare.

    P has no upper end, so a correct answer can fall below a wrong one: "below_wrong" in the breakdown marks these, `floor`
    is the least that a correct one can earn. A short certain answer without tags has P near 0: `missing_tag_is_wrong` pays
    it `wrong`. A negative alpha makes the answer's entropy cost too. Known to us from a third party's note and the reviews,
    not from the code: alpha 1 is published; `right` and `wrong` are not (here verl's score 1 and format_score 0).
    """

    type: Literal["pear"] = "pear"
    paper: ClassVar[str] = "2510.08026"
    own_kind: ClassVar[Kind] = "whole"
    shorter_pays: ClassVar[bool] = True  # length itself pays nothing
    alpha: Number = 1.0
    right: float = Field(default=1.0, gt=0, le=1)
    wrong: float = Field(default=0.0, ge=0, lt=1)
    floor: float | None = Field(default=None, description="least that a correct rollout earns; None: no end (paper)")
    missing_tag_is_wrong: bool = Field(default=False, description="right only with one well-formed <think></think>")

    @property
    def own_needs(self) -> frozenset[str]:
        """The entropies; `tags` where they are asked for."""
        entropies = frozenset({"untempered_entropy_think", "untempered_entropy_answer"})
        return entropies | {"tags"} if self.missing_tag_is_wrong else entropies

    def bounds(self, progress: Progress) -> Bounds:
        """An entropy has no upper end that is known here."""
        low = -math.inf if self.floor is None else self.floor
        paid = [low, max(low, self.right), *([self.wrong] if self.missing_tag_is_wrong else [])]
        return Bounds.of((min(paid), max(paid)), (self.wrong, self.wrong))

    def compute(self, batch: Batch, progress: Progress) -> Scores:
        """Rewards, and where a correct rollout earns less than a wrong one."""
        correct = batch.correct
        if self.missing_tag_is_wrong:
            correct = correct & batch.has_tag("think")
        think, answer = batch.column("untempered_entropy_think"), batch.column("untempered_entropy_answer")
        paid = np.minimum(1.0, self.right - np.maximum(0.0, think - at(self.alpha, progress) * answer))
        if self.floor is not None:
            paid = np.maximum(paid, self.floor)
        total = np.where(correct, paid, self.wrong)
        below = (correct & (total < self.wrong)).astype(np.float64)
        return Scores(total, {self.title: total, f"{self.title}/below_wrong": below}, np.ones(len(batch), dtype=bool))
