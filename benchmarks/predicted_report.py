"""What `benchmarks.predicted_vs_trained` says and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.predicted_vs_trained import KL, MEASURES, Row, correlate, ranks
from benchmarks.statistics import RESAMPLES, SEED, Floats
from benchmarks.tables import table

MARKS = {"reward": "o", "own advantage": "s", "stateful": "^"}


def report(rows: Sequence[Row], about: str, labels: dict[str, str], title: str = "", resamples: int = RESAMPLES) -> str:
    """The study as Markdown: correlations over all and by kind, and a row a configuration with its ranks."""
    parts = [
        f"# {title}",
        f"Log: {about}. {len(rows)} configurations.",
        "![predicted against trained](predicted.png)",
    ]
    shown = [
        [
            "configurations",
            "number",
            *(f"{m}: rank correlation" for m in MEASURES),
            *(f"{m}: seeds among themselves" for m in MEASURES),
        ]
    ]
    groups = {"all": list(rows)}
    groups |= {k: [r for r in rows if r.kind == k] for k in dict.fromkeys(r.kind for r in rows)}
    groups["all but stateful"] = [r for r in rows if r.kind != "stateful"]
    for kind, some in groups.items():
        if len(some) < 4 or (kind != "all" and len(some) == len(rows)):
            continue
        found = {m: correlate(some, m, resamples, SEED) for m in MEASURES}
        cells = [
            "{value:.2f} [{these[0]:.2f}, {these[1]:.2f}], other configurations [{others[0]:.2f}, {others[1]:.2f}]".format(
                **found[m]
            )
            for m in MEASURES
        ]
        shown.append([kind, str(len(some)), *cells, *(f"{found[m]['seeds']:.2f}" for m in MEASURES)])
    parts.append(table(shown))
    place = {
        m: (ranks(np.array([r.predicted[m] for r in rows])), ranks(np.array([r.trained[m].mean() for r in rows])))
        for m in MEASURES
    }
    lines: list[list[str]] = [["configuration", "kind", *(f"{m}: predicted step, trained, ranks" for m in MEASURES)]]
    for i in np.argsort([r.trained["tokens"].mean() for r in rows]):
        r = rows[i]
        cells = [
            f"{r.predicted[m]:+.{d}f}, {r.trained[m].mean():+.{e}f} ± {_spread(r.trained[m]):.{e}f}, "
            f"{place[m][0][i]:g} / {place[m][1][i]:g}" for m, d, e in (("accuracy", 4, 3), ("tokens", 1, 1))
        ]  # fmt: skip
        lines.append([str(labels.get(r.name) or r.name), r.kind, *cells])
    parts.append(table(lines))
    parts.append(
        f"Predicted: the change of the next step at {KL:g} nats a response, from Cov(advantage, x) / sd(advantage) within the"
        " groups of the log. Trained: the change of the held-out mean against the base model, mean ± standard deviation of the"
        " seeds. Ranks: 1 is the largest loss. Only ranks are predicted: no configuration's end point is forecast."
    )
    return "\n\n".join(parts) + "\n"


def _spread(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def draw(rows: Sequence[Row], labels: dict[str, str], path: Path) -> None:
    """Trained against predicted change, a panel a measure; bars: the range of the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, m in zip(figure.subplots(1, 2), MEASURES, strict=True):
        for r in rows:
            y = r.trained[m]
            bar = [[y.mean() - y.min()], [y.max() - y.mean()]]
            axes.errorbar(
                r.predicted[m],
                y.mean(),
                yerr=bar,
                fmt=MARKS[r.kind],
                color="#0072B2" if r.kind == "reward" else "#D55E00",
                markersize=5,
                capsize=2,
                elinewidth=0.8,
            )
            axes.annotate(
                labels.get(r.name, r.name),
                (r.predicted[m], y.mean()),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
                color="#444444",
            )
        axes.axhline(0, color="#bbbbbb", linewidth=0.7)
        axes.axvline(0, color="#bbbbbb", linewidth=0.7)
        axes.set_title(
            f"{m}: rank correlation {correlate(rows, m, 2, SEED)['value']:.2f}",
            loc="left",
            fontsize=12,
            fontweight="bold",
        )
        axes.set_xlabel(f"predicted change of one step ({KL:g} nats a response)")
        axes.set_ylabel("change after training")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
