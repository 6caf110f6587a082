"""What `benchmarks.predicted_vs_trained` says and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.predicted_ranks import MARKS, MEASURES, Row, by_kind, correlate, is_worth_a_row, ranks
from benchmarks.predicted_reach import EARLY, Reached, common_seeds, common_steps, reached
from benchmarks.predicted_rehearsed import section
from benchmarks.rehearsal import foretold
from benchmarks.statistics import RESAMPLES, SEED, Floats
from benchmarks.sweep_predict import KL, Prediction, choose, layers
from benchmarks.tables import table


@dataclass(frozen=True)
class Survival:
    """Of the configurations that are best when trained, how many a pruning by predictions keeps. front: those that no other
    dominates; best: as many as are kept, by the same order that the pruning uses. By chance the share `kept / all` of either
    would be."""

    kept: int
    all: int
    front: tuple[int, int]
    best: tuple[int, int]
    lost: tuple[str, ...]


def survival(rows: Sequence[Row], predictions: Mapping[str, Prediction], keep: float = 0.5) -> Survival:
    """What `first: {keep: 0.5}` of a sweep would have kept by these predictions, against what training says it should have."""
    ends = {r.name: r.end for r in rows}
    kept, best = ({c.name for c in choose(of, [], keep) if c.trained} for of in (predictions, ends))
    layer = layers([ends[r.name].point for r in rows])
    front = [r.name for r, at in zip(rows, layer, strict=True) if at == 0]
    return Survival(
        len(kept), len(rows), (len(kept & set(front)), len(front)), (len(kept & best), len(best)),
        tuple(n for n in front if n not in kept),
    )  # fmt: skip


def _pruned(rows: Sequence[Row], predictions: Mapping[str, Prediction], by: str) -> str:
    s = survival(rows, predictions)
    lost = f" Lost from the front: {', '.join(s.lost)}." if s.lost else ""
    return (
        f"Pruned to half by {by}, {s.kept} of {s.all} stay. Of the "
        f"{s.front[1]} on the trained front {s.front[0]} are among them; of the best {s.best[1]} when trained, in the same order, "
        f"{s.best[0]} are (by chance {s.best[1] * s.kept / s.all:.0f}).{lost}"
    )


_ORDER = (
    "First interval: over the problems, seeds and steps of these configurations; `others`: over configurations too, as if these"
    " were drawn from many. Seeds: the same correlation of two seeds, which a prediction can hardly pass."
)
_STEPS = (
    "Rank correlation of the predicted slopes with the runs' own logs in these steps, over the {seeds} seed(s) that all"
    " configurations have; seeds: of two seeds among themselves. Step 1 is the base model's. The last line: of all these steps,"
    " of which the tokens are what training costs."
)
_REHEARSED = (
    "Rank correlation of rehearsals (`benchmarks/rehearsal.py`: the configuration's own steps, on the log's rollouts alone) with"
    " training: in the runs' logs, and at the end on held-out problems; intervals over rehearsals, training seeds and, at the end,"
    " held-out problems. Last column: how far the rehearsed change of tokens is from the trained one."
)


def _kinds(rows: Sequence[Row], resamples: int) -> str:
    """A row a kind of configuration: correlations in the first steps and at the end."""
    groups = by_kind(rows) | {"all but stateful": [r for r in rows if r.kind != "stateful"]}
    first, last = EARLY
    early = common_steps(rows) >= last
    heads = [f"{m}, steps {first} to {last}" for m in MEASURES] if early else []
    lines = [
        [
            "configurations",
            "number",
            *heads,
            *(f"{m}, at the end" for m in MEASURES),
            *(f"{m}: seeds" for m in MEASURES),
        ]
    ]
    for kind, some in groups.items():
        if not is_worth_a_row(kind, some, rows):
            continue
        cells = []
        if early:
            at = reached(some, first, last, resamples)
            cells = [_with(at.value[m], at.interval[m]) for m in MEASURES]
        found = {m: correlate(some, m, resamples, SEED) for m in MEASURES}
        cells += [f"{_with(f['value'], f['these'])}, others {_with(None, f['others'])}" for f in found.values()]
        lines.append([kind, str(len(some)), *cells, *(f"{found[m]['seeds']:.2f}" for m in MEASURES)])
    return table(lines)


def _steps(reach: Sequence[Reached]) -> str:
    """A row a window of steps."""
    lines = [["steps", *MEASURES, *(f"{m}: seeds" for m in MEASURES)]]
    for r in reach:
        cells = [_with(r.value[m], r.interval[m]) for m in MEASURES]
        lines.append([f"{r.first} to {r.last}", *cells, *(f"{r.seeds[m]:.2f}" for m in MEASURES)])
    return table(lines)


def _with(value: float | None, interval: tuple[float, float]) -> str:
    told = f"[{interval[0]:.2f}, {interval[1]:.2f}]"
    return told if value is None else f"{value:.2f} {told}"


def report(
    rows: Sequence[Row],
    reach: Sequence[Reached],
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
    parts += ["## In the first steps, and at the end", _kinds(rows, resamples), _ORDER]
    if reach:
        whole = reached(rows, reach[0].first, reach[-1].last, resamples)
        parts += ["## How far an arrow reaches", _steps([*reach, whole]), _STEPS.format(seeds=len(common_seeds(rows)))]
    if rows[0].rehearsed:
        parts += ["## Rehearsed", section(rows, resamples), _REHEARSED, "![rehearsed against trained](rehearsed.png)"]
    arrows = {r.name: r.arrow for r in rows}
    parts += ["## What pruning keeps", _pruned(rows, arrows, "their arrows, as `first: {replay: LOG, keep: 0.5}` does")]
    if rows[0].rehearsed:
        rehearsed = {r.name: foretold(np.stack([r.rehearsed[m] for m in MEASURES], axis=2)) for r in rows}
        parts.append(_pruned(rows, rehearsed, "where rehearsals end"))
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


def draw(rows: Sequence[Row], reach: Sequence[Reached], labels: dict[str, str], path: Path) -> None:
    """Trained against predicted change, a panel a measure; bars: the range of the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 3 if reach else 2
    figure = Figure(figsize=(5.5 * panels, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes_of = figure.subplots(1, panels)
    if reach:
        _draw_reach(axes_of[2], reach)
    for axes, m in zip(axes_of, MEASURES, strict=False):
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


def _draw_reach(axes: Axes, reach: Sequence[Reached]) -> None:
    """Rank correlation against the steps, with the intervals."""
    for m, colour in zip(MEASURES, ("#D55E00", "#0072B2"), strict=True):
        x = [(r.first + r.last) / 2 for r in reach]
        low, high = zip(*(r.interval[m] for r in reach), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, [r.value[m] for r in reach], color=colour, marker="o", markersize=4, label=m)
    axes.axhline(0, color="#bbbbbb", linewidth=0.7)
    axes.set_ylim(top=1)
    axes.set_title("how far an arrow reaches", loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel("training step")
    axes.set_ylabel("rank correlation with the runs' logs")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
