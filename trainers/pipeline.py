"""Rollouts ahead of training: how sampling and training share the time. One loop serves the three modes.

Training step t turns policy version t into version t + 1. Its rollouts are asked for as soon as version t - K is there:

    sync     K = 0: in turn, in the trainer's thread; step t is sampled by version t.
    overlap  K = 1: step t is sampled, by version t - 1, while step t - 1 trains. Nothing depends on the clock: a run that
             was killed resumes to the same bits.
    async    K = max_staleness: each part of a step is sampled by the newest version there is when the part begins, so no token
             is more than K versions old when it is trained on; which version it is depends on the clock (not for K = 0).

In overlap and async the engine lives in a thread of its own, which alone touches it: it gets new weights between two parts
of the work, and held-out tests and monitoring go ahead of what waits. The Ray workers or the GPU do the sampling; an engine in
the trainer's own process shares its cores with it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rewards.errors import TautError
from rewards.verifier import Counts
from rollout.choose import choose_engine
from rollout.paths import locate
from rollout.sampler import Sampler
from rollout.sync import Canary, confirm, sync
from rollout.types import Request, Rollout
from rollout.weights import Stored
from trainers.config import TrainConfig
from trainers.learner import Learner


@dataclass(frozen=True)
class Snapshot:
    """The weights of a policy version, and the log-probs of the canary that they must give."""

    version: int
    weights: Mapping[str, Tensor]
    scores: list[float]


@dataclass(frozen=True)
class Sampled:
    """The judged rollouts of a step, in the order asked. counts: of the verifier, for these alone. gap: nats between trainer and
    engine on the canary after the last sync before them. seconds, verify_seconds: of the engine, and of judging after it. loaded:
    seconds and copied bytes of that sync. given_up: problems whose groups were not waited for."""

    rollouts: list[Rollout]
    counts: Counts
    gap: float
    seconds: float
    verify_seconds: float
    loaded: tuple[float, int] = (0.0, 0)
    given_up: Sequence[str] = ()


@dataclass
class _Task:
    """Something for the engine's thread. pinned: the weights it needs; None: the newest when it begins. wanted: see submit."""

    requests: Sequence[Request]
    pinned: Snapshot | None
    wanted: int | None = None
    done: Future[Sampled] = field(default_factory=Future)


