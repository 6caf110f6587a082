"""One rank's share of a step: which rollouts it computes, and what it hears from the others. Alone, it computes all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from trainers.policy import micro_batches

T = TypeVar("T")


class RankLost(Exception):
    """A rank died or stood still; nothing of the call under way counts. stack: of the ranks that stood still."""

    def __init__(self, reason: str, stack: str = "") -> None:
        super().__init__(reason)
        self.reason, self.stack = reason, stack


class Share:
    """The work of rank `rank` of `world` ranks that know the same rollouts and hold one model together."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    def split(self, lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        """This rank's micro-batches: positions in `lengths`, at most `max_tokens` padded tokens each (see `micro_batches`).

        Every rank gets the same number of them, for each takes part in every exchange of weights: an empty one at the end says
        that this rank only keeps company.
        """
        mine = [
            [[rows[i] for i in some] for some in micro_batches([lengths[i] for i in rows], max_tokens)]
            for rows in balance(lengths, self.world)
        ]
        most = max(len(some) for some in mine)
        return mine[self.rank] + [[]] * (most - len(mine[self.rank]))

    def all(self, value: T) -> list[T]:
        """The value of every rank, by rank; all ranks must ask together."""
        if self.world == 1:
            return [value]
        from torch import distributed

        values: list[T | None] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]


def balance(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Positions in `parts` lists of about as many tokens: the longest first, each to the list that has least so far.

    No list has more than 4/3 of the tokens of the best possible partition (Graham 1969, longest processing time first).
    """
    lists: list[list[int]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = min(range(parts), key=lambda k: (tokens[k], k))
        lists[least].append(i)
        tokens[least] += lengths[i]
    return [sorted(some) for some in lists]
