"""Cosine: rewards that move along half a cosine of the length (Demystifying Long Chain-of-Thought Reasoning, 2502.03373)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, Tokens, at
from rewards.terms.repetition import repetition


class CosineLength(Reward):
    """long + (short - long) * (1 + cos(pi L / max_length)) / 2, with `correct_*` for correct rollouts, `wrong_*` for wrong ones;
    `exceed` for both where L + margin >= max_length.

    Correct answers pay the shorter the better, wrong ones the longer the better. `exceed` overrides correctness, so a correct
    rollout just below the cap earns less than a short wrong one. Truncated: beyond the margin anyway. max_length None: each
    request's cap. `repetition` < 0 adds that much times 1 - distinct / all n-grams to wrong rollouts within the cap (official
    code by words, here by tokens). Published (run script): 2, 1, -10, 0, exceed -10, margin 16; the copy in TRL has 1, 0.5,
    -1, -0.5, max_length 1000 and no margin.
    """

    type: Literal["cosine_length"] = "cosine_length"
    paper: ClassVar[str] = "2502.03373"
    own_kind: ClassVar[Kind] = "whole"
    shorter_pays: ClassVar[bool] = True
    correct_short: Number = 2.0
    correct_long: Number = 1.0
    wrong_short: Number = -10.0
    wrong_long: Number = 0.0
    exceed: Number = -10.0
    max_length: Tokens | None = Field(default=None, description="tokens; None: the request's cap")
    margin: int = Field(default=16, ge=0, description="tokens before max_length that count as exceeding it")
    repetition: float = Field(default=0.0, le=0, description="what a wrong response that is all repetition loses")
    ngram: int = Field(default=40, ge=1, description="tokens in an n-gram")

    @property
    def own_needs(self) -> frozenset[str]:
        """`tokens`, where repetition costs something."""
        return frozenset({"tokens"}) if self.repetition else frozenset()

    def bounds(self, progress: Progress) -> Bounds:
        """Any verdict may exceed the cap."""
        short, long, bad_short, bad_long, exceed = (
            at(x, progress)
            for x in (self.correct_short, self.correct_long, self.wrong_short, self.wrong_long, self.exceed)
        )
        right, wrong = (
            (short, long, exceed),
            (bad_short, bad_long, bad_short + self.repetition, bad_long + self.repetition),
        )
        return Bounds.of((min(right), max(right)), (min(*wrong, exceed), max(*wrong, exceed)))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        cap = batch.max_tokens if self.max_length is None else at(self.max_length, progress)
        short = np.where(batch.correct, at(self.correct_short, progress), at(self.wrong_short, progress))
        long = np.where(batch.correct, at(self.correct_long, progress), at(self.wrong_long, progress))
        exceeds = batch.length + self.margin >= cap
        out = long + 0.5 * (short - long) * (1.0 + np.cos(np.pi * np.minimum(batch.length / np.maximum(cap, 1), 1.0)))
        if self.repetition:
            rows = np.flatnonzero(~batch.correct & ~exceeds)
            out[rows] += self.repetition * repetition(batch.column("tokens")[rows], self.ngram, "distinct")
        return np.where(exceeds, at(self.exceed, progress), out)
