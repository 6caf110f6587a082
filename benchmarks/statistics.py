"""Accuracy, tokens and truncation of an evaluation, with intervals that resample problems, not samples. numpy only.

Samples of one problem are not independent: a hard problem is hard in all of its samples. So the unit that is
resampled is the problem, with everything that was sampled for it, in every seed and in every evaluation that is
compared (cluster bootstrap). One matrix of resampling weights, given by (problems, resamples, seed), serves all
evaluations on the same problems: their differences are therefore paired. Standard errors are the bootstrap's; intervals
are those of `benchmarks/intervals.py`, whose coverage is measured (`benchmarks/results/coverage.md`).

An estimate is the mean over problems of the mean over a problem's samples (avg@k), so each problem counts the same.
Samples whose verdict is unknown are treated as absent from every statistic, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Estimate,
    Floats,
    Interval,
    difference_interval,
    estimate,
    mean_interval,
    ratio_interval,
    resampling_weights,
    share_interval,
)
from rewards.batch import Verdict

MEASURES = ("accuracy", "tokens", "truncation")


@dataclass(frozen=True, eq=False)
class Samples:
    """One evaluation: N judged samples as columns of equal length.

    problem_id (N,) str; length (N,) output tokens; verdict (N,) 1 correct, 0 wrong, -1 or None unknown;
    truncated (N,) bool (default: none is); level, source, answer (N,) str (default: ""; of an answer: there is none).
    Raises ValueError naming the column of another length.
    """

    problem_id: NDArray[Any]
    length: NDArray[Any]
    verdict: NDArray[Any]
    truncated: NDArray[np.bool_] = None  # type: ignore[assignment]
    level: NDArray[Any] = None  # type: ignore[assignment]
    source: NDArray[Any] = None  # type: ignore[assignment]
    answer: NDArray[Any] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n = len(self.problem_id)
        verdict = [Verdict.UNKNOWN if v is None else int(v) for v in self.verdict]
        columns: dict[str, NDArray[Any]] = {
            "problem_id": np.asarray([str(p) for p in self.problem_id], dtype=np.str_),
            "length": np.asarray(self.length, dtype=np.float64),
            "verdict": np.asarray(verdict, dtype=np.int8),
            "truncated": np.asarray(np.zeros(n) if self.truncated is None else self.truncated, dtype=np.bool_),
        }
        for name in ("level", "source", "answer"):
            given = getattr(self, name)
            text = [""] * n if given is None else ["" if v is None else str(v) for v in given]
            columns[name] = np.asarray(text, dtype=object if name == "answer" else np.str_)
        for name, column in columns.items():
            if column.shape != (n,):
                raise ValueError(
                    f"Samples.{name}: shape {column.shape}, but `problem_id` has {n}; give one value a sample"
                )
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.problem_id)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) bool: the verifier decided."""
        return self.verdict != Verdict.UNKNOWN

    def take(self, index: Any) -> Samples:
        """The samples that `index` (bool mask or positions) selects."""
        return Samples(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class Summary:
    """What an evaluation, or several seeds of one configuration, says. Tokens are output tokens a sample.

    spread: standard deviation between seeds (ddof 1; NaN for one seed) of each measure. The intervals say how far
    another draw of problems would move the average of *these* seeds; the spread is about another draw of seeds.
    draws (resamples, 3): the bootstrap's values of MEASURES, for statistics of several summaries on the same problems.
    """

    accuracy: Estimate
    tokens: Estimate
    truncation: Estimate
    problems: int
    samples: int
    unknown: int
    seeds: int
    spread: dict[str, float]
    confidence: float
    draws: Floats = field(repr=False, compare=False)


@dataclass(frozen=True)
class Comparison:
    """First minus second on the problems that both have, paired.

    tokens_ratio: first / second - 1 (-0.3: 30 % fewer tokens). left_out: problems that only one of the two has, or
    that some seed has no verdict for.
    """

    accuracy: Estimate
    tokens: Estimate
    truncation: Estimate
    tokens_ratio: Estimate
    problems: int
    left_out: int


def problem_means(samples: Samples, problems: NDArray[Any] | None = None) -> Floats:
    """(P, 3): each problem's mean of MEASURES over its known samples, NaN where it has none.

    problems (P,): ids as np.unique gives them (default: those of `samples`); samples of other problems are ignored.
    """
    ids = np.unique(samples.problem_id) if problems is None else np.asarray(problems, dtype=np.str_)
    kept = samples.take(samples.known & np.isin(samples.problem_id, ids))
    index = np.searchsorted(ids, kept.problem_id)
    count = np.bincount(index, minlength=len(ids)).astype(np.float64)
    columns = (kept.verdict == Verdict.CORRECT, kept.length, kept.truncated)
    sums = [np.bincount(index, weights=c.astype(np.float64), minlength=len(ids)) for c in columns]
    with np.errstate(invalid="ignore"):
        return np.stack(sums, axis=1) / count[:, None]


def resampled_means(values: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """(resamples, Q): the column means of each resample of the rows of `values` (P, Q).

    Absent (NaN) entries are left out; NaN where a resample caught nothing else.
    """
    if not len(values):
        return np.full((resamples, values.shape[1]), np.nan)
    weights = resampling_weights(len(values), resamples, seed)
    present = ~np.isnan(values)
    total = weights @ np.where(present, values, 0.0)
    count = weights @ present.astype(np.float64) if not present.all() else np.float64(len(values))
    with np.errstate(invalid="ignore"):
        return total / count


def _seeds(evaluations: Samples | Sequence[Samples]) -> list[Samples]:
    return [evaluations] if isinstance(evaluations, Samples) else list(evaluations)


@dataclass(frozen=True, eq=False)
class _Measured:
    """Seeds of one configuration on the same problems. values (S, 3) of each seed, mean (3,), draws (resamples, 3).

    linear (P', 3): what each problem that some seed knows adds: its mean is `mean`, and its spread, over the square root of
    P', the standard error. Where all seeds know all problems: the problem's mean. rows: problems known to the least seed.
    step: mean over problems of 1 / known samples.
    """

    values: Floats
    mean: Floats
    draws: Floats
    linear: Floats
    rows: int
    step: float


def _measure(runs: Sequence[Samples], ids: NDArray[Any], resamples: int, seed: int) -> _Measured:
    per_seed = np.array([problem_means(r, ids) for r in runs])  # (S, P, 3)
    values = np.array([_mean(m) for m in per_seed])
    draws = np.mean([resampled_means(m, resamples, seed) for m in per_seed], axis=0)
    present = ~np.isnan(per_seed[:, :, :1])
    known = present.any(axis=(0, 2))
    share = present.sum(axis=1, keepdims=True) / max(int(known.sum()), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        linear = (values[:, None] + np.where(present, per_seed - values[:, None], 0.0) / share).mean(axis=0)[known]
    samples = np.concatenate([r.problem_id[r.known & np.isin(r.problem_id, ids)] for r in runs])
    count = np.unique(samples, return_counts=True)[1]
    step = float((1 / count).mean()) if len(count) else 1.0
    return _Measured(values, values.mean(axis=0), draws, linear, int(present.sum(axis=1).min()), step)


def _mean(values: Floats) -> Floats:
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)


def summarise(
    evaluations: Samples | Sequence[Samples],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
    problems: NDArray[Any] | None = None,
) -> Summary:
    """Accuracy, tokens and truncation of one evaluation or of several seeds of one configuration, with intervals.

    Seeds are averaged with equal weight; problems are resampled jointly in all of them. `problems`: the ids to use
    (default: all that occur).
    """
    runs = _seeds(evaluations)
    if not runs:
        raise ValueError("summarise: no evaluation; give at least one")
    given = np.concatenate([r.problem_id for r in runs]) if problems is None else problems
    ids = np.unique(np.asarray(given, dtype=np.str_))
    m = _measure(runs, ids, resamples, seed)
    spread = m.values.std(axis=0, ddof=1) if len(runs) > 1 else np.full(len(MEASURES), np.nan)
    inside = [r.take(np.isin(r.problem_id, ids)) for r in runs]

    def of(column: int, interval: Callable[[], Interval]) -> Estimate:
        return estimate(m.mean[column], m.draws[:, column], m.rows, confidence, interval)

    return Summary(
        accuracy=of(0, lambda: share_interval(m.linear[:, 0], m.step, confidence)),
        tokens=of(1, lambda: mean_interval(m.linear[:, 1], resamples, seed, confidence)),
        truncation=of(2, lambda: share_interval(m.linear[:, 2], m.step, confidence)),
        problems=len(ids),
        samples=sum(len(r) for r in inside),
        unknown=int(sum((~r.known).sum() for r in inside)),
        seeds=len(runs),
        spread=dict(zip(MEASURES, map(float, spread), strict=True)),
        confidence=confidence,
        draws=m.draws,
    )


def compare(
    first: Samples | Sequence[Samples],
    second: Samples | Sequence[Samples],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """First minus second, paired: on the problems with a verdict in every seed of both, resampled jointly."""
    a, b = _seeds(first), _seeds(second)
    everything = np.unique(np.concatenate([r.problem_id for r in a + b]))
    known = [np.unique(r.problem_id[r.known]) for r in a + b]
    ids = known[0]
    for other in known[1:]:
        ids = np.intersect1d(ids, other)
    m, n = _measure(a, ids, resamples, seed), _measure(b, ids, resamples, seed)
    value, draws, linear = m.mean - n.mean, m.draws - n.draws, m.linear - n.linear
    step = max(m.step, n.step)

    def of(column: int, interval: Callable[[], Interval]) -> Estimate:
        return estimate(value[column], draws[:, column], m.rows, confidence, interval)

    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = m.mean[1] / n.mean[1] - 1
        ratio_draws = m.draws[:, 1] / n.draws[:, 1] - 1

    def less_one() -> Interval:
        low, high = ratio_interval(m.linear[:, 1], n.linear[:, 1], resamples, seed, confidence)
        return low - 1, high - 1

    return Comparison(
        accuracy=of(0, lambda: difference_interval(linear[:, 0], step, confidence)),
        tokens=of(1, lambda: mean_interval(linear[:, 1], resamples, seed, confidence)),
        truncation=of(2, lambda: difference_interval(linear[:, 2], step, confidence)),
        tokens_ratio=estimate(ratio, ratio_draws, m.rows, confidence, less_one),
        problems=len(ids),
        left_out=len(everything) - len(ids),
    )


def by_level(evaluations: Samples | Sequence[Samples], **options: Any) -> dict[str, Summary]:
    """{level: Summary} in natural order (2 before 10); empty where no sample has a level."""
    runs = _seeds(evaluations)
    levels = sorted({str(v) for r in runs for v in np.unique(r.level)} - {""}, key=lambda v: (len(v), v))
    result = {}
    for level in levels:
        of_level = [r.take(r.level == level) for r in runs]
        result[level] = summarise([r for r in of_level if len(r)], **options)
    return result
