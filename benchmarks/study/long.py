"""Long runs: does accuracy hold? `python -m benchmarks.study.long FOLDER [--table FOLDER]` writes FOLDER/report.md and a picture.

A run falls at the first step at which its training accuracy, a mean over WINDOW steps, is FALL below that of its first ones.
FOLDER: what `python -m benchmarks.study.gather` made of the sweep `long`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.claims import Claim, better
from benchmarks.study.reference import all_against_linear
from benchmarks.study.runs import Floats, Study, first_down, load, trailing
from benchmarks.study.uncertainty import MEASURES, Uncertainty, measure, measure_beside, text
from benchmarks.tables import publish, table
from rewards.errors import TautError

WINDOW, FALL = 10, 0.1
# What is asked of the sweep: pairs that differ in one thing.
PAIRS = (
    ("grpo-lambda-0.5", "az-0.5"),
    ("grpo-lambda-0.2", "az-0.2"),
    ("laser-d-48", "laser-100"),
    ("hapo-1", "linear-2"),
    ("grpo-lambda-many-0.5", "az-many-0.5"),
    ("az-many-0.5", "az-0.5"),
    ("grpo-lambda-many-0.5", "grpo-lambda-0.5"),
    ("linear-many-2", "linear-2"),
)
# paper, claim, what is held against what, what would change it: claims that 40 steps leave undecided.
AGAIN = (
    (
        "LASER-D (2505.15612)",
        "targets by difficulty beat one target",
        "laser-d-48",
        "laser-100",
        "other targets; more seeds",
    ),
    (
        "HAPO (2505.11225)",
        "a history of each problem's shortest correct answer helps",
        "hapo-1",
        "linear-2",
        "other strengths; more seeds",
    ),
)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def fall(accuracy: Floats) -> int | None:
    """The step (from 1) at which a run falls, None where it never does."""
    return first_down(accuracy, WINDOW, trailing(accuracy, WINDOW)[0] - FALL)


def falls(study: Study, name: str) -> list[str]:
    """When each seed fell, in words."""
    found = (fall(study.steps[name, seed]["accuracy"]) for seed in study.configurations[name].seeds)
    return ["never" if f is None else str(f) for f in found]


def report(study: Study, u: Uncertainty, table40: Uncertainty | None = None) -> str:
    """What each configuration ended at, when its seeds fell, how that stands to linear penalties and, with `table40`, to what the
    same configuration had after the table's 40 steps; then the pairs."""
    head = ["configuration", "seeds", "fell at step", "lowest training accuracy", "training accuracy at the end"]
    head += ["accuracy", "tokens", "Δ accuracy to linear penalties at equal tokens", "which"]
    rows = [head + (["Δ accuracy to 40 steps", "Δ tokens"] if table40 else [])]
    against = all_against_linear(study, u)
    for c in study.trained:
        steps = [trailing(study.steps[c.name, seed]["accuracy"], WINDOW) for seed in c.seeds]
        lowest, last = (", ".join(f"{of(s):.3f}" for s in steps) for of in (np.min, lambda s: s[-1]))
        row = [c.name, str(len(c.seeds)), ", ".join(falls(study, c.name)), lowest, last]
        row += [text(u.of(c.name, "accuracy")), text(u.of(c.name, "tokens"), 1)]
        linear = against.get(c.name)
        row += [text(linear.value, 3, True), ", ".join(linear.reference)] if linear else ["", ""]
        if table40:
            row += [_since(u, table40, c.name, "accuracy", 3), _since(u, table40, c.name, "tokens", 1)]
        rows.append(row)
    pairs = [["against", "Δ accuracy", "Δ tokens"]]
    for first, second in PAIRS:
        if {first, second} <= set(study.configurations):
            differences = u.difference(first, second, "accuracy"), u.difference(first, second, "tokens")
            pairs.append([f"{first} - {second}", text(differences[0], 3, True), text(differences[1], 1, True)])
    told = f"Falls: the training accuracy's mean over {WINDOW} steps is {FALL} below that of the first {WINDOW}."
    parts = [table(rows), told, table(pairs) if len(pairs) > 1 else "", "![training](long.png)"]
    return "\n\n".join(p for p in parts if p) + "\n"


def _since(u: Uncertainty, table40: Uncertainty, name: str, measure: str, digits: int) -> str:
    if name not in table40.mean:
        return ""
    i = MEASURES.index(measure)
    value, draws = u.mean[name][i] - table40.mean[name][i], u.draws[name][:, i] - table40.draws[name][:, i]
    return text(u.estimate(float(value), draws), digits, True)


def claims(study: Study, u: Uncertainty) -> list[Claim]:
    """What the papers say of long training, or what 40 steps leave undecided."""
    out = [_best_groups(study, u)]
    for paper, says, first, second, change in AGAIN:
        if {first, second} <= set(study.configurations):
            a, t = u.difference(first, second, "accuracy"), u.difference(first, second, "tokens")
            number = f"accuracy {text(a, 3, True)}, tokens {text(t, 1, True)}"
            out.append(Claim(paper, says, f"400 steps: {first} against {second}", number, better(a), change))
    return out


def _best_groups(study: Study, u: Uncertainty) -> Claim:
    """GRPO-lambda's: of the stronger alpha, the penalty in the best-answered groups against that in all."""
    numbers = []
    for told, best, all_groups in (
        ("alpha 0.2", "grpo-lambda-0.2", "az-0.2"),
        ("alpha 0.5", "grpo-lambda-0.5", "az-0.5"),
        ("alpha 0.5 with 1,200 problems", "grpo-lambda-many-0.5", "az-many-0.5"),
    ):
        if not {best, all_groups} <= set(study.configurations):
            continue  # the sweep is not that far
        fell = ["/".join(falls(study, n)) for n in (best, all_groups)]
        differences = (u.difference(best, all_groups, m) for m in ("accuracy", "tokens"))
        a, t = (text(e, digits, True) for e, digits in zip(differences, (3, 1), strict=True))
        numbers.append(f"{told}: accuracy {a}, tokens {t}; fell at step {fell[0]} (best groups), {fell[1]} (all)")
    return Claim(
        "GRPO-λ (2505.18086)",
        "penalising only the best-answered groups stays stable longer",
        "400 steps: grpo-lambda (the best 20 % of groups) against az (all groups) at the same alpha; the verdict is of 0.5",
        "; ".join(numbers),
        better(u.difference("grpo-lambda-0.5", "az-0.5", "accuracy")),
        "a stronger alpha in all groups; more seeds",
    )


def draw(study: Study, path: Path) -> None:
    """Training accuracy and tokens by step, a line a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("accuracy", "tokens"), strict=True):
        for c, color in zip(study.trained, itertools.cycle(COLORS)):
            for i, seed in enumerate(c.seeds):
                line = trailing(study.steps[c.name, seed][quantity], WINDOW)
                at = np.arange(WINDOW, WINDOW + len(line))
                axes.plot(at, line, color=color, linewidth=1.1, alpha=0.85, label=c.name if not i else None)
        axes.set_xlabel("step")
        axes.set_title(f"training {quantity}, mean over {WINDOW} steps", loc="left", fontsize=11, fontweight="bold")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.study.long", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--table", type=Path, help="the gathered sweep `table`: what the same configurations had after 40 steps"
    )
    given = parser.parse_args(argv)
    folder: Path = given.folder
    try:
        study = load(folder)
        u, table40 = measure_beside(study, load(given.table)) if given.table else (measure(study), None)
        publish(report(study, u, table40), folder / "report.md")
        draw(study, folder / "long.png")
    except TautError as error:
        print(f"benchmarks.study.long: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
