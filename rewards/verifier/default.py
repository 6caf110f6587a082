"""A verdict in one line, for notebooks and scripts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from typing import Any

from rewards.verifier.golds import Readable, check
from rewards.verifier.verifier import Judgement, Verifier

MOST_WORKERS = 8


@cache
def _shared() -> Verifier:
    return Verifier()


def verify(gold: str, response: str, finish_reason: str = "stop", thinking_open: bool = False) -> Judgement:
    """`Verifier.verify` by a verifier with the default settings, which is shared, and closed when Python exits."""
    return _shared().verify(gold, response, finish_reason, thinking_open)


def check_golds(golds: Iterable[str], **settings: Any) -> list[str | None]:
    """For each gold answer why it cannot be verified, None where it can, by a Verifier with these settings.

    A process starts only for what needs algebra or a judge, and was never parsed before on this machine; nothing else runs
    while data is loaded, so up to eight cores are used.
    """
    workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS) if hasattr(os, "sched_getaffinity") else 1
    with Verifier(**{**settings, "workers": max(workers, settings.get("workers", 1))}) as verifier:
        readable = Readable()
        found = check(verifier, golds, readable)
        readable.save()
        return found


def check_gold(gold: str) -> str | None:
    """Why this gold answer cannot be verified, None where it can."""
    return check_golds([gold])[0]
