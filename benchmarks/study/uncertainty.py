"""How far another draw of problems and of training seeds would move a number.

The mean of a configuration varies for three reasons: which problems were drawn, which tokens were sampled, and which
seed trained it. The first two are the bootstrap's over problems, joint for all configurations, so that comparisons
are paired. The third is the seeds' variance beyond what sampling explains (two-way analysis of variance, seed by
problem). With two or three seeds a configuration hardly knows its own; it is drawn towards that of all
configurations, by how much they differ among themselves (moderated variances: Smyth, Statistical Applications in
Genetics and Molecular Biology 3(1), 2004), which also gives the degrees of freedom of Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import polygamma
from scipy.stats import t as student

from benchmarks.intervals import CONFIDENCE, RESAMPLES, SEED, Estimate
from benchmarks.statistics import resampled_means
from benchmarks.study.runs import Floats, Measured, Study
from rewards.errors import TautError

MEASURES = ("accuracy", "tokens")
SETTLED = 2.0  # tokens from the median over configurations
ENOUGH = 8  # configurations with two seeds, of each kind, without which what a seed moves is not told
LEAST_FREEDOM = 4.0  # of a prior: one that says less would leave a configuration with two seeds without any interval
LEAST = 1e-12  # a variance that is as good as none


@dataclass(frozen=True)
class Moderated:
    """prior: the variance that all share, freedom: of the prior, inf where configurations differ no more than chance would have
    it; each (C,): a configuration's own, drawn towards it."""

    prior: float
    freedom: float
    each: Floats


def moderate(variances: Floats, freedom: Floats) -> Moderated:
    """Draw variances (C,), each with its degrees of freedom (C,), towards what they have in common; those without a degree of
    freedom get the prior.

    Where they differ so much that the prior would have less than LEAST_FREEDOM, it is held there, and is their mean, which the
    largest decide: too wide for most. Raises ValueError for fewer than two with a degree of freedom.
    """
    known = freedom > 0
    if known.sum() < 2:
        raise ValueError("moderate: at least two configurations need two seeds or more")
    d = freedom[known]
    log = np.log(np.maximum(variances[known], LEAST)) - polygamma(0, d / 2) + np.log(d / 2)
    excess = float(log.var(ddof=1) - polygamma(1, d / 2).mean())
    if excess <= 0:
        return Moderated(float(np.exp(log.mean())), math.inf, np.full(len(variances), np.exp(log.mean())))
    d0 = 2 * _trigamma_inverse(excess)
    prior = float(np.exp(log.mean() + polygamma(0, d0 / 2) - np.log(d0 / 2)))
    if d0 < LEAST_FREEDOM:
        d0, prior = LEAST_FREEDOM, float(np.average(variances[known], weights=d))
    own = np.where(known, variances, 0.0)
    return Moderated(prior, d0, (d0 * prior + freedom * own) / (d0 + freedom))


