"""The verifier: extraction, memo, fast path, guards, and child processes for the rest that are killed at a deadline."""

from __future__ import annotations

import json
import math
import os
import queue
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.verifier.extract import extract
from rewards.verifier.policy import decide, gold_text

START_DEADLINE_S = 300.0  # importing sympy takes half a second, and a minute on a machine that swaps
STARVED = 0.2  # a process that got less than this share of a core until its deadline is given more time,
PATIENCE = 10  # up to so many times the deadline
MEMO_SIZE = 200_000
_VERDICTS = {"correct": Verdict.CORRECT, "wrong": Verdict.WRONG, "unknown": Verdict.UNKNOWN}


class Judgement(NamedTuple):
    """One verdict. `reason` is the rule that decided, `answer` the extracted text ("" where there is none)."""

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
    Safe to call from threads, event loops and Ray actors: it sets no signal handler and needs no `__main__` guard.
    """

    def __init__(
        self, workers: int = 1, timeout_s: float = 5.0, memory_gib: float = 2.0, arithmetic: bool = True
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_gib <= 0:
            raise TautError(
                f"Verifier(workers={workers}, timeout_s={timeout_s}, memory_gib={memory_gib}): each must be positive"
            )
        self.workers, self.timeout_s, self.memory_gib, self.arithmetic = workers, timeout_s, memory_gib, arithmetic
        self._memo: dict[tuple[str, str], tuple[Verdict, str]] = {}
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._processes = [_Process(self.timeout_s, self.memory_gib) for _ in range(self.workers)]
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for process in self._processes:
            self._idle.put(process)
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, _kill_all, self._processes, self._pid)

    def verify(self, gold: str, response: str, finish_reason: str = "stop", thinking_open: bool = False) -> Judgement:
        """The verdict on one response.

        UNKNOWN only where the gold cannot be parsed or a process timed out, died or ran out of memory on it; a response
        without an answer is WRONG. finish_reason: "stop" or "length". thinking_open: the prompt ended with `<think>`.
        """
        start = time.perf_counter()
        answer, reason, format_ok = extract(response, finish_reason, thinking_open)
        if answer is None:
            return Judgement(Verdict.WRONG, reason, "", time.perf_counter() - start, format_ok)
        verdict, reason = self._memo.get((gold, answer)) or self._judge(gold, answer)
        return Judgement(verdict, reason, answer, time.perf_counter() - start, format_ok)

    def verify_many(self, items: Sequence[tuple[str, str, str, bool]]) -> list[Judgement]:
        """`verify` of each (gold, response, finish_reason, thinking_open), in order; the workers share the algebra."""
        if self.workers == 1:
            return [self.verify(*item) for item in items]
        from concurrent.futures import ThreadPoolExecutor

        judgements: dict[int, Judgement] = {}
        hard = [i for i, item in enumerate(items) if self._needs_algebra(*item)]
        with ThreadPoolExecutor(self.workers) as threads:
            judgements.update(zip(hard, threads.map(lambda i: self.verify(*items[i]), hard), strict=True))
        return [judgements.get(i) or self.verify(*item) for i, item in enumerate(items)]

    def check_golds(self, golds: Iterable[str]) -> list[str | None]:
        """For each gold answer why it cannot be verified, None where it can."""
        memo: dict[str, str | None] = {}
        for gold in (golds := list(golds)):
            if gold not in memo:
                memo[gold] = self._check_gold(gold)
        return [memo[gold] for gold in golds]

    def close(self) -> None:
        """Ends the processes. A later `verify` starts new ones."""
        if os.getpid() == self._pid:
            _kill_all(self._processes, self._pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:  # travels to Ray actors as its settings
        return Verifier, (self.workers, self.timeout_s, self.memory_gib, self.arithmetic)

    def _needs_algebra(self, gold: str, response: str, finish_reason: str, thinking_open: bool) -> bool:
        answer = extract(response, finish_reason, thinking_open).answer
        if answer is None or (gold, answer) in self._memo:
            return False
        return isinstance(_decide(gold, answer, self.arithmetic), list)

    def _judge(self, gold: str, answer: str) -> tuple[Verdict, str]:
        decided = _decide(gold, answer, self.arithmetic)
        if isinstance(decided, list):
            decided = self._algebra(decided)
        with self._lock:
            if len(self._memo) >= MEMO_SIZE:
                self._memo.pop(next(iter(self._memo)))
            self._memo[gold, answer] = decided
        return decided

    def _algebra(self, pairs: list[tuple[str, str]]) -> tuple[Verdict, str]:
        verdict, reason = Verdict.UNKNOWN, ""
        for left, right in pairs:
            verdict, reason = self._ask({"gold": left, "answer": right})
            if verdict is not Verdict.CORRECT:
                break
        return verdict, reason

    def _check_gold(self, gold: str) -> str | None:
        text, why = gold_text(gold)
        if text is None:
            return why or None
        verdict, reason = self._ask({"gold": text})
        return None if verdict is Verdict.CORRECT else f"math-verify cannot parse it ({reason})"

    def _ask(self, request: dict[str, str]) -> tuple[Verdict, str]:
        if os.getpid() != self._pid:  # a fork: the processes are the parent's
            self._start()
        process = self._idle.get()
        try:
            return process.ask(request)
        finally:
            self._idle.put(process)


def _decide(gold: str, answer: str, arithmetic: bool) -> tuple[Verdict, str] | list[tuple[str, str]]:
    """The verdict and its rule, or the pairs that algebra must find equal."""
    if len(answer) > 10 * (len(gold) + 1_000):
        return Verdict.WRONG, "too long"
    decided = decide(gold, answer, arithmetic)
    if isinstance(decided, list):
        return decided
    return (Verdict.CORRECT if decided[0] else Verdict.WRONG), decided[1]


class _Process:
    """One child process, started when first asked and replaced after a failure. Used by one thread at a time."""

    def __init__(self, timeout_s: float, memory_gib: float) -> None:
        self.timeout_s, self.memory_gib = timeout_s, memory_gib
        self.child: subprocess.Popen[bytes] | None = None
        self.served = 0
        self.pending = b""

    def ask(self, request: dict[str, str]) -> tuple[Verdict, str]:
        """The child's verdict. After a death or lack of memory in a used process, a fresh one tries."""
        while True:
            used = self.served
            verdict, reason = self._ask_once(request)
            if verdict is Verdict.UNKNOWN and reason != "gold unparseable":
                self.kill()
                if used and reason != "timeout":
                    continue
            return verdict, reason

    def _ask_once(self, request: dict[str, str]) -> tuple[Verdict, str]:
        if self.child is None:
            self._spawn()
        self.served += 1
        try:
            self._send(request)
            reply = self._reply()
        except TimeoutError:
            return Verdict.UNKNOWN, "timeout"
        except (OSError, EOFError):
            code = self.child.wait() if self.child else None
            return Verdict.UNKNOWN, f"killed (exit status {code})"
        except BaseException:  # Ctrl-C: the reply that is still to come must not answer the next request
            self.kill()
            raise
        return _VERDICTS[reply["verdict"]], reply["reason"]

    def _reply(self) -> dict[str, Any]:
        """The reply within the deadline; later only where the machine, not the question, was at fault."""
        start, cpu = time.monotonic(), self._cpu_seconds()
        while True:
            try:
                return self._receive(self.timeout_s)
            except TimeoutError:
                starved = self._cpu_seconds() - cpu < STARVED * self.timeout_s
                if not starved or time.monotonic() - start > (PATIENCE - 1) * self.timeout_s:
                    raise

    def _cpu_seconds(self) -> float:
        assert self.child
        try:
            fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # not Linux, or the process is gone: the deadline is the wall clock's
            return math.inf
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _spawn(self) -> None:
        script = Path(__file__).with_name("worker.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.child = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self.served, self.pending = 0, b""
        try:
            self._send({"path": sys.path, "memory_gib": self.memory_gib, "timeout_s": self.timeout_s})
            reply = self._receive(START_DEADLINE_S)
        except (OSError, EOFError, TimeoutError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        if "error" in reply:
            self.kill()
            raise TautError(
                f"verifier: the process for symbolic comparison does not start: {reply['error']}; "
                f"is math-verify installed for {sys.executable}, and memory_gib={self.memory_gib} enough?"
            )

    def _send(self, message: dict[str, Any]) -> None:
        assert self.child and self.child.stdin
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[self.child.stdin.write(data) :]  # type: ignore[attr-defined]

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self.child and self.child.stdout
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.child.stdout, select.POLLIN | select.POLLHUP)
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                raise TimeoutError("no reply in time")
            chunk = os.read(self.child.stdout.fileno(), 1 << 16)
            if not chunk:
                raise EOFError("the process died")
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        child, self.child, self.served = self.child, None, 0
        if child:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()


def _kill_all(processes: list[_Process], owner: int) -> None:
    if os.getpid() == owner:
        for process in processes:
            process.kill()


def check_golds(golds: Iterable[str]) -> list[str | None]:
    """For each gold answer why it cannot be verified, None where it can; a process starts only for algebra."""
    with Verifier() as verifier:
        return verifier.check_golds(golds)


def check_gold(gold: str) -> str | None:
    """Why this gold answer cannot be verified, None where it can."""
    return check_golds([gold])[0]
