"""Ctrl-C, or SIGTERM: the first lets the step end and saves, the second stops at once. Either way the run can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class Interruptible:
    """While it is entered, the first SIGINT or SIGTERM sets `asked` and calls `say`; the second raises KeyboardInterrupt."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked, self._say = False, say
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("stopping after this step (Ctrl-C again: at once)")