def _trigamma_inverse(value: float) -> float:
    """x with trigamma(x) = value, by Newton's method on 1 / trigamma, which is nearly a line."""
    x = 0.5 + 1 / value
    for _ in range(50):
        tri = float(polygamma(1, x))
        step = tri * (1 - tri / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def two_way(values: Floats) -> tuple[float, float]:
    """(variance of the seeds' means, its part that sampling explains) of values (S, P); (nan, nan) for one seed."""
    seeds, problems = values.shape
    if seeds < 2:
        return math.nan, math.nan
    centred = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    residual = float((centred**2).sum() / ((seeds - 1) * (problems - 1)))
    return float(values.mean(axis=1).var(ddof=1)), residual / problems


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Draws of every configuration's (accuracy, tokens), joint over problems. draws {name: (R, 2)}; mean {name: (2,)}; seed_sd
    {name: (2,)}: what a training seed moves by itself; freedom {name: (2,)}: of its Student's t."""

    mean: dict[str, Floats]
    draws: dict[str, Floats]
    seed_sd: dict[str, Floats]
    freedom: dict[str, Floats]

    def estimate(self, value: float, draws: Floats) -> Estimate:
        """A number with the interval of its draws."""
        drawn = draws[np.isfinite(draws)]
        if not math.isfinite(value) or len(drawn) < 2:
            return Estimate(value, math.nan, math.nan, math.nan, "not defined here")
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(value, float(drawn.std(ddof=1)), float(low), float(high))

    def of(self, name: str, measure: str) -> Estimate:
        i = MEASURES.index(measure)
        return self.estimate(float(self.mean[name][i]), self.draws[name][:, i])

    def difference(self, first: str, second: str, measure: str) -> Estimate:
        """First minus second, paired over problems."""
        i = MEASURES.index(measure)
        value = float(self.mean[first][i] - self.mean[second][i])
        return self.estimate(value, self.draws[first][:, i] - self.draws[second][:, i])


def measure(study: Study, resamples: int = RESAMPLES, seed: int = SEED) -> Uncertainty:
    """Draws for all configurations of a study. A problem that any run has no verdict for is left out of all."""
    return measure_these(_whole(study)[0], resamples, seed)


def measure_beside(study: Study, other: Study, resamples: int = RESAMPLES, seed: int = SEED) -> list[Uncertainty]:
    """Both, so that draws of the one may be held against draws of the other: joint over problems, not over training seeds.

    Raises TautError where they have other problems.
    """
    if not np.array_equal(study.problems, other.problems):
        raise TautError("two studies are held against each other, but were evaluated on other problems")
    return [measure_these(c, resamples, seed, stream) for c, stream in zip(_whole(study, other), (0, 1), strict=True)]


def _whole(*studies: Study) -> list[list[Measured]]:
    """The configurations of each on the problems that all runs of all have a verdict for."""
    unknown = [np.isnan(c.accuracy).any(axis=0) for s in studies for c in s.configurations.values()]
    whole = ~np.any(unknown, axis=0)
    return [[_only(c, whole) for c in s.configurations.values()] for s in studies]


def _only(c: Measured, problems: Any) -> Measured:
    return Measured(c.name, c.kind, c.seeds, c.accuracy[:, problems], c.tokens[:, problems])


def measure_these(configurations: Sequence[Measured], resamples: int, seed: int, stream: int = 0) -> Uncertainty:
    """As `measure`; the base model, which nothing trained, has no variance of seeds. `stream`: another one has other draws
    for training seeds."""
    trained = [c for c in configurations if c.kind != "base"]
    tokens = np.array([float(c.tokens.mean()) for c in trained])
    away = tokens - np.median(tokens)
    # Short, settled and long ones scatter each in their own way.
    kinds = away < -SETTLED, np.abs(away) <= SETTLED, away > SETTLED
    variance = {c.name: np.zeros(2) for c in configurations}
    freedom = {c.name: np.full(2, math.inf) for c in configurations}
    together = {c.name: 0.0 for c in configurations}
    for kind in kinds:
        some = [c for c, inside in zip(trained, kind, strict=True) if inside]
        if not some:
            continue
        together |= dict.fromkeys([c.name for c in some], _correlation(some))
        for i, name in enumerate(MEASURES):
            for c, (of_seeds, degrees) in zip(some, _of_seeds(some, name), strict=True):
                variance[c.name][i], freedom[c.name][i] = of_seeds, degrees
    rng = np.random.default_rng([seed, stream] if stream else seed)
    mean, draws = {}, {}
    for c in configurations:
        problems = np.stack([c.accuracy.mean(axis=0), c.tokens.mean(axis=0)], axis=1)
        mean[c.name] = problems.mean(axis=0)
        shift = np.stack([_student(rng, resamples, f) for f in freedom[c.name]], axis=1)
        rho = together[c.name]
        shift[:, 1] = rho * shift[:, 0] + math.sqrt(1 - rho**2) * shift[:, 1]
        moved = resampled_means(problems, resamples, seed) + shift * np.sqrt(variance[c.name] / len(c.seeds))
        draws[c.name] = np.clip(moved, 0, [1, np.inf])
    return Uncertainty(mean, draws, {name: np.sqrt(v) for name, v in variance.items()}, freedom)


def _correlation(configurations: Sequence[Measured]) -> float:
    """Of accuracy and tokens between the seeds of a configuration, over all that have several: a seed with fewer tokens is often
    less accurate, too."""
    away = [
        np.stack([m.mean(axis=1) - m.mean() for m in (c.accuracy, c.tokens)], axis=1)
        for c in configurations
        if len(c.seeds) > 1
    ]
    a, t = np.concatenate(away).T if away else np.zeros((2, 1))
    scale = math.sqrt(float((a**2).sum() * (t**2).sum()))
    return float((a * t).sum()) / scale if scale else 0.0


def _of_seeds(configurations: Sequence[Measured], measure: str) -> list[tuple[float, float]]:
    """(variance of a seed beyond what sampling explains, its degrees of freedom) of each. Raises TautError without enough seeds."""
    degrees = np.array([float(len(c.seeds) - 1) for c in configurations])
    if (degrees > 0).sum() < min(ENOUGH, len(configurations)):
        had = f"{(degrees > 0).sum()} of {len(configurations)} configurations of one kind have two seeds"
        raise TautError(f"{had}; {ENOUGH} are needed to tell what a seed moves: let the sweep go on")
    if len(configurations) == 1:
        total, sampling = two_way(getattr(configurations[0], measure))
        return [(max(total - sampling, 0.0), degrees[0])]
    parts = [two_way(getattr(c, measure)) for c in configurations]
    moderated = moderate(np.nan_to_num(np.array([p[0] for p in parts])), degrees)
    usual = float(np.nanmean([p[1] for p in parts]))
    return [
        (max(variance - (usual if math.isnan(sampling) else sampling), 0.0), moderated.freedom + d)
        for variance, (_, sampling), d in zip(moderated.each, parts, degrees, strict=True)
    ]


def _student(rng: np.random.Generator, size: int, freedom: float) -> Floats:
    """Draws of Student's t; normal where the freedom is infinite."""
    normal = rng.normal(size=size)
    return normal if math.isinf(freedom) else normal / np.sqrt(rng.chisquare(freedom, size) / freedom)


@dataclass(frozen=True)
class Noise:
    """What blurs a difference of accuracies (or tokens). seed: what a training seed moves a configuration by itself; problem:
    standard deviation over problems of the true paired difference; sample: that of one answer about its problem's mean; freedom: of
    Student's t."""

    seed: float
    problem: float
    sample: float
    freedom: float

    def error(self, seeds: int, problems: int) -> float:
        """Standard error of the difference of two configurations with so many seeds each, one sample a problem and seed."""
        return math.sqrt(sum(self._variances(seeds, problems)))

    def _variances(self, seeds: int, problems: int) -> tuple[float, float]:
        """(from seeds, from problems and samples)"""
        return 2 * self.seed**2 / seeds, (self.problem**2 + 2 * self.sample**2 / seeds) / problems

    def detectable(self, seeds: int, problems: int, power: float = 0.9) -> float:
        """The true difference that a two-sided test at CONFIDENCE finds in `power` of all studies (degrees of freedom: Welch and
        Satterthwaite's)."""
        of_seeds, others = self._variances(seeds, problems)
        freedom = (of_seeds + others) ** 2 / (of_seeds**2 / min(self.freedom, 1e9) + others**2 / problems)
        return self.error(seeds, problems) * sum(float(student.ppf(p, freedom)) for p in ((1 + CONFIDENCE) / 2, power))


def noise(study: Study, uncertainty: Uncertainty, names: Sequence[str], measure: str) -> Noise:
    """The noise of a typical pair among these configurations: medians over them, and over their pairs."""
    i = MEASURES.index(measure)
    values = [getattr(study.configurations[n], measure) for n in names]
    samples = [two_way(v)[1] * v.shape[1] for v in values if len(v) > 1]
    residual = float(np.median(samples))
    systematic = []
    for a in range(len(values)):
        for b in range(a):
            spread = float((values[a].mean(axis=0) - values[b].mean(axis=0)).var(ddof=1))
            systematic.append(max(spread - residual * (1 / len(values[a]) + 1 / len(values[b])), 0.0))
    seed, freedom = (float(np.median([of[n][i] for n in names])) for of in (uncertainty.seed_sd, uncertainty.freedom))
    return Noise(seed, math.sqrt(float(np.median(systematic))), math.sqrt(residual), freedom)


def text(e: Estimate, digits: int = 3, sign: bool = False) -> str:
    """As `Estimate.text`; nothing where there is no number."""
    return "" if math.isnan(e.value) else e.text(digits, sign)
