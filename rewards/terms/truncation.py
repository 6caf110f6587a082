"""Truncation: nothing for a response that is too long. ThinkPrune (2504.01296), DLER's plain truncation, and the "vanilla
truncation" of LASER's framework (2505.15612, table 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from rewards.batch import Batch, Floats, choose
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, Tokens, at
from rewards.terms.laser import BaseScore


class Truncation(BaseScore):
    """R if finished and length <= target, else `over` (the papers' rho, 0).

    R is 1 or 0 by the verdict; LASER's framework has 1, -0.5, -1: `wrong: -0.5`, `format: true`. The comparison is inclusive.
    target None: each request's own cap, so that only rollouts cut off there earn `over`; this is how all three papers run it
    (ThinkPrune and the truncation runs move the cap, `sampling.max_tokens`). A rollout cut off below the target counts as too
    long whatever its verdict: ThinkPrune's unfinished answers get 0.
    """

    type: Literal["truncation"] = "truncation"
    paper: ClassVar[str] = "2504.01296"
    shorter_pays: ClassVar[bool] = True
    target: Tokens | None = None
    over: Number = 0.0
    wrong: float = 0.0
    malformed: float = 0.0
    format: bool = False

    def bounds(self, progress: Progress) -> Bounds:
        """R's values and `over`."""
        over = at(self.over, progress)
        return self.around((0.0, 0.0)) | Bounds.same(over, over)

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) rewards."""
        too_long = batch.truncated
        if self.target is not None:
            too_long = too_long | (batch.length > at(self.target, progress))
        over = at(self.over, progress)
        if not self.format:
            return choose([self.wrong, 1.0, over, over], batch.correct, too_long)
        values = [self.malformed, self.malformed, self.wrong, 1.0, *[over] * 4]
        return choose(values, batch.correct, batch.column("format_ok"), too_long)