class Pipeline:
    """A sampler whose work is asked for up to `ahead` steps before it is taken.

    threaded: sample in a thread of its own; without it `take` samples there and then. pinned: a step is sampled by the newest
    version that there was when it was asked for, not when it begins. parts: pieces of a step between which new weights are
    loaded, whole groups each. in_flight: new weights also reach the rollouts of a step that are under way, between two tokens.
    """

    def __init__(
        self,
        sampler: Sampler,
        canary: Canary,
        temperature: float,
        *,
        threaded: bool,
        pinned: bool,
        parts: int = 1,
        in_flight: bool = False,
    ) -> None:
        self.sampler, self.canary, self.temperature = sampler, canary, temperature
        self.threaded, self.pinned, self.parts, self.in_flight = threaded, pinned, parts, in_flight
        sampler.engine.borrows = not threaded  # in turn: what samples may use the trainer's own weights
        self.gap, self.loaded = 0.0, (0.0, 0)
        self._newest: Snapshot | None = None
        self._loaded: int | None = None  # version that the engine has from here
        self._steps: dict[int, _Task] = {}  # asked for and not yet taken
        self._queue: deque[_Task] = deque()
        self._wake, self._closed = threading.Condition(), False
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(
                target=self._serve, args=(torch.get_num_threads(),), name="sampling", daemon=True
            )
            self._thread.start()

    def publish(self, learner: Learner, version: int) -> None:
        """New weights: what begins from now on is sampled by them, unless it is pinned to older ones."""
        weights = learner.weights()
        if self.threaded and not isinstance(
            weights, Stored
        ):  # the optimiser goes on while the engine may still be reading
            weights = {name: tensor.clone() for name, tensor in weights.items()}
        self._newest = Snapshot(version, weights, learner.score(self.canary.ids, self.temperature))
        if not self.threaded:
            self._load(self._newest)

    def submit(self, step: int, requests: Sequence[Request], wanted: int | None = None) -> None:
        """Ask for the rollouts of a step. wanted: groups that will do, the first that are whole; None: all."""
        self._steps[step] = self._task(requests, self._newest if self.pinned else None, wanted)

    def take(self, step: int) -> Sampled:
        """The rollouts of a step that was submitted, given out once; raises what sampling them raised."""
        return self._wait(self._steps.pop(step))

    def rest(self) -> None:
        """Training begins: an engine that would only wait for it may give its memory up."""
        if not self.threaded:
            self.sampler.engine.rest()

    def run(self, requests: Sequence[Request]) -> list[Rollout]:
        """Rollouts of the newest weights, judged, ahead of all that waits."""
        return self._wait(self._task(requests, self._newest, first=True)).rollouts

    def asked(self) -> set[int]:
        """Steps asked for and not yet taken."""
        return set(self._steps)

    def pending(self) -> list[tuple[int, Sequence[Request], list[Rollout] | None, float]]:
        """(step, requests, rollouts or None while they are not whole, gap) of each step in `asked`, in order.

        The first is waited for where steps are pinned: the next step needs it anyway, and it could not be sampled again by the
        weights that it was pinned to.
        """
        out = []
        for step, task in sorted(self._steps.items()):
            if self.pinned and self._newest and task.pinned and task.pinned.version < self._newest.version:
                self._wait(task)
            whole = task.done.result() if task.done.done() and not task.done.exception() else None
            requests = [r.request for r in whole.rollouts] if whole else task.requests
            out.append((step, requests, whole.rollouts if whole else None, whole.gap if whole else 0.0))
        return out

    def restore(
        self,
        step: int,
        requests: Sequence[Request],
        rollouts: list[Rollout] | None,
        gap: float,
        wanted: int | None = None,
    ) -> None:
        """Take back a row of `pending`: what is not whole is sampled anew, by the newest weights."""
        if rollouts is None:
            self.submit(step, requests, wanted)
            return
        self._steps[step] = task = _Task(requests, None)
        task.done.set_result(Sampled(rollouts, Counts(), gap, 0.0, 0.0))

    def close(self, seconds: float = 20.0) -> None:
        """Forget what waits; wait for what is under way, no longer than `seconds`."""
        with self._wake:
            self._closed = True
            self._queue.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _task(
        self, requests: Sequence[Request], pinned: Snapshot | None, wanted: int | None = None, first: bool = False
    ) -> _Task:
        task = _Task(requests, pinned, wanted)
        if self.threaded:
            with self._wake:
                self._queue.appendleft(task) if first else self._queue.append(task)
                self._wake.notify()
        return task

    def _wait(self, task: _Task) -> Sampled:
        if not self.threaded and not task.done.done():
            self._do(task)
        return task.done.result()

    def _serve(self, threads: int) -> None:
        torch.set_num_threads(threads)  # a new thread would take all cores
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                task = self._queue.popleft()
            self._do(task)

    def _do(self, task: _Task) -> None:
        try:
            task.done.set_result(self._sample(task))
        except BaseException as error:  # to whoever waits for it
            task.done.set_exception(error)
            if not self.threaded:
                raise

    def _sample(self, task: _Task) -> Sampled:
        sampler, rollouts = self.sampler, list[Rollout]()
        seconds = verify_seconds = 0.0
        sampler.verifier.take_counts()  # those of what came before
        for part in _parts(task.requests, self.parts):
            wanted = task.pinned or self._newest
            assert wanted is not None, "published before anything is asked for"
            self._load(wanted)
            start = time.perf_counter()
            sample = self._in_flight if self.in_flight and task.pinned is None else sampler.sample
            some = sample(part, wanted=task.wanted)
            middle = time.perf_counter()
            sampler.judge(some)  # what is left of it: each rollout is judged from its end on
            seconds, verify_seconds = seconds + middle - start, verify_seconds + time.perf_counter() - middle
            rollouts += some
        kept = {r.request.group for r in rollouts}
        given_up = sorted({r.problem.id for r in task.requests if r.group not in kept})
        counts = sampler.verifier.take_counts()
        return Sampled(rollouts, counts, self.gap, seconds, verify_seconds, self.loaded, given_up)

    def _in_flight(self, part: Sequence[Request], wanted: int | None) -> list[Rollout]:
        """Sample a part, by newer weights as they come; the canary must agree with the last of them."""
        taken: list[Snapshot] = []
        before = self._loaded

        def newer() -> tuple[Mapping[str, Tensor], int] | None:
            newest = self._newest
            assert newest is not None
            if newest.version == (taken[-1].version if taken else before):
                return None
            self._loaded = None  # until the canary agrees
            taken.append(newest)
            return newest.weights, newest.version

        self.sampler.engine.refresh = newer
        try:
            rollouts = self.sampler.sample(part, wanted=wanted)
        finally:
            self.sampler.engine.refresh = None
        if taken:
            last = taken[-1]
            self.gap = confirm(self.sampler.engine, last.version, self.canary, last.scores)
            self._loaded = last.version
        return rollouts

    def _load(self, wanted: Snapshot) -> None:
        if wanted.version != self._loaded:
            self._loaded, start = None, time.perf_counter()  # until the canary agrees
            self.gap = sync(
                self.sampler.engine, wanted.weights, wanted.version, self.canary, lambda ids: list(wanted.scores)
            )
            borrowed = self.sampler.engine.borrows and self.sampler.engine.name == "transformers"
            size = 0 if borrowed else sum(tensor.nbytes for tensor in wanted.weights.values())
            self._loaded, self.loaded = wanted.version, (time.perf_counter() - start, size)


def _parts(requests: Sequence[Request], parts: int) -> list[Sequence[Request]]:
    """The requests in `parts` pieces of about equal size, cut between groups."""
    starts = [i for i, r in enumerate(requests) if i == 0 or r.group != requests[i - 1].group]
    if not starts:
        return []
    cuts = sorted({starts[len(starts) * k // parts] for k in range(parts)})
    return [requests[a:b] for a, b in zip(cuts, [*cuts[1:], len(requests)], strict=True)]


def refuse_shared_vllm(config: TrainConfig) -> None:
    """Raises TautError for vLLM in the trainer's process while that trains: compiling its kernels, vLLM switches torch's global
    state, and the trainer's numbers change in their last bits (seen in resumed runs, whose first steps are at hand)."""
    if config.mode != "sync" and not config.rollout.workers:
        if choose_engine(config.rollout, str(locate(config.model)))[0] == "vllm":
            raise TautError(
                f"mode={config.mode}: vLLM cannot sample in the process that trains; set rollout.workers=1 (a Ray actor), or "
                "rollout.engine=transformers"
            )


def staleness(rollouts: Sequence[Rollout], step: int) -> dict[str, Any]:
    """How many versions behind training step `step` the tokens were sampled: mean over tokens, and the most; and the share of
    rollouts whose tokens are of several versions."""
    ages = [step - version for r in rollouts for version in r.versions]
    mixed = sum(len(set(r.versions)) > 1 for r in rollouts) / max(len(rollouts), 1)
    return {"staleness": sum(ages) / max(len(ages), 1), "staleness_max": max(ages, default=0), "mixed_versions": mixed}
