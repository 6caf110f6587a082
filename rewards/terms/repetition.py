"""Repeated n-grams: HAPO's penalty (2505.11225) and that of Demystifying Long Chain-of-Thought (2502.03373)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rewards.base import Reward
from rewards.batch import Batch, Floats, Ints
from rewards.bounds import Bounds
from rewards.progress import Progress

CHUNK = 1 << 20  # tokens that are looked at together: bounds the memory


def _pairs(first: Ints, second: Ints) -> Ints:
    """A number for each pair of ids, equal for equal pairs; exact, no hashing."""
    base = int(second.max(initial=0)) + 1
    if int(first.max(initial=0)) >= 2**62 // base:
        first, second = (np.unique(x, return_inverse=True)[1].astype(np.int64) for x in (first, second))
        base = len(second)
    return first * base + second


def _shares(tokens: NDArray[Any], size: Ints, ngram: int, form: str, only_start: bool) -> Floats:
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *tokens]).astype(np.int64)
    row, code, width = np.repeat(np.arange(len(size)), size), ids, 1
    while width < ngram:  # numbers for n-grams of twice the width; the last step may overlap
        step = min(width, ngram - width)
        code, width = _pairs(code[:-step], code[step:]), width + step
    start = np.flatnonzero(row[: len(code)] == row[len(row) - len(code) :])  # n-grams that lie in one response
    key = _pairs(row[start], code[start])
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(start), dtype=bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    if form == "distinct":
        return np.bincount(row[start], again, len(size)) / np.maximum(size - ngram + 1, 1)
    start = start[again]
    if only_start:
        start = start[(np.diff(start, prepend=-ngram) >= ngram) | (np.diff(row[start], prepend=-1) > 0)]
    edge = np.zeros(len(ids) + 1, dtype=np.int64)
    edge[start] += 1
    edge[start + ngram] -= 1
    return np.bincount(row, np.cumsum(edge)[:-1] > 0, len(size)) / np.maximum(size, 1)


def repetition(tokens: NDArray[Any], ngram: int, form: str = "covered", only_start: bool = False) -> Floats:
    """(N,) share of each response that repeats (see `Repetition`), 0 to 1; 0 for fewer tokens than an n-gram."""
    size = np.fromiter(map(len, tokens), np.int64, len(tokens))
    out = np.zeros(len(size))
    rows = np.flatnonzero(size >= ngram)
    cuts = np.flatnonzero(np.diff(np.cumsum(size[rows]) // CHUNK)) + 1
    for part in np.split(rows, cuts) if len(rows) else ():
        out[part] = _shares(tokens[part], size[part], ngram, form, only_start)
    return out


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
        return self.max_penalty * repetition(batch.column("tokens"), self.ngram, self.form, self.only_start)
