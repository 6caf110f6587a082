"""A pool of rollout workers on a simulated clock: the pool's own schedule over engines that are a few numbers each.

A decode step of an engine that holds b rollouts takes step_s + rollout_s x b seconds, a prompt that is taken up prompt_s for
each of its tokens. Between two rollouts that end nothing changes, so only ends are simulated: a million rollouts are a million
events.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rollout.schedule import Feed, Schedule


@dataclass(frozen=True)
class EngineCost:
    """Seconds: of a decode step, for each rollout in it, for each prompt token that is read, and of handing out a piece of work.

    slots: rollouts side by side. batches: what is taken up waits until the whole batch before it has ended (transformers);
    else it joins the next step (vLLM).
    """

    step_s: float
    rollout_s: float
    prompt_s: float = 0.0
    call_s: float = 0.0
    slots: int = 256
    batches: bool = False


@dataclass(frozen=True)
class Item:
    """A rollout: tokens that are sampled, and tokens of its prompt that have to be read for it (0: another one read them)."""

    tokens: int
    prompt: int = 0


@dataclass(frozen=True)
class Sampling:
    """What a call took: seconds until its last rollout, seconds of work of each worker, and when each rollout ended."""

    seconds: float
    busy: list[float]
    ends: list[float]


@dataclass
class _Engine:
    """A worker: `steps` decode steps done until `now`; `live`: (step at which it ends, item) of those in the batch."""

    cost: EngineCost
    items: Sequence[Item]
    now: float = 0.0
    steps: float = 0.0
    busy: float = 0.0
    live: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    version: int = 0  # grows when what was foreseen no longer holds

    def take(self, items: Sequence[int], now: float) -> None:
        """More work, from `now` on."""
        idle = not self.live and not self.waiting
        self._advance(max(now, self.now))
        self.waiting.extend(items)
        if idle:
            self._spend(self.cost.call_s)
        self._admit()

    def next_end(self) -> float:
        """When the next rollout ends, as things stand."""
        return self.now + (self.live[0][0] - self.steps) * self._step_s()

    def end(self) -> list[int]:
        """Go on until the next rollout ends; all that end with it."""
        self._advance(self.next_end())
        self.steps = self.live[0][0]  # no rounding error piles up
        ended = []
        while self.live and self.live[0][0] <= self.steps:
            ended.append(heapq.heappop(self.live)[1])
        self._admit()
        return ended

    def _step_s(self) -> float:
        return self.cost.step_s + self.cost.rollout_s * len(self.live)

    def _advance(self, now: float) -> None:
        if self.live:
            self.steps += (now - self.now) / self._step_s()
            self.busy += now - self.now
        self.now = max(now, self.now)

    def _spend(self, seconds: float) -> None:
        self.now, self.busy = self.now + seconds, self.busy + seconds

    def _admit(self) -> None:
        self.version += 1
        if self.cost.batches and self.live:
            return
        while self.waiting and len(self.live) < self.cost.slots:
            item = self.waiting.popleft()
            self._spend(self.cost.prompt_s * self.items[item].prompt)
            heapq.heappush(self.live, (self.steps + self.items[item].tokens, item))


def simulate(items: Sequence[Item], workers: int, feed: Feed, cost: EngineCost, start: float = 0.0) -> Sampling:
    """Sample `items`, in this order, on `workers` equal workers, from the moment `start`."""
    # as the pool does it: pieces of four batches for an engine that batches by itself
    size = cost.slots * (4 if feed == "fixed" and not cost.batches else 1)
    schedule = Schedule(workers, len(items), feed, size)
    engines = [_Engine(cost, items, now=start) for _ in range(workers)]
    ends = [start] * len(items)
    events: list[tuple[float, int, int]] = []
    for worker in range(workers):
        schedule.ready(worker)

    def give(now: float) -> None:
        for worker, given in schedule.assign():
            engines[worker].take(given, now)
            heapq.heappush(events, (engines[worker].next_end(), worker, engines[worker].version))

    give(start)
    while events:
        now, worker, version = heapq.heappop(events)
        engine = engines[worker]
        if version != engine.version:
            continue
        for item in engine.end():
            schedule.ended(worker, item)
            ends[item] = now
        if not schedule.owed(worker):
            schedule.ready(worker)
        give(now)
        if engine.live:
            heapq.heappush(events, (engine.next_end(), worker, engine.version))
    assert schedule.done, "the schedule left work undone"
    return Sampling(max(ends, default=start) - start, [engine.busy for engine in engines], ends)
