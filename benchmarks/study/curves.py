"""A method over its strengths: what its best and its worst give, and the area that they dominate together."""

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
    """volume: hypervolume of the method's points; against: that minus the linear penalty's; best, worst: the most and the least
    accurate strength."""

    method: str
    points: int
    volume: Estimate
    against: Estimate
    best: str
    worst: str


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
    """Each method with at least two strengths; first those whose worst strength is the most accurate."""
    linear, linear_draws = volume(study, u, LINEAR)
    found = []
    for m in dict.fromkeys(c.method for c in study.trained):
        if len(study.of(m)) > 1:
            value, draws = volume(study, u, m)
            against = u.estimate(value - linear, draws - linear_draws)
            points, worst = strengths(study, m), min(study.of(m), key=lambda c: float(u.mean[c.name][0]))
            best = most_accurate(study, u, m)
            found.append(Curve(m, len(points), u.estimate(value, draws), against, best, worst.name))
    return sorted(found, key=lambda c: -float(u.mean[c.worst][0]))


def curve_table(study: Study, u: Uncertainty) -> str:
    """A row a method."""
    of_one = ["strength", "accuracy", "tokens"]
    rows = [
        [
            "method",
            *(f"most accurate {n}" for n in of_one),
            *(f"least accurate {n}" for n in of_one),
            "what lies between",
        ]
    ]
    rows[0] += ["strengths", "their hypervolume", "minus linear's"]
    for c in curves(study, u):
        against = "" if c.method == LINEAR else text(c.against, 3, True)
        ends = [[n, text(u.of(n, "accuracy")), text(u.of(n, "tokens"), 1)] for n in (c.best, c.worst)]
        lost = text(u.difference(c.worst, c.best, "accuracy"), 3, True)
        rows.append([c.method, *ends[0], *ends[1], lost, str(c.points), text(c.volume), against])
    return table(rows)
