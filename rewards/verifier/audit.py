"""A check of the fast path: some of what it decided is also decided by math-verify. It tells, and never changes a verdict."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.verifier.fast import tidy
from rewards.verifier.policy import too_heavy
from rewards.verifier.process import Reply
from rewards.verifier.verifier import Verifier

log = logging.getLogger("taut.verifier")

RULES = ("string", "number")  # exact comparison; the other rules differ from math-verify on purpose


class Case(NamedTuple):
    """A verdict that may be audited; `place` tells it from the others, such as a sample id."""

    place: str
    gold: str
    answer: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Audit:
    """audited: cases that math-verify decided too. disagreements: those of them where it came to another verdict, and what
    it said."""

    audited: int
    disagreements: list[tuple[Case, Reply]]

    @property
    def disagreement(self) -> float | None:
        """Their share; None where nothing was audited."""
        return len(self.disagreements) / self.audited if self.audited else None


def begin_audit(verifier: Verifier, cases: Iterable[Case], seed: str) -> list[tuple[Case, Future[Reply]]]:
    """Ask math-verify about `verifier.audit` of the cases that the fast path decided, and go on without waiting.

    Which ones depends on `seed` and their places alone. None where a judge decides.
    """
    if not verifier.audit or verifier.judge is not None:
        return []
    able = [c for c in cases if c.reason in RULES and "\\boxed" not in c.gold]
    able.sort(key=lambda case: hashlib.sha256(f"{seed}:{case.place}".encode()).digest())
    chosen = itertools.islice(filter(_light, able), verifier.audit)
    return [(c, verifier.ask({"pairs": [[tidy(c.gold), tidy(c.answer)]]})) for c in chosen]


def finish_audit(begun: list[tuple[Case, Future[Reply]]]) -> Audit:
    """Wait for the answers. Where math-verify cannot say (a gold that it cannot parse, a timeout), nothing was audited."""
    audited, disagreements = 0, []
    for case, future in begun:
        try:
            reply = future.result()
        except TautError as error:  # nobody needs the audit to go on
            log.warning("verifier: no audit: %s", error)
            break
        if reply.verdict == "unknown":
            continue
        audited += 1
        if (reply.verdict == "correct") != (case.verdict is Verdict.CORRECT):
            disagreements.append((case, reply))
    return Audit(audited, disagreements)


def _light(case: Case) -> bool:
    return not too_heavy(tidy(case.answer), tidy(case.gold))
