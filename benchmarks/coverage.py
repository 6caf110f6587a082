"""How often the 95 % intervals contain the truth, by simulation: what `benchmarks/intervals.py` is judged by.

    python -m benchmarks.coverage [--simulations N] [--of MEASURE...] [--out FILE.md]
    python -m benchmarks.coverage --speed

Problems differ in difficulty (Beta) and in length, so that the samples of one problem agree: `agreement` is the correlation
of two samples of a problem, of their verdicts (and of their log lengths). Lengths are log-normal with a standard deviation
of 0.8 of the logarithm (the longest 1 % are over 6.4 times the median); "heavier" is 1.0 (over 10 times). Differences are of
two methods on the same problems: "equal", and "worse" where the second loses three in ten of its correct answers. The shortest
answers are those of all problems together; easy problems have shorter ones, and so have correct answers, so that they are not a
random share. The plain percentile bootstrap stands beside the others: it was the rule before. One core, half an hour.
`--speed` times what a front of 20 methods costs: 500 problems x 16 samples each, 10,000 resamples.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.intervals import (
    Floats,
    Interval,
    difference_interval,
    mean_interval,
    ratio_interval,
    resampling_weights,
    share_interval,
)
from benchmarks.metrics import accuracy_among_shortest, dominance
from benchmarks.statistics import Samples, compare, summarise
from benchmarks.tables import table

ACCURACIES, AGREEMENTS, SAMPLES, PROBLEMS = (0.05, 0.5, 0.95), (0.0, 0.3, 0.6, 0.9), (1, 4, 16), (30, 100, 500)
TAILS = {"": 0.8, " (heavier)": 1.0}
SIMULATIONS = 4_000
CHUNK = 1_000  # simulations at once: the bootstrap of 500 problems then takes some tens of megabytes
RESAMPLES = 1_000


@dataclass(frozen=True)
class Cell:
    """One design. covered: share of simulations whose interval holds the truth; percentile: the same of the plain rule."""

    measure: str
    problems: int
    samples: int
    agreement: float
    accuracy: float
    covered: float
    percentile: float


def shares(rng: np.random.Generator, shape: tuple[int, int], samples: int, accuracy: float, agreement: float) -> Floats:
    """(P, simulations) shares of correct samples, problem by problem."""
    return rng.binomial(samples, difficulty(rng, shape, accuracy, agreement)) / samples


def difficulty(rng: np.random.Generator, shape: tuple[int, int], accuracy: float, agreement: float) -> Floats:
    """(P, simulations) chance of a correct sample: Beta with mean `accuracy` and intra-class correlation `agreement`."""
    if agreement == 0:
        return np.full(shape, accuracy)
    mass = (1 - agreement) / agreement
    return rng.beta(accuracy * mass, (1 - accuracy) * mass, shape)


def lengths(rng: np.random.Generator, shape: tuple[int, int], samples: int, agreement: float, tail: float) -> Floats:
    """(P, simulations) mean lengths of a problem's samples, whose expectation is exp(tail ** 2 / 2)."""
    common = np.sqrt(agreement) * rng.standard_normal(shape)
    total = np.zeros(shape)
    for _ in range(samples):
        total += np.exp(tail * (common + np.sqrt(1 - agreement) * rng.standard_normal(shape)))
    return total / samples


def percentile(values: Floats, resamples: int) -> Interval:
    """The plain percentile interval of the bootstrap over problems: for comparison only."""
    draws = resampling_weights(len(values), resamples) @ values / len(values)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return low, high


def _hits(interval: Interval, truth: float) -> int:
    low, high = interval
    return int(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).sum())


def _measure(
    draw: Callable[[int], tuple[Floats, ...]], rule: Callable[..., Interval], plain: Callable[..., Floats],
    truth: float, simulations: int, resamples: int,
) -> tuple[float, float]:  # fmt: skip
    """(coverage of `rule`, of the percentile interval of `plain`'s mean), over `simulations` draws in chunks."""
    hits = np.zeros(2)
    for start in range(0, simulations, CHUNK):
        data = draw(min(CHUNK, simulations - start))
        hits += (_hits(rule(*data), truth), _hits(percentile(plain(*data), resamples), truth))
    return float(hits[0] / simulations), float(hits[1] / simulations)


