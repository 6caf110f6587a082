"""Can a wrong rollout outscore a correct one of its group? Proved, shown by a group, or searched for in vain.

Proofs, in this order: interval bounds (`Reward.bounds`) at every step; the enumeration of all rollouts there are, for rewards of
this package that score each rollout by itself and keep no state. Where neither decides, random groups are scored: what is not
found is not proved, so the answer says how many groups were looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.base import Reward
from rewards.batch import Batch, Floats
from rewards.inversion_search import Budgets, Modes, Search, Space, enumerate_all
from rewards.inversion_trial import TRIES, Before, Shrink
from rewards.progress import Progress

ENUMERATED = 40_000_000  # most rollouts that an enumeration scores, at effort 1
SHOWN = 16  # rollouts of a batch that are printed


@dataclass(frozen=True)
class Proved:
    """No wrong rollout can outscore a correct one; `how` says by what."""

    how: str

    def __str__(self) -> str:
        return f"proved: {self.how}"


@dataclass(frozen=True)
class Witness:
    """A batch in which the rollout at position `wrong` outscores the one at `correct` of its group, made as small as it gets.

    before: what the reward observed to come into its state, in order; rewards (N,): what each rollout earns; reads: the
    optional columns that the reward looks at.
    """

    batch: Batch
    progress: Progress
    before: Before
    rewards: Floats
    correct: int
    wrong: int
    reads: tuple[str, ...]

    def __str__(self) -> str:
        more, less = self.rewards[self.wrong] + 0.0, self.rewards[self.correct] + 0.0  # no -0
        lines = [
            f"witness: a wrong rollout earns {more:.9g} and a correct one of its group {less:.9g}, at step "
            f"{self.progress.step} of {self.progress.total_steps} (longest response {self.progress.max_length})"
        ]
        notes = {self.wrong: "<- more", self.correct: "<- less"}
        lines += _table(self.batch, self.reads, self.rewards, notes)
        for batch, progress in self.before:
            kind = "a monitor batch" if batch.origin[0] == "monitor" else "a batch"
            lines.append(f"after the reward observed {kind} at step {progress.step}:")
            lines += _table(batch, self.reads)
        return "\n".join(lines)


@dataclass(frozen=True)
class NoneFound:
    """The search found nothing in `groups` groups. refused: why the reward took none of them, if so."""

    groups: int
    refused: str = ""

    def __str__(self) -> str:
        return f"none found in {self.groups} groups" + (f": {self.refused}" if self.refused else "")


Finding = Proved | Witness | NoneFound


def check(
    reward: Reward,
    max_length: int,
    total_steps: int = 1,
    *,
    group_sizes: Sequence[int] = range(2, 9),
    seed: int = 0,
    effort: float = 1.0,
    seconds: float | None = None,
    places: Sequence[Progress] | None = None,
    modes: Modes | None = None,
    budgets: Budgets | None = None,
) -> Finding:
    """Whether a wrong rollout can earn strictly more than a correct one of its group, both kept; see the module.

    Looks at lengths up to `max_length`, steps 0 to total_steps - 1 (`places`: other steps, each with its own longest
    response), and states that the reward can reach from its present one in these steps. A truncated rollout is wrong and as long
    as its cap; a correct one has a token or more. modes: (name, cap) pairs at a place; budgets: (least, largest) told there.

    `effort` scales the search; `seconds` ends it early, and then the number of groups depends on the machine.
    All else depends on `seed` alone. The reward stays as it is.
    """
    places = places or [Progress(step, total_steps, max_length) for step in range(total_steps)]
    sizes = [n for n in group_sizes if n > 1]
    if not sizes:
        return Proved("groups of one have nothing to compare")
    deadline = None if seconds is None else time.monotonic() + seconds
    if proof := _by_bounds(reward, places, deadline):
        return proof
    space = Space(reward, places, sizes, modes, budgets)
    found = enumerate_all(space, effort * ENUMERATED)
    if isinstance(found, int):
        return Proved(f"every rollout that there is was scored at {_all(places)}, {found} in all")
    search = Search(space, np.random.default_rng(seed))
    found = found or search.run(effort, deadline)
    if found is None:
        return NoneFound(search.seen, "" if search.seen else search.refused)
    small = Shrink(reward, round(TRIES * max(effort, 0.1)))(found)
    pair = small.pair(reward)  # scored once more, by the public way
    assert pair is not None
    return Witness(small.batch, small.progress, small.before, pair.rewards, pair.correct, pair.wrong, space.reads)


def _by_bounds(reward: Reward, places: Sequence[Progress], deadline: float | None) -> Proved | None:
    tightest = None
    for place in places:
        bounds = reward.bounds(place)
        late = deadline is not None and time.monotonic() > deadline  # one step short is no proof
        if bounds is None or not bounds.ordered or late:
            return None
        if tightest is None or bounds.correct.low - bounds.wrong.high < tightest.correct.low - tightest.wrong.high:
            tightest = bounds
    assert tightest is not None  # a run has a step
    return Proved(
        f"a correct rollout earns at least {tightest.correct.low:.9g}, a wrong one at most {tightest.wrong.high:.9g} "
        f"(interval bounds at {_all(places)})"
    )


def _all(places: Sequence[Progress]) -> str:
    steps = len({place.step for place in places})
    return f"all {steps} steps" + (f" with {len(places)} caps" if len(places) > steps else "")


def _table(
    batch: Batch, reads: Sequence[str], rewards: Floats | None = None, notes: Mapping[int, str] | None = None
) -> list[str]:
    """The batch in aligned columns."""
    rows = [["problem", "verdict", "length", *reads, *([] if rewards is None else ["reward"])]]
    for i in range(min(len(batch), SHOWN)):
        verdict = "correct" if batch.correct[i] else "truncated" if batch.truncated[i] else "wrong"
        rows.append([str(batch.problem_id[i]), verdict, str(batch.length[i])])
        rows[-1] += [_shown(column, batch.column(column)[i]) for column in reads]
        rows[-1] += [] if rewards is None else [f"{rewards[i] + 0.0:.9g}"]
    width = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.rjust(w) for cell, w in zip(row, width, strict=True)) for row in rows]
    for i, note in (notes or {}).items():
        if i < SHOWN:
            lines[i + 1] += f"  {note}"
    return lines + ([f"  ... and {len(batch) - SHOWN} more"] if len(batch) > SHOWN else [])


def _shown(column: str, value: Any) -> str:
    if column == "tokens":
        return f"{len(np.unique(value))} distinct"
    if column == "tags":
        return "+".join(sorted(value)) or "-"
    if column == "format_ok":
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
