"""The batch: a struct of arrays, N rollouts in P groups. All that a reward or an advantage ever sees of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Verdict(IntEnum):
    """What the verifier says. UNKNOWN (it died, timed out, could not parse the gold answer) is never counted as wrong."""

    WRONG = 0
    CORRECT = 1
    UNKNOWN = -1


_DTYPES: dict[str, Any] = {
    "problem_id": object, "origin": object, "mode": object, "tags": object, "tokens": object,
    "group": np.int64, "sample_id": np.int64, "length": np.int64, "max_tokens": np.int64, "verdict": np.int8,
    "truncated": np.bool_, "format_ok": np.bool_,
}  # fmt: skip
REQUIRED = ("group", "length", "verdict")
OPTIONAL = (
    "format_ok", "tags", "mode", "budget", "tokens", "reference_accuracy", "reference_length", "mean_log_prob",
    "entropy_all", "entropy_think", "entropy_answer", "entropy_temperature",
    "untempered_entropy_all", "untempered_entropy_think", "untempered_entropy_answer",
)  # fmt: skip


def _column(name: str, values: Any) -> NDArray[Any]:
    dtype = _DTYPES.get(name, np.float64)
    if isinstance(values, np.ndarray) and values.dtype == dtype:
        return values
    if name == "verdict" and not (isinstance(values, np.ndarray) and values.dtype.kind in "biu"):
        values = [Verdict.UNKNOWN if v is None else v for v in values]
        if odd := [v for v in values if v not in (-1, 0, 1)]:  # a score of 0.9 is no verdict, and not a wrong one
            raise ValueError(f"Batch.verdict: {odd[0]!r}; use Verdict.CORRECT, WRONG or UNKNOWN")
    if dtype is object:  # ragged columns must not be turned into matrices
        column = np.empty(len(values), dtype=object)
        column[:] = list(values) if name != "tokens" else [np.asarray(v) for v in values]
        return column
    return np.asarray(values, dtype=dtype)


def choose(values: Sequence[float], *flags: Bools) -> Floats:
    """(N,) values[f0 + 2 f1 + 4 f2 ...] by (N,) flags: a reward that takes few values, at a fraction of nested `np.where`s."""
    code = np.zeros(len(flags[0]), dtype=np.int8)
    for power, flag in enumerate(flags):
        code += np.asarray(flag, dtype=np.int8) << power
    return np.asarray(values, dtype=np.float64)[code]


def _coded(column: NDArray[Any]) -> tuple[NDArray[Any], list[Any]]:
    """(codes, values): a column of few distinct values as small integers, which compare faster than objects."""
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in column.tolist()], dtype=np.intp), list(seen)


@dataclass(frozen=True, eq=False)
class Batch:
    """N rollouts as columns of equal length; any sequence is accepted and converted.

    group (N,) int: rollouts of one prompt; None: the batch has no groups, and methods that compare within one refuse it.
    length (N,) int: output token ids, end-of-sequence included.
    verdict (N,) Verdict (None and -1 mean unknown). problem_id (N,) str: stable id from the data (default: the group).
    sample_id (N,) int: travels with the rollout, breaks ties, seeds randomness (default: the position).
    truncated (N,) bool. max_tokens (N,) int: the cap of the request. origin (N,) train | monitor | validation.
    Optional columns (None when absent): format_ok (N,) bool; tags (N,) frozenset of well-formed tag names; mode (N,) str or
    None; budget (N,) tokens told in the prompt; tokens (N,) arrays of ids; reference_accuracy and reference_length of the
    problem; mean_log_prob, nats; mean token entropies in nats of all, thinking and answer tokens, at the sampling temperature
    (`entropy_temperature`; CANON) and untempered (PEAR).
    Raises ValueError naming the column for unequal lengths, negative lengths or unknown verdict codes.
    """

    group: Ints
    length: Ints
    verdict: NDArray[np.int8]
    problem_id: NDArray[Any] = None  # type: ignore[assignment]
    sample_id: Ints = None  # type: ignore[assignment]
    truncated: Bools = None  # type: ignore[assignment]
    max_tokens: Ints = None  # type: ignore[assignment]
    origin: NDArray[Any] = None  # type: ignore[assignment]
    format_ok: Bools | None = None
    tags: NDArray[Any] | None = None
    mode: NDArray[Any] | None = None
    budget: Floats | None = None
    tokens: NDArray[Any] | None = None
    reference_accuracy: Floats | None = None
    reference_length: Floats | None = None
    mean_log_prob: Floats | None = None
    entropy_all: Floats | None = None
    entropy_think: Floats | None = None
    entropy_answer: Floats | None = None
    entropy_temperature: Floats | None = None
    untempered_entropy_all: Floats | None = None
    untempered_entropy_think: Floats | None = None
    untempered_entropy_answer: Floats | None = None

    if TYPE_CHECKING:  # at run time the dataclass makes it; any sequence is taken and converted
        grouped: bool = True
        _codes: dict[str, tuple[Ints, list[Any]]] = {}

        def __init__(self, group: Any, length: Any, verdict: Any, **columns: Any) -> None: ...

    def __post_init__(self) -> None:
        n = len(self.length)
        object.__setattr__(self, "grouped", self.group is not None)
        if self.group is None:
            object.__setattr__(self, "group", np.arange(n))
        defaults: dict[str, Callable[[], Any]] = {
            "problem_id": lambda: [str(g) for g in self.group],
            "sample_id": lambda: np.arange(n),
            "truncated": lambda: np.zeros(n),
            "max_tokens": lambda: np.full(n, max(self.length, default=0)),
            "origin": lambda: ["train"] * n,
        }
        for f in fields(self):
            values = getattr(self, f.name)
            if values is None and f.name in OPTIONAL:
                continue
            column = _column(f.name, defaults[f.name]() if values is None else values)
            if column.shape != (n,):
                raise ValueError(
                    f"Batch.{f.name}: shape {column.shape}, but `length` has {n} rollouts; give one value a rollout"
                )
            object.__setattr__(self, f.name, column)
        object.__setattr__(
            self, "_codes", {k: _coded(v) for k in ("mode", "tags") if (v := getattr(self, k)) is not None}
        )
        if n and self.length.min() < 0:
            raise ValueError(f"Batch.length: {self.length.min()} is negative; a length is a number of output tokens")
        if n and not (self.verdict.min() >= Verdict.UNKNOWN and self.verdict.max() <= Verdict.CORRECT):
            raise ValueError(
                f"Batch.verdict: {sorted(set(self.verdict.tolist()))}; use Verdict.CORRECT, WRONG or UNKNOWN"
            )

    def __len__(self) -> int:
        return len(self.group)

    def column(self, name: str) -> NDArray[Any]:
        """An optional column. Raises ValueError when this batch lacks it."""
        if (values := getattr(self, name)) is None:
            raise ValueError(f"this batch has no column {name!r}; give it when the batch is made")
        return values

    def in_mode(self, name: str) -> Bools:
        """(N,) bool: the rollout's mode is `name`. Raises ValueError when the batch has no modes."""
        self.column("mode")
        codes, values = self._codes["mode"]
        return np.array([value == name for value in values], dtype=bool)[codes]

    def has_tag(self, name: str) -> Bools:
        """(N,) bool: the response has a well-formed <name></name>. Raises ValueError when the batch has no tags."""
        self.column("tags")
        codes, values = self._codes["tags"]
        return np.array([name in value for value in values], dtype=bool)[codes]

    @property
    def correct(self) -> Bools:
        """(N,) bool: verified correct."""
        return self.verdict == Verdict.CORRECT

    @property
    def known(self) -> Bools:
        """(N,) bool: the verifier decided."""
        return self.verdict != Verdict.UNKNOWN

    @cached_property
    def order(self) -> Ints:
        """(N,) positions sorted by group, then sample_id: statistics read the rollouts in this order, so that the order of
        arrival changes not even the last bit."""
        return np.arange(len(self)) if self._in_order else np.lexsort((self.sample_id, self.group)).astype(np.int64)

    @cached_property
    def _in_order(self) -> bool:
        group, sample = self.group, self.sample_id
        rises = sample[1:] >= sample[:-1]
        return bool((group[1:] >= group[:-1]).all() and (rises.all() or (rises | (group[1:] > group[:-1])).all()))

    def _sorted(self, x: NDArray[Any]) -> NDArray[Any]:
        return x if self._in_order else x[self.order]

    @cached_property
    def starts(self) -> Ints:
        """(P,) where each group begins in `order`."""
        group = self._sorted(self.group)
        first = int(np.searchsorted(group, group[0], side="right")) if len(group) else 1
        if len(group) % first == 0:  # groups of one size, as in training, need no search
            rows = group.reshape(-1, first)
            if (rows[:, 0] == rows[:, -1]).all() and (rows[1:, 0] != rows[:-1, 0]).all():
                return np.arange(0, len(group), first)
        return np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(self)]).astype(np.int64)

    @cached_property
    def group_index(self) -> Ints:
        """(N,) int: groups renumbered 0..P-1."""
        index = np.repeat(np.arange(self.num_groups), self._even or self.group_size)
        if self._in_order:
            return index
        out = np.empty_like(index)
        out[self.order] = index
        return out

    @property
    def num_groups(self) -> int:
        """P."""
        return len(self.starts)

    @cached_property
    def group_size(self) -> Ints:
        """(P,) rollouts in each group."""
        return np.diff(self.starts, append=len(self)).astype(np.int64)

    @cached_property
    def _even(self) -> int:
        """The size of every group where all are equal, as in training; else 0. Columns are then matrices, which is faster."""
        sizes = self.group_size
        return int(sizes[0]) if len(sizes) and (sizes == sizes[0]).all() else 0

    def groups(self) -> Iterator[Ints]:
        """Positions of each group's rollouts, in `sample_id` order. A Python loop over it is slow beyond a few thousand groups;
        `group_sum` and its sisters are not."""
        if len(self):
            yield from np.split(self.order, self.starts[1:])

    def first(self, x: NDArray[Any]) -> NDArray[Any]:
        """(P,) x of the first rollout of each group, for columns that a group shares (problem_id, reference_accuracy)."""
        return self._sorted(x)[self.starts]

    def spread(self, x: Any) -> NDArray[Any]:
        """(N,) each rollout's value of its group, from (P,) x."""
        return np.repeat(x, self._even) if self._even and self._in_order else np.asarray(x)[self.group_index]

    def group_sum(self, x: Any, where: Bools | None = None) -> Floats:
        """(P,) sum of x over each group's rollouts (those in `where`)."""
        x = np.asarray(x, dtype=np.float64)
        x = self._sorted(x if where is None else x * where)
        if self._even:
            return np.einsum("pk->p", x.reshape(-1, self._even))
        return np.add.reduceat(x, self.starts) if len(x) else np.zeros(0)

    def group_count(self, where: Bools) -> Floats:
        """(P,) how many of each group's rollouts are in `where`."""
        return self.group_sum(where)

    def _extreme(self, operate: np.ufunc, x: Any, where: Bools | None, far: float) -> Floats:
        x = np.asarray(x, dtype=np.float64)
        if where is not None:
            x = x + far * ~where  # adding nothing or very much is faster than choosing
        x = self._sorted(x)
        if not len(x):
            return np.zeros(0)
        if 0 < self._even <= 64:
            columns = x.reshape(-1, self._even).T
            out = columns[0].copy()
            for column in columns[1:]:
                operate(out, column, out=out)
        else:
            out = operate.reduceat(x, self.starts)
        return out if where is None else np.where(np.abs(out) > 1e299, np.copysign(np.inf, far), out)

    def group_min(self, x: Any, where: Bools | None = None) -> Floats:
        """(P,) least x in each group; +inf where a group has no member in `where`."""
        return self._extreme(np.minimum, x, where, 1e300)

    def group_max(self, x: Any, where: Bools | None = None) -> Floats:
        """(P,) largest x in each group; -inf where a group has no member in `where`."""
        return self._extreme(np.maximum, x, where, -1e300)

    def group_mean(self, x: Any, where: Bools | None = None) -> Floats:
        """(P,) mean of x in each group; 0 where a group has no member in `where`."""
        count = self.group_size if where is None else self.group_count(where)
        return self.group_sum(x, where) / np.maximum(count, 1)

    def group_std(self, x: Any, where: Bools | None = None, ddof: int = 0) -> Floats:
        """(P,) standard deviation of x in each group; see `group_moments`."""
        return self.group_moments(x, where, ddof)[1]

    def group_moments(self, x: Any, where: Bools | None = None, ddof: int = 0) -> tuple[Floats, Floats]:
        """((P,) mean, (P,) standard deviation) of x over each group's rollouts (those in `where`).

        The deviation is exactly 0 where all values are equal, and where there are no more than `ddof` of them; the mean is
        0 where there are none.
        """
        count, peak, mean, shifted = self._about_peak(x, where)
        shifted -= self.spread(mean)
        shifted *= shifted
        variance = self.group_sum(shifted, where) / np.maximum(count - ddof, 1)
        return np.where(count > 0, peak + mean, 0.0), np.where(count > ddof, np.sqrt(variance), 0.0)

    def group_exact_mean(self, x: Any, where: Bools | None = None) -> Floats:
        """(P,) `group_mean`, and exactly the value itself where all values are equal, at about twice the cost."""
        count, peak, mean, _ = self._about_peak(x, where)
        return np.where(count > 0, peak + mean, 0.0)

    def _about_peak(self, x: Any, where: Bools | None) -> tuple[Any, Floats, Floats, Floats]:
        """(count, largest x, mean of x - largest, x - largest): equal values become exact zeros."""
        x = np.asarray(x, dtype=np.float64)
        count = self.group_size if where is None else self.group_count(where)
        peak = np.where(count > 0, self.group_max(x, where), 0.0)
        shifted = x - self.spread(peak)
        return count, peak, self.group_sum(shifted, where) / np.maximum(count, 1), shifted

    def take(self, index: Any) -> Batch:
        """The batch of the rollouts that `index` (bool mask or positions) selects."""
        part = object.__new__(Batch)  # the columns are known to be good
        object.__setattr__(part, "grouped", self.grouped)
        for f in fields(self):
            values = getattr(self, f.name)
            object.__setattr__(part, f.name, None if values is None else values[index])
        object.__setattr__(part, "_codes", {k: (codes[index], values) for k, (codes, values) in self._codes.items()})
        return part