def accuracy_cells(simulations: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Cell]:
    """Accuracy by number of problems, samples, agreement and true accuracy."""
    rng = np.random.default_rng(seed)
    for n, k, rho, p in itertools.product(PROBLEMS, SAMPLES, AGREEMENTS, ACCURACIES):
        if k == 1 and rho > 0:
            continue  # one sample has no other to agree with: the same as without
        covered, plain = _measure(
            lambda c, n=n, k=k, p=p, rho=rho: (shares(rng, (n, c), k, p, rho),),
            lambda x, k=k: share_interval(x, 1 / k), lambda x: x, p, simulations, resamples,
        )  # fmt: skip
        yield Cell("accuracy", n, k, rho, p, covered, plain)


def token_cells(simulations: int, resamples: int = RESAMPLES, seed: int = 1) -> Iterator[Cell]:
    """Mean tokens by number of problems, samples, agreement and tail."""
    rng = np.random.default_rng(seed)
    for n, k, rho, (name, tail) in itertools.product(PROBLEMS, SAMPLES, AGREEMENTS, TAILS.items()):
        if k == 1 and rho > 0:
            continue
        covered, plain = _measure(
            lambda c, n=n, k=k, rho=rho, tail=tail: (lengths(rng, (n, c), k, rho, tail),),
            lambda x: mean_interval(x, resamples), lambda x: x, float(np.exp(tail**2 / 2)), simulations, resamples,
        )  # fmt: skip
        yield Cell("tokens" + name, n, k, rho, float("nan"), covered, plain)


def difference_cells(simulations: int, resamples: int = RESAMPLES, seed: int = 2) -> Iterator[Cell]:
    """Paired differences of accuracy, and ratios of tokens, of two methods that meet the same problems."""
    rng = np.random.default_rng(seed)
    for n, k, rho, p, (name, kept) in itertools.product(
        PROBLEMS, SAMPLES, (0.0, 0.9), ACCURACIES, {"equal": 1.0, "worse": 0.7}.items()
    ):

        def both(c: int, n: int = n, k: int = k, rho: float = rho, p: float = p, kept: float = kept) -> tuple[Floats]:
            chance = difficulty(rng, (n, c), p, rho)
            return ((rng.binomial(k, chance * kept) - rng.binomial(k, chance)) / k,)

        covered, plain = _measure(
            both, lambda d, k=k: difference_interval(d, 1 / k), lambda d: d, (kept - 1) * p, simulations, resamples
        )
        yield Cell(f"accuracy difference, {name}", n, k, rho, p, covered, plain)
    for n, k in itertools.product(PROBLEMS, SAMPLES):

        def pair(c: int, n: int = n, k: int = k) -> tuple[Floats, Floats]:
            scale = np.exp(0.6 * rng.standard_normal((n, c)))  # long problems are long for both
            first, second = (scale * lengths(rng, (n, c), k, 0.3, 0.5) for _ in range(2))
            return 0.7 * first, second

        covered, plain = _measure(
            pair,
            lambda a, b: ratio_interval(a, b, resamples),
            lambda a, b: a - 0.7 * b + 0.7,
            0.7,
            simulations,
            resamples,
        )  # the plain rule has no ratio of its own: it is given the difference, which is as hard
        yield Cell("tokens ratio", n, k, 0.3, float("nan"), covered, plain)


SHARES = (0.05, 0.1, 0.2)
SHORTEST = ((1, 0.0), (4, 0.0), (4, 0.6), (16, 0.6))  # samples, agreement


def answers(rng: np.random.Generator, problems: int, samples: int, accuracy: float, agreement: float) -> Samples:
    """An evaluation whose short answers are more often correct, by the problem and by themselves."""
    chance = np.repeat(difficulty(rng, (problems, 1), accuracy, agreement)[:, 0], samples)
    right = rng.random(len(chance)) < chance
    own = np.repeat(rng.standard_normal(problems), samples) + rng.standard_normal(len(chance))
    length = np.exp(5 + 0.5 * own - 0.8 * (chance - accuracy) - 0.3 * right)
    return Samples(np.repeat(np.arange(problems), samples), np.ceil(length), right.astype(int))


