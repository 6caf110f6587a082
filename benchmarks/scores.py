"""What is said of the points of a front beside their place: AES, REG, hypervolume and who dominates whom, with intervals.

All from the paired bootstrap over the problems that the points share, the same resamples for every point.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.intervals import Estimate, Floats, estimate, mean_interval
from benchmarks.metrics import aes, budget_by_problem, dominance, hypervolume, load_frontier, reg
from benchmarks.statistics import CONFIDENCE, RESAMPLES, SEED, resampled_means
from benchmarks.tables import table
from rewards.errors import TautError

if TYPE_CHECKING:
    from benchmarks.pareto import Configuration, Point

NONE = Estimate(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class PointScore:
    """One point. aes_o1_pruner: to the base; aes_drpo: to the reference; reg, reg_positive: signed, and max(0, .).

    p_front: chance that no point dominates it; p_dominated: the largest chance with which one point does, `by`.
    """

    name: str
    aes_o1_pruner: Estimate
    aes_drpo: Estimate
    reg: Estimate
    reg_positive: Estimate
    p_front: float
    p_dominated: float
    by: str


@dataclass(frozen=True, eq=False)
class Scores:
    """points; hypervolume of them all, tokens in units of `base`'s and `base` itself counting nothing; dominance (n, n).

    base, reference: names, "" where there is none; frontier: what REG is taken to, "" where none is given.
    """

    points: list[PointScore]
    hypervolume: Estimate
    dominance: Floats
    base: str
    reference: str
    frontier: str


def score(
    points: Sequence[Point], configurations: Sequence[Configuration], base: str | None = None, frontier: str | None = None,
    resamples: int = RESAMPLES, seed: int = SEED, confidence: float = CONFIDENCE,
) -> Scores:  # fmt: skip
    """Scores of the points that `make_points` made of `configurations` with the same bootstrap settings.

    base: a name (default: the point of kind base, else the reference); frontier: FILE or FILE:NAME.
    Raises TautError for a base that is no point and for a frontier that cannot be read.
    """
    names = [p.name for p in points]
    reference = next((p.name for p in points if p.against is None), "") if len(points) > 1 else ""
    if base is not None and base not in names:
        raise TautError(f"--base {base!r} is none of the configurations: {', '.join(names)}")
    base = base or next((p.name for p in points if p.kind == "base"), reference)
    draws = np.stack([_summary(p).draws for p in points], axis=1)  # (resamples, n, 3)
    accuracy, tokens = draws[:, :, 0], draws[:, :, 1]
    rows = min(_summary(p).problems for p in points)
    gaps = _gaps(points, configurations, frontier, resamples, seed, confidence) if frontier else {}
    beats = dominance(accuracy, tokens)
    front = _p_front(accuracy, tokens)
    scored = []
    for i, p in enumerate(points):
        pruner = _aes(points, names, i, base, "o1-pruner", draws, rows, confidence)
        drpo = _aes(points, names, i, reference, "drpo", draws, rows, confidence)
        others = np.where(np.isnan(beats[:, i]), -1, beats[:, i])
        worst = int(others.argmax())
        chance = float(beats[worst, i]) if len(points) > 1 else math.nan
        by = names[worst] if chance > 0 else ""
        scored.append(PointScore(p.name, pruner, drpo, *gaps.get(p.name, (NONE, NONE)), float(front[i]), chance, by))
    area = NONE
    if base:
        b = names.index(base)
        value = hypervolume(
            [p.accuracy.value for p in points], [p.tokens.value for p in points], points[b].tokens.value
        )
        drawn = hypervolume(accuracy, tokens / tokens[:, [b]], 1.0)
        area = estimate(float(value), drawn, rows, confidence)
    return Scores(scored, area, beats, base, reference, frontier or "")


def _summary(point: Point) -> Any:
    if point.summary is None:
        raise ValueError(f"score: point {point.name!r} has no summary; make points with `make_points`")
    return point.summary


def _aes(
    points: Sequence[Point], names: list[str], i: int, to: str, form: Any, draws: Floats, rows: int, confidence: float
) -> Estimate:
    if not to or names[i] == to:
        return NONE
    j = names.index(to)
    p, r = points[i], points[j]
    value = aes(p.accuracy.value, p.tokens.value, r.accuracy.value, r.tokens.value, form)
    drawn = aes(draws[:, i, 0], draws[:, i, 1], draws[:, j, 0], draws[:, j, 1], form)
    return estimate(float(value), drawn, rows, confidence)


def _p_front(accuracy: Floats, tokens: Floats) -> Floats:
    """(n,) share of resamples in which no other point dominates; NaN for what is absent."""
    free = np.empty(accuracy.shape)
    for i in range(accuracy.shape[1]):
        no_worse = (accuracy >= accuracy[:, [i]]) & (tokens <= tokens[:, [i]])
        better = (accuracy > accuracy[:, [i]]) | (tokens < tokens[:, [i]])
        free[:, i] = ~(no_worse & better).any(axis=1)
    return np.where(np.isnan(accuracy).all(axis=0), np.nan, free.mean(axis=0))


def _gaps(
    points: Sequence[Point], configurations: Sequence[Configuration], frontier: str, resamples: int, seed: int, confidence: float
) -> dict[str, tuple[Estimate, Estimate]]:  # fmt: skip
    """{name: (signed, positive)} REG on the problems that all share."""
    path, _, name = frontier.rpartition(":") if not Path(frontier).exists() else (frontier, "", "")
    budgets, best = load_frontier(path or frontier, name if path and name else None)
    known = [np.unique(e.problem_id[e.known]) for c in configurations for e in c.evaluations]
    shared = known[0]
    for ids in known[1:]:
        shared = np.intersect1d(shared, ids)
    found = {}
    for c in configurations:
        kept = [e.take(np.isin(e.problem_id, shared)) for e in c.evaluations]
        curves = np.mean([budget_by_problem(e, budgets) for e in kept], axis=0)  # (P, B)
        if not len(curves):
            found[c.name] = (NONE, NONE)
            continue
        by_problem = reg(
            budgets, best, curves
        )  # the signed gap is linear: its mean over problems is the gap of the mean
        drawn = resampled_means(curves, resamples, seed)
        signed = estimate(
            float(by_problem.mean()), reg(budgets, best, drawn), len(curves), confidence,
            lambda v=by_problem: mean_interval(v, resamples, seed, confidence),
        )  # fmt: skip
        positive = estimate(
            float(reg(budgets, best, curves.mean(axis=0), signed=False)),
            reg(budgets, best, drawn, signed=False), len(curves), confidence,
        )  # fmt: skip
        found[c.name] = (signed, positive)
    return found


def score_table(scores: Scores) -> str:
    """The scores as a short table, with what they are taken to."""
    rows = [["configuration", "AES (O1-Pruner)", "AES (DRPO)", "on the front", "dominated by"]]
    if scores.frontier:
        rows[0] += ["REG", "REG, max(0, ·)"]
    for s in scores.points:
        by = f"{s.by} ({s.p_dominated:.0%})" if s.by and s.p_dominated >= 0.005 else ""
        row = [
            s.name,
            _text(s.aes_o1_pruner),
            _text(s.aes_drpo),
            "" if math.isnan(s.p_front) else f"{s.p_front:.0%}",
            by,
        ]
        rows.append(row + ([_text(s.reg), _text(s.reg_positive)] if scores.frontier else []))
    told = [
        f"AES: O1-Pruner's form to {scores.base}, DRPO's to {scores.reference}" if scores.base else "",
        f"hypervolume {scores.hypervolume.text(3)}, tokens in units of {scores.base}'s" if scores.base else "",
        f"REG to {scores.frontier}; a frontier with forced answers makes it an upper bound" if scores.frontier else "",
    ]
    return "\n".join([table(rows), *(t for t in told if t)])


def _text(e: Estimate) -> str:
    return "" if math.isnan(e.value) else e.text(3)


def write_scores(scores: Scores, path: Path, matrix: Path) -> None:
    """`path`: a row a point, then the front's hypervolume; `matrix`: chance that the row's point dominates the column's."""
    measures = ("aes_o1_pruner", "aes_drpo", "reg", "reg_positive")
    head = ["name", *(f"{m}{end}" for m in measures for end in ("", "_low", "_high")), "p_front", "p_dominated", "by",
            "hypervolume", "hypervolume_low", "hypervolume_high", "base", "reference", "frontier"]  # fmt: skip
    about = [scores.base, scores.reference, scores.frontier]
    rows = []
    for s in scores.points:
        estimates = [getattr(s, m) for m in measures]
        row = [s.name, *(_number(v) for e in estimates for v in (e.value, *e.interval))]
        rows.append([*row, _number(s.p_front), _number(s.p_dominated), s.by, "", "", "", *about])
    area = scores.hypervolume
    blank = [""] * (3 * len(measures) + 3)
    rows.append(["(front)", *blank, *(_number(v) for v in (area.value, *area.interval)), *about])
    _write(path, [head, *rows])
    names = [s.name for s in scores.points]
    body = [[n, *(_number(v) for v in row)] for n, row in zip(names, scores.dominance.tolist(), strict=True)]
    _write(matrix, [["name", *names], *body])


def _write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _number(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.6g}"
