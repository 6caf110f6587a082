"""Timing side by side: a call's median, and programs in turn."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Found = dict[str, Any]


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median, after one that warms up."""
    call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def in_turn(
    programs: Mapping[str, Callable[[], Found]], repeats: int, told: Callable[[Found], str]
) -> dict[str, list[Found]]:
    """What each program found, `repeats` times, one after the other in alternating order; told: of a finding, for stderr."""
    found: dict[str, list[Found]] = {name: [] for name in programs}
    for i in range(repeats):
        for name, program in list(programs.items())[:: 1 if i % 2 else -1]:
            found[name].append(program())
            print(f"{name} {i + 1}/{repeats}: {told(found[name][-1])}", file=sys.stderr, flush=True)
    return found
