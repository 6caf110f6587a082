"""Numbers of an evaluation beside accuracy and tokens: pass@k, maj@k, accuracy by budget, AES, REG, hypervolume.

Functions of arrays. Problems count the same however many samples they have; samples without a verdict are absent.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.intervals import CAUTION, CONFIDENCE, RESAMPLES, Floats, resampling_weights, student_quantile
from benchmarks.statistics import Samples
from rewards.batch import Verdict
from rewards.errors import TautError

AES_FORMS = ("o1-pruner", "drpo")
AesForm = Literal["o1-pruner", "drpo"]
SHORTEST = (0.05, 0.10, 0.20)
LEAST_FREEDOM = 4  # of Student's quantile for the shortest: fewer degrees would leave nothing but [0, 1]
MOST_SAMPLES = 500  # of a problem, for maj@k: the binomials of more do not fit a float


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: int) -> Floats:
    """(P,) chance that k of a problem's `samples` (P,), drawn without replacement, hold one of its `correct` (P,).

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374), as a product of k ratios that neither overflows nor cancels.
    NaN where a problem has fewer than k samples. Raises ValueError for k < 1 or more correct than samples.
    """
    n, c = np.broadcast_arrays(np.asarray(samples, dtype=np.float64), np.asarray(correct, dtype=np.float64))
    if k < 1 or (c > n).any() or (c < 0).any():
        raise ValueError(
            f"pass_at_k: k={k}, and correct must lie between 0 and samples; give counts of the same problems"
        )
    missed = np.ones(n.shape)
    for i in range(k):
        missed *= np.maximum(n - c - i, 0) / np.maximum(n - i, 1)
    return np.where(n < k, np.nan, 1 - missed)


def majority_at_k(right: int, wrong: Sequence[int], silent: int, k: int) -> float:
    """Chance that the most frequent answer of k samples, drawn without replacement from one problem's, is the right one.

    right: samples with the right answer; wrong: samples of each wrong answer; silent: samples without an answer, which are
    drawn but do not vote. Equal votes are broken at random; without any vote the answer is wrong. Exact, whatever the number of
    subsets: the subsets are counted, not listed. NaN where there are fewer than k samples.
    Raises ValueError for k < 1 or more than MOST_SAMPLES samples.
    """
    if k < 1 or right + sum(wrong) + silent > MOST_SAMPLES:
        raise ValueError(f"majority_at_k: k={k} and at most {MOST_SAMPLES} samples of a problem; thin them out")
    return _majority(right, tuple(sorted(wrong)), silent, k)


@lru_cache(maxsize=65536)
def _majority(right: int, wrong: tuple[int, ...], silent: int, k: int) -> float:
    total = right + sum(wrong) + silent
    if total < k:
        return math.nan
    won = 0.0
    for votes in range(1, min(right, k) + 1):
        left = k - votes
        ties = left // votes
        ways = np.zeros((left + 1, ties + 1))  # [samples drawn, wrong answers with just as many votes]
        ways[0, 0] = 1.0
        for size in wrong:
            after = ways.copy()  # no sample of this answer
            for drawn in range(1, min(size, votes, left) + 1):
                tied = int(drawn == votes)
                after[drawn:, tied:] += math.comb(size, drawn) * ways[: left + 1 - drawn, : ties + 1 - tied]
            ways = after
        fill = np.array([math.comb(silent, left - drawn) for drawn in range(left + 1)], dtype=np.float64)
        shared = ways / (1 + np.arange(ties + 1))
        won += math.comb(right, votes) * float((fill[:, None] * shared).sum())
    return won / math.comb(total, k)


def pass_by_problem(samples: Samples, k: int) -> Floats:
    """(P,) pass@k of each problem with a known sample, in the order of np.unique."""
    known = samples.take(samples.known)
    _, index, count = np.unique(known.problem_id, return_inverse=True, return_counts=True)
    return pass_at_k(count, np.bincount(index, known.verdict == Verdict.CORRECT, len(count)), k)


def majority_by_problem(samples: Samples, k: int) -> Floats:
    """(P,) maj@k of each problem with a known sample, in the order of np.unique; needs `samples.answer`.

    All correct samples count as one answer, however they are written; wrong ones are told apart by their text.
    """
    known = samples.take(samples.known)
    _, index = np.unique(known.problem_id, return_inverse=True)
    order = np.argsort(index, kind="stable")
    found = []
    for rows in np.split(order, np.flatnonzero(np.diff(index[order])) + 1) if len(order) else []:
        right = known.verdict[rows] == Verdict.CORRECT
        wrong = Counter(answer for answer in known.answer[rows[~right]].tolist())
        silent = wrong.pop("", 0)
        found.append(majority_at_k(int(right.sum()), list(wrong.values()), silent, k))
    return np.array(found, dtype=np.float64)


def budget_by_problem(samples: Samples, budgets: ArrayLike) -> Floats:
    """(P, B): each problem's share of known samples that are correct with at most budgets[b] tokens, as np.unique orders.

    Nothing is forced at the budget: a response that was cut there counts as wrong.
    """
    known = samples.take(samples.known)
    limits = np.atleast_1d(np.asarray(budgets, dtype=np.float64))
    _, index, count = np.unique(known.problem_id, return_inverse=True, return_counts=True)
    right = known.verdict == Verdict.CORRECT
    columns = [np.bincount(index, right & (known.length <= limit), len(count)) / count for limit in limits]
    return np.stack(columns, axis=1) if len(count) else np.zeros((0, len(limits)))


def accuracy_among_shortest(
    samples: Samples, share: float, resamples: int = RESAMPLES
) -> tuple[float, float, float, int]:
    """(accuracy, low, high, number) of the shortest `share` of all known answers, all problems together; equal lengths all count.

    The interval resamples problems, and the limit of length moves with them: Wilson's with the effective sample size that the
    bootstrap's variance implies, and Student's quantile for the g problems that the shortest come from. As in `share_interval`,
    where only e of those have an answer of the rarer kind the size is drawn, with weight CAUTION / e^2, towards that of answers
    that agree within a problem. It keeps its word with few problems by being wide there (`benchmarks.coverage`). NaN where
    nothing is known, and for the interval where fewer than two problems are. Short answers come from easy problems: compare it
    between models, not with the accuracy.
    """
    known = samples.take(samples.known)
    if not len(known):
        return math.nan, math.nan, math.nan, 0
    order = np.argsort(known.length, kind="stable")
    length, right = known.length[order], known.verdict[order] == Verdict.CORRECT
    ids, problem = np.unique(known.problem_id[order], return_inverse=True)
    ends = np.searchsorted(length, length, side="right") - 1  # the last answer as short as this one
    number = int(ends[math.ceil(share * len(length)) - 1]) + 1
    value = float(right[:number].mean())
    if len(ids) < 2:
        return value, math.nan, math.nan, number
    draws = np.concatenate(
        [
            _shortest(weights[:, problem], right, ends, share)
            for weights in np.array_split(
                resampling_weights(len(ids), resamples), max(1, resamples * len(length) // 4_000_000)
            )
        ]
    )
    counts, correct = np.bincount(problem[:number]), np.bincount(problem[:number], right[:number])
    counts, correct = counts[counts > 0], correct[counts > 0]
    rare = int(min((correct > 0).sum(), (correct < counts).sum()))
    spread, agreeing = value * (1 - value), number / (counts.sum() ** 2 / (counts**2).sum())
    ratio, weight = float(agreeing), CAUTION / max(rare, 1) ** 2
    if rare and draws.var() > 0:
        implied = float(np.clip(number * draws.var() / spread, 1, number))
        ratio = (implied + weight * ratio) / (1 + weight)
    size, z = number / max(ratio, 1.0), student_quantile((1 + CONFIDENCE) / 2, max(len(counts) - 1, LEAST_FREEDOM))
    centre = (value + z * z / 2 / size) / (1 + z * z / size)
    half = z * math.sqrt(spread / size + z * z / 4 / size**2) / (1 + z * z / size)
    return value, max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)), number


def _shortest(weights: Floats, right: NDArray[np.bool_], ends: NDArray[Any], share: float) -> Floats:
    """(R,) accuracy among the shortest in each resample; weights (R, N): how often it holds each answer, from the shortest on."""
    so_far = weights.cumsum(axis=1)
    wanted = np.ceil(share * so_far[:, -1:] - 1e-9)
    last = ends[np.argmax(so_far >= np.maximum(wanted, 1), axis=1)][:, None]
    taken = np.take_along_axis(so_far, last, axis=1)
    return (np.take_along_axis((weights * right).cumsum(axis=1), last, axis=1) / taken)[:, 0]


def aes(accuracy: Any, tokens: Any, reference_accuracy: Any, reference_tokens: Any, form: AesForm) -> Any:
    """Accuracy-efficiency score of a model against a reference; scalars or arrays of one shape.

    With s = 1 - tokens / reference_tokens and d = accuracy / reference_accuracy - 1:
    "o1-pruner" (Luo et al. 2025, arXiv 2501.12570): s + 3 d where d >= 0, else s - 5 |d|; the reference is the base model.
    "drpo" (Li et al. 2025, arXiv 2510.04474): s where d >= 0, else s - 10 |d|; the reference is the same method without its
    length term. A score means nothing without its form and its reference: always name both.
    """
    if form not in AES_FORMS:
        raise ValueError(f"aes: form {form!r}; give one of {', '.join(AES_FORMS)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        saved = 1 - np.asarray(tokens, dtype=np.float64) / reference_tokens
        gained = np.asarray(accuracy, dtype=np.float64) / reference_accuracy - 1
    up, down = (3.0, 5.0) if form == "o1-pruner" else (0.0, 10.0)
    return saved + np.where(gained >= 0, up, down) * gained


def reg(budgets: ArrayLike, frontier: ArrayLike, curve: ArrayLike, *, signed: bool = True) -> Any:
    """Reasoning-efficiency gap: the mean over budgets of what a frontier solves more than a model does (arXiv 2506.07104).

    budgets (B,) rising; frontier (B,) and curve (..., B): accuracy within each budget. The area between the two by the trapezoid
    rule over these budgets, divided by their range, so that it is an accuracy; `signed=False` counts only where the frontier is
    above (a piece that crosses is taken in two). Published frontiers force an answer at the budget; a curve without
    forced answers lies below one with them, and its gap is an upper bound.
    Raises ValueError when shapes differ or budgets do not rise.
    """
    x, f, a = (np.asarray(v, dtype=np.float64) for v in (budgets, frontier, curve))
    if x.ndim != 1 or len(x) < 2 or f.shape != x.shape or a.shape[-1:] != x.shape or (np.diff(x) <= 0).any():
        raise ValueError(
            f"reg: budgets {x.shape}, frontier {f.shape}, curve {a.shape}; give two or more rising budgets"
        )
    gap = f - a
    left, right, width = gap[..., :-1], gap[..., 1:], np.diff(x)
    area = (left + right) / 2
    if not signed:
        high, low = np.maximum(left, right), np.minimum(left, right)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = np.where((high > 0) & (low < 0), high * high / (high - low) / 2, np.maximum(area, 0))
        area = crossing
    return (area * width).sum(axis=-1) / (x[-1] - x[0])


def load_frontier(path: str | Path, name: str | None = None) -> tuple[Floats, Floats]:
    """(budgets (B,), accuracy (B,)) of a JSON file {NAME: [[budgets], [accuracies]]}; `name` may be left out when it is alone.

    Raises TautError naming the file, the value and the remedy.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TautError(
            f"{path}: cannot be read as JSON ({error}); give {{NAME: [[budgets], [accuracies]]}}"
        ) from error
    if not isinstance(data, dict) or not data:
        raise TautError(f"{path}: no frontier in it; give {{NAME: [[budgets], [accuracies]]}}")
    if (name is None and len(data) > 1) or (name is not None and name not in data):
        raise TautError(f"{path}: frontier {name!r} of {', '.join(data)}; name one of them: FILE:{next(iter(data))}")
    chosen = name or next(iter(data))
    try:
        budgets, accuracy = (np.asarray(v, dtype=np.float64) for v in data[chosen])
    except (TypeError, ValueError) as error:
        raise TautError(
            f"{path}: {chosen}: not two lists of numbers ({error}); give [[budgets], [accuracies]]"
        ) from error
    fits = budgets.ndim == 1 and budgets.shape == accuracy.shape and len(budgets) > 1
    if not fits or not (np.diff(budgets) > 0).all() or not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise TautError(f"{path}: {chosen}: needs two or more rising budgets and as many accuracies from 0 to 1")
    return budgets, accuracy


