"""AdaptThink: beat the reference's accuracy, with a bonus for not thinking (2505.13417, equation 6)."""

from __future__ import annotations

from typing import ClassVar, Literal

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats, choose
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, at


class AdaptThink(Reward):
    """[correct] - reference_accuracy + delta * [mode is "no_think"].

    The advantage itself: take `advantage: raw`, as nothing is normalised in a group, and objective `adaptthink`.
    reference_accuracy: the problem's accuracy under the starting policy with thinking (published: 16 samples). A rollout of
    another mode, or of none, has no bonus. All wrong: negative, unless the reference solves less than delta. A group of one
    is as any other. Published: delta 0.05.
    """

    type: Literal["adaptthink"] = "adaptthink"
    paper: ClassVar[str] = "2505.13417"
    own_kind: ClassVar[Kind] = "whole"
    shorter_pays: ClassVar[bool] = True  # length itself pays nothing
    reads: ClassVar[frozenset[str]] = frozenset({"mode", "reference_accuracy"})
    reads_modes: ClassVar[frozenset[str]] = frozenset({"no_think"})
    delta: Number = 0.05

    def bounds(self, progress: Progress) -> Bounds:
        """Over references from 0 to 1; within a problem, a correct rollout earns at least 1 - delta more."""
        delta = at(self.delta, progress)
        low, high = min(0.0, delta), max(0.0, delta)
        return Bounds.of((low, 1.0 + high), (low - 1.0, high))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) advantages."""
        delta = at(self.delta, progress)
        paid = choose([0.0, delta, 1.0, 1.0 + delta], batch.in_mode("no_think"), batch.correct)
        return paid - batch.column("reference_accuracy")
