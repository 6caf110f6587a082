"""The verifier: extraction, memo, fast path, guards; worker processes that are killed at a deadline for the rest."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, Self, get_args

from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.verifier.counts import Counts
from rewards.verifier.extract import CLOSE, Mode, extract
from rewards.verifier.golds import check
from rewards.verifier.memo import Key, Memo, key_of
from rewards.verifier.policy import decide
from rewards.verifier.pool import Pool
from rewards.verifier.process import Limits, Reply

log = logging.getLogger("taut.verifier")

Item = tuple[str, str, str, bool]  # gold, response, finish_reason, thinking_open
_VERDICTS = {"correct": Verdict.CORRECT, "wrong": Verdict.WRONG, "unknown": Verdict.UNKNOWN}
_PASSING = ("killed", "judge_error")  # not remembered: another time it may go well
_UNFINISHED = ("truncated", "unclosed thinking", "not text")
LONGEST_GOLD = 20_000  # characters; the longest of MATH has 159, and to read more than this would take the deadline
_everyone: weakref.WeakSet[Verifier] = weakref.WeakSet()


class Judgement(NamedTuple):
    """One verdict. `reason` is the rule that decided, `answer` the extracted text ("" where there is none), `seconds` what
    the verdict took, waiting for a free process left out."""

    verdict: Verdict
    reason: str
    answer: str
    seconds: float
    format_ok: bool


class Verifier:
    """Judges responses; never hangs, whatever they hold. Use it as a context manager or call `close()`.

    workers: processes for symbolic comparisons, started when the first is needed. timeout_s: deadline of a comparison;
    a process that overruns it is killed and replaced. memory_gib: address space of each process. arithmetic: whether
    437+3 is an answer for 440; say no where the question is itself such arithmetic, or repeating it is paid for.
    extraction: where the answer stands (see `extract`). judge: "module:function" that decides in place of the comparison,
    in the same processes under the same limits (see docs/judge.md); judge_reads: what it gets, the extracted answer, or the
    response after its thinking. memo: verdicts remembered. audit: see `audit_of`.
    Safe to call from threads, event loops and Ray actors: it sets no signal handler and needs no `__main__` guard.
    """

    def __init__(
        self, workers: int = 1, timeout_s: float = 5.0, memory_gib: float = 2.0, arithmetic: bool = True, *,
        extraction: Mode = "boxed", judge: str | None = None, judge_reads: Literal["answer", "response"] = "answer",
        memo: int = 200_000, audit: int = 4,
    ) -> None:  # fmt: skip
        self.settings = {name: value for name, value in locals().items() if name != "self"}
        check_settings(self.settings)
        self.workers, self.timeout_s, self.memory_gib, self.arithmetic = workers, timeout_s, memory_gib, arithmetic
        self.extraction: Mode = extraction
        self.judge, self.judge_reads, self.audit = judge, judge_reads, audit
        self._memo, self._counts = Memo(memo), Counts()
        self._forget_processes()
        _everyone.add(self)

    def verify(self, gold: str, response: str, finish_reason: str = "stop", thinking_open: bool = False) -> Judgement:
        """The verdict on one response.

        UNKNOWN only where the gold cannot be parsed, a process timed out, died or ran out of memory on it, or a judge says
        so or fails; a response without an answer is WRONG. finish_reason: "stop" or "length". thinking_open: the prompt
        ended with `<think>`. Raises TautError where no process can be started.
        """
        found = self.begin(gold, response, finish_reason, thinking_open)
        return found if isinstance(found, Judgement) else found.result()

    def submit(
        self, gold: str, response: str, finish_reason: str = "stop", thinking_open: bool = False
    ) -> Future[Judgement]:
        """`verify` without waiting: a future that is done at once unless a process has to decide. It cannot be cancelled."""
        found = self.begin(gold, response, finish_reason, thinking_open)
        return _done(found) if isinstance(found, Judgement) else found

    def begin(
        self, gold: str, response: str, finish_reason: str = "stop", thinking_open: bool = False
    ) -> Judgement | Future[Judgement]:
        """`submit` without the future's cost where no process has to decide: then the verdict itself."""
        start = time.perf_counter()
        answer, reason, format_ok = extract(response, finish_reason, thinking_open, self.extraction)
        if self.judge is not None and self.judge_reads == "response" and reason not in _UNFINISHED:
            answer = response.rpartition(CLOSE)[2]
        if answer is None:
            return self._finish(Verdict.WRONG, reason, "", start, format_ok)
        if not isinstance(gold, str):
            return self._finish(Verdict.UNKNOWN, "gold not text", answer, start, format_ok)
        key = key_of(gold, answer)
        with self._lock:
            known = self._memo.get(key)
        if known is not None:
            return self._finish(*known, answer, start, format_ok, memo_hit=True)
        if self.judge is not None:
            request: dict[str, Any] = {"judge": [gold, answer]}
        else:
            decided = _decide(gold, answer, self.arithmetic)
            if not isinstance(decided, list):
                with self._lock:
                    self._memo.put(key, decided)
                return self._finish(*decided, answer, start, format_ok)
            request = {"pairs": decided}
        return self._ask(key, request, answer, format_ok)

    async def averify(
        self, gold: str, response: str, finish_reason: str = "stop", thinking_open: bool = False
    ) -> Judgement:
        """`verify` for an event loop, which goes on while a process decides."""
        found = self.begin(gold, response, finish_reason, thinking_open)
        return found if isinstance(found, Judgement) else await asyncio.wrap_future(found)

    def verify_many(self, items: Sequence[Item]) -> list[Judgement]:
        """`verify` of each (gold, response, finish_reason, thinking_open), in order; the workers share what is hard."""
        begun = [self.begin(*item) for item in items]
        return [found if isinstance(found, Judgement) else found.result() for found in begun]

    def stream(self, items: Iterable[Item]) -> Iterator[tuple[int, Judgement]]:
        """(position, verdict) of each item as soon as it is known; items are taken one by one, as they come into being."""
        done: queue.SimpleQueue[tuple[int, Future[Judgement]]] = queue.SimpleQueue()
        waiting = 0
        for i, item in enumerate(items):
            found = self.begin(*item)
            if isinstance(found, Judgement):
                yield i, found
            else:
                waiting += 1
                found.add_done_callback(functools.partial(lambda i, future: done.put((i, future)), i))
            while not done.empty():
                position, future = done.get()
                waiting -= 1
                yield position, future.result()
        for _ in range(waiting):
            position, future = done.get()
            yield position, future.result()

    def check_golds(self, golds: Iterable[str]) -> list[str | None]:
        """For each gold answer why it cannot be verified, None where it can; the workers share them."""
        return check(self, golds)

    def take_counts(self) -> Counts:
        """What was done since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counts()
        return counts

    def ask(self, request: dict[str, Any]) -> Future[Reply]:
        """A question to the worker processes, as `server.py` understands it; for what audits and checks golds."""
        with self._lock:
            if self._pool is None:
                self._pool = Pool(self.workers, Limits(self.timeout_s, self.memory_gib, self.judge))
                self._finalizer = weakref.finalize(self, self._pool.close)
            return self._pool.submit(request)

    def pids(self) -> list[int]:
        """The processes that are running now: the one that starts workers, then the workers."""
        return self._pool.server.pids() if self._pool else []

    def close(self) -> None:
        """Ends the processes; verdicts under way end with an error. A later `verify` starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._asked.clear()
        if pool and self._finalizer:
            self._finalizer.detach()
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:  # travels to Ray actors as its settings
        return functools.partial(Verifier, **self.settings), ()

    def _forget_processes(self) -> None:
        """Begin without any: at the start, and in a fork, where threads are gone and the processes are the parent's."""
        if (pool := getattr(self, "_pool", None)) is not None:
            self._finalizer.detach()
            pool.server.disown()
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._finalizer: Any = None
        self._asked: dict[Key, Future[Reply]] = {}

    def _finish(
        self, verdict: Verdict, reason: str, answer: str, start: float, format_ok: bool, memo_hit: bool = False
    ) -> Judgement:
        seconds = time.perf_counter() - start
        with self._lock:
            self._counts.add(reason, seconds, memo_hit)
        return Judgement(verdict, reason, answer, seconds, format_ok)

    def _ask(self, key: Key, request: dict[str, Any], answer: str, format_ok: bool) -> Future[Judgement]:
        """The future verdict of the processes; the same question is asked once, however many wait for it."""
        mine: Future[Judgement] = Future()
        mine.set_running_or_notify_cancel()
        with self._lock:
            asked = self._asked.get(key)
        if shared := asked is not None:
            question = asked
        else:
            question = self.ask(request)
            with self._lock:
                self._asked[key] = question
            question.add_done_callback(functools.partial(self._remember, key))
        question.add_done_callback(functools.partial(self._settle, mine, answer, format_ok, shared))
        return mine

    def _remember(self, key: Key, question: Future[Reply]) -> None:
        with self._lock:
            if self._asked.get(key) is question:
                del self._asked[key]
            if question.exception() is not None:
                return
            reply = question.result()
            if reply.reason not in _PASSING:
                self._memo.put(key, (_VERDICTS[reply.verdict], reply.reason))
            first = reply.reason == "judge_error" and not self._counts.judge_errors
            self._counts.judge_errors.update([reply.detail] if reply.reason == "judge_error" else [])
        if first:
            log.warning("verifier: judge %s failed, so the verdict is unknown: %s", self.judge, reply.detail)

    def _settle(
        self, mine: Future[Judgement], answer: str, format_ok: bool, shared: bool, question: Future[Reply]
    ) -> None:
        if (error := question.exception()) is not None:
            mine.set_exception(error)
            return
        reply = question.result()
        with self._lock:
            self._counts.add(reply.reason, reply.seconds, shared)
        mine.set_result(Judgement(_VERDICTS[reply.verdict], reply.reason, answer, reply.seconds, format_ok))


