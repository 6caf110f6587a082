"""The methods as plain per-sample Python loops: what `python -m benchmarks.rewards` measures the vectorised classes against,
and an independent second writing of every rule, which tests hold the classes to.

A loop takes (method, columns, progress) and returns one number a rollout; for an advantage `columns.reward` holds the rewards.
It groups the rollouts itself, as a reward manager of a trainer does. `columns` has the batch's columns as plain lists.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from rewards.progress import Progress

Columns = SimpleNamespace
Loop = Callable[[Any, Columns, Progress], list[float]]


def members(columns: Columns) -> dict[int, list[int]]:
    """Positions of the rollouts of each group."""
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(columns.group):
        groups.setdefault(group, []).append(i)
    return groups
