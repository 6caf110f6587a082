"""Repeated n-grams: HAPO's penalty (2505.11225) and that of Demystifying Long Chain-of-Thought (2502.03373)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rewards.base import Reward
from rewards.batch import Batch, Bools, Floats
from rewards.bounds import Bounds
from rewards.progress import Progress


def seen_before(tokens: NDArray[Any], ngram: int) -> Bools:
    """(T - ngram + 1,) for each n-gram of the token ids: the same stands further to the front. Exact, no hashing."""
    count, ids = len(tokens) - ngram + 1, tokens.astype(np.int64)
    base, code = int(ids.max()) + 1, ids[:count]
    for j in range(1, ngram):
        if int(code.max()) >= 2**62 // base:
            code = np.unique(code, return_inverse=True)[1]
        code = code * base + ids[j : j + count]
    again = np.ones(count, dtype=bool)
    again[np.unique(code, return_index=True)[1]] = False
    return again


def repetition(tokens: NDArray[Any], ngram: int, form: str = "covered", only_start: bool = False) -> float:
    """Share of a response that repeats (see `Repetition`), 0 to 1; 0 for fewer tokens than an n-gram."""
    if len(tokens) < ngram:
        return 0.0
    again = seen_before(tokens, ngram)
    if form == "distinct":
        return float(again.mean())
    starts = np.flatnonzero(again)
    if only_start:
        starts = starts[np.diff(starts, prepend=-ngram) >= ngram]
    edge = np.zeros(len(tokens) + 1, dtype=np.int64)
    edge[starts] += 1
    edge[starts + ngram] -= 1
    return float(np.count_nonzero(np.cumsum(edge)) / len(tokens))


class Repetition(Reward):
    """max_penalty * share of the response that repeats, by token ids; 0 for fewer tokens than an n-gram.

    form "covered" (HAPO): share of the tokens that lie in an n-gram that occurred before. `only_start`: an n-gram counts only
    when the repeated n-gram before it began at least n tokens earlier, whether that one counted or not (official code; a
    long loop then counts once). form "distinct" (Demystifying): 1 - distinct / all n-grams; the official code splits words at
    white space. Pays the same to correct and wrong. HAPO's published weight is 0 (off) with n = 3.
    """

    type: Literal["repetition"] = "repetition"
    paper: ClassVar[str] = "2505.11225"
    reads: ClassVar[frozenset[str]] = frozenset({"tokens"})
    max_penalty: float = Field(default=-1.0, le=0, description="what a response earns that is all repetition")
    ngram: int = Field(default=3, ge=1, description="tokens in an n-gram")
    form: Literal["covered", "distinct"] = "covered"
    only_start: bool = False

    def bounds(self, progress: Progress) -> Bounds:
        """From nothing to all of the response."""
        return Bounds.same(self.max_penalty, 0.0)

    def compute(self, batch: Batch, progress: Progress) -> Floats:
        """(N,) penalties."""
        share = [repetition(ids, self.ngram, self.form, self.only_start) for ids in batch.column("tokens")]
        return self.max_penalty * np.array(share, dtype=np.float64)
