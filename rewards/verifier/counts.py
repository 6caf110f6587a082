"""What a verifier has done: verdicts by reason, how many the memo knew, how long they took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Of the verdicts since the last `Verifier.take_counts`. seconds: their sum, waiting in the queue left out; slowest: one.
    memo_hits: known from before, or asked at the same time by another. judge_errors: messages of a user's judge."""

    reasons: Counter[str] = field(default_factory=Counter)
    memo_hits: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    judge_errors: Counter[str] = field(default_factory=Counter)

    @property
    def verdicts(self) -> int:
        """All of them."""
        return self.reasons.total()

    def add(self, reason: str, seconds: float, memo_hit: bool) -> None:
        """One more."""
        self.reasons[reason] += 1
        self.memo_hits += memo_hit
        self.seconds += seconds
        if seconds > self.slowest:
            self.slowest = seconds