def shortest_cells(simulations: int, resamples: int = 500, seed: int = 3) -> Iterator[Cell]:
    """Accuracy among the shortest, by share, number of problems, samples, agreement and accuracy of all answers."""
    rng = np.random.default_rng(seed)
    for (k, rho), p in itertools.product(SHORTEST, (0.3, 0.8)):
        everything = answers(rng, 4_000_000 // k, k, p, rho)
        order = np.argsort(everything.length, kind="stable")
        truth = {s: float((everything.verdict[order[: int(s * len(order))]] == 1).mean()) for s in SHARES}
        for n in PROBLEMS:
            hits = dict.fromkeys(SHARES, 0)
            for _ in range(simulations):
                drawn = answers(rng, n, k, p, rho)
                for s in SHARES:
                    _, low, high, _ = accuracy_among_shortest(drawn, s, resamples)
                    hits[s] += low <= truth[s] <= high
            for s in SHARES:
                yield Cell(f"accuracy of the shortest {s:.0%}", n, k, rho, p, hits[s] / simulations, float("nan"))


MEASURES = {
    "accuracy": accuracy_cells, "tokens": token_cells, "differences": difference_cells, "shortest": shortest_cells,
}  # fmt: skip


def coverage_table(cells: Sequence[Cell]) -> str:
    """A row a design."""
    rows = [["measure", "problems", "samples", "agreement", "true accuracy", "covered", "percentile"]]
    for c in cells:
        accuracy = "" if np.isnan(c.accuracy) else f"{c.accuracy:g}"
        rows.append([c.measure, str(c.problems), str(c.samples), f"{c.agreement:g}", accuracy,
                     f"{c.covered:.3f}", _if_known(c.percentile)])  # fmt: skip
    return table(rows)


def summary_table(cells: Sequence[Cell]) -> str:
    """Least and most coverage over the designs of a measure and a number of problems."""
    rows = [["measure", "problems", "designs", "least", "most", "within 2 points", "percentile, least"]]
    for measure, n in dict.fromkeys((c.measure, c.problems) for c in cells):
        of = [c for c in cells if (c.measure, c.problems) == (measure, n)]
        covered = [c.covered for c in of]
        near = sum(abs(c - 0.95) <= 0.02 for c in covered)
        rows.append([measure, str(n), str(len(of)), f"{min(covered):.3f}", f"{max(covered):.3f}", f"{near} of {len(of)}",
                     _if_known(min(c.percentile for c in of))])  # fmt: skip
    return table(rows)


def _if_known(share: float) -> str:
    return "" if np.isnan(share) else f"{share:.3f}"


def speed(methods: int = 20, problems: int = 500, samples: int = 16, resamples: int = 10_000) -> str:
    """Seconds for every point, its paired difference to the first, and who dominates whom; fresh arrays, one thread."""
    rng = np.random.default_rng(0)
    ids = np.repeat([f"p{i:04}" for i in range(problems)], samples)
    n = len(ids)
    evaluations = [Samples(ids, rng.lognormal(5, 0.8, n), rng.integers(0, 2, n)) for _ in range(methods)]
    began = time.monotonic()
    summaries = [summarise(e, resamples=resamples) for e in evaluations]
    first = time.monotonic() - began
    for e in evaluations[1:]:
        compare(e, evaluations[0], resamples=resamples)
    second = time.monotonic() - began - first
    draws = np.stack([s.draws for s in summaries], axis=1)
    dominance(draws[:, :, 0], draws[:, :, 1])
    total = time.monotonic() - began
    size = f"{methods} methods x {problems} problems x {samples} samples, {resamples:,} resamples"
    return f"{size}: {total:.1f} s ({first:.1f} points, {second:.1f} paired differences, {total - first - second:.1f} dominance)"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the summary and every design; write them to --out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--of", nargs="+", choices=MEASURES, default=list(MEASURES), help="default: all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--speed", action="store_true")
    args = parser.parse_args(argv)
    if args.speed:
        print(speed())
        return 0
    began, cells = time.monotonic(), []
    for name in args.of:
        cells += MEASURES[name](args.simulations)
    took = (
        f"{args.simulations:,} simulations a design, {len(cells)} designs, {time.monotonic() - began:.0f} s on one core"
    )
    text = f"{took}.\n\n{summary_table(cells)}\n\n## Every design\n\n{coverage_table(cells)}\n"
    print(text)
    if args.out:
        args.out.write_text(f"# Coverage of the 95 % intervals\n\n{text}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
