"""LASER-D: LASER with a target for each difficulty, found anew from monitored rollouts (Liu et al., 2505.15612)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from rewards.base import Monitor, Scope
from rewards.batch import Batch, Floats, Ints
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, Tokens, at
from rewards.terms.laser import PAYS, BaseScore, Bonus
from rewards.terms.laser_targets import BANDS, Edge, Rounding, bands, coverage, grid, least_correct, targets


class AdaptiveTarget(BaseScore):
    """What LASER-D and LASER-DE share: base scores, monitoring, and the target of each problem.

    A problem is hard, medium or easy by its share a of correct rollouts: a < 1/3, a < 2/3, or more; no correct one: hard. Every
    `monitor_every` steps fixed training problems are sampled; of each band's rollouts, right and wrong, the share P(l) with
    length <= l is kept for l = target, target + interval, ... to the longest the context allows. The band's target is the
    least l with P(l) m >= expected_correct, m the least number of correct rollouts that the band asks of a group. A band
    nobody was in covers nothing: where no l is long enough, the target is `fallback`.

    Choices, and what reproduces the official code. rounding: m for 8 rollouts is 1, 3, 6 in the paper ("ceil"), 1, 2, 5 in
    all official scripts ("floor", which also floors the product). n_rollouts: m follows each group's own size; the official
    code never passes it on, so 8 there. fallback: the context (paper), the longest response of the "batch" (official: the same
    rewards, as no response is longer), or tokens; it also caps the targets. unmonitored: the target while nothing was
    monitored, None: the fallback; the official `target_length` is 8192. monitor_edge: the official monitor counts an accuracy of
    exactly 1/3 or 2/3 as "harder", its reward as easier: they differ where 3 divides the group. Bands count verified verdicts;
    the official reward counts well-formed ones only. State: the table; only rollouts of origin "monitor" move it.
    Published: alpha 0.5, lower bounds 1024, 2048, 4096, interval 1024; 500 problems x 8 every 20 steps.
    """

    paper: ClassVar[str] = "2505.15612"
    own_scope: ClassVar[Scope] = "group"
    shorter_pays: ClassVar[bool] = True
    state_version: ClassVar[int] = 1
    target: Tokens = Field(examples=[4096], description="lower bound of the targets, output tokens")
    alpha: Number = 0.5
    interval: int = Field(default=1024, ge=1, description="step of the candidate targets, tokens")
    expected_correct: float = Field(default=1.0, gt=0)
    rounding: Rounding = "ceil"
    n_rollouts: int | None = Field(default=None, ge=1, description="None: each group's own size")
    fallback: Literal["context", "batch"] | Tokens = "context"
    unmonitored: Tokens | None = None
    monitor_edge: Edge = "easier"
    monitor_problems: int = Field(default=500, ge=1)
    monitor_samples: int = Field(default=8, ge=1)
    monitor_every: int = Field(default=20, ge=1)
    _lengths: list[int] = PrivateAttr(default_factory=list)
    _coverage: dict[str, list[float]] = PrivateAttr(default_factory=dict)

    def monitor(self) -> Monitor:
        """Fixed training problems, before step 0 and every `monitor_every` steps."""
        return Monitor(self.monitor_problems, self.monitor_samples, self.monitor_every)

    def targets(self, size: Ints, longest: int, progress: Progress) -> Floats:
        """(S, 3) hard, medium and easy targets of groups of `size` (S,) rollouts in a batch whose longest response is given."""
        named = {"context": float(progress.max_length), "batch": float(longest)}
        fallback = named[self.fallback] if isinstance(self.fallback, str) else at(self.fallback, progress)
        if not self._lengths:
            unmonitored = fallback if self.unmonitored is None else at(self.unmonitored, progress)
            return np.full((len(size), len(BANDS)), unmonitored)
        least = least_correct(size if self.n_rollouts is None else np.full_like(size, self.n_rollouts), self.rounding)
        covered = np.array([self._coverage[band] for band in BANDS])
        return targets(np.array(self._lengths), covered, least, self.expected_correct, self.rounding, fallback)

    def target_of(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) target of each rollout: that of its problem's band."""
        size, which = np.unique(batch.group_size, return_inverse=True)
        table = self.targets(size, int(batch.length.max(initial=0)), progress)
        return batch.spread(table[which, bands(batch)])

    def _observe(self, batch: Batch, progress: Progress) -> None:
        watched = batch.take(batch.origin == "monitor")
        if len(watched):
            lengths = grid(int(at(self.target, progress)), progress.max_length, self.interval)
            covered = coverage(watched, bands(watched, self.monitor_edge), lengths)
            self._lengths = lengths.tolist()
            self._coverage = dict(zip(BANDS, covered.tolist(), strict=True))

    def _state(self) -> dict[str, Any]:
        return {"lengths": list(self._lengths), "coverage": {b: list(row) for b, row in self._coverage.items()}}

    def _load_state(self, state: dict[str, Any]) -> None:
        self._lengths = [int(length) for length in state["lengths"]]
        self._coverage = {band: [float(share) for share in row] for band, row in state["coverage"].items()}


class LaserD(AdaptiveTarget):
    """R + alpha * [correct, well-formed, length <= the target of its problem's difficulty].

    R is 1, -0.5 or -1 (BaseScore), `bonus` as in `laser`; targets as in AdaptiveTarget. No correct rollout in the group: no
    bonus. All correct: easy, and only those beyond the easy target earn less.
    """

    type: Literal["laser_d"] = "laser_d"
    bonus: Bonus = "reward"

    def bounds(self, progress: Progress) -> Bounds:
        """As LASER's: the targets decide who gets the bonus, not how much."""
        within, beyond = (at(self.alpha, progress) * x for x in PAYS[self.bonus])
        return self.around((within, beyond))

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        base, earns = self.base(batch, batch.correct)
        within, beyond = PAYS[self.bonus]
        paid = np.where(batch.length <= self.target_of(batch, progress), within, beyond)
        return base + at(self.alpha, progress) * np.where(earns, paid, 0.0)
