"""What linear length penalties reach with as many tokens: the reference that every other configuration is held against.

Between two strengths lies what a mixture of their two models reaches, which answers each problem with either of them by lot:
its accuracy and tokens are the means of theirs. So a configuration is held against the best single strength with as few tokens, or
against two strengths' mixture with as many, whichever is more accurate. Which it is follows from the means, and the interval is
that of the difference to it: the choice favours the linear penalties a little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.intervals import Estimate
from benchmarks.study.runs import Floats, Study
from benchmarks.study.uncertainty import Uncertainty

LINEAR = "linear"
AS_FEW = 1.0  # tokens by which a strength may be longer and still count as being at equal tokens


@dataclass(frozen=True)
class Against:
    """value: accuracy minus the reference's at equal tokens; reference: the strength, or the two whose mixture it is."""

    value: Estimate
    reference: tuple[str, ...]


def mixture(first: Floats, second: Floats, tokens: Floats) -> Floats:
    """Accuracy of the mixture of two points (..., 2), each (accuracy, tokens), that has so many tokens (...)."""
    share = (tokens - first[..., 1]) / (second[..., 1] - first[..., 1])
    return first[..., 0] + share * (second[..., 0] - first[..., 0])


def best(points: Floats, tokens: float) -> tuple[int, ...]:
    """Of points (K, 2) the one with at most AS_FEW more tokens, or the two around them, that reach most; () where all have more."""
    found: dict[tuple[int, ...], float] = {(i,): float(p[0]) for i, p in enumerate(points) if p[1] <= tokens + AS_FEW}
    for i, low in enumerate(points):
        for j, high in enumerate(points):
            if low[1] <= tokens and tokens + AS_FEW < high[1]:
                found[i, j] = float(mixture(low, high, np.array(tokens)))
    return max(found, key=lambda key: (found[key], -len(key)), default=())


def against_linear(study: Study, u: Uncertainty, name: str) -> Against | None:
    """The configuration against the other linear penalties; None where all of them have more tokens."""
    rivals = [c.name for c in study.of(LINEAR) if c.name != name]
    mean, drawn = u.mean[name], u.draws[name]
    chosen = tuple(rivals[i] for i in best(np.array([u.mean[n] for n in rivals]).reshape(-1, 2), float(mean[1])))
    if not chosen:
        return None
    if len(chosen) == 1:
        return Against(u.difference(name, chosen[0], "accuracy"), chosen)
    reached = mixture(u.mean[chosen[0]], u.mean[chosen[1]], mean[1])
    draws = drawn[:, 0] - mixture(u.draws[chosen[0]], u.draws[chosen[1]], drawn[:, 1])
    return Against(u.estimate(float(mean[0] - reached), draws), chosen)


def all_against_linear(study: Study, u: Uncertainty) -> dict[str, Against]:
    """Every configuration that can be held so."""
    return {n: a for n in study.configurations if (a := against_linear(study, u, n)) is not None}
