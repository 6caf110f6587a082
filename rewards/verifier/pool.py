"""Questions in, futures out: a few worker processes, each with a thread that waits for it."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

from rewards.verifier.process import Closed, Limits, Reply, Server, Worker

Question = tuple[dict[str, Any], "Future[Reply]"]


class Pool:
    """Up to `workers` processes that answer questions; each starts when there is work for it.

    Its threads only wait, set no signal, and are daemons: they keep nobody from exiting. A question is sent alone, so a
    process that is killed takes no other question with it.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self.size = workers
        self.server = Server(limits)
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0  # questions asked and not answered
        self._failure: BaseException | None = None
        self._lock = threading.RLock()  # the collector may call `close` from anywhere

    def submit(self, request: dict[str, Any]) -> Future[Reply]:
        """The future reply. Its error is a TautError: no process starts, or the pool is closed."""
        future: Future[Reply] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self.server.closed:
                future.set_exception(Closed("verifier: it is closed"))
                return future
            self._questions.put((request, future))
            self._open += 1
            if len(self._threads) < min(self.size, self._open):
                thread = threading.Thread(target=self._serve, name="taut-verifier", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self) -> None:
        """End all processes and threads; questions still waiting end with an error."""
        with self._lock:
            self.server.closed = True
            threads = [t for t in self._threads if t is not threading.current_thread()]
        while not self._questions.empty():
            try:
                question = self._questions.get_nowait()
            except queue.Empty:
                break
            if question:
                question[1].set_exception(Closed("verifier: it was closed while this verdict was waiting"))
        for _ in threads:
            self._questions.put(None)
        self.server.close()
        for thread in threads:
            thread.join(5.0)

    def _serve(self) -> None:
        worker = Worker(self.server)
        while (question := self._questions.get()) is not None:
            self._answer(worker, *question)
            del question  # what waits for it must not be kept from being collected
        worker.stop()

    def _answer(self, worker: Worker, request: dict[str, Any], future: Future[Reply]) -> None:
        outcome: Reply | BaseException
        try:
            if self._failure:  # what cannot start once is not tried for every question
                raise self._failure
            outcome = worker.ask(request)
        except BaseException as error:
            self._failure = outcome = error
        with self._lock:
            self._open -= 1
        if isinstance(outcome, Reply):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
