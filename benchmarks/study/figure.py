"""The picture of the table: every configuration, the front with its band, and the curves of some methods over their
strengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metrics import dominated
from benchmarks.study.runs import Study
from benchmarks.study.uncertainty import Uncertainty

SHOWN = {
    "linear": ("c(1 – a l/L)", "#0072B2"),
    "laser": ("LASER", "#009E73"),
    "laser-d": ("LASER-D", "#56B4E9"),
    "drpo-advantage": ("DRPO's advantage", "#CC79A7"),
    "az": ("Arora–Zanette, all groups", "#E69F00"),
    "grpo-lambda": ("GRPO-λ, best groups", "#8C564B"),
}


def front(study: Study, u: Uncertainty) -> list[str]:
    """The trained configurations that no other dominates by its mean, from fewest tokens to most."""
    names = [c.name for c in study.trained]
    means = np.array([u.mean[n] for n in names])
    kept = [n for n, lost in zip(names, dominated(means[:, 0], means[:, 1]), strict=True) if not lost]
    return sorted(kept, key=lambda n: float(u.mean[n][1]))


def draw(study: Study, u: Uncertainty, path: Path, methods: Sequence[str] = tuple(SHOWN)) -> None:
    """Write the PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.8), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    trained = [c.name for c in study.trained]
    tokens = np.array([u.mean[n][1] for n in study.configurations])
    right = 1.08 * float(tokens.max())
    best = front(study, u)
    x = [float(u.mean[n][1]) for n in best] + [right]
    of = [u.of(n, "accuracy") for n in [*best, best[-1]]]
    low, high = [e.low for e in of], [e.high for e in of]
    axes.fill_between(x, low, high, step="post", color="#0072B2", alpha=0.12, linewidth=0)
    axes.step(
        x, [e.value for e in of], where="post", color="#0072B2", alpha=0.6, linewidth=1.6, label="front, 95 % band"
    )
    rest = [n for n in trained if study.configurations[n].method not in methods and n != "plain"]
    axes.plot(
        *np.array([u.mean[n][::-1] for n in rest]).T, "o", color="#999999", markersize=4, alpha=0.7, label="other configurations"
    )  # fmt: skip
    for method in methods:
        if of := study.of(method):
            name, color = SHOWN[method]
            points = np.array(sorted(u.mean[c.name][::-1].tolist() for c in of))
            axes.plot(*points.T, "-o", color=color, markersize=5.5, linewidth=1.3, label=name)
    for name, marker, color, label in (
        ("plain", "D", "#D55E00", "plain GRPO"),
        (study.base.name, "s", "#000000", "base model"),
    ):
        a, t = u.of(name, "accuracy"), u.of(name, "tokens")
        axes.errorbar(
            t.value, a.value, xerr=[[t.value - t.low], [t.high - t.value]], yerr=[[a.value - a.low], [a.high - a.value]],
            fmt=marker, color=color, markersize=7.5, capsize=2.5, elinewidth=1.2, label=label, zorder=5,
        )  # fmt: skip
    runs = sum(len(c.seeds) for c in study.trained)
    axes.set_title("Overthinker: every shaping at three strengths", loc="left", fontsize=14, fontweight="bold", pad=24)
    told = f"{len(trained)} configurations, {runs} runs, {len(study.problems):,} held-out problems, T = 1"
    under = f"{told}; 95 % intervals over problems and seeds"
    axes.text(0, 1.02, under, transform=axes.transAxes, fontsize=9.5, color="#444444")
    axes.set_xlabel("mean tokens per response", fontsize=11)
    axes.set_ylabel("accuracy", fontsize=11)
    axes.set(xlim=(0, right), ylim=(-0.02, 1.02))
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=9, framealpha=0.9, edgecolor="#cccccc")
    figure.savefig(path, dpi=200)
