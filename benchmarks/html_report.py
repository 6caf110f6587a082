"""The front as one HTML file: hover a point for its configuration, filter, sort the table, read rollouts short and long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collect import KINDS, Configuration, differing_settings, method_of
from benchmarks.html.page import Cell, Head, table, warning_list, write_page
from benchmarks.html.rollouts import Texts, problem_texts, shortest_and_longest
from benchmarks.intervals import draws_interval
from benchmarks.metrics import hypervolume
from benchmarks.pareto import Point, non_dominated
from benchmarks.scores import PointScore, Scores
from benchmarks.statistics import CONFIDENCE, Estimate

EACH = 3  # examples of each verdict, shortest and longest
PLACES = 160  # of the band along the token axis


def write_front_page(
    path: Path, points: Sequence[Point], configurations: Sequence[Configuration], scores: Scores, title: str,
    subtitle: str, warnings: Sequence[str] = (), confidence: float = CONFIDENCE,
) -> None:  # fmt: skip
    """Write the page. points, scores: as `make_points` and `score` made them of `configurations`, in that order."""
    front = non_dominated(points)
    settings = differing_settings(configurations)
    drawn = [
        {
            "name": p.name,
            "kind": p.kind,
            "method": method_of(c),
            "seeds": p.seeds,
            "on_front": on,
            "accuracy": _three(p.accuracy),
            "tokens": _three(p.tokens),
            "truncated": _three(p.summary.truncation) if p.summary else [None] * 3,
            "settings": settings[p.name],
        }
        for p, c, on in zip(points, configurations, front, strict=True)
    ]
    data = {"points": drawn, "band": front_band(points, confidence), "examples": examples(configurations)}
    body = [
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(subtitle)}.</p>',
        warning_list(warnings),
        _controls(points),
        _figure(confidence),
        f"<h2>All points</h2>\n{points_table(points, configurations, scores, front)}",
        _notes(scores, confidence),
        _matrix(scores),
        _examples_section(configurations),
    ]
    write_page(path, title, "\n".join(part for part in body if part), data, "front.js")


def _three(e: Estimate) -> list[float]:
    return [e.value, e.low, e.high]


def front_band(points: Sequence[Point], confidence: float = CONFIDENCE) -> dict[str, list[float]]:
    """{tokens, low, high}: pointwise interval of the best accuracy that some point reaches within so many tokens.

    From the paired bootstrap of all points (problems resampled); 0 where no point is that cheap. Empty without points.
    """
    summaries = [p.summary for p in points if p.summary and not np.isnan([p.accuracy.value, p.tokens.value]).any()]
    rows = min((s.problems for s in summaries), default=0)
    if rows < 2:
        return {"tokens": [], "low": [], "high": []}
    draws = np.stack([s.draws[:, :2] for s in summaries], axis=1)  # (resamples, n, 2)
    ends = draws[:, :, 1][~np.isnan(draws[:, :, 1])]
    width = float(ends.max() - ends.min())
    grid = np.linspace(ends.min() - 0.1 * width, ends.max() + 0.1 * width, PLACES)
    best = np.zeros((len(draws), PLACES))
    for i in range(draws.shape[1]):
        accuracy, tokens = draws[:, i, :1], draws[:, i, 1:]
        best = np.fmax(best, np.where(tokens <= grid, accuracy, 0.0))
    low, high = draws_interval(best, rows, confidence)
    return {"tokens": grid.tolist(), "low": low.tolist(), "high": high.tolist()}


def hypervolume_shares(points: Sequence[Point], base: str) -> dict[str, float]:
    """{name: share of the front's hypervolume that would be lost without this point}; {} where there is no base."""
    tokens = {p.name: p.tokens.value for p in points}
    if base not in tokens:
        return {}

    def area(of: Sequence[Point]) -> float:
        return float(hypervolume([p.accuracy.value for p in of], [p.tokens.value for p in of], tokens[base]))

    whole = area(points)
    return {p.name: 1 - area([q for q in points if q is not p]) / whole for p in points} if whole > 0 else {}


def examples(configurations: Sequence[Configuration]) -> dict[str, dict[str, Any]]:
    """{name: {note, rollouts}}: short and long rollouts of each verdict from the configuration's first evaluation file."""
    found: dict[str, dict[str, Any]] = {}
    known: dict[tuple[str, str], dict[str, str]] = {}
    for c in configurations:
        if not c.files:
            continue
        texts = Texts(c.files[0])
        chosen = shortest_and_longest(texts, EACH)
        about = c.about[0] if c.about else {}
        place = (str(about.get("data")), json.dumps(about.get("columns"), sort_keys=True))
        said = known.setdefault(place, {})
        wanted = {str(texts.problem[i]) for i, _ in chosen} - said.keys()
        said |= problem_texts(about.get("data"), about.get("columns"), wanted)
        rows = texts.rows([i for i, _ in chosen], said)
        note = f"From {c.files[0].parent.name}/{c.files[0].name}" + (
            f", the first of {len(c.files)} evaluations." if len(c.files) > 1 else "."
        )
        found[c.name] = {
            "note": note,
            "rollouts": [row | {"size": size} for row, (_, size) in zip(rows, chosen, strict=True)],
        }
    return found


def points_table(
    points: Sequence[Point], configurations: Sequence[Configuration], scores: Scores, front: Sequence[bool]
) -> str:
    """All points as an HTML table, fewest tokens first."""
    heads = [Head("configuration"), Head("seeds"), Head("accuracy", "down"), Head("tokens"),
             Head("truncated"), Head(f"Δ accuracy to {scores.reference}" if scores.reference else "Δ accuracy", "down"),
             Head(f"Δ tokens to {scores.reference}" if scores.reference else "Δ tokens"),
             Head("AES (O1-Pruner)", "down"), Head("AES (DRPO)", "down"),
             *([Head("REG"), Head("REG, max(0, ·)")] if scores.frontier else []),
             Head("hypervolume share", "down", "what the front's hypervolume loses without this point"),
             Head("on the front", "down", "share of resamples in which no other point dominates this one"),
             Head("dominated by", hint="the point that dominates it most often, and in what share of the resamples")]  # fmt: skip
    shares = hypervolume_shares(points, scores.base)
    rows = []
    items = zip(points, configurations, scores.points, front, strict=True)
    for p, c, s, on in sorted(items, key=lambda item: (np.isnan(item[0].tokens.value), item[0].tokens.value)):
        a = p.against
        share = shares.get(p.name, np.nan)
        cells = [
            Cell(p.name, note=method_of(c)), Cell(str(p.seeds), p.seeds),
            _interval(p.accuracy, 3), _interval(p.tokens, 1),
            _interval(p.summary.truncation, 3) if p.summary else Cell("", np.nan),
            _interval(a.accuracy, 3, "+") if a else Cell("", np.nan),
            _percent(a.tokens_ratio) if a else Cell("", np.nan),
            _interval(s.aes_o1_pruner, 3, "+"), _interval(s.aes_drpo, 3, "+"),
            *([_interval(s.reg, 3), _interval(s.reg_positive, 3)] if scores.frontier else []),
            Cell("" if np.isnan(share) else f"{share:.1%}", share),
            Cell("" if np.isnan(s.p_front) else f"{s.p_front:.0%}", s.p_front, "drawn on it" if on else ""),
            _dominator(s),
        ]  # fmt: skip
        rows.append((p.name, cells))
    caption = "A click on a head sorts, a click on a row chooses its examples. Small figures: intervals."
    return table("points", caption, heads, rows)


def _interval(e: Estimate, digits: int, sign: str = "") -> Cell:
    if np.isnan(e.value):
        return Cell("", np.nan)
    note = "" if np.isnan(e.low) else f"{e.low:{sign}.{digits}f} – {e.high:{sign}.{digits}f}"
    return Cell(f"{e.value:{sign}.{digits}f}", e.value, note or e.reason)


def _percent(e: Estimate) -> Cell:
    if np.isnan(e.value):
        return Cell("", np.nan)
    return Cell(f"{e.value:+.1%}", e.value, "" if np.isnan(e.low) else f"{e.low:+.1%} – {e.high:+.1%}")


def _dominator(s: PointScore) -> Cell:
    if not s.by or s.p_dominated < 0.005:
        return Cell("", 0.0)
    return Cell(f"{s.p_dominated:.0%}", s.p_dominated, s.by)


def _controls(points: Sequence[Point]) -> str:
    kinds = list(dict.fromkeys(p.kind for p in points))
    boxes = "".join(
        f'<label><input type="checkbox" name="kind" value="{escape(k)}" checked>'
        f'<span class="swatch kind-{escape(k)}"></span>{escape(KINDS.get(k, k))}</label>'
        for k in sorted(kinds, key=lambda k: list(KINDS).index(k) if k in KINDS else len(KINDS))
    )
    front = '<span><span class="swatch kind-front"></span> shaped, on the front</span>' if "shaped" in kinds else ""
    return (
        f'<div class="controls"><fieldset><legend>Show</legend>{boxes}</fieldset>{front}'
        '<label>Filter <input type="search" id="words" placeholder="name, method or setting=value"></label>'
        '<output id="count" for="words"></output></div>'
    )


def _figure(confidence: float) -> str:
    return (
        '<figure><svg id="plot" viewBox="0 0 1080 600" role="group" aria-label="accuracy against tokens; the table below'
        ' holds the same numbers"></svg><figcaption>'
        f"Bars: {confidence:.0%} intervals over problems, both ways. Line: the points that no other dominates. Shaded: pointwise"
        f" {confidence:.0%} bootstrap interval of the best accuracy within so many tokens, all points resampled together."
        " Hover a point, or reach it with Tab, for its configuration; click it for its rollouts. Names that would hide"
        " something are left to the hover; a filter fits the axes to what is left.</figcaption></figure>"
    )


def _notes(scores: Scores, confidence: float) -> str:
    told = []
    if scores.base:
        told.append(
            f"AES: O1-Pruner's form to {scores.base}, DRPO's to {scores.reference or scores.base}. Hypervolume of the front"
            f" {scores.hypervolume.text(3)} ({confidence:.0%}), tokens in units of {scores.base}'s; the share of a point is what"
            " would be lost without it, so points that stand close together have little each."
        )
    if scores.frontier:
        told.append(f"REG to {scores.frontier}; a frontier with forced answers makes it an upper bound.")
    return "".join(f'<p class="note">{escape(t)}</p>' for t in told)


def _matrix(scores: Scores) -> str:
    names = [s.name for s in scores.points]
    if len(names) < 2:
        return ""
    rows = []
    for name, chances in zip(names, scores.dominance.tolist(), strict=True):
        cells = [Cell("" if np.isnan(v) or v < 0.005 else f"{v:.0%}", v) for v in chances]
        rows.append((name, [Cell(name), *cells]))
    caption = "Chance that the row's configuration dominates the column's (paired bootstrap; blank: under 0.5 %)."
    inner = table("dominance", caption, [Head("dominates"), *(Head(n) for n in names)], rows, sortable=False)
    return f"<details><summary>Who dominates whom</summary>{inner}</details>"


def _examples_section(configurations: Sequence[Configuration]) -> str:
    names = [c.name for c in configurations if c.files]
    if not names:
        return ""
    options = "".join(f'<option value="{escape(n)}">{escape(n)}</option>' for n in names)
    return (
        f'<h2>Rollouts</h2><div class="controls"><label>Configuration <select id="which">{options}</select></label></div>'
        '<div id="examples"></div>'
    )
