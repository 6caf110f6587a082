"""Kimi k1.5's length reward: where a response lies between the shortest and the longest of its group (2501.12599)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.base import Kind, Reward, Scope
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress


class Kimi(Reward):
    """0.5 - (length - shortest) / (longest - shortest + eps) for a correct rollout, at most 0 for a wrong one.

    Shortest and longest are over all rollouts of the group, right and wrong. All of one length: 0. No correct rollout: the
    longer half of the wrong ones still loses. Truncated: judged by verdict and length. It is a term: add it to correctness
    with a weight, which the paper switches on after a while (a schedule) and does not publish.
    As open-r1 writes the rule (third party; it counts characters, this counts tokens), eps 0. LASER's repository has eps 1e-6,
    a weight of 0.4 on R = 1, -0.5, -1, pays nothing to badly formed rollouts (`format: true`), and takes a group of one to
    lie between 0 and 1 token (`singleton: raw`: about -length); here that is 0.
    """

    type: Literal["kimi"] = "kimi"
    paper: ClassVar[str] = "2501.12599"
    own_kind: ClassVar[Kind] = "term"
    own_scope: ClassVar[Scope] = "group"
    shorter_pays: ClassVar[bool] = True
    eps: float = Field(default=0.0, ge=0)
    format: bool = False
    singleton: Literal["zero", "raw"] = "zero"

    @property
    def own_needs(self) -> frozenset[str]:
        """`format_ok`, where it plays a part."""
        return frozenset({"format_ok"}) if self.format else frozenset()

    def bounds(self, progress: Progress) -> Bounds:
        """Half a point either way, and a lone rollout's length where that is paid."""
        low = -0.5 if self.singleton == "zero" else min(-0.5, 0.5 - progress.max_length)
        return Bounds.of((low, 0.5), (low, 0.0))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) values."""
        shortest, longest = batch.group_min(batch.length), batch.group_max(batch.length)
        varied = longest > shortest
        if self.singleton == "raw":
            lone = batch.group_size == 1
            shortest, longest, varied = np.where(lone, 0, shortest), np.where(lone, 1, longest), varied | lone
        span = np.where(varied, longest - shortest + self.eps, 1.0)
        place = (batch.length - batch.spread(shortest)) / batch.spread(span)
        value = np.where(batch.spread(varied), 0.5 - place, 0.0)
        paid = np.where(batch.correct, value, np.minimum(value, 0.0))
        return np.where(batch.column("format_ok"), paid, 0.0) if self.format else paid
