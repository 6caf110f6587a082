"""What linear length penalties reach with as many tokens: the reference that every other configuration is held against.

Between two strengths lies what a mixture of their two models reaches, which answers each problem with either of them by lot:
its accuracy and tokens are the means of theirs. So the reference is the upper concave hull of the strengths' points, and flat
beyond the best of them, as nobody must spend more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.intervals import Estimate
from benchmarks.study.runs import Floats, Study
from benchmarks.study.uncertainty import Uncertainty

LINEAR = "linear"
AS_FEW = 1.0  # tokens below the shortest strength's that still count as equal to it


def hull(points: Floats, tokens: Floats) -> Floats:
    """Most accuracy that mixtures of points (..., K, 2), each (accuracy, tokens), reach with so many tokens (...) in the mean; NaN
    more than AS_FEW below the fewest of the points'."""
    accuracy, needs = points[..., 0], points[..., 1]
    at = np.maximum(tokens, needs.min(axis=-1))[..., None]
    best = np.where(needs <= at, accuracy, -np.inf).max(axis=-1)
    for i in range(points.shape[-2]):
        low, high = needs[..., i, None], needs
        between = (low <= at) & (at <= high) & (low < high)
        with np.errstate(invalid="ignore", divide="ignore"):
            mixed = accuracy[..., i, None] + (accuracy - accuracy[..., i, None]) * (at - low) / (high - low)
        best = np.maximum(best, np.where(between, mixed, -np.inf).max(axis=-1))
    return np.where(tokens < needs.min(axis=-1) - AS_FEW, np.nan, best)


@dataclass(frozen=True)
class Against:
    """value: accuracy minus the reference's at equal tokens; between: the strengths whose mixture it is."""

    value: Estimate
    between: tuple[str, ...]


def against_linear(study: Study, u: Uncertainty, name: str) -> Against | None:
    """The configuration against the other linear penalties; None where even the shortest has more tokens. Draws without a value,
    below the shortest strength, are left out; where they are more than half there is no interval."""
    rivals = [c.name for c in study.of(LINEAR) if c.name != name]
    if not rivals:
        return None
    points = np.array([u.mean[n] for n in rivals])
    reached = float(hull(points, u.mean[name][1]))
    if np.isnan(reached):
        return None
    drawn = u.draws[name][:, 0] - hull(np.stack([u.draws[n] for n in rivals], axis=1), u.draws[name][:, 1])
    if np.isnan(drawn).mean() > 0.5:
        drawn = np.full_like(drawn, np.nan)
    return Against(
        u.estimate(float(u.mean[name][0]) - reached, drawn), _between(rivals, points, float(u.mean[name][1]))
    )


def _between(names: list[str], points: Floats, tokens: float) -> tuple[str, ...]:
    """The one strength, or the two, that give the hull's value there."""
    tokens = max(tokens, float(points[:, 1].min()))
    value = float(hull(points, np.array(tokens)))
    for i, name in enumerate(names):
        if points[i, 1] <= tokens and np.isclose(points[i, 0], value):
            return (name,)
    for i, j in ((i, j) for i in range(len(names)) for j in range(len(names)) if points[i, 1] < points[j, 1]):
        if points[i, 1] <= tokens <= points[j, 1] and np.isclose(float(hull(points[[i, j]], np.array(tokens))), value):
            return names[i], names[j]
    raise AssertionError("a hull's value is that of one point or a mixture of two")
