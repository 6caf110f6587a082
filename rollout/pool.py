"""An engine made of N Ray actors: each wraps one engine on its own core or GPU. Workers may die; their work is redone.

`rollout.schedule` decides who does what, `rollout.worker` is the other side, and this pumps between them. Rollouts arrive one
by one as they end. With `feed=fixed` what is sampled does not depend on the speed of a worker or on its death; with `feed=free`
its last bits may. Nothing is waited for without a deadline: a worker without progress is asked for its stacks and replaced.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.errors import TautError
from rollout import cluster
from rollout.engine import EngineConfig, Enough, OnDone, Refresh, check_request
from rollout.schedule import Schedule, Watch
from rollout.transfer import Broadcast
from rollout.types import Completion, Prompt
from rollout.weights import stored
from rollout.worker import Report, Worker

if TYPE_CHECKING:
    import torch

    from rollout.cluster import ClusterConfig

log = logging.getLogger("taut.rollout")

START_DEADLINE_S = 900.0  # an engine's first start on a busy machine: imports, kernels compiled, weights read
GC_EVERY = 20_000  # new objects; rollouts are many small ones, and by Python's 700 a tenth of the driver's time is spent on them
MAX_RESTARTS = 3  # of one worker within one call
POLL_S = 1.0  # longest silence of a worker that has nothing to say
GATHER_S, GATHER_EACH_S = (
    0.01,
    0.0002,
)  # a report waits so long for more rollouts to end; for each worker of the pool so much more


@dataclass(frozen=True)
class _Command:
    """A call of `method` on a worker. told: who takes its result."""

    method: str
    args: tuple[Any, ...] = ()
    told: Callable[[Any], None] = lambda result: None
    setup: bool = False  # what every new worker must do before it is of use


@dataclass
class _Member:
    """A worker as the driver sees it: what it is doing, what it must do next, and the call whose answer is awaited."""

    actor: Any
    awaited: Any
    number: int = 0  # of the command under way
    command: _Command | None = None
    todo: deque[_Command] = field(default_factory=deque)
    here: bool = False  # its process has answered
    progress: int = -1
    down: tuple[float, str, str] | None = None  # since when it is being replaced, why, its stacks


class RayPool:
    """See `rollout.engine.Engine`. `facts`: what each worker said of itself when it started (pid, node, core, ...)."""

    def __init__(
        self, config: EngineConfig, model_path: str, stop_ids: Sequence[int], place: ClusterConfig | None = None
    ) -> None:
        self.config = config
        self.version = 0
        self.temperature = config.temperature
        self.on_done: OnDone | None = None
        self.refresh: Refresh | None = None
        self.borrows = False
        self.enough: Callable[[], bool] | None = None
        self.facts: list[dict[str, Any]] = [{} for _ in range(config.workers)]
        self._make = (config, model_path, tuple(stop_ids))
        self._members: list[_Member] = []
        self._watch = Watch(config.workers)
        self._failures = [0] * config.workers
        self._events: list[dict[str, Any]] = []
        self._latest: Mapping[str, torch.Tensor] | None = None  # the latest weights
        self._weights: Any = None  # they, in Ray's object store, once they were asked for there
        self._broadcast: Broadcast | None = None
        self._canary: tuple[Sequence[int], list[float]] | None = None  # what a healthy worker scored since then
        self._schedule: Schedule | None = None
        self._take: Callable[[int, Completion], None] = lambda item, completion: None
        self._group: Any = None  # the workers' places
        self._thresholds: tuple[int, ...] = ()  # of Python's garbage collection, from before us
        self._owns_ray = cluster.connect(config.workers * config.tensor_parallel, place)
        try:
            self._gpus = cluster.gpus_each(config.workers, config.tensor_parallel)
            self._cores = 1 if self._gpus else config.tensor_parallel
            self._group = cluster.reserve(config.workers, self._gpus, self._cores)
            for worker in range(config.workers):
                self._members.append(self._spawn(worker))
            self._pump(self._busy)
        except BaseException:
            self.close()
            raise
        if config.weights == "broadcast":
            self._broadcast = self._open_broadcast()
        gc.freeze()  # what is there by now stays; a full collection over it would hold up reports for a third of a second
        self._thresholds = gc.get_threshold()
        gc.set_threshold(GC_EVERY, *self._thresholds[1:])
        first = self.facts[0]
        self.name = f"{first['name']} x {config.workers}"
        self.canary_tolerance: float = first["canary_tolerance"]
        self.max_model_len: int = first["max_model_len"]
        self.vocab_size: int = first["vocab_size"]
        self._room = config.batch_size if first["name"] == "transformers" else config.max_num_seqs

    def generate(self, prompts: Sequence[Prompt], temperature: float | None = None) -> list[Completion]:
        """One completion a prompt, in the order asked; prompts go to whichever worker has room."""
        temperature = self.temperature if temperature is None else temperature
        check_request(prompts, temperature, self.max_model_len, self.vocab_size)
        fixed = self.config.feed == "fixed"
        size = self._room * (4 if fixed and not self.facts[0]["name"].startswith("transformers") else 1)
        schedule = Schedule(self.config.workers, len(prompts), self.config.feed, size)
        completions: list[Completion | None] = [None] * len(prompts)

        def take(item: int, completion: Completion) -> None:
            completions[item] = completion
            if self.on_done is not None:
                self.on_done(item, completion)

        def give() -> None:
            if self.enough is not None and self.enough():
                raise Enough
            if self.refresh is not None and (newer := self.refresh()) is not None:
                self._swap(*newer)
            for worker, items in schedule.assign():
                member, work = self._members[worker], [(i, prompts[i]) for i in items]
                if member.command is None:
                    self._send(worker, _Command("generate", (work, temperature, fixed)))
                else:
                    member.actor.feed.remote(member.number, work, False)

        self._schedule, self._take = schedule, take
        for worker, member in enumerate(self._members):
            if member.here and member.command is None and not member.todo:
                schedule.ready(worker)
        try:
            self._pump(lambda: not schedule.done, give)
            if not fixed:
                self._each(lambda member: member.actor.feed.remote(member.number, [], True))
            self._schedule = None
            self._pump(self._busy)
        finally:
            self._schedule = None
        return [c for c in completions if c is not None]

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Broadcast the weights, or put them into the object store once, from where every worker loads them."""
        self._take_up(weights, version)
        if self._broadcast is not None:
            self._pump(self._busy)  # a worker that is being restarted is waited for, and nobody waits for it in a group
            if self._broadcast.send(weights, version, self._ask):
                return
        self._all(_Command("load_weights", (self._in_store(), version)))

    def _swap(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Have every worker take up new weights between two tokens; nothing is waited for."""
        self._take_up(weights, version)
        reference = self._in_store()
        self._each(lambda member: member.actor.swap.remote(reference, version))

    def _take_up(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        self._latest, self._weights, self.version, self._canary = weights, None, version, None

    def _in_store(self) -> Any:
        """Where Ray's object store has the latest weights; put there when first asked for."""
        if self._weights is None and self._latest is not None:
            self._weights = stored(self._latest)
        return self._weights

    def _open_broadcast(self) -> Broadcast:
        if any(facts["name"] != "vllm" for facts in self.facts):
            self.close()
            raise TautError(
                f"rollout.weights=broadcast: only vLLM's engines can receive one, and these are {self.facts[0]['name']}; set "
                "rollout.engine=vllm, or rollout.weights=store"
            )
        return Broadcast(self.config.workers, self.config.tensor_parallel, self._gpus > 0)

    def score(self, ids: Sequence[int]) -> list[float]:
        return self._all(_Command("score", (list(ids),)), [0])[0]

    def score_all(self, ids: Sequence[int]) -> list[list[float]]:
        """The scores of each worker; a worker restarted later must agree with the first of them."""
        scores = self._all(_Command("score", (list(ids),)))
        self._canary = (list(ids), scores[0])
        return scores

    def take_events(self) -> list[dict]:
        """Restarts since the last call: {"kind": "worker_restarted", "worker", "seconds", "reason", "stack"}."""
        events, self._events = self._events, []
        return events

    def rest(self) -> None:
        if self.config.sleep:
            self._all(_Command("rest"))

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            self._each(lambda member: ray.kill(member.actor))
            if self._group is not None:
                cluster.release(self._group)
            self._latest = self._weights = self._group = None
            if self._owns_ray:
                ray.shutdown()
        if self._thresholds:
            gc.set_threshold(*self._thresholds)
        self._members, self._owns_ray, self._thresholds = [], False, ()

    def _all(self, command: _Command, workers: Sequence[int] | None = None) -> list[Any]:
        """The result of a command on each worker."""
        chosen = range(self.config.workers) if workers is None else workers
        return self._ask(command.method, [command.args] * len(chosen), chosen)

    def _ask(self, method: str, args: Sequence[tuple[Any, ...]], workers: Sequence[int] | None = None) -> list[Any]:
        """The result of a method on each worker, of arguments of its own."""
        chosen = range(self.config.workers) if workers is None else workers
        results: dict[int, Any] = {}
        for worker, own in zip(chosen, args, strict=True):
            told = lambda result, worker=worker: results.__setitem__(worker, result)  # noqa: E731
            self._members[worker].todo.append(_Command(method, own, told))
        self._pump(lambda: len(results) < len(chosen))
        return [results[worker] for worker in chosen]

    def _each(self, do: Callable[[_Member], Any]) -> None:
        for member in self._members:
            do(member)

    def _busy(self) -> bool:
        return any(m.command is not None or m.todo or not m.here for m in self._members)

    def _pump(self, going: Callable[[], bool], give: Callable[[], None] | None = None) -> None:
        """Hand out work, hear reports and replace who is too quiet, while `going`."""
        import ray

        self._failures = [0] * len(self._members)
        try:
            while going():
                for worker, member in enumerate(self._members):
                    if member.here and member.command is None and member.todo:
                        self._send(worker, member.todo.popleft())
                if give is not None:
                    give()
                awaited = {m.awaited: w for w, m in enumerate(self._members) if m.command is not None or not m.here}
                patience = self._watch.patience(time.monotonic())
                ready, _ = ray.wait(list(awaited), timeout=None if math.isinf(patience) else patience)
                if ready and len(awaited) > 1:
                    ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
                for call in ready:
                    self._hear(awaited[call], call)
                for worker in self._watch.overdue(time.monotonic()):
                    self._overdue(worker)
        except BaseException:
            for member in self._members:  # what is left of this call must not come into the next
                member.todo = deque(c for c in member.todo if c.setup)
                if member.here and member.command is not None and member.command.method == "generate":
                    member.actor.drop.remote(member.number)
            raise

    def _send(self, worker: int, command: _Command) -> None:
        member = self._members[worker]
        member.number, member.command = member.number + 1, command
        limit = START_DEADLINE_S if command.method == "start" else self.config.deadline_s
        self._watch.expect(worker, limit, time.monotonic())
        member.actor.put.remote(member.number, command.method, *command.args)

    def _hear(self, worker: int, call: Any) -> None:
        """Take a worker's answer, or its death; then listen on."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        member = self._members[worker]
        try:
            answer: Any = ray.get(call)
        except RayTaskError as error:
            return self._replace(worker, f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:  # died, unreachable, out of memory
            return self._replace(worker, cluster.of_death(error))
        member.awaited = member.actor.poll.remote(POLL_S, GATHER_S + GATHER_EACH_S * len(self._members))
        if not isinstance(answer, Report):  # `hello`
            cluster.check_versions(answer["host"], answer.pop("versions", {}))
            self.facts[worker] |= answer
            member.here = True
            self._watch.rest(worker)
            return None
        if answer.progress != member.progress:
            member.progress = answer.progress
            self._watch.seen(worker, time.monotonic())
        for number, item, completion in answer.ended:
            if number == member.number and self._schedule is not None and self._schedule.ended(worker, item):
                self._take(item, completion)
        for result in answer.results:
            command, member.command = member.command, None
            assert command is not None and result.number == member.number, "one command at a time"
            self._watch.rest(worker)
            if result.error and result.error != "InterruptedError: dropped":
                if result.refused:
                    raise TautError(result.error)
                member.todo.appendleft(command)  # to be done again
                return self._replace(worker, result.error)
            if not result.error:
                command.told(result.value)
        if member is self._members[worker] and member.command is None and not member.todo:
            self._is_ready(worker)
        return None

    def _is_ready(self, worker: int) -> None:
        """It has done all that it had to; it may take prompts."""
        down, self._members[worker].down = self._members[worker].down, None
        if down is not None:
            since, reason, stack = down
            seconds = round(time.monotonic() - since, 3)
            event = {"kind": "worker_restarted", "worker": worker, "seconds": seconds, "reason": reason}
            self._events.append(event | ({"stack": stack} if stack else {}))
        if self._schedule is not None:
            self._schedule.ready(worker)

    def _overdue(self, worker: int) -> None:
        member = self._members[worker]
        if not member.here:
            if lacking := cluster.no_room(self._group, self.config.workers, self._gpus):
                raise TautError(lacking)
            if self._watch.limit(worker) < START_DEADLINE_S:  # there is room: the machine is only slow
                self._watch.expect(worker, START_DEADLINE_S, time.monotonic())
                return
        what = member.command.method if member.command else "start"
        facts = self.facts[worker]
        stack = cluster.stack_of(facts["node"], facts["pid"], facts["stack"]) if member.here else ""
        self._replace(worker, f"no progress of {what} in {self._watch.limit(worker):g} s", stack)

    def _replace(self, worker: int, reason: str, stack: str = "") -> None:
        """A new actor, which will get the latest weights and must agree with the others on the canary."""
        import ray

        self._failures[worker] += 1
        if self._failures[worker] > MAX_RESTARTS:
            raise TautError(
                f"rollout worker {worker} (of {self.config.workers}) failed {self._failures[worker]} times in one call; the last "
                f"time: {reason}. Is there memory enough for rollout.workers={self.config.workers}? Try fewer, or a longer "
                "rollout.deadline_s"
            )
        log.warning("rollout worker %d: %s; restarting it%s", worker, reason, f"\n{stack}" if stack else "")
        old = self._members[worker]
        ray.kill(old.actor)
        if self._broadcast is not None:
            self._broadcast.leave()
        if self._schedule is not None:
            self._schedule.lost(worker)
        new = self._members[worker] = self._spawn(worker)
        new.down = old.down or (time.monotonic(), reason, stack)
        asked = [c for c in (old.command, *old.todo) if c and not c.setup and c.method != "generate"]
        if self._latest is not None and not any(c.method == "load_weights" for c in asked):
            new.todo.append(_Command("load_weights", (self._in_store(), self.version), setup=True))
        if self._canary is not None:
            new.todo.append(_Command("score", (self._canary[0],), lambda scores: self._agrees(worker, scores), True))
        new.todo.extend(asked)

    def _agrees(self, worker: int, scores: Sequence[float]) -> None:
        if self._canary is None:  # there have been newer weights since it was asked
            return
        gap = float(np.max(np.abs(np.subtract(scores, self._canary[1])), initial=0.0))
        if not gap <= self.canary_tolerance:
            self._replace(worker, f"its canary is {gap:.3g} nats from the others' after the restart")

    def _spawn(self, worker: int) -> _Member:
        actor = cluster.spawn(Worker, self._group, worker, self._gpus, self._cores)
        member = _Member(actor, actor.hello.remote())
        member.todo.append(
            _Command("start", (*self._make, worker), lambda facts: self.facts[worker].update(facts), True)
        )
        self._watch.expect(worker, cluster.PLACE_S, time.monotonic())
        return member
