"""Ctrl-C, or SIGTERM: the first ends the run within half a minute, the second at once. Either way the run can be resumed.

The step under way may end within GRACE_S. If it still samples then, it is given up before anything has changed; if it computes
on, it is stopped after STOP_S, and the run goes on from its last checkpoint when it is resumed.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

GRACE_S = 8.0
STOP_S = 18.0
LOOK_S = 0.5


class Abandoned(Exception):
    """The run is to stop, and has been sampling for too long since."""


class Interruptible:
    """While it is entered, the first SIGINT or SIGTERM sets `asked` and calls `say`; later `sampling` raises Abandoned, and
    what takes even longer, as well as a second signal, KeyboardInterrupt."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked, self._say = False, say
        self._sampling, self._since = False, 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """What may be given up without a trace."""
        self._sampling = True
        try:
            yield
        finally:
            self._sampling = False

    def _on_signal(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked, self._since = True, time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, GRACE_S, LOOK_S)
        self._say(f"stopping after this step, if it ends in {GRACE_S:g} s (Ctrl-C again: at once)")

    def _on_alarm(self, *_: object) -> None:
        if self._sampling:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Abandoned
        if time.monotonic() - self._since >= STOP_S:
            raise KeyboardInterrupt
