"""What a step on these advantages would do: slopes of accuracy and tokens for the same KL, and finite tilts of the log.

Tilting the logged policy by exp(eta A) changes the mean of any f at the rate Cov(A, f) within groups, and costs
eta^2 / 2 Var(A) of KL. For a KL of d nats a response that makes a change of sqrt(2 d) Cov(A, f) / sd(A): an arrow in the plane
of accuracy and tokens. It ranks configurations; it is no forecast of where training ends.

Everything is a ratio of sums over problems, so that a bootstrap over problems is one product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics import CONFIDENCE, RESAMPLES, SEED, Estimate, estimate, resampling_weights
from rewards.base import Scores
from rewards.batch import Batch, Bools, Floats, Ints

BANDS = ("hard", "medium", "easy")  # group accuracy below 1/3, below 2/3, and from there on
SUMS = (
    "rollouts", "correct", "wrong", "correct_negative", "wrong_positive", "magnitude", "groups", "silent", "mixed",
    "inverted", "tokens", "cov_correct", "cov_length", "variance",
    *(f"{name}_{band}" for name in ("xy", "xx") for band in BANDS),
)  # fmt: skip
LEAST_ESS = 0.5  # of a group's size: below it a handful of samples speaks for a policy


@dataclass
class ProblemSums:
    """(problems, columns) sums that grow with the problems met."""

    columns: int
    table: Floats = None  # type: ignore[assignment]

    def add(self, problem: Ints, values: Floats) -> None:
        """Add (G, columns) values to the rows of problems (G,)."""
        if self.table is None:
            self.table = np.zeros((0, self.columns))
        if (need := int(problem.max(initial=-1)) + 1) > len(self.table):
            self.table = np.pad(self.table, ((0, max(need, 2 * len(self.table)) - len(self.table)), (0, 0)))
        np.add.at(self.table, problem, values)


def one_each(advantage: Floats, batch: Batch) -> Floats:
    """(N,) advantages: those of tokens (N, T) as their mean over the response."""
    if advantage.ndim == 1:
        return advantage
    inside = np.arange(advantage.shape[1]) < batch.length[:, None]
    return np.where(inside, advantage, 0.0).sum(axis=1) / np.maximum(batch.length, 1)


def group_sums(batch: Batch, scores: Scores, advantage: Floats) -> Floats:
    """(P, len(SUMS)) of each group of a batch whose verdicts are all known; filtered rollouts have advantage 0, as trained."""
    correct, length, keep = batch.correct, batch.length.astype(np.float64), scores.keep
    a = advantage - batch.spread(batch.group_mean(advantage))
    c = correct - batch.spread(batch.group_mean(correct))
    x = length - batch.spread(batch.group_mean(length))
    right, size = batch.group_count(correct), batch.group_size
    mixed = (batch.group_count(correct & keep) > 0) & (batch.group_count(~correct & keep) > 0)
    best_wrong, worst_right = (
        batch.group_max(scores.total, ~correct & keep),
        batch.group_min(scores.total, correct & keep),
    )
    dx = np.where(correct, length - batch.spread(batch.group_mean(length, correct)), 0.0)
    xy, xx = batch.group_sum(dx * advantage), batch.group_sum(dx * dx)
    share = right / np.maximum(size, 1)
    in_band = [share < 1 / 3, (share >= 1 / 3) & (share < 2 / 3), share >= 2 / 3]
    total = batch.group_sum
    silent = batch.group_max(advantage) == batch.group_min(advantage)  # moves nothing in expectation, baseline or not
    return np.stack(
        [
            size, right, size - right, total(correct & (advantage < 0)), total(~correct & (advantage > 0)),
            total(np.abs(advantage)), np.ones(len(size)), silent, mixed, mixed & (best_wrong > worst_right), total(length),
            total(a * c), total(a * x), total(a * a),
            *(xy * band for band in in_band), *(xx * band for band in in_band),
        ],
        axis=1,
    ).astype(np.float64)  # fmt: skip


Ratio = Callable[[Callable[[str], Any]], Any]


def _over(a: Any, b: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(a, b)


def _slope(f: str) -> Ratio:
    return lambda s: _over(s(f"cov_{f}"), np.sqrt(s("variance") * s("rollouts")))


def _band_slope(band: str) -> Ratio:
    return lambda s: 100 * _over(s(f"xy_{band}"), s(f"xx_{band}"))


def _share(part: str, of: str) -> Ratio:
    return lambda s: _over(s(part), s(of))


def _score(s: Callable[[str], Any]) -> Any:
    """AES (O1-Pruner's form) of an arrow of length 1, against the log's own mean; arrows of any KL have the same order."""
    shorter = -_over(_slope("length")(s), STATISTICS["tokens"](s))
    better = _over(_slope("correct")(s), STATISTICS["accuracy"](s))
    return shorter + np.where(better >= 0, 3.0, 5.0) * better


STATISTICS: dict[str, Ratio] = {
    "accuracy": _share("correct", "rollouts"),
    "tokens": _share("tokens", "rollouts"),
    "correct_negative": _share("correct_negative", "correct"),
    "wrong_positive": _share("wrong_positive", "wrong"),
    "inverted": _share("inverted", "mixed"),
    "silent": _share("silent", "groups"),
    "magnitude": _share("magnitude", "rollouts"),
    "slope_accuracy": _slope("correct"),
    "slope_tokens": _slope("length"),
    "score": _score,
}


def statistics(
    sums: Floats, terms: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED, confidence: float = CONFIDENCE
) -> tuple[dict[str, Estimate], dict[str, tuple[Estimate, Estimate]], Floats]:
    """(STATISTICS by name, what each term pays (correct, wrong) rollouts, (resamples,) draws of the score), with intervals
    that resample problems.

    sums (problems, len(SUMS) + 2 len(terms)): for each term its sum over correct, then over wrong rollouts.
    """
    sums = sums[sums[:, 0] > 0]
    totals, draws = sums.sum(axis=0), resampling_weights(len(sums), resamples, seed) @ sums
    place = {name: i for i, name in enumerate(SUMS)}

    def of(ratio: Ratio, rows: int = len(sums)) -> tuple[Estimate, Floats]:
        drawn = np.asarray(ratio(lambda name: draws[:, place[name]]), dtype=np.float64)
        value = float(ratio(lambda name: totals[place[name]]))
        return estimate(value, drawn, rows, confidence), drawn

    found = {name: of(ratio) for name, ratio in STATISTICS.items()}
    for band in BANDS:  # a slope rests on the problems that are in the band
        rows = int((sums[:, place[f"xx_{band}"]] > 0).sum())
        slope, drawn = of(_band_slope(band), rows)
        found[f"by_length_{band}"] = slope if rows else replace(slope, reason="none"), drawn
    pays = {}
    for t, term in enumerate(terms):
        at = len(SUMS) + 2 * t
        place |= {"(right)": at, "(wrong)": at + 1}
        pays[term] = (of(_share("(right)", "correct"))[0], of(_share("(wrong)", "wrong"))[0])
    return {name: e for name, (e, _) in found.items()}, pays, found["score"][1]


def arrow(slope: Estimate, kl: float) -> Estimate:
    """The change for `kl` nats a response at this slope."""
    by = math.sqrt(2 * kl)
    return Estimate(by * slope.value, by * slope.se, by * slope.low, by * slope.high, slope.reason)


@dataclass(frozen=True)
class Groups:
    """The log's rollouts with a verdict, group after group: starts (P,), correct (N,), length (N,), problem (P,) code."""

    starts: Ints
    correct: Bools
    length: Floats
    problem: Ints

    @property
    def size(self) -> NDArray[Any]:
        """Rollouts of each group."""
        return np.diff(self.starts, append=len(self.correct))


@dataclass(frozen=True)
class Tilt:
    """The log reweighted to a finite KL. ess: mean effective sample size of a group with signal, as a share of its size.

    refused: why there are no estimates, "" where there are.
    """

    accuracy: Estimate | None
    tokens: Estimate | None
    ess: float
    refused: str = ""


def tilt(groups: Groups, advantage: Floats, kl: float, least: float = LEAST_ESS, **bootstrap: Any) -> Tilt:
    """Change of accuracy and tokens under weights proportional to exp(eta A) in each group, self-normalised, eta such that the
    mean KL of a group to its log is `kl` nats."""
    size, starts = groups.size, groups.starts
    a = advantage - np.repeat(np.maximum.reduceat(advantage, starts), size)
    varied = np.minimum.reduceat(a, starts) < 0
    if not varied.any():
        return Tilt(None, None, math.nan, "no group has any signal")

    def cost(eta: float) -> tuple[float, Floats]:
        weight = np.exp(eta * a)
        mass = np.add.reduceat(weight, starts)
        gain = eta * np.add.reduceat(weight * a, starts) / mass
        return float(np.average(gain - np.log(mass / size), weights=size)), weight

    spread = np.add.reduceat(a * a, starts) - np.add.reduceat(a, starts) ** 2 / size
    high = math.sqrt(2 * kl * len(a) / float(spread.sum()))
    low = 0.0
    for _ in range(24):
        if cost(high)[0] >= kl:
            break
        low, high = high, 2 * high
    else:
        return Tilt(None, None, math.nan, f"no weights on these groups reach a KL of {kl:g}; give a smaller one")
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle)[0] < kl else (low, middle)
    weight = cost(high)[1]
    weight /= np.repeat(np.add.reduceat(weight, starts), size)
    ess = float(np.mean((1 / np.add.reduceat(weight**2, starts) / size)[varied]))
    if ess < least:
        told = f"effective sample size {ess:.0%} of a group at a KL of {kl:g}, less than {least:.0%}"
        return Tilt(None, None, ess, f"{told}; give a smaller kl, or log more samples a problem")
    moved = [
        size * np.add.reduceat(weight * f, starts) - np.add.reduceat(f, starts)
        for f in (groups.correct.astype(np.float64), groups.length)
    ]
    sums = ProblemSums(3)
    sums.add(groups.problem, np.stack([*moved, size], axis=1).astype(np.float64))
    table = sums.table[sums.table[:, 2] > 0]
    draws = resampling_weights(len(table), bootstrap.get("resamples", RESAMPLES), bootstrap.get("seed", SEED)) @ table
    totals = table.sum(axis=0)
    accuracy, tokens = (
        estimate(
            float(totals[i] / totals[2]), draws[:, i] / draws[:, 2], len(table), bootstrap.get("confidence", CONFIDENCE)
        )
        for i in (0, 1)
    )
    return Tilt(accuracy, tokens, ess)
