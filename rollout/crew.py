"""The Ray actors of a pool: each does one command at a time, reports, and may die; then another takes its place.

`rollout.worker` is the other side. Nothing is waited for without a deadline: a worker without progress is asked for its stacks
and replaced.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rewards.errors import TautError
from rollout import cluster
from rollout.engine import Done, EngineConfig
from rollout.schedule import Watch
from rollout.worker import Report, Worker

if TYPE_CHECKING:
    from rollout.cluster import ClusterConfig

log = logging.getLogger("taut.rollout")

START_DEADLINE_S = 900.0  # an engine's first start on a busy machine: imports, kernels compiled, weights read
# Python's garbage collection while there is a pool: how many new objects make a young one, young ones an older one, older ones a
# full one. By Python's (700, 10, 10) a tenth of the driver's time goes into older ones, for rollouts are many objects that live a
# step; a young one of 20,000 objects would hold up reports for 40 ms
COLLECT = (2_000, 20, 100)
MAX_RESTARTS = 3  # of one worker within one call
POLL_S = 1.0  # longest silence of a worker that has nothing to say
# a report waits so long for so many rollouts to end; for each worker of the pool so much longer. One costs the engine's process
# about 2 ms, and this one as many
GATHER_S, GATHER_EACH_S, GATHER = 0.03, 0.0002, 50


@dataclass(frozen=True)
class Command:
    """A call of `method` on a worker. told: who takes its result. setup: what a new worker must do before it is of use."""

    method: str
    args: tuple[Any, ...] = ()
    told: Callable[[Any], None] = lambda result: None
    setup: bool = False


@dataclass
class Member:
    """A worker as the driver sees it: what it is doing, what it must do next, and the call whose answer is awaited."""

    actor: Any
    awaited: Any
    number: int = 0  # of the command under way
    command: Command | None = None
    todo: deque[Command] = field(default_factory=deque)
    given_up: bool = False  # nobody wants the rollouts of the command under way
    here: bool = False  # its process has answered
    progress: int = -1
    down: tuple[float, str, str] | None = None  # since when it is being replaced, why, its stacks

    @property
    def idle(self) -> bool:
        """It is there and has nothing to do."""
        return self.here and self.command is None and not self.todo


class Owner(Protocol):
    """Who hears of a crew."""

    def ended(self, worker: int, done: Done) -> None:
        """Rollouts of the `generate` under way."""
        ...

    def ready(self, worker: int) -> None:
        """It has done all that it had to."""
        ...

    def lost(self, worker: int) -> None:
        """What it was doing is lost."""
        ...

    def setup(self, worker: int, asked: Sequence[Command]) -> list[Command]:
        """What a new worker must do before what is still asked of it."""
        ...


class Crew:
    """config.workers actors, placed together. facts: what each said of itself when it started (pid, node, cores, ...)."""

    def __init__(
        self, owner: Owner, config: EngineConfig, model_path: str, stop_ids: Sequence[int], place: ClusterConfig | None
    ) -> None:
        self.config, self.owner = config, owner
        self.facts: list[dict[str, Any]] = [{} for _ in range(config.workers)]
        self.members: list[Member] = []
        self.events: list[dict[str, Any]] = []
        self._make = (config, model_path, tuple(stop_ids))
        self._watch = Watch(config.workers)
        self._failures = [0] * config.workers
        self._thresholds: tuple[int, ...] = ()  # of Python's garbage collection, from before us
        self._group: Any = None  # the workers' places
        self._owns_ray = cluster.connect(config.workers * config.tensor_parallel, place)
        try:
            self.gpus = cluster.gpus_each(config.workers, config.tensor_parallel)
            self._cores = 1 if self.gpus else config.tensor_parallel
            self._group = cluster.reserve(config.workers, self.gpus, self._cores)
            for worker in range(config.workers):
                self.members.append(self._spawn(worker))
            self.finish()
        except BaseException:
            self.close()
            raise
        gc.freeze()  # what is there by now stays; a full collection over it would hold up reports for a third of a second
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*COLLECT)

    def ask(self, method: str, args: Sequence[tuple[Any, ...]], workers: Sequence[int]) -> list[Any]:
        """The result of a method on each of `workers`, of arguments of its own; waits for all."""
        results: dict[int, Any] = {}
        for worker, own in zip(workers, args, strict=True):
            told = lambda result, worker=worker: results.__setitem__(worker, result)  # noqa: E731
            self.members[worker].todo.append(Command(method, own, told))
        self.pump(lambda: len(results) < len(workers))
        return [results[worker] for worker in workers]

    def each(self, do: Callable[[Member], Any]) -> None:
        """Do something with every member."""
        for member in self.members:
            do(member)

    def finish(self) -> None:
        """Wait until nobody has anything to do."""
        self.pump(lambda: not all(member.idle for member in self.members))

    def pump(self, going: Callable[[], bool], give: Callable[[], None] | None = None) -> None:
        """Hand out work, hear reports and replace who is too quiet, while `going`."""
        import ray

        self._failures = [0] * len(self.members)
        try:
            while going():
                for worker, member in enumerate(self.members):
                    if member.here and member.command is None and member.todo:
                        self.send(worker, member.todo.popleft())
                if give is not None:
                    give()
                awaited = {m.awaited: w for w, m in enumerate(self.members) if m.command is not None or not m.here}
                patience = self._watch.patience(time.monotonic())
                ready, _ = ray.wait(list(awaited), timeout=None if math.isinf(patience) else patience)
                if ready and len(awaited) > 1:
                    ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
                for call in ready:
                    self._hear(awaited[call], call)
                for worker in self._watch.overdue(time.monotonic()):
                    self._overdue(worker)
        except BaseException:
            for member in self.members:  # what is left of this call must not come into the next
                member.todo = deque(c for c in member.todo if c.setup)
                if member.here and member.command is not None and member.command.method == "generate":
                    member.given_up = True
                    member.actor.drop.remote(member.number)
            raise

    def send(self, worker: int, command: Command) -> None:
        """Have a worker that does nothing begin."""
        member = self.members[worker]
        member.number, member.command, member.given_up = member.number + 1, command, False
        limit = START_DEADLINE_S if command.method == "start" else self.config.deadline_s
        self._watch.expect(worker, limit, time.monotonic())
        member.actor.put.remote(member.number, command.method, *command.args)

    def replace(self, worker: int, reason: str, stack: str = "") -> None:
        """A new actor in a worker's place, which does first what its owner says."""
        import ray

        self._failures[worker] += 1
        if self._failures[worker] > MAX_RESTARTS:
            raise TautError(
                f"rollout worker {worker} (of {self.config.workers}) failed {self._failures[worker]} times in one call; the last "
                f"time: {reason}. Is there memory enough for rollout.workers={self.config.workers}? Try fewer, or a longer "
                "rollout.deadline_s"
            )
        log.warning("rollout worker %d: %s; restarting it%s", worker, reason, f"\n{stack}" if stack else "")
        old = self.members[worker]
        ray.kill(old.actor)
        self.owner.lost(worker)
        new = self.members[worker] = self._spawn(worker)
        new.down = old.down or (time.monotonic(), reason, stack)
        asked = [c for c in (old.command, *old.todo) if c and not c.setup and c.method != "generate"]
        new.todo.extend([*self.owner.setup(worker, asked), *asked])

    def close(self) -> None:
        """End all actors; and Ray, where it was started for them."""
        import ray

        if ray.is_initialized():
            self.each(lambda member: ray.kill(member.actor))
            if self._group is not None:
                cluster.release(self._group)
            self._group = None
            if self._owns_ray:
                ray.shutdown()
        if self._thresholds:
            gc.set_threshold(*self._thresholds)
        self.members, self._owns_ray, self._thresholds = [], False, ()

    def _hear(self, worker: int, call: Any) -> None:
        """Take a worker's answer, or its death; then listen on."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        member = self.members[worker]
        try:
            answer: Any = ray.get(call)
        except RayTaskError as error:
            return self.replace(worker, f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:  # died, unreachable, out of memory
            return self.replace(worker, cluster.of_death(error))
        member.awaited = member.actor.poll.remote(POLL_S, GATHER_S + GATHER_EACH_S * len(self.members), GATHER)
        if not isinstance(answer, Report):  # `hello`
            cluster.check_versions(answer["host"], answer.pop("versions", {}))
            self.facts[worker] |= answer
            member.here = True
            self._watch.rest(worker)
            return None
        if answer.progress != member.progress:
            member.progress = answer.progress
            self._watch.seen(worker, time.monotonic())
        done = [(item, completion) for number, item, completion in answer.ended if number == member.number]
        if done and not member.given_up:
            self.owner.ended(worker, done)
        for result in answer.results:
            command, member.command = member.command, None
            assert command is not None and result.number == member.number, "one command at a time"
            self._watch.rest(worker)
            if result.error and result.error != "InterruptedError: dropped":
                if result.refused:
                    raise TautError(result.error)
                member.todo.appendleft(command)  # to be done again
                return self.replace(worker, result.error)
            if not result.error:
                command.told(result.value)
        if member is self.members[worker] and member.idle:
            self._is_ready(worker)
        return None

    def _is_ready(self, worker: int) -> None:
        down, self.members[worker].down = self.members[worker].down, None
        if down is not None:
            since, reason, stack = down
            seconds = round(time.monotonic() - since, 3)
            event = {"kind": "worker_restarted", "worker": worker, "seconds": seconds, "reason": reason}
            self.events.append(event | ({"stack": stack} if stack else {}))
        self.owner.ready(worker)

    def _overdue(self, worker: int) -> None:
        member = self.members[worker]
        if not member.here:
            if lacking := cluster.no_room(self._group, self.config.workers, self.gpus):
                raise TautError(lacking)
            if self._watch.limit(worker) < START_DEADLINE_S:  # there is room: the machine is only slow
                self._watch.expect(worker, START_DEADLINE_S, time.monotonic())
                return
        what = member.command.method if member.command else "start"
        facts = self.facts[worker]
        stack = cluster.stack_of(facts["node"], facts["pid"], facts["stack"]) if member.here else ""
        self.replace(worker, f"no progress of {what} in {self._watch.limit(worker):g} s", stack)

    def _spawn(self, worker: int) -> Member:
        actor = cluster.spawn(Worker, self._group, worker, self.gpus, self._cores)
        member = Member(actor, actor.hello.remote())
        told = lambda facts: self.facts[worker].update(facts)  # noqa: E731
        member.todo.append(Command("start", (*self._make, worker), told, setup=True))
        self._watch.expect(worker, cluster.PLACE_S, time.monotonic())
        return member
