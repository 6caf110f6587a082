"""A batch in which a wrong rollout outscores a correct one of its group, and the smallest such batch inside it."""

from __future__ import annotations

import dataclasses
import itertools
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.base import Reward
from rewards.batch import OPTIONAL, Batch, Floats
from rewards.progress import Progress

TOLERANCE = 1e-9  # relative; what rounding may do is no inversion
TRIES = 6000  # batches that are scored or observed to make a witness small, at effort 1
PLAIN: dict[str, Any] = {"truncated": False, "format_ok": True, "tags": frozenset({"think", "answer"})}
PLAIN |= {column: 0.0 for column in OPTIONAL if "entropy_" in column}

Before = tuple[tuple[Batch, Progress], ...]


@dataclass(frozen=True)
class Pair:
    """Positions of a correct rollout and of a wrong one of its group that earns more; rewards (N,) of the whole batch."""

    correct: int
    wrong: int
    rewards: Floats


@dataclass(frozen=True)
class Trial:
    """A batch that is scored at a place in training. before: what the reward observes first, in order."""

    batch: Batch
    progress: Progress
    before: Before = ()

    def pair(self, reward: Reward) -> Pair | None:
        """The pair with the widest gap among kept rollouts, if a wrong one is ahead anywhere. The reward stays as it is."""
        if self.before:
            reward = deepcopy(reward)
            for batch, progress in self.before:
                reward.observe(batch, progress)
        batch, scores = self.batch, reward.score(self.batch, self.progress)
        right, wrong = batch.correct & scores.keep, batch.known & ~batch.correct & scores.keep
        # not group_min and group_max, which are made for many small groups: here one may hold every rollout there is
        low = np.minimum.reduceat(np.where(right, scores.total, np.inf)[batch.order], batch.starts)
        high = np.maximum.reduceat(np.where(wrong, scores.total, -np.inf)[batch.order], batch.starts)
        ahead = high - low - TOLERANCE * np.maximum(1.0, np.abs(np.where(np.isfinite(high), high, 0.0)))
        if not (ahead > 0).any():
            return None
        group = batch.group_index == int(np.argmax(ahead))
        worst = np.where(group & right, scores.total, np.inf).argmin()
        best = np.where(group & wrong, scores.total, -np.inf).argmax()
        return Pair(int(worst), int(best), scores.total)

    def having(self, **columns: Any) -> Trial:
        """The same with other columns in its batch."""
        return dataclasses.replace(self, batch=dataclasses.replace(self.batch, **columns))

    def observing(self, i: int, *batches: Batch) -> Trial:
        """The same with another batch, or none, in place of the i-th that is observed before."""
        new = tuple((batch, self.before[i][1]) for batch in batches)
        return dataclasses.replace(self, before=self.before[:i] + new + self.before[i + 1 :])


def objects(values: Any) -> Any:
    """An array of objects, also where they are arrays themselves."""
    out = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        out[i] = value
    return out


class Shrink:
    """Takes away from a witness all that it is one without."""

    def __init__(self, reward: Reward, tries: int) -> None:
        self.reward, self.tries = reward, tries

    def __call__(self, trial: Trial) -> Trial:
        """The smallest trial that was found, with a pair in it as there is in the given one."""
        pair = trial.pair(self.reward)
        assert pair is not None
        own = trial.batch.take(trial.batch.group == trial.batch.group[pair.correct])
        two = trial.batch.take(np.array([pair.correct, pair.wrong]))
        for part in (own, two):
            trial = self._try(trial, dataclasses.replace(trial, batch=part))
        trial = self._observed_less(trial)
        return self._shorter(self._plainer(self._fewer(trial)))

    def _try(self, trial: Trial, smaller: Trial) -> Trial:
        """`smaller` where it is a witness too."""
        self.tries -= 1 + len(smaller.before)
        try:
            return smaller if self.tries > 0 and smaller.pair(self.reward) else trial
        except Exception:  # a batch that the method does not take
            return trial

    def _fewer(self, trial: Trial, i: int | None = None) -> Trial:
        """Those rollouts alone that it needs, in its batch or the i-th before it: halves are left out first, single ones last."""
        batch = trial.batch if i is None else trial.before[i][0]
        size = max(1, len(batch) // 2)
        while size and len(batch) > 1:
            at = 0
            while at < len(batch) and len(batch) > 1:
                part = batch.take(np.delete(np.arange(len(batch)), slice(at, at + size)))
                new = dataclasses.replace(trial, batch=part) if i is None else trial.observing(i, part)
                if len(part) and self._try(trial, new) is new:
                    trial, batch = new, part
                else:
                    at += size
            size //= 2
        return trial

    def _observed_less(self, trial: Trial) -> Trial:
        """Fewer observed batches, then fewer rollouts in them. Monitor batches stay: a run cannot be without them."""
        for i in reversed(range(len(trial.before))):
            batch = trial.before[i][0]
            if batch.origin[0] != "monitor":
                without = trial.observing(i)
                if self._try(trial, without) is without:
                    trial = without
                    continue
            same = batch.take(np.isin(batch.problem_id.astype(str), trial.batch.problem_id.astype(str)))
            trial = self._try(trial, trial.observing(i, same)) if len(same) else trial
            trial = self._fewer(trial, i)
        return trial

    def _plainer(self, trial: Trial) -> Trial:
        """Not truncated, well-formed, without entropy, wherever that makes no difference."""
        for i, (name, plain) in itertools.product(range(len(trial.batch)), PLAIN.items()):
            if (values := getattr(trial.batch, name)) is not None and values[i] != plain:
                values = values.copy()
                values[i] = plain
                trial = self._try(trial, trial.having(**{name: values}))
        return trial

    def _shorter(self, trial: Trial) -> Trial:
        """Each length, one after the other, as short as steps that halve make it; a response has a token."""
        for i in range(len(trial.batch)):
            step = int(trial.batch.length[i])
            while step:
                length, cut = trial.batch.length.copy(), trial.batch.truncated.copy()
                length[i], cut[i] = max(length[i] - step, 1), False
                columns: dict[str, Any] = {"length": length, "truncated": cut}
                if trial.batch.tokens is not None:
                    columns["tokens"] = objects([t[:n] for t, n in zip(trial.batch.tokens, length, strict=True)])
                smaller = trial
                if length[i] < trial.batch.length[i]:
                    smaller = self._try(trial, trial.having(**columns))
                step = step // 2 if smaller is trial else step
                trial = smaller
        return trial
