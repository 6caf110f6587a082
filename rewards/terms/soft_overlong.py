"""Soft overlong punishment (DAPO, 2503.14476, equation 13)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from rewards.base import Reward
from rewards.batch import Batch, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress
from rewards.schedule import Number, Schedule, Tokens, at


class SoftOverlong(Reward):
    """factor * clip((max_length - cache - L) / cache, -1, 0): nothing up to max_length - cache, then down to -factor.

    Added to correctness. Blind to the verdict: truncated rollouts get -factor as in the official code. max_length None: each
    request's cap; a cache larger than that cap is taken as the whole of it (a fixed max_length refuses it, as verl does).
    cache 0: -factor beyond max_length. `floored: false` is verl's form without the lower end, which the cap hides there.
    Published: max_length 20480, cache 4096, factor 1.
    """

    type: Literal["soft_overlong"] = "soft_overlong"
    paper: ClassVar[str] = "2503.14476"
    shorter_pays: ClassVar[bool] = True
    max_length: Tokens | None = Field(default=None, description="tokens; None: the request's cap")
    cache: Tokens = Field(default=4096, description="tokens before max_length in which the punishment grows")
    factor: Number = 1.0
    floored: bool = True

    @model_validator(mode="after")
    def _check(self) -> SoftOverlong:
        most, cache = self.max_length, self.cache
        if not (most is None or isinstance(most, Schedule) or isinstance(cache, Schedule)) and cache > most:
            raise ValueError(f"cache={cache} is more than max_length={most}; even an empty response would be punished")
        return self

    def bounds(self, progress: Progress) -> Bounds:
        """Unfloored, the longest response tells."""
        if self.floored or self.max_length is None:
            return Bounds.same(-at(self.factor, progress), 0.0)
        most = at(self.max_length, progress)
        cache = min(at(self.cache, progress), most)
        over = max(progress.max_length - (most - cache), 0.0) / max(cache, 1.0)
        return Bounds.same(-at(self.factor, progress) * over, 0.0)

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) punishments."""
        most = batch.max_tokens if self.max_length is None else at(self.max_length, progress)
        cache = np.minimum(at(self.cache, progress), most)
        over = np.maximum(batch.length - (most - cache), 0.0) / np.maximum(cache, 1.0)
        return -at(self.factor, progress) * (np.minimum(over, 1.0) if self.floored else over)
