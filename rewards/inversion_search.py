"""Where the inversion check looks: every rollout there is, if each is scored by itself; else random groups with many corners."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from rewards.base import Reward
from rewards.batch import OPTIONAL, Batch, Bools, Ints, Verdict
from rewards.errors import TautError
from rewards.inversion_trial import Before, Trial, objects
from rewards.progress import Progress
from rewards.schedule import Schedule, at

MODES = (("think", "no_think"), ("long", "short"))  # known mode names, where the run does not say its own
_Kinds = tuple[tuple[tuple[str | None, int], ...], int]
TAGS = (frozenset({"think", "answer"}), frozenset({"think"}), frozenset({"answer"}), frozenset())
ENUMERABLE = frozenset({"format_ok", "tags", "mode", "budget"})

Budgets = Callable[[Progress], tuple[int, int]]  # least and largest budget told at a place
Modes = Callable[[Progress], Sequence[tuple[str | None, int]]]  # names and caps at a place


@dataclass(frozen=True)
class Space:
    """What can come up in a run: places, group sizes, modes, budgets (None: not known)."""

    reward: Reward
    places: Sequence[Progress]
    sizes: Sequence[int]
    modes: Modes | None
    budgets: Budgets | None

    @property
    def reads(self) -> tuple[str, ...]:
        """Optional columns that the reward reads."""
        return tuple(column for column in OPTIONAL if column in self.reward.needs)

    @property
    def stateful(self) -> bool:
        """Whether the reward, or a part of it, has state."""
        return any(node.state_version for _, node in self.reward.walk())


# ---- every rollout there is ------------------------------------------------------------------------------------------


def enumerate_all(space: Space, most: float) -> int | Trial | None:
    """Score every rollout at every step: how many, or a trial in which a wrong one is ahead.

    None where that is no proof: rewards that compare rollouts, have state, are not of this package (they might read more than
    they say) or read columns with too many values; and where more than `most` would have to be scored.
    """
    reward, reads = space.reward, space.reads
    ours = all(type(piece).__module__.startswith("rewards.") for piece in _pieces(reward))
    if space.stateful or reward.scope != "rollout" or not ours or not ENUMERABLE.issuperset(reads):
        return None
    if ("mode" in reads and not space.modes) or ("budget" in reads and not space.budgets):
        return None
    kinds: list[_Kinds] = []
    for place in space.places:
        low, high = space.budgets(place) if space.budgets and "budget" in reads else (0, 0)
        if low != high:
            return None  # a group shares its budget: only one that is the same for all lets rollouts be looked at one by one
        modes = tuple(space.modes(place)) if space.modes else (("", place.max_length),)
        kinds.append((tuple((name, min(cap, place.max_length)) for name, cap in modes), low))
    each = (2 if "format_ok" in reads else 1) * (len(TAGS) if "tags" in reads else 1)
    count = sum(each * sum(2 * cap + 2 for _, cap in modes) for modes, _ in kinds)
    if count > most:
        return None
    known: dict[_Kinds, Batch] = {}
    for place, kind in zip(space.places, kinds, strict=True):
        if kind not in known:
            known = {kind: _everything(reads, *kind)}
        if pair := Trial(known[kind], place).pair(reward):
            return Trial(known[kind].take(np.array([pair.correct, pair.wrong])), place)
    return count


def _everything(reads: Sequence[str], modes: Sequence[tuple[str | None, int]], budget: int) -> Batch:
    """Every length, verdict, format, tag and mode there is, in one group: any two of these rollouts can share one."""
    formats, tags = (2 if "format_ok" in reads else 1), (len(TAGS) if "tags" in reads else 1)
    parts = []
    for mode, bad, tag in itertools.product(range(len(modes)), range(formats), range(tags)):
        cap = modes[mode][1]
        length = np.concatenate([np.arange(cap + 1), np.arange(1, cap + 1), [cap]])  # wrong, correct, truncated
        sort = np.repeat([0, 1, 2], [cap + 1, cap, 1])
        parts.append(np.stack([length, sort, *(np.full(len(length), x) for x in (cap, mode, bad, tag))]))
    length, sort, cap, mode, bad, tag = np.concatenate(parts, axis=1)
    optional = {
        "mode": objects([name for name, _ in modes])[mode],
        "format_ok": bad == 0,
        "tags": objects(TAGS)[tag],
        "budget": np.full(len(length), float(budget)),
    }
    columns = {column: optional[column] for column in reads}
    return _batch(np.zeros_like(length), length, sort == 1, sort == 2, cap, "train", **columns)


# ---- random groups ---------------------------------------------------------------------------------------------------


@dataclass
class Search:
    """Scores random groups. seen: how many so far; refused: why the reward would not take a batch, if that happened."""

    space: Space
    rng: np.random.Generator
    seen: int = 0
    refused: str = ""

    def run(self, effort: float, deadline: float | None) -> Trial | None:
        """Round after round until a wrong rollout is ahead, the effort is spent or time is up."""
        space, reward, rng = self.space, self.space.reward, self.rng
        alone = reward.scope in ("step", "dataset")  # groups of a batch are not independent: many small batches
        slow = "tokens" in space.reads
        rounds, groups = (1500, 16) if alone else (100, 64) if slow else (400, 64) if space.stateful else (64, 4096)
        for i in range(max(1, round(rounds * effort))):
            if deadline is not None and i and time.monotonic() > deadline:
                break
            place = space.places[(0, len(space.places) - 1, int(rng.integers(len(space.places))))[i % 3]]
            many = (1, 2, 5, groups)[i % 4] if alone else groups
            try:
                batch = self.batch(place, many, "train", int(rng.choice(space.sizes)))
                trial = Trial(batch, place, self.before(place, many, (0, 1, 2, 4, 32)[i % 5]))
                pair = trial.pair(reward)
            except Exception as error:  # a batch that the method does not take: modes out of balance, unknown problems
                self.refused = self.refused or (str(error) if isinstance(error, TautError) else repr(error))
                continue
            self.seen += batch.num_groups
            if pair:
                return trial
        return None

    def before(self, place: Progress, groups: int, count: int) -> Before:
        """Batches of up to `count` earlier steps of the run; for rewards that monitor, the last monitor batches too."""
        if not self.space.stateful:
            return ()
        earlier = [p for p in self.space.places if p.step < place.step]
        steps = self.rng.permutation(len(earlier))[:count]
        observed = [(earlier[i], "train", int(self.rng.choice(self.space.sizes))) for i in steps]
        if wanted := self.space.reward.monitor():
            due = [p for p in self.space.places if p.step <= place.step and p.step % wanted.every == 0]
            observed += [(p, "monitor", wanted.samples) for p in due[-2:]]
        observed.sort(key=lambda entry: (entry[0].step, entry[1] != "monitor"))
        return tuple((self.batch(p, groups, origin, size), p) for p, origin, size in observed)

    def batch(self, place: Progress, groups: int, origin: str, size: int) -> Batch:
        """Groups of `size`, correct rollouts first; made as matrices (groups, size)."""
        rng, reads, shape, top = self.rng, self.space.reads, (groups, size), place.max_length
        optional: dict[str, Any] = {}
        anchor = np.full((groups, 1), top)  # what lengths may be compared with: budget or reference
        if "budget" in reads:
            low, high = self.space.budgets(place) if self.space.budgets else (1, top)
            anchor = np.clip(self._lengths(place, (groups, 1), anchor), low, high)
            optional["budget"] = np.broadcast_to(anchor, shape).astype(float)
        if "reference_length" in reads:
            anchor = np.maximum(self._lengths(place, (groups, 1), anchor), 1)
            optional["reference_length"] = np.broadcast_to(anchor, shape).astype(float)
        if "reference_accuracy" in reads:
            optional["reference_accuracy"] = np.broadcast_to(rng.uniform(-0.2, 1.2, (groups, 1)).clip(0, 1), shape)
        caps = np.full(shape, top)
        if self.space.modes or "mode" in reads:
            guess = [(name, top) for name in MODES[int(rng.integers(len(MODES)))]]
            modes = list(self.space.modes(place)) if self.space.modes else guess
            turn = rng.permuted(np.broadcast_to(np.arange(size) % len(modes), shape), axis=1)
            free = rng.choice(len(modes), shape, p=rng.dirichlet(np.ones(len(modes))))
            index = turn if rng.random() < 0.5 else free  # some methods want as many of each
            caps = np.minimum(np.array([cap for _, cap in modes])[index], top)
            optional |= {"mode": objects([name for name, _ in modes])[index]} if "mode" in reads else {}
        least = int(origin == "train" and size > 1)  # without both verdicts there is nothing to compare
        few = np.where(rng.random(groups) < 0.5, 1, max(size - 1, 1))
        count = np.where(rng.random(groups) < 0.4, few, rng.integers(least, size + 1 - least, groups))
        right = np.arange(size) < count[:, None]
        length = np.minimum(self._arranged(self._lengths(place, shape, anchor)), caps)
        length = np.where(right, np.maximum(length, 1), length)  # no answer without a token
        cut = ~right & (length == caps) & (rng.random(shape) < 0.5)
        if "format_ok" in reads:
            optional["format_ok"] = rng.random(shape) < 0.7
        if "tags" in reads:
            optional["tags"] = objects(TAGS)[np.maximum(rng.integers(-2, len(TAGS), shape), 0)]
        if "mean_log_prob" in reads:
            optional["mean_log_prob"] = -4.0 * rng.random(shape)
        for column in reads:
            if column == "entropy_temperature":
                optional[column] = np.ones(shape)
            elif "entropy_" in column:
                optional[column] = 4.0 * rng.random(shape) * rng.integers(0, 2, shape)
        if "tokens" in reads:
            optional["tokens"] = self._tokens(length, top)
        flat = {name: np.ascontiguousarray(values).ravel() for name, values in optional.items()}
        group = np.repeat(np.arange(groups), size)
        return _batch(group, length.ravel(), right.ravel(), cut.ravel(), caps.ravel(), origin, **flat)

    def _lengths(self, place: Progress, shape: tuple[int, int], anchor: Ints) -> Ints:
        """Next to nothing; settings and their neighbours; log-uniform; uniform; the cap; the anchor, its double and neighbours."""
        rng, top = self.rng, place.max_length
        draws = [
            rng.integers(0, 3, shape),
            rng.choice(_turns(self.space.reward, place), shape),
            np.exp(rng.uniform(0, np.log(top + 1), shape)),
            rng.integers(0, top + 1, shape),
            np.full(shape, top),
            anchor * rng.integers(1, 3, shape) + rng.integers(-1, 2, shape),
        ]
        return np.choose(rng.integers(0, len(draws), shape), draws).clip(0, top).astype(np.int64)

    def _arranged(self, length: Ints) -> Ints:
        """A quarter of the groups each: as drawn; correct ones (the first) longest; shortest; all equal."""
        up = np.sort(length, axis=1)
        way = self.rng.integers(0, 4, (len(length), 1))
        return np.choose(way, [length, up[:, ::-1], up, np.broadcast_to(length[:, :1], length.shape)])

    def _tokens(self, length: Ints, top: int) -> Any:
        """Responses that never repeat a token, that repeat one, three in turn, or some by chance."""
        place = np.arange(max(top, 1))
        texts = [place, 0 * place, place % 3, self.rng.integers(0, 20, len(place))]
        kinds = self.rng.integers(0, len(texts), length.shape)
        return objects([texts[k][:n] for k, n in zip(kinds.flat, length.flat, strict=True)])


def _batch(group: Ints, length: Ints, right: Bools, cut: Bools, cap: Ints, origin: str, **optional: Any) -> Batch:
    return Batch(
        group=group,
        length=length,
        verdict=np.where(right, Verdict.CORRECT, Verdict.WRONG).astype(np.int8),
        truncated=cut,
        max_tokens=cap,
        problem_id=objects([f"p{i}" for i in range(int(group.max(initial=0)) + 1)])[group],
        origin=objects([origin])[np.zeros_like(group)],
        **optional,
    )


def _pieces(value: Any) -> Iterator[BaseModel]:
    """The models in a setting, itself included: rewards, conditions, schedules."""
    if isinstance(value, BaseModel):
        yield value
        for key in type(value).model_fields:
            yield from _pieces(getattr(value, key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _pieces(item)


def _turns(reward: Reward, place: Progress) -> Ints:
    """Lengths at which a reward may turn: settings, what is left of the longest response, 1 / small ones; and neighbours."""
    top, found = place.max_length, {0, place.max_length}
    for piece in _pieces(reward):
        values = [getattr(piece, key) for key in type(piece).model_fields]
        flat = [x for value in values for x in (value if isinstance(value, list) else [value])]
        for x in (at(x, place) if isinstance(x, Schedule) else x for x in flat):
            if isinstance(x, int | float) and not isinstance(x, bool) and x:
                for count in (abs(x), top - abs(x), 2 * abs(x), 1 / abs(x), 2 / abs(x)):
                    found |= {int(count) + i for i in (-1, 0, 1)} if 0 <= count <= top else set()
    return np.array(sorted(count for count in found if 0 <= count <= top))
