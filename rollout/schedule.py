"""Which worker of a pool does what, and which is too quiet. Pure: no Ray, no clock; whoever runs it says what time it is.

The pool runs it over Ray actors, `taut plan` over simulated workers. Items are the positions of a call's prompts. Two ways of
handing them out:

    fixed  In pieces of `size` cut by order alone, one piece at a time to a worker that is free. What a worker computes side by side
           never depends on the clock, so neither do the bits of the result; a piece whose worker is lost is done again whole.
    free   One queue: every worker is kept at `size` items under way, and gets the next one as one ends. Long tails leave no
           worker without work while there is any; what is computed side by side, and with it the last bits, depends on the clock.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush
from typing import Literal

Feed = Literal["fixed", "free"]


class Schedule:
    """Items 0 .. items - 1 for `workers` workers, none of which takes any until it is `ready`.

    feed, size: see above; a `size` for which the items do not go round is made smaller, so that every worker gets some.
    """

    def __init__(self, workers: int, items: int, feed: Feed, size: int) -> None:
        self.feed: Feed = feed
        self.size = max(min(size, -(-items // workers)), 1)
        self.left = items  # not ended yet
        step = self.size if feed == "fixed" else 1
        self._ended = bytearray(items)
        self._queue: deque[list[int]] = deque(list(range(i, min(i + step, items))) for i in range(0, items, step))
        self._owed: list[set[int]] = [set() for _ in range(workers)]  # under way and not ended
        self._piece: list[list[int]] = [[] for _ in range(workers)]  # fixed: the whole of it
        self._ready: set[int] = set()
        self._room: list[tuple[int, int]] = []  # heap of (owed, worker); one that is not true any more is skipped

    @property
    def done(self) -> bool:
        """Whether nothing is left to complete."""
        return self.left == 0

    def owed(self, worker: int) -> int:
        """How many items are under way on this worker."""
        return len(self._owed[worker])

    def ready(self, worker: int) -> None:
        """The worker may take items from now on."""
        self._ready.add(worker)
        heappush(self._room, (self.owed(worker), worker))

    def assign(self) -> list[tuple[int, list[int]]]:
        """(worker, items it starts with now) for each that gets any; the least loaded first, then by number."""
        given: dict[int, list[int]] = {}
        while self._queue and self._room:
            owed, worker = heappop(self._room)
            if worker not in self._ready or owed != self.owed(worker):
                continue
            items = self._queue.popleft()
            given.setdefault(worker, []).extend(items)
            self._owed[worker].update(i for i in items if not self._ended[i])
            if self.feed == "fixed":
                self._piece[worker] = items
                self._ready.discard(worker)  # until it says so again: a piece is computed alone
            elif self.owed(worker) < self.size:
                heappush(self._room, (self.owed(worker), worker))
        return list(given.items())

    def ended(self, worker: int, item: int) -> bool:
        """An item is done; False where it was before (by a worker that was given up, or in a piece done again)."""
        self._owed[worker].discard(item)
        if worker in self._ready and self._queue:
            heappush(self._room, (self.owed(worker), worker))
        if self._ended[item]:
            return False
        self._ended[item] = 1
        self.left -= 1
        return True

    def lost(self, worker: int) -> list[int]:
        """The worker is gone, and takes nothing until it is `ready` again. The items that have to be done again, at the head
        of the queue: of a fixed piece all, or none where all had ended."""
        self._ready.discard(worker)
        owed, self._owed[worker] = sorted(self._owed[worker]), set()
        again = self._piece[worker] if self.feed == "fixed" and owed else owed
        self._piece[worker] = []
        pieces = [again] if self.feed == "fixed" else [[i] for i in again]
        self._queue.extendleft(reversed([p for p in pieces if p]))
        self._room = [(self.owed(w), w) for w in self._ready if self.feed == "fixed" or self.owed(w) < self.size]
        heapify(self._room)
        return again


class Watch:
    """Who has shown no progress for too long. Times in seconds of any clock that never goes back."""

    def __init__(self, workers: int) -> None:
        self._limit = [math.inf] * workers  # inf: nothing is expected
        self._seen = [0.0] * workers

    def expect(self, worker: int, limit: float, now: float) -> None:
        """From now on the worker must show progress at least every `limit` seconds."""
        self._limit[worker], self._seen[worker] = limit, now

    def seen(self, worker: int, now: float) -> None:
        """A sign of progress."""
        self._seen[worker] = now

    def rest(self, worker: int) -> None:
        """Nothing is expected of the worker any more."""
        self._limit[worker] = math.inf

    def limit(self, worker: int) -> float:
        """What `expect` said; inf where nothing is expected."""
        return self._limit[worker]

    def overdue(self, now: float) -> list[int]:
        """Workers whose limit has passed, in order."""
        return [w for w, (seen, limit) in enumerate(zip(self._seen, self._limit, strict=True)) if now - seen >= limit]

    def patience(self, now: float) -> float:
        """Seconds until the first will be overdue; inf where nothing is expected, never below 0."""
        ends = (seen + limit for seen, limit in zip(self._seen, self._limit, strict=True))
        return max(min(ends, default=math.inf) - now, 0.0)
