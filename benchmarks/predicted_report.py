"""What `benchmarks.predicted_vs_trained` says and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.predicted_vs_trained import KL, MEASURES, Row, correlate, ranks
from benchmarks.statistics import RESAMPLES, SEED, Floats
from benchmarks.sweep_predict import Prediction, choose, layers
from benchmarks.tables import table

TOKENS = 100.0  # what the base model needs for an answer, about
MARKS = {"reward": "o", "own advantage": "s", "stateful": "^"}


@dataclass(frozen=True)
class Survival:
    """Of the configurations that are best when trained, how many a pruning by arrows keeps. front: those that no other dominates;
    best: as many as are kept, by the same order that the pruning uses. By chance the share `kept / all` of either would be."""

    kept: int
    all: int
    front: tuple[int, int]
    best: tuple[int, int]
    lost: tuple[str, ...]


def survival(rows: Sequence[Row], keep: float = 0.5) -> Survival:
    """What `first: {keep: 0.5}` of a sweep would have kept, against what training says it should have."""
    arrows = {r.name: Prediction(r.predicted["accuracy"], r.predicted["tokens"], _score(r.predicted)) for r in rows}
    ends = {
        r.name: Prediction(
            float(m["accuracy"].mean()), float(m["tokens"].mean()), _score({k: v.mean() for k, v in m.items()})
        )
        for r in rows
        for m in [r.trained]
    }
    kept, best = ({c.name for c in choose(of, [], keep) if c.trained} for of in (arrows, ends))
    layer = layers([ends[r.name].point for r in rows])
    front = [r.name for r, at in zip(rows, layer, strict=True) if at == 0]
    return Survival(
        len(kept), len(rows), (len(kept & set(front)), len(front)), (len(kept & best), len(best)),
        tuple(n for n in front if n not in kept),
    )  # fmt: skip


def _score(change: Mapping[str, Any]) -> float:
    """Of equals on one front the better: tokens saved less five times the accuracy lost, plus three times what is gained."""
    accuracy = float(change["accuracy"])
    return -float(change["tokens"]) / TOKENS + (3 if accuracy >= 0 else 5) * accuracy


def _pruned(rows: Sequence[Row]) -> str:
    s = survival(rows)
    lost = f" Lost from the front: {', '.join(s.lost)}." if s.lost else ""
    return (
        f"Pruned to half by their arrows, as `first: {{replay: LOG, keep: 0.5}}` does, {s.kept} of {s.all} stay. Of the "
        f"{s.front[1]} on the trained front {s.front[0]} are among them; of the best {s.best[1]} when trained, in the same order, "
        f"{s.best[0]} are (by chance {s.best[1] * s.kept / s.all:.0f}).{lost}"
    )


def report(
    rows: Sequence[Row],
    about: str,
    labels: dict[str, str],
    title: str = "",
    refused: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
) -> str:
    """The study as Markdown: correlations over all and by kind, what pruning keeps, and a row a configuration with its ranks."""
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
    parts += [table(shown), _pruned(rows)]
    if refused:
        by_reason: dict[str, list[str]] = {}
        for name, why in refused.items():
            by_reason.setdefault(why.rpartition(f"{name!r}: ")[2].partition(";")[0], []).append(name)
        reasons = [f"- {', '.join(names)}: {why}" for why, names in by_reason.items()]
        parts.append("Without an arrow:\n\n" + "\n".join(reasons))
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
