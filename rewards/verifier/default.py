"""A verdict in one line, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from rewards.verifier.verifier import Judgement, Verifier


@cache
def _shared() -> Verifier:
    return Verifier()


def verify(gold: str, response: str, finish_reason: str = "stop", thinking_open: bool = False) -> Judgement:
    """`Verifier.verify` by a verifier with the default settings, which is shared, and closed when Python exits."""
    return _shared().verify(gold, response, finish_reason, thinking_open)


def check_golds(golds: Iterable[str]) -> list[str | None]:
    """For each gold answer why it cannot be verified, None where it can; a process starts only for algebra."""
    with Verifier() as verifier:
        return verifier.check_golds(golds)


def check_gold(gold: str) -> str | None:
    """Why this gold answer cannot be verified, None where it can."""
    return check_golds([gold])[0]
