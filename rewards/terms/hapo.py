"""HAPO: lengths judged by the problem's own history of correct responses (History-Aware Policy Optimization, 2505.11225)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from rewards.base import Kind, Reward
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.schedule import Number, Schedule, Tokens, at


class Hapo(Reward):
    """right * c + w * rho, h the problem's shortest correct length in earlier steps; rho = 0 while h is not known.

    cosine: f = cos(min(pi L / 2h, pi)); correct max(f, clip), wrong min(f, 0). linear, t = 1 + tolerance: correct 1 - L/h
    below h, 0 up to t h, else max(clip, -(L - t h) / h); wrong max(-1, min(0, -(L - t h) / h)). Clipped before the weight, so
    with w <= 1 the worst correct rollout (0.3) beats the best wrong one (0); w > 1 wants `allow_above_one`.

    A step is judged by the steps before it; training rollouts alone write the history. A truncated rollout counts as wrong
    and never sets it (the official code goes by the verdict). None correct: h stays, wrong ones earn <= 0; a first meeting:
    rho = 0 for all. h = 0, an empty answer that was verified, counts as 1 token. history "mean" is the exact mean of all
    correct lengths; the official one truncates it to an integer and updates it once a row. h only falls and one lucky answer
    makes it harsh for good: `floor` is the least h in tokens, with `confirmations` = k it is the k-th shortest length ("mean":
    known from k lengths on). Both are off by default and not in the paper. The official table is not read back on resume;
    this one is in the checkpoint. Published: w 1, cosine, min, clip -0.7, tolerance 0.1.
    """

    type: Literal["hapo"] = "hapo"
    paper: ClassVar[str] = "2505.11225"
    own_kind: ClassVar[Kind] = "whole"
    shorter_pays: ClassVar[bool] = True
    state_version: ClassVar[int] = 1
    w: Number = 1.0
    right: float = 1.0
    shape: Literal["cosine", "linear"] = "cosine"
    history: Literal["min", "mean"] = "min"
    clip: float = Field(default=-0.7, ge=-1, le=0, description="least length reward of a correct rollout")
    tolerance: float = Field(default=0.1, ge=0, description="linear: share above the history that costs nothing")
    floor: Tokens = Field(default=0, description="least history, in tokens")
    confirmations: int = Field(default=1, ge=1, description="correct lengths that a history needs")
    allow_above_one: bool = Field(
        default=False, description="allow w > 1: long correct rollouts then lose to wrong ones"
    )
    _seen: dict[str, list[int]] = PrivateAttr(default_factory=dict)  # min: the shortest, sorted; mean: [sum, count]

    @model_validator(mode="after")
    def _check(self) -> Hapo:
        if not isinstance(self.w, Schedule):
            try:
                self._weight(Progress())
            except TautError as error:
                raise ValueError(str(error)) from None  # pydantic adds the place
        return self

    def _weight(self, progress: Progress) -> float:
        w = at(self.w, progress)
        if w < 0 or (w > 1 and not self.allow_above_one):
            raise TautError(
                f"hapo: w={w:g} at step {progress.step}; give 0 to 1, so that no wrong answer beats a correct one"
                + ("" if w < 0 else ", or set allow_above_one: true")
            )
        return w

    def known_length(self, problem: str) -> float | None:
        """The problem's history in tokens, before `floor`; None: not known yet."""
        length = self._lengths([problem])[0]
        return None if np.isnan(length) else float(length)

    def _lengths(self, problems: Iterable[str]) -> Floats:
        """Histories before `floor`, NaN where none is known."""
        table, k, none = self._seen, self.confirmations, ()  # a private attribute of pydantic is slow to read
        seen = (table.get(problem, none) for problem in problems)
        if self.history == "mean":
            return np.array([s[0] / s[1] if s and s[1] >= k else np.nan for s in seen])
        return np.array([s[k - 1] if len(s) >= k else np.nan for s in seen])

    def bounds(self, progress: Progress) -> Bounds:
        """Any history may be met."""
        w = self._weight(progress)
        return Bounds.of((self.right + w * self.clip, self.right + w), (-w, 0.0))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        correct, length = batch.correct & ~batch.truncated, batch.length
        history = self._lengths(batch.first(batch.problem_id))[batch.group_index]
        h = np.maximum(np.where(history > 0, history, 1.0), at(self.floor, progress))
        if self.shape == "cosine":
            f = np.cos(np.minimum(0.5 * np.pi * length / h, np.pi))
            rho = np.where(correct, np.maximum(f, self.clip), np.minimum(f, 0.0))
        else:
            late = np.minimum(0.0, -(length - (1.0 + self.tolerance) * h) / h)
            short = np.where(length < h, 1.0 - length / h, np.maximum(self.clip, late))
            rho = np.where(correct, short, np.maximum(-1.0, late))
        return self.right * correct + self._weight(progress) * np.where(np.isnan(history), 0.0, rho)

    def _observe(self, batch: Batch, progress: Progress) -> None:
        index, k, table = batch.group_index, self.confirmations, self._seen
        rows = np.flatnonzero(batch.correct & ~batch.truncated & (batch.origin == "train"))
        rows = rows[np.argsort(index[rows] * (batch.length.max(initial=0) + 1) + batch.length[rows])]
        starts = np.flatnonzero(np.diff(index[rows], prepend=-1))
        lengths, ends = batch.length[rows].tolist(), [*starts[1:].tolist(), len(rows)]
        for problem, start, end in zip(batch.problem_id[rows[starts]], starts.tolist(), ends, strict=False):
            if self.history == "mean":
                total, count = table.get(problem, (0, 0))
                table[problem] = [total + sum(lengths[start:end]), count + end - start]
            else:  # the shortest k stand for all: order and sharding cannot matter
                table[problem] = sorted([*table.get(problem, ()), *lengths[start : min(end, start + k)]])[:k]

    def _state(self) -> dict[str, Any]:
        return {"history": self.history, "problems": {p: list(seen) for p, seen in sorted(self._seen.items())}}

    def _load_state(self, state: dict[str, Any]) -> None:
        if state["history"] != self.history:
            raise TautError(
                f"hapo: the checkpoint holds a history of kind {state['history']!r}, but history is {self.history!r}; set it "
                "back, or start a new run"
            )
        self._seen = {problem: [int(x) for x in seen] for problem, seen in state["problems"].items()}
