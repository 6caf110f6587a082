"""What a reward can pay at most and at least, by verdict: interval arithmetic behind the inversion check (`taut check`).

Bounds hold for every batch with 0 <= length <= max_tokens <= progress.max_length in which truncated rollouts are wrong (the
verifier sees to that), in every state that the reward can reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """[low, high]; infinities are allowed."""

    low: float
    high: float

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __mul__(self, other: Interval) -> Interval:
        products = [a * b if a and b else 0.0 for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(products), max(products))

    def __or__(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Bounds:
    """What correct and wrong rollouts can earn."""

    correct: Interval
    wrong: Interval

    @classmethod
    def of(cls, correct: tuple[float, float], wrong: tuple[float, float]) -> Bounds:
        """From (low, high) pairs; low may exceed high."""
        return cls(*(Interval(min(pair), max(pair)) for pair in (correct, wrong)))

    @classmethod
    def same(cls, low: float, high: float) -> Bounds:
        """For a reward that does not look at the verdict."""
        return cls.of((low, high), (low, high))

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.correct + other.correct, self.wrong + other.wrong)

    def __mul__(self, other: Bounds) -> Bounds:
        return Bounds(self.correct * other.correct, self.wrong * other.wrong)

    def __or__(self, other: Bounds) -> Bounds:
        return Bounds(self.correct | other.correct, self.wrong | other.wrong)

    @property
    def ordered(self) -> bool:
        """No wrong rollout can earn more than a correct one."""
        return self.wrong.high <= self.correct.low and not math.isnan(self.wrong.high + self.correct.low)
