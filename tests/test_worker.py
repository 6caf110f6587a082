"""When a worker's report goes out: at once where more will not come soon, else with others."""

from __future__ import annotations

import threading
import time
from typing import Any

from rollout.engine import Feed, OnEnd
from rollout.types import Completion, Prompt
from rollout.worker import Worker, pack

LONG, PATIENT = 5.0, 0.3


class Hands:
    """An engine whose rollouts end when they are told to."""

    version = 0

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)

    def stream(self, more: Feed, ended: OnEnd, temperature: float) -> None:
        """One after another."""
        waiting: list[tuple[int, Prompt]] = []
        while (given := more(not waiting)) is not None or waiting:
            waiting += given or ()
            if waiting and self.go.acquire(timeout=0.01):
                ended(waiting.pop(0)[0], Completion((1,), (0.0,), "stop", (0,)))


def timed(worker: Worker, gather_s: float, enough: int) -> tuple[float, Any]:
    start = time.monotonic()
    report = worker.poll(LONG, gather_s, enough)
    return time.monotonic() - start, report


def test_reports_gather_while_more_is_under_way() -> None:
    worker, hands = Worker(), Hands()
    worker.engine = hands
    worker.put(1, "generate", pack([(i, Prompt((5,), 3, i)) for i in range(4)]), 1.0, False)
    hands.go.release()
    seconds, report = timed(worker, PATIENT, 50)
    assert [item for _, item, _ in report.ended] == [0] and PATIENT <= seconds < LONG
    hands.go.release(2)
    seconds, report = timed(worker, LONG, 2)  # as many as will do
    assert [item for _, item, _ in report.ended] == [1, 2] and seconds < LONG
    hands.go.release()
    seconds, report = timed(worker, LONG, 50)  # nothing more is under way
    assert [item for _, item, _ in report.ended] == [3] and seconds < LONG
    worker.feed(1, pack([(4, Prompt((5,), 3, 4))]), True)
    hands.go.release()
    seconds, report = timed(worker, LONG, 50)
    assert [item for _, item, _ in report.ended] == [4] and seconds < LONG
    while not report.results:  # the last rollout may have been told before it
        report = worker.poll(LONG, LONG, 50)
    assert [(r.number, r.error) for r in report.results] == [(1, "")]
