"""What `taut replay` says: the tables on the console and in report.md, replay.csv, and the picture of the arrows."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import replay_rehearsed
from benchmarks.metrics import dominated
from benchmarks.picture import DPI, HEIGHT, WIDTH
from benchmarks.predicted_step import BANDS, Tilt, arrow, statistics, tilt
from benchmarks.replay import Replay
from benchmarks.replay_plan import AS_LOGGED, Settings
from benchmarks.replay_rehearsed import COLOURS
from benchmarks.statistics import CONFIDENCE, Estimate
from benchmarks.tables import table
from rewards.batch import Floats
from rewards.errors import TautError


@dataclass(frozen=True)
class Finding:
    """One configuration: estimates by name, what each term pays, its arrow, the reweighted estimate, its place among all.

    rank: 1 is best by `score`, the AES of the arrow (O1-Pruner's form: 3 for a gain in accuracy, 5 for a loss, relative to the
    log's own means); ranks: the interval of the rank over the bootstrap. on_front: no other arrow is as accurate for as few tokens.
    """

    name: str
    estimates: dict[str, Estimate]
    pays: dict[str, tuple[Estimate, Estimate]]
    accuracy: Estimate
    tokens: Estimate
    tilt: Tilt
    rank: int = 0
    ranks: tuple[int, int] = (0, 0)
    on_front: bool = False


def findings(result: Replay, settings: Settings) -> list[Finding]:
    """Every configuration that could be scored, best first. Raises TautError when there is none."""
    scored = [r for r in result.replayers if r.sums is not None and not r.refused]
    if not scored:
        told = "\n  ".join(r.refused for r in result.replayers)
        hint = "give reward=, recipe= or configs=" if not told else "none of the configurations could be scored"
        raise TautError(f"{hint}{':' if told else ''}\n  {told}".rstrip())
    out, draws = [], []
    for r in scored:
        assert r.sums is not None
        estimates, pays, drawn = statistics(r.sums.table, r.terms, settings.resamples)
        tilted = tilt(
            result.groups, np.concatenate(r.advantages), settings.kl, settings.least_ess, resamples=settings.resamples
        )
        across = (arrow(estimates["slope_accuracy"], settings.kl), arrow(estimates["slope_tokens"], settings.kl))
        out.append(Finding(r.configuration.name, estimates, pays, *across, tilted))
        draws.append(np.nan_to_num(drawn, nan=-np.inf))
    return _ranked(out, np.stack(draws, axis=1))


def _ranked(found: list[Finding], draws: Floats) -> list[Finding]:
    """Best first; a configuration without any signal comes last."""
    value = np.array(
        [-math.inf if math.isnan(f.estimates["score"].value) else f.estimates["score"].value for f in found]
    )
    places = 1 + (draws[:, None, :] > draws[:, :, None]).sum(axis=2)  # (resamples, C)
    low, high = np.quantile(places, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0, method="nearest").astype(int)
    across, along = (np.array([e.value for e in es]) for es in ([f.accuracy for f in found], [f.tokens for f in found]))
    front = ~dominated(across, along) & ~np.isnan(across)
    ranked = []
    for rank, i in enumerate(np.argsort(-value, kind="stable"), 1):
        f = found[i]
        ranked.append(
            Finding(
                f.name,
                f.estimates,
                f.pays,
                f.accuracy,
                f.tokens,
                f.tilt,
                rank,
                (int(low[i]), int(high[i])),
                bool(front[i]),
            )
        )
    return ranked


def write_report(result: Replay, settings: Settings, courses: Mapping[str, Floats] | None = None) -> int:
    """Write report.md, replay.csv, arrows.png and, of rehearsed courses, rehearsed.png into settings.out and print the tables; 1
    where the run's own configuration did not give what was logged, else 0."""
    courses = courses or {}
    found = findings(result, settings)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    text = report(found, result, settings, courses)
    (out / "report.md").write_text(text + "\n", encoding="utf-8")
    with (out / "replay.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [_csv_row(f) | replay_rehearsed.csv_columns(courses.get(f.name)) for f in found]
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    draw_arrows(found, settings.kl, out / "arrows.png")
    print(text)
    print(out / "arrows.png")
    if courses:
        replay_rehearsed.draw(courses, out / "rehearsed.png")
        print(out / "rehearsed.png")
    return int(any(r.differs for r in result.replayers))


def report(
    found: Sequence[Finding], result: Replay, settings: Settings, courses: Mapping[str, Floats] | None = None
) -> str:
    """The report as Markdown: base, check of the log, ranking, shares, terms, warnings."""
    base = found[0].estimates
    parts = [
        f"{result.rollouts:,} rollouts of {len(np.unique(result.groups.problem)):,} problems in {len(result.groups.starts):,} "
        f"groups: accuracy {base['accuracy'].text(3)}, tokens {base['tokens'].text(1)}"
    ]
    parts += [f"{AS_LOGGED}: " + _check(r) for r in result.replayers if r.configuration.name == AS_LOGGED and r.checked]
    parts.append(f"Predicted step (KL {settings.kl:g} nats a response), best first:\n\n" + _ranking(found, settings.kl))
    if courses:
        head = f"{settings.steps} steps of {settings.prompts} problems x {settings.samples} rollouts, rehearsed:"
        parts.append(f"{head}\n\n{replay_rehearsed.section(courses)}")
    parts.append("Who is pushed where (shares), and advantage by length among correct rollouts:\n\n" + _shares(found))
    parts.append("What each term pays on average:\n\n" + _terms(found))
    warnings = [f"{r.configuration.name}: {w}" for r in result.replayers for w in r.warnings]
    warnings += [
        f"{f.name}: {term} paid nothing on this log: a weight that starts at 0, or a history of problems that do not come again"
        for f in found for term, (right, wrong) in f.pays.items() if right.value == wrong.value == 0.0
    ]  # fmt: skip
    warnings += _alike(result)
    warnings += [f"refused: {r.refused}" for r in result.replayers if r.refused]
    warnings += [f"{f.name}: no reweighted estimate: {f.tilt.refused}" for f in found if f.tilt.refused]
    warnings += [
        f"{r.configuration.name}: objective {r.configuration.objective}: the arrow is that of its advantages alone"
        for r in result.replayers if r.configuration.objective != "clipped_token"
    ]  # fmt: skip
    warnings += result.notes
    if warnings:
        parts.append("\n".join(f"warning: {w}" for w in warnings))
    parts.append(
        f"AES: fewer tokens + 3 x more accuracy (5 x less), relative to the log's own means. Brackets: {CONFIDENCE:.0%} bootstrap "
        "intervals that resample problems. The predicted step is the direction of the "
        "first updates from the policy that was logged, at equal KL: it ranks configurations and forecasts no end point. Its "
        "reweighted twin uses the logged rollouts alone."
    )
    return "\n\n".join(parts)


def _alike(result: Replay) -> list[str]:
    """Configurations whose advantages on this log are those of one before them."""
    scored = [r for r in result.replayers if r.advantages and not r.refused and r.configuration.name != AS_LOGGED]
    first: dict[bytes, str] = {}
    out = []
    for r in scored:
        name = r.configuration.name
        # + 0.0: a negative zero is the same advantage
        twin = first.setdefault(hashlib.sha256((np.concatenate(r.advantages) + 0.0).tobytes()).digest(), name)
        if twin != name:
            out.append(
                f"{name}: the same as {twin} on this log; a history needs problems that come again, a schedule later steps"
            )
    return out


def _check(replayer: Any) -> str:
    if replayer.differs:
        return f"NOT as in the log: {replayer.differs}; it was written by other code, or the log was changed"
    return f"reward, keep, terms and advantage of {replayer.checked:,} rollouts are those of the log, bit for bit"


def _ranking(found: Sequence[Finding], kl: float) -> str:
    head = [
        "configuration",
        "rank",
        "AES",
        "Δ accuracy",
        "Δ tokens",
        "front",
        "reweighted Δ accuracy",
        "Δ tokens",
        "ESS",
    ]
    rows = [head]
    for f in found:
        t = f.tilt
        rows.append([
            f.name, f"{f.rank} [{f.ranks[0]}, {f.ranks[1]}]", arrow(f.estimates["score"], kl).text(2), f.accuracy.text(4),
            f.tokens.text(1), "yes" if f.on_front else "", t.accuracy.text(4) if t.accuracy else "refused",
            t.tokens.text(1) if t.tokens else "refused", "" if math.isnan(t.ess) else f"{t.ess:.0%}",
        ])  # fmt: skip
    return table(rows)


def _shares(found: Sequence[Finding]) -> str:
    rows = [
        ["configuration", "correct pushed down", "wrong pushed up", "groups where a wrong one outscores a correct one",
         "groups without signal", "mean abs advantage", *(f"per 100 tokens, {band}" for band in BANDS)]
    ]  # fmt: skip
    names = (
        "correct_negative",
        "wrong_positive",
        "inverted",
        "silent",
        "magnitude",
        *(f"by_length_{b}" for b in BANDS),
    )
    rows += [[f.name, *(f.estimates[name].text(3) for name in names)] for f in found]
    return table(rows)


def _terms(found: Sequence[Finding]) -> str:
    rows = [["configuration", "term", "correct", "wrong"]]
    rows += [[f.name, term, right.text(3), wrong.text(3)] for f in found for term, (right, wrong) in f.pays.items()]
    return table(rows)


def _csv_row(f: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {"name": f.name, "rank": f.rank, "rank_low": f.ranks[0], "rank_high": f.ranks[1]}
    row |= {"on_front": int(f.on_front), "ess": _number(f.tilt.ess), "refused": f.tilt.refused}
    shown = {
        "step_accuracy": f.accuracy,
        "step_tokens": f.tokens,
        "tilt_accuracy": f.tilt.accuracy,
        "tilt_tokens": f.tilt.tokens,
    }
    shown |= f.estimates
    for term, (right, wrong) in f.pays.items():
        shown |= {f"pays_correct/{term}": right, f"pays_wrong/{term}": wrong}
    for name, e in shown.items():
        if e is not None:
            row |= {
                name: _number(e.value),
                f"{name}_se": _number(e.se),
                f"{name}_low": _number(e.low),
                f"{name}_high": _number(e.high),
            }
    return row


def _number(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.6g}"


def draw_arrows(found: Sequence[Finding], kl: float, path: Path) -> None:
    """Write the picture: from the log's mean, an arrow a configuration in the plane of accuracy and tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    base = (found[0].estimates["tokens"].value, found[0].estimates["accuracy"].value)
    handles = []
    for i, f in enumerate(found):
        dx, dy = f.tokens.value, f.accuracy.value
        if math.isnan(dx) or math.isnan(dy):
            continue
        colour, end = COLOURS[i % len(COLOURS)], (base[0] + dx, base[1] + dy)
        style = {
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 1.8 if f.on_front else 1.1,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", end, base, arrowprops=style, zorder=3)
        handles.append(
            axes.errorbar(
                *end, xerr=_whiskers(f.tokens), yerr=_whiskers(f.accuracy), color=colour, fmt="o" if f.on_front else "D",
                markerfacecolor=colour if f.on_front else "white", markersize=4, elinewidth=0.8, capsize=2, zorder=2,
                label=f"{f.rank} {f.name}",
            )
        )  # fmt: skip
    axes.plot(*base, marker="s", color="#000000", markersize=8, linestyle="", zorder=4)
    axes.set_title("What the next step would do", loc="left", fontsize=14, fontweight="bold", pad=24)
    told = (
        f"arrows for a KL of {kl:g} nats a response from the logged policy (square); filled: no other is better in both"
    )
    axes.text(0, 1.02, told, transform=axes.transAxes, fontsize=9.5, color="#444444")
    axes.set_xlabel("mean tokens per response", fontsize=11)
    axes.set_ylabel("accuracy", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    figure.savefig(path, dpi=DPI)


def _whiskers(e: Estimate) -> list[list[float]]:
    return [
        [0.0 if math.isnan(e.low) else max(e.value - e.low, 0.0)],
        [0.0 if math.isnan(e.high) else max(e.high - e.value, 0.0)],
    ]
