"""The end of a sweep: the table on the console, and front.png, front.pdf, front.html, front.csv, report.md."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.board import clock
from benchmarks.collect import Configuration, evaluation_of
from benchmarks.evaluate import read_evaluation
from benchmarks.html_report import write_front_page
from benchmarks.pareto import (
    Point,
    draw,
    front_table,
    make_points,
    non_dominated,
    subtitle,
)
from benchmarks.scores import score
from benchmarks.statistics import CONFIDENCE, RESAMPLES, SEED, Comparison, by_level, compare
from benchmarks.sweep_training import NOTE, training
from benchmarks.tables import table
from rewards.errors import TautError

if TYPE_CHECKING:
    from benchmarks.sweep_plan import Planned, SweepConfig


PAIRED = (
    "First minus second, paired. These standard errors are about other problems; what other training seeds would change is"
    " not in them: see the deviation between seeds below."
)


def write_report(
    out: Path, sweep: SweepConfig, runs: Sequence[Planned], failed: Mapping[str, tuple[str, str]],
    seconds: Mapping[str, float], command: str, notes: Sequence[str] = (), sections: Mapping[str, str] | None = None,
) -> Path | None:  # fmt: skip
    """Print the table and write the files; the picture's path, None where no run could be measured.

    notes: warnings besides those of the front. sections: title -> Markdown, after the front.
    """
    configurations, lacking = _configurations(sweep, runs)
    missing = [
        f"{name}: no evaluation{', it failed: ' + failed[name][0] if name in failed else ''}" for name in lacking
    ]
    if not configurations:
        print("nothing to show: no run was evaluated")
        return None
    reference = sweep.labels.get(sweep.reference, sweep.reference) if sweep.reference else None
    if reference not in [c.name for c in configurations]:
        reference = None  # it failed: the plain run, or the base model, stands in
    points, warnings = make_points(configurations, reference)
    about = [a for c in configurations for a in c.about]
    under = subtitle(points, about)
    draw(points, out, sweep.title, under)
    shown = front_table(points)
    print(shown)
    warnings = [*warnings, *missing, *notes]
    for warning in warnings:
        print(f"warning: {warning}")
    parts = [
        f"# {sweep.title}\n\n![accuracy against tokens](front.png)\n\n{under}.",
        f"`{command}`",
        _section("The front", shown, _method(reference or _reference(points))),
        _section("Neighbours, from fewest tokens to most", neighbours(points, configurations), PAIRED),
        _section("By level", levels(configurations)),
        _section("Between seeds (standard deviation)", spread(points)),
        _section("What training took", training(runs, sweep.labels, reference or _reference(points)), NOTE),
        *(_section(title, body) for title, body in (sections or {}).items()),
        _section("Warnings", "\n".join(f"- {w}" for w in warnings)),
        _section("Wall time", "\n".join(f"- {name}: {clock(s)}" for name, s in seconds.items() if s)),
    ]
    write_front_page(
        out / "front.html", points, configurations, score(points, configurations), sweep.title, under, warnings
    )
    (out / "report.md").write_text("\n\n".join(s for s in parts if s) + "\n", encoding="utf-8")
    print(f"{out / 'report.md'}\n{out / 'front.csv'}\n{out / 'front.html'}")
    return out / "front.png"


def _configurations(sweep: SweepConfig, runs: Sequence[Planned]) -> tuple[list[Configuration], list[str]]:
    """(what was measured, names of the runs without an evaluation)."""
    found: dict[str, Configuration] = {}
    lacking = []
    for run in runs:
        try:
            file = evaluation_of(run.folder)
            samples, about = read_evaluation(file)
        except TautError:
            lacking.append(run.name)
            continue
        name = sweep.labels.get(run.configuration, run.configuration)
        c = found.setdefault(name, Configuration(name, run.kind))
        c.evaluations.append(samples)
        c.about.append(about)
        c.files.append(file)
    return list(found.values()), lacking


def _reference(points: Sequence[Point]) -> str:
    return next((p.name for p in points if p.against is None), "")


def _method(reference: str) -> str:
    return (
        f"Brackets: {CONFIDENCE:.0%} intervals over problems (accuracy: Wilson's on the effective sample size; tokens: bootstrap-t;"
        f" seed {SEED}); seeds of one configuration are averaged. ±: one standard error of the paired difference to {reference},"
        f" {RESAMPLES:,} resamples of the problems."
    )


def _section(title: str, body: str, note: str = "") -> str:
    return f"## {title}\n\n{body}" + (f"\n\n{note}" if note else "") if body else ""


def neighbours(points: Sequence[Point], configurations: Sequence[Configuration]) -> str:
    """Each point against the next one in tokens: do they differ by more than two paired standard errors?"""
    by_name = {c.name: c for c in configurations}
    order = sorted((p for p in points if p.tokens.value == p.tokens.value), key=lambda p: p.tokens.value)
    rows = [["neighbours", "Δ accuracy", "Δ tokens", "more than 2 standard errors"]]
    for first, second in itertools.pairwise(order):
        c = compare(by_name[first.name].evaluations, by_name[second.name].evaluations)
        apart = [n for n, e in (("accuracy", c.accuracy), ("tokens", c.tokens)) if abs(e.value) > 2 * e.se]
        rows.append([f"{first.name} – {second.name}", *_differences(c), ", ".join(apart) or "no"])
    return table(rows) if len(rows) > 1 else ""


def _differences(c: Comparison) -> tuple[str, str]:
    return f"{c.accuracy.value:+.3f} ± {c.accuracy.se:.3f}", f"{c.tokens.value:+.2f} ± {c.tokens.se:.2f}"


def levels(configurations: Sequence[Configuration]) -> str:
    """Accuracy @ tokens of each configuration by level."""
    found = {c.name: by_level(c.evaluations) for c in configurations}
    names = list(dict.fromkeys(level for of in found.values() for level in of))
    if not names:
        return ""
    rows = [["configuration", *(f"level {n}" for n in names)]]
    for name, of in found.items():
        rows.append(
            [name, *(f"{of[n].accuracy.value:.3f} @ {of[n].tokens.value:.0f}" if n in of else "" for n in names)]
        )
    return table(rows)


def spread(points: Sequence[Point]) -> str:
    """Standard deviation between seeds, which the intervals do not contain."""
    rows = [["configuration", "seeds", "accuracy", "tokens", "on the front"]]
    for p, front in zip(points, non_dominated(points), strict=True):
        if p.summary and p.seeds > 1:
            sd = p.summary.spread
            rows.append([p.name, str(p.seeds), f"{sd['accuracy']:.3f}", f"{sd['tokens']:.1f}", "yes" if front else ""])
    return table(rows) if len(rows) > 1 else ""
