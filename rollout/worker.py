"""What runs in a rollout worker's process: an engine in a thread of its own, and a mailbox that never blocks on it.

The driver puts commands (`put`), one at a time, and reads reports (`poll`): rollouts as they end, results of commands, and how
far the engine's thread has got. A process that answers while its engine's thread stands still is therefore seen to be stuck.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from rewards.errors import TautError
from rollout.actor import Actor
from rollout.choose import make_engine
from rollout.engine import EngineConfig
from rollout.types import Completion, Prompt
from rollout.weights import Arrays, to_tensors

log = logging.getLogger("taut.rollout")

IDLE_S = 0.02  # longest wait for more prompts where the engine has nothing to do: there may be new weights
Ended = tuple[int, int, Completion]  # the command's number, the prompt's position, what came of it
Fed = tuple[int, Prompt]


def pack(prompts: Sequence[Fed]) -> bytes:
    """Prompts as a worker takes them; Ray would look into each."""
    return pickle.dumps(list(prompts), pickle.HIGHEST_PROTOCOL)


@dataclass(frozen=True)
class Result:
    """How a command ended: its number and value; or its error in words, and whether that is the user's (`refused`)."""

    number: int
    value: Any = None
    error: str = ""
    refused: bool = False


@dataclass
class Report:
    """What happened since the last report. progress: grows with every step of the engine and every command."""

    progress: int = 0
    ended: list[Ended] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


class Worker(Actor):
    """A Ray actor with several threads: the engine's own, and Ray's for `put`, `feed` and `poll`."""

    def __init__(self) -> None:
        super().__init__()
        self.engine: Any = None
        self._commands: SimpleQueue[tuple[int, str, tuple[Any, ...]]] = SimpleQueue()
        self._fed: dict[int, list[Fed]] = {}  # by the command they are for, as is the next
        self._closed: set[int] = set()
        self._number = self._dropped = self._left = 0  # left: rollouts under way
        self._newer: tuple[Arrays, int] | None = None
        self._report, self._changed = Report(), threading.Condition()
        self._enough = 1  # rollouts that are worth waking for
        threading.Thread(target=self._serve, name="engine", daemon=True).start()

    def put(self, number: int, method: str, *args: Any) -> None:
        """Have the engine's thread do `start`, `generate`, `load_weights` or `score`; its result comes with a report."""
        self._commands.put((number, method, args))

    def feed(self, number: int, packed: bytes, last: bool) -> None:
        """More prompts for the `generate` of this number, which may be still on its way; last: no more will come."""
        prompts: list[Fed] = pickle.loads(packed)
        with self._changed:
            self._fed.setdefault(number, []).extend(prompts)
            if last:
                self._closed.add(number)
            self._changed.notify_all()

    def swap(self, arrays: Arrays, version: int) -> None:
        """Weights for the engine to take up between two tokens, or before its next command."""
        self._newer = arrays, version

    def drop(self, number: int) -> None:
        """Give up the `generate` of this number, which ends with an error at the engine's next step."""
        self._dropped = number

    def poll(self, wait_s: float, gather_s: float, enough: int) -> Report:
        """What happened since the last report; waits up to `wait_s` for something, then, while rollouts are under way, `gather_s`
        for `enough` of them."""
        with self._changed:
            self._changed.wait_for(lambda: self._report.ended or self._report.results, wait_s)
            if self._report.ended and not self._report.results:
                told, self._enough = self._report, enough
                self._changed.wait_for(lambda: told.results or len(told.ended) >= enough or not self._left, gather_s)
                self._enough = 1
            report, self._report = self._report, Report(self._report.progress)
        return report

    def _serve(self) -> None:
        while True:
            number, method, args = self._commands.get()
            self._number = number
            try:
                if method not in ("start", "load_weights"):
                    self._take_newer()
                result = Result(number, getattr(self, "_" + method)(*args))
            except TautError as error:
                result = Result(number, error=str(error), refused=True)
            except BaseException as error:
                result = Result(number, error=f"{type(error).__name__}: {error}")
            with self._changed:
                self._report.progress += 1
                self._report.results.append(result)
                self._changed.notify_all()

    def _start(self, config: EngineConfig, model_path: str, stop_ids: Sequence[int], index: int) -> dict[str, Any]:
        """Make the engine, on the index-th of the cores this process may use, or the index-th few; facts about it."""
        cores, each = sorted(os.sched_getaffinity(0)), config.tensor_parallel
        own = [cores[(index * each + k) % len(cores)] for k in range(each)]
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, own))
        core = own[0] if each == 1 else None
        self.engine = make_engine(config.model_copy(update={"workers": 0, "core": core}), model_path, stop_ids)
        self.engine.borrows = True  # what lies in the object store never changes
        gc.collect()
        gc.freeze()  # what is there by now stays; to look through it again would hold the engine up
        facts = ("name", "canary_tolerance", "max_model_len", "vocab_size")
        return {"cores": own} | {name: getattr(self.engine, name) for name in facts}

    def _generate(self, packed: bytes, temperature: float, whole: bool) -> None:
        """Complete these prompts and, unless they are the whole, those that are fed until the last."""
        first: list[Fed] = pickle.loads(packed)
        number, self._left = self._number, 0

        def more(idle: bool) -> list[Fed] | None:
            nonlocal first
            if self._dropped == number:
                raise InterruptedError("dropped")
            self._take_newer()
            with self._changed:
                self._report.progress += 1
                if idle and not first and not whole:
                    self._changed.wait_for(lambda: number in self._fed or number in self._closed, IDLE_S)
                given, first = first, []
                given += self._fed.pop(number, [])
                closed = whole or number in self._closed
                self._left += len(given)
            return given if given or not closed else None

        def ended(item: int, completion: Completion) -> None:
            with self._changed:
                self._left -= 1
                self._report.ended.append((number, item, completion))
                if len(self._report.ended) >= self._enough or not self._left:
                    self._changed.notify_all()

        self.engine.stream(more, ended, temperature)

    def _take_newer(self) -> None:
        newer, self._newer = self._newer, None
        if newer is not None and newer[1] > self.engine.version:
            self._load_weights(*newer)

    def _load_weights(self, arrays: Arrays, version: int) -> None:
        self.engine.load_weights(to_tensors(arrays), version)

    def _join(self, meeting: dict[str, Any]) -> bool:
        """Whether the engine is in the trainer's group now; see `rollout.transfer`."""
        try:
            self.engine.join(meeting)
        except Exception as error:  # one of the others has died, or is not to be reached
            log.warning("no group for a broadcast: %s: %s", type(error).__name__, error)
            return False
        return True

    def _receive(self, coming: dict[str, Any], version: int) -> bool:
        """Whether the weights came by the group."""
        return self.engine.receive(coming, version)

    def _rest(self) -> None:
        self.engine.rest()

    def _score(self, ids: Sequence[int]) -> list[float]:
        return self.engine.score(ids)
