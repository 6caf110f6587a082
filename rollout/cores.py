"""Which CPU cores this process runs on, beside workers that are bound to cores of the same machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable


def leave(cores: Iterable[int]) -> Callable[[], None]:
    """Keep every thread of this process off `cores`, and torch from having more threads than cores are left; nothing changes
    where none would be. Returns what undoes it."""
    import torch

    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    rest = before.difference(cores)
    if not rest or rest == before:
        return lambda: None
    _move(rest)
    torch.set_num_threads(min(threads, len(rest)))

    def back() -> None:
        _move(before)
        torch.set_num_threads(threads)

    return back


def _move(cores: Iterable[int]) -> None:
    """Have every thread of this process run on `cores` alone; threads to come inherit it."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread), cores)