def check_settings(settings: dict[str, Any]) -> None:
    """Raises TautError for settings of a Verifier that make no sense, naming them."""
    for name, least in (("workers", 1), ("timeout_s", 0), ("memory_gib", 0), ("memo", 0), ("audit", 0)):
        value = settings[name]
        if value < least or (value == 0 and name in ("timeout_s", "memory_gib")):
            raise TautError(f"verifier: {name}={value}: give {'a positive number' if name != 'audit' else '0 or more'}")
    for name, known in (("extraction", get_args(Mode)), ("judge_reads", ("answer", "response"))):
        if settings[name] not in known:
            raise TautError(f"verifier: {name}={settings[name]!r}: use one of {', '.join(known)}")
    judge = settings["judge"]
    if judge is not None and not all(part.strip() for part in f"{judge}:".split(":")[:2]):
        raise TautError(f"verifier: judge={judge!r}: write it as module:function, such as my_judge:same_word")
    if judge is None and settings["judge_reads"] != "answer":
        raise TautError("verifier: judge_reads='response' is for a judge of your own; give judge='module:function'")


def _decide(gold: str, answer: str, arithmetic: bool) -> tuple[Verdict, str] | list[tuple[str, str]]:
    """The verdict and its rule, or the pairs that algebra must find equal."""
    if len(gold) > LONGEST_GOLD:
        return (Verdict.CORRECT, "string") if gold.strip() == answer.strip() else (Verdict.UNKNOWN, "gold too long")
    if len(answer) > 10 * (len(gold) + 1_000):
        return Verdict.WRONG, "too long"
    decided = decide(gold, answer, arithmetic)
    if isinstance(decided, list):
        return decided
    return (Verdict.CORRECT if decided[0] else Verdict.WRONG), decided[1]


def _done(judgement: Judgement) -> Future[Judgement]:
    future: Future[Judgement] = Future()
    future.set_result(judgement)
    return future


def _after_fork() -> None:
    for verifier in list(_everyone):
        verifier._forget_processes()


os.register_at_fork(after_in_child=_after_fork)
