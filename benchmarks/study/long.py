"""Long runs: does accuracy hold? `python -m benchmarks.study.long FOLDER [--table FOLDER]` writes FOLDER/report.md and a picture.

A run falls at the first step at which its training accuracy, a mean over WINDOW steps, is FALL below that of its first ones.
FOLDER: what `python -m benchmarks.study.gather` made of the sweep `long`.
"""

from __future__ import annotations

import argparse
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
        "a weaker w; it is not held at equal tokens",
    ),
)


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
    parts = [
        table(rows),
        told,
        table(pairs) if len(pairs) > 1 else "",
        "![accuracy after 40 and after 400 steps](long.png)",
    ]
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


def draw(study: Study, u: Uncertainty, table40: Uncertainty | None, path: Path) -> None:
    """A row a configuration: held-out accuracy after the table's 40 steps and at the end, training accuracy at the end, tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted((c.name for c in study.trained), key=lambda n: float(u.mean[n][0]))
    figure = Figure(figsize=(9.6, 1.5 + 0.34 * len(names)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    earlier = {n: table40.of(n, "accuracy") for n in names if n in table40.mean} if table40 else {}
    for y, name in enumerate(names):
        after, before = u.of(name, "accuracy"), earlier.get(name)
        seeds = study.configurations[name].seeds
        known = np.mean([trailing(study.steps[name, s]["accuracy"], WINDOW)[-1] for s in seeds])
        axes.plot(
            known, y, "|", color="#D55E00", markersize=13, markeredgewidth=2,
            label=None if y else "training problems, 400 steps",
        )  # fmt: skip
        if before:
            axes.plot([before.value, after.value], [y, y], color="#bbbbbb", linewidth=1.2, zorder=1)
            axes.plot(
                before.value, y, "o", color="#0072B2", markerfacecolor="white", markersize=7,
                label="held-out problems, 40 steps" if name == next(iter(earlier)) else None,
            )  # fmt: skip
        axes.errorbar(
            after.value, y, xerr=[[after.value - after.low], [after.high - after.value]], fmt="o", color="#0072B2", markersize=7,
            capsize=2.5, elinewidth=1.2, label=None if y else "held-out problems, 400 steps",
        )  # fmt: skip
        tokens = f"{u.mean[name][1]:.0f}"
        if before and table40:
            tokens = f"{table40.mean[name][1]:.0f} → {tokens}"
        axes.text(1.015, y, tokens, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color="#444444")
    axes.text(1.015, len(names) - 0.3, "tokens", transform=axes.get_yaxis_transform(), fontsize=9, color="#444444")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("accuracy; bars: 95 % intervals over problems and seeds", fontsize=10)
    axes.set_title("Left on for 400 steps", loc="left", fontsize=13, fontweight="bold")
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, loc="upper left", framealpha=0.9, edgecolor="#cccccc")
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
        draw(study, u, table40, folder / "long.png")
    except TautError as error:
        print(f"benchmarks.study.long: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
