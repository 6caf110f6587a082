"""A method over its strengths: the area that they dominate together, against that of the linear penalty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.intervals import Estimate
from benchmarks.metrics import hypervolume
from benchmarks.study.reference import LINEAR
from benchmarks.study.runs import Floats, Measured, Study
from benchmarks.study.uncertainty import Uncertainty, text
from benchmarks.tables import table


@dataclass(frozen=True)
class Curve:
    """volume: hypervolume of the method's points; against: that minus the linear penalty's; best: the most accurate strength."""

    method: str
    points: int
    volume: Estimate
    against: Estimate
    best: str


def strengths(study: Study, method: str) -> list[Measured]:
    """What stands for the method: its strengths; of the linear penalty, which has more, the first, the middle and the last."""
    of = study.of(method)
    return [of[0], of[len(of) // 2], of[-1]] if len(of) > 3 else of


def volume(study: Study, u: Uncertainty, method: str) -> tuple[float, Floats]:
    """(hypervolume of the method's strengths, left of the base model's tokens; its draws (R,))."""
    base = float(u.mean[study.base.name][1])
    of = [c.name for c in strengths(study, method)]
    mean, draws = np.array([u.mean[n] for n in of]), np.stack([u.draws[n] for n in of], axis=1)
    drawn = np.asarray(hypervolume(draws[..., 0], draws[..., 1], base))
    return float(hypervolume(mean[:, 0], mean[:, 1], base)), drawn


def most_accurate(study: Study, u: Uncertainty, method: str) -> str:
    """The name of its most accurate strength."""
    return max((c.name for c in study.of(method)), key=lambda n: float(u.mean[n][0]))


def curves(study: Study, u: Uncertainty) -> list[Curve]:
    """Each method with at least two strengths, the largest hypervolume first."""
    linear, linear_draws = volume(study, u, LINEAR)
    found = []
    for m in dict.fromkeys(c.method for c in study.trained):
        if len(study.of(m)) > 1:
            value, draws = volume(study, u, m)
            against = u.estimate(value - linear, draws - linear_draws)
            points = len(strengths(study, m))
            found.append(Curve(m, points, u.estimate(value, draws), against, most_accurate(study, u, m)))
    return sorted(found, key=lambda c: -c.volume.value)


def curve_table(study: Study, u: Uncertainty) -> str:
    """A row a method."""
    rows = [["method", "strengths", "hypervolume", "minus linear's", "most accurate strength", "accuracy", "tokens"]]
    for c in curves(study, u):
        against = "" if c.method == LINEAR else text(c.against, 3, True)
        accuracy, tokens = text(u.of(c.best, "accuracy")), text(u.of(c.best, "tokens"), 1)
        rows.append([c.method, str(c.points), text(c.volume), against, c.best, accuracy, tokens])
    return table(rows)
