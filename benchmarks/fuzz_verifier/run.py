"""Judges generated inputs one by one and keeps what must not be: hangs, crashes, wrong verdicts, executed code, leaks.

Seconds are wall time less what this process and the verifier's spent waiting for a core that other jobs had (Linux).
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz_verifier.inputs import WRAPPED, Generator, Input
from rewards.batch import Verdict
from rewards.verifier import Judgement, Verifier

CASES = Path(__file__).resolve().parents[2] / "tests" / "data" / "verifier_cases.jsonl"
KEPT_MIB = 32  # more resident memory than at the start is a leak
STUCK_S = 120.0  # this process itself holds on to one input: its stack is printed and it ends


@dataclass
class Found:
    """Counts by kind and verdict, seconds by kind, the slowest inputs, and what must not be, a line each."""

    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    slowest: list[tuple[float, int, str, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def add(self, i: int, item: Input, judgement: Judgement, took: float, limit_s: float) -> None:
        """One more verdict, held against what is known of its input."""
        name = Verdict(judgement.verdict).name.lower()
        self.verdicts.setdefault(item.kind, Counter())[name] += 1
        self.seconds[item.kind] = max(self.seconds.get(item.kind, 0.0), took)
        self.slowest = sorted([*self.slowest, (took, i, item.kind, judgement.reason)], reverse=True)[:10]
        right = judgement.verdict is Verdict.CORRECT
        late = judgement.reason == "timeout"  # then nothing was said of it
        if (item.expected == "wrong" and right) or (item.expected == "right" and not right and not late):
            self.violate(i, item, f"{name} ({judgement.reason}), must be {item.expected}")
        if took > limit_s:
            self.violate(i, item, f"took {took:.1f} s ({judgement.reason})")

    def violate(self, i: int, item: Input, what: str) -> None:
        """Something that must not be."""
        gold, response = (repr(x) if len(repr(x)) < 120 else f"{repr(x)[:117]}..." for x in (item.gold, item.response))
        self.violations.append(f"input {i} ({item.kind}, {item.mode}): {what}: gold {gold}, response {response}")


def verifiers(deadline_s: float) -> dict[str, Verifier]:
    """One for each extraction."""
    return {mode: Verifier(timeout_s=deadline_s, extraction=mode) for mode in WRAPPED}  # type: ignore[arg-type]


def ask(verifier: Verifier, item: Input) -> Judgement:
    """The verdict on the input."""
    return verifier.verify(item.gold, item.response, item.finish_reason, item.thinking_open)


def fuzz(inputs: int, seed: int, deadline_s: float, say: Callable[[str], None] = lambda line: None) -> Found:
    """Judge inputs 0 to `inputs` - 1 of the seed, one after the other."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "executed"
        generate = Generator(seed, CASES, target)
        judges = verifiers(deadline_s)
        for mode, judge in judges.items():
            judge.verify("x", WRAPPED[mode].replace("%s", "2x-y"))  # starts the processes
        before = usage(judges)
        began = time.monotonic()
        for i in range(inputs):
            item = generate(i)
            faulthandler.dump_traceback_later(STUCK_S, exit=True)
            judge = judges[item.mode]
            waited, start = waits(judge), time.perf_counter()
            try:
                judgement = ask(judge, item)
                took = time.perf_counter() - start - sum(s - waited.get(name, 0.0) for name, s in waits(judge).items())
                found.add(i, item, judgement, took, deadline_s + 1)
            except Exception as error:  # a crash is what is looked for
                found.verdicts.setdefault(item.kind, Counter())["crash"] += 1
                found.violate(i, item, f"raised {type(error).__name__}: {error}")
            if item.kind == "payload" and target.exists():
                found.violate(i, item, "was executed")
                target.unlink()
            if (i + 1) % 500 == 0:
                say(
                    f"{i + 1:,} of {inputs:,} inputs in {time.monotonic() - began:,.0f} s, {len(found.violations)} violations"
                )
        faulthandler.cancel_dump_traceback_later()
        _leaks(found, before, usage(judges), judges)
    return found


def waits(judge: Verifier) -> dict[str, float]:
    """Seconds that each thread of this process, and each of the verifier's processes, was ready to run and had no core."""
    found: dict[str, float] = {}
    for path in [*Path("/proc/self/task").glob("*"), *(Path(f"/proc/{pid}") for pid in judge.pids())]:
        try:
            found[path.name] = int((path / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):  # it has just ended, or this kernel does not count
            continue
    return found


def usage(judges: dict[str, Verifier]) -> dict[str, float]:
    """Resident MiB of this process and of the largest worker, threads and open files of this one."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what is free already, but kept by the allocator, is no leak
    workers = [_resident_mib(pid) for judge in judges.values() for pid in judge.pids()]
    return {
        "MiB here": _resident_mib(os.getpid()), "MiB largest worker": max(workers, default=0.0),
        "threads": threading.active_count(), "open files": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # it has just been replaced
        return 0.0


def _leaks(found: Found, before: dict[str, float], after: dict[str, float], judges: dict[str, Verifier]) -> None:
    """Ends the verifiers and adds what they leave behind; memory before, after, and once they are closed and gone."""
    pids = [pid for judge in judges.values() for pid in judge.pids()]
    for judge in judges.values():
        judge.close()
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    judges.clear()
    closed = usage({})
    for name in before:
        found.memory.append(f"{name}: {before[name]:.0f} before, {after[name]:.0f} after, {closed[name]:.0f} closed")
    if left:
        found.violations.append(f"processes left: {left}")
    for name, later in (("MiB here", closed), ("MiB largest worker", after)):
        if later[name] > before[name] + KEPT_MIB:
            found.violations.append(f"{name}: {before[name]:.0f} before, {later[name]:.0f} after")
    for name in ("threads", "open files"):
        if closed[name] > before[name]:
            found.violations.append(f"{name}: {before[name]:.0f} before, {closed[name]:.0f} once closed")
