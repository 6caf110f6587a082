"""Accuracy, tokens and truncation of an evaluation, with intervals that resample problems, not samples. numpy only.

Samples of one problem are not independent: a hard problem is hard in all of its samples. So the unit that is
resampled is the problem, with everything that was sampled for it, in every seed and in every evaluation that is
compared (cluster bootstrap, percentile interval). One matrix of resampling weights, given by (problems, resamples,
seed), serves all evaluations on the same problems: their differences are therefore paired.

An estimate is the mean over problems of the mean over a problem's samples (avg@k), so each problem counts the same.
Samples whose verdict is unknown are treated as absent from every statistic, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.batch import Verdict

Floats = NDArray[np.float64]
RESAMPLES = 2_000
CONFIDENCE = 0.95
SEED = 0
MEASURES = ("accuracy", "tokens", "truncation")


@dataclass(frozen=True, eq=False)
class Samples:
    """One evaluation: N judged samples as columns of equal length.

    problem_id (N,) str; length (N,) output tokens; verdict (N,) 1 correct, 0 wrong, -1 or None unknown;
    truncated (N,) bool (default: none is); level (N,) str (default: "").
    Raises ValueError naming the column of another length.
    """

    problem_id: NDArray[Any]
    length: NDArray[Any]
    verdict: NDArray[Any]
    truncated: NDArray[np.bool_] = None  # type: ignore[assignment]
    level: NDArray[Any] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n = len(self.problem_id)
        verdict = [Verdict.UNKNOWN if v is None else int(v) for v in self.verdict]
        columns: dict[str, NDArray[Any]] = {
            "problem_id": np.asarray([str(p) for p in self.problem_id], dtype=np.str_),
            "length": np.asarray(self.length, dtype=np.float64),
            "verdict": np.asarray(verdict, dtype=np.int8),
            "truncated": np.asarray(np.zeros(n) if self.truncated is None else self.truncated, dtype=np.bool_),
            "level": np.asarray([""] * n if self.level is None else [str(v) for v in self.level], dtype=np.str_),
        }
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
        return Samples(
            self.problem_id[index], self.length[index], self.verdict[index], self.truncated[index], self.level[index]
        )


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and interval; all NaN, or the last three, where `reason` says why."""

    value: float
    se: float
    low: float
    high: float
    reason: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        return (self.low, self.high)

    def text(self, digits: int = 3) -> str:
        """`0.713 [0.690, 0.735]`, or `n/a (reason)`."""
        if math.isnan(self.value):
            return f"n/a ({self.reason})" if self.reason else "n/a"
        if math.isnan(self.low):
            return f"{self.value:.{digits}f} [n/a]"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


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


@lru_cache(maxsize=4)
def resampling_weights(problems: int, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """(resamples, problems) float: how often each resample draws each problem; rows sum to `problems`. Read-only."""
    weights = np.random.default_rng(seed).multinomial(problems, np.full(problems, 1 / problems), size=resamples)
    weights = weights.astype(np.float64)
    weights.setflags(write=False)
    return weights


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


def percentile_interval(draws: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central `confidence` of the draws. The one interval rule: every estimate takes its interval from here."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def estimate(value: float, draws: Floats, rows: int, confidence: float = CONFIDENCE) -> Estimate:
    """The estimate whose bootstrap values are `draws`, from `rows` problems; NaN with a reason where too few."""
    nan = math.nan
    if rows == 0:
        return Estimate(nan, nan, nan, nan, "no problem with a known verdict")
    if rows == 1:
        return Estimate(float(value), nan, nan, nan, "one problem: nothing to resample")
    draws = draws[~np.isnan(draws)]
    if math.isnan(value) or len(draws) < 2:
        return Estimate(float(value), nan, nan, nan, "not defined on these samples")
    return Estimate(float(value), float(draws.std(ddof=1)), *percentile_interval(draws, confidence))


def _seeds(evaluations: Samples | Sequence[Samples]) -> list[Samples]:
    return [evaluations] if isinstance(evaluations, Samples) else list(evaluations)


def _average(per_seed: Sequence[Floats], resamples: int, seed: int) -> tuple[Floats, Floats, Floats, int]:
    """(value of each seed (S, 3), their mean (3,), its draws (resamples, 3), problems known to the least seed)."""
    values = np.array([_mean(m) for m in per_seed])
    draws = np.mean([resampled_means(m, resamples, seed) for m in per_seed], axis=0)
    rows = min(int((~np.isnan(m[:, 0])).sum()) for m in per_seed)
    return values, values.mean(axis=0), draws, rows


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
    per_seed = [problem_means(r, ids) for r in runs]
    values, value, draws, rows = _average(per_seed, resamples, seed)
    spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.full(len(MEASURES), np.nan)
    inside = [r.take(np.isin(r.problem_id, ids)) for r in runs]
    accuracy, tokens, truncation = (estimate(value[i], draws[:, i], rows, confidence) for i in range(len(MEASURES)))
    return Summary(
        accuracy, tokens, truncation,
        problems=len(ids),
        samples=sum(len(r) for r in inside),
        unknown=int(sum((~r.known).sum() for r in inside)),
        seeds=len(runs),
        spread=dict(zip(MEASURES, map(float, spread), strict=True)),
        confidence=confidence,
        draws=draws,
    )  # fmt: skip


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
    _, value_a, draws_a, rows = _average([problem_means(r, ids) for r in a], resamples, seed)
    _, value_b, draws_b, _ = _average([problem_means(r, ids) for r in b], resamples, seed)
    value, draws = value_a - value_b, draws_a - draws_b
    differences = [estimate(value[i], draws[:, i], rows, confidence) for i in range(len(MEASURES))]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = estimate(value_a[1] / value_b[1] - 1, draws_a[:, 1] / draws_b[:, 1] - 1, rows, confidence)
    return Comparison(*differences, tokens_ratio=ratio, problems=len(ids), left_out=len(everything) - len(ids))


def by_level(evaluations: Samples | Sequence[Samples], **options: Any) -> dict[str, Summary]:
    """{level: Summary} in natural order (2 before 10); empty where no sample has a level."""
    runs = _seeds(evaluations)
    levels = sorted({str(v) for r in runs for v in np.unique(r.level)} - {""}, key=lambda v: (len(v), v))
    result = {}
    for level in levels:
        of_level = [r.take(r.level == level) for r in runs]
        result[level] = summarise([r for r in of_level if len(r)], **options)
    return result