def dominated(accuracy: ArrayLike, tokens: ArrayLike) -> NDArray[np.bool_]:
    """(n,) whether another point is as accurate for as few tokens, and better in one of the two; never one with a NaN."""
    a, t = np.asarray(accuracy, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    no_worse = (a[:, None] >= a) & (t[:, None] <= t)
    better = (a[:, None] > a) | (t[:, None] < t)
    return np.asarray((no_worse & better).any(axis=0))


def hypervolume(accuracy: ArrayLike, tokens: ArrayLike, base_tokens: float) -> NDArray[Any]:
    """(...,) area that points (..., n) dominate, above accuracy 0 and left of the base model's tokens, which are 1.

    A point with at least the base model's tokens adds nothing; absent (NaN) points are left out. From 0 to 1.
    """
    a, t = np.broadcast_arrays(
        np.asarray(accuracy, dtype=np.float64), np.asarray(tokens, dtype=np.float64) / base_tokens
    )
    absent = np.isnan(a) | np.isnan(t)
    a, t = np.where(absent, 0.0, a), np.where(absent, 1.0, np.minimum(t, 1.0))
    order = np.argsort(t, axis=-1, kind="stable")
    a, t = np.take_along_axis(a, order, -1), np.take_along_axis(t, order, -1)
    until = np.concatenate([t[..., 1:], np.ones((*t.shape[:-1], 1))], axis=-1)
    return (np.maximum.accumulate(a, axis=-1) * (until - t)).sum(axis=-1)


def dominance(accuracy: Floats, tokens: Floats) -> Floats:
    """(n, n): share of resamples in which point i is as good as j in both and better in one. accuracy, tokens (resamples, n).

    The resamples must be of the same problems for all points: then it is the paired bootstrap's. NaN for what is absent.
    """
    n = accuracy.shape[1]
    found = np.full((n, n), np.nan)
    for i in range(n):
        no_worse = (accuracy[:, [i]] >= accuracy) & (tokens[:, [i]] <= tokens)
        better = (accuracy[:, [i]] > accuracy) | (tokens[:, [i]] < tokens)
        found[i] = (no_worse & better).mean(axis=0)
    absent = np.isnan(accuracy).all(axis=0) | np.isnan(tokens).all(axis=0)
    found[absent], found[:, absent] = np.nan, np.nan
    return found
