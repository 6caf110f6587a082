"""Long runs: does accuracy hold? `python -m benchmarks.study.long FOLDER` writes FOLDER/report.md and a picture of the training.

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
from benchmarks.study.runs import Floats, Study, first_down, load, trailing
from benchmarks.study.uncertainty import Uncertainty, measure, text
from benchmarks.tables import publish, table
from rewards.errors import TautError

WINDOW, FALL = 10, 0.1
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def fall(accuracy: Floats) -> int | None:
    """The step (from 1) at which a run falls, None where it never does."""
    return first_down(accuracy, WINDOW, trailing(accuracy, WINDOW)[0] - FALL)


def falls(study: Study, name: str) -> list[str]:
    """When each seed fell, in words."""
    found = (fall(study.steps[name, seed]["accuracy"]) for seed in study.configurations[name].seeds)
    return ["never" if f is None else str(f) for f in found]


def report(study: Study, u: Uncertainty) -> str:
    """What each configuration ended at, when its seeds fell, and the pairs of one strength against each other."""
    rows = [["configuration", "seeds", "fell at step", "lowest training accuracy", "accuracy", "tokens"]]
    for c in study.trained:
        steps = [study.steps[c.name, seed]["accuracy"] for seed in c.seeds]
        lowest = ", ".join(f"{trailing(s, WINDOW).min():.3f}" for s in steps)
        ended = text(u.of(c.name, "accuracy")), text(u.of(c.name, "tokens"), 1)
        rows.append([c.name, str(len(c.seeds)), ", ".join(falls(study, c.name)), lowest, *ended])
    pairs = [["against", "Δ accuracy", "Δ tokens"]]
    for a, b in itertools.combinations(study.trained, 2):
        if a.method != b.method and a.strength == b.strength:
            differences = u.difference(b.name, a.name, "accuracy"), u.difference(b.name, a.name, "tokens")
            pairs.append([f"{b.name} - {a.name}", text(differences[0], 3, True), text(differences[1], 1, True)])
    told = f"Falls: the training accuracy's mean over {WINDOW} steps is {FALL} below that of the first {WINDOW}."
    parts = [table(rows), told, table(pairs) if len(pairs) > 1 else "", "![training](long.png)"]
    return "\n\n".join(p for p in parts if p) + "\n"


def claim(study: Study, u: Uncertainty) -> Claim:
    """GRPO-lambda's: of the stronger alpha, the penalty in the best-answered groups against that in all."""
    numbers = []
    for alpha in ("0.2", "0.5"):
        best, all_groups = f"grpo-lambda-{alpha}", f"az-{alpha}"
        if not {best, all_groups} <= set(study.configurations):
            continue  # the sweep is not that far
        fell = ["/".join(falls(study, n)) for n in (best, all_groups)]
        differences = (u.difference(best, all_groups, m) for m in ("accuracy", "tokens"))
        a, t = (text(e, digits, True) for e, digits in zip(differences, (3, 1), strict=True))
        numbers.append(
            f"alpha {alpha}: accuracy {a}, tokens {t}; fell at step {fell[0]} (best groups), {fell[1]} (all)"
        )
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
    folder: Path = parser.parse_args(argv).folder
    try:
        study = load(folder)
        publish(report(study, measure(study)), folder / "report.md")
        draw(study, folder / "long.png")
    except TautError as error:
        print(f"benchmarks.study.long: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
