"""What `taut replay LOG steps=N` says of a rehearsal: a table, columns of replay.csv, and rehearsed.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.picture import DPI, HEIGHT, WIDTH
from benchmarks.rehearsal import Course, Rehearsal
from benchmarks.replay_plan import Asked, Configuration
from benchmarks.sweep_predict import Log
from benchmarks.tables import table
from rewards.batch import Floats
from rewards.errors import TautError
from rewards.verifier import Verifier
from rollout.foreign import Foreign

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A5C00")
TOLD = (
    "Rehearsed: the configuration's own steps by a policy that can only choose among the logged rollouts of each problem. Ranges"
    " are those of {repeats} rehearsals. What no rollout of the log shows is beyond it, and so is what becomes more reliable by"
    " training: it ranks tokens to the end, accuracy while that moves (benchmarks/results/predicted.md)."
)


def rehearse(
    asked: Asked, configurations: Sequence[Configuration], judge: Verifier | None
) -> tuple[dict[str, Floats], dict[str, str]]:
    """({configuration: (repeats, steps + 1, 2)}, {configuration: why it could not be rehearsed}); `asked` has steps and one log.
    Raises TautError for a log that cannot be rehearsed on."""
    s = asked.settings
    assert s.steps is not None
    foreign = Foreign(s.columns, s.tokenizer, s.cap, s.where, judge=judge, keep_tokens=True)
    rehearsal = Rehearsal(Log(asked.logs[0], foreign))
    found, refused = {}, {}
    for configuration in configurations:
        try:
            found[configuration.name] = rehearsal(configuration, Course(s.steps, s.prompts, s.samples))
        except TautError as error:
            refused[configuration.name] = str(error)
    return found, refused


def section(courses: Mapping[str, Floats]) -> str:
    """A row a configuration, by its tokens at the end: where it stands at the start, after a quarter and half of the steps, and at
    the end, and the tokens a rollout that its training takes."""
    repeats, length, _ = next(iter(courses.values())).shape
    at = sorted({0, (length - 1) // 4, (length - 1) // 2, length - 1})
    lines = [["configuration", *(f"accuracy, tokens after {step}" for step in at), "tokens a rollout in training"]]
    for name, course in sorted(courses.items(), key=lambda item: item[1][:, -1, 1].mean()):
        cells = [f"{course[:, step, 0].mean():.3f}, {course[:, step, 1].mean():.1f}" for step in at[:-1]]
        last = course[:, -1]
        (accuracy, tokens), low, high = last.mean(axis=0), last.min(axis=0), last.max(axis=0)
        cells.append(f"{accuracy:.3f} [{low[0]:.3f}, {high[0]:.3f}], {tokens:.1f} [{low[1]:.1f}, {high[1]:.1f}]")
        lines.append([name, *cells, f"{course[:, :-1, 1].mean():.1f}"])
    return f"{table(lines)}\n\n{TOLD.format(repeats=repeats)}"


def csv_columns(course: Floats | None) -> dict[str, Any]:
    """Of replay.csv: means over rehearsals."""
    if course is None:
        return {}
    accuracy, tokens = course[:, -1].mean(axis=0)
    spent = course[:, :-1, 1].mean()
    return {
        "rehearsed_accuracy": f"{accuracy:.6g}",
        "rehearsed_tokens": f"{tokens:.6g}",
        "rehearsed_spent": f"{spent:.6g}",
    }


def draw(courses: Mapping[str, Floats], path: Path) -> None:
    """Tokens and accuracy by step, a line a configuration, the range of the rehearsals about it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * 1.25, HEIGHT * 0.85), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 2)
    for axes, i, name in ((panels[0], 1, "mean tokens per response"), (panels[1], 0, "accuracy")):
        for (label, course), colour in zip(courses.items(), COLOURS * (1 + len(courses) // len(COLOURS)), strict=False):
            x = np.arange(course.shape[1])
            axes.fill_between(x, course[:, :, i].min(0), course[:, :, i].max(0), color=colour, alpha=0.12, linewidth=0)
            axes.plot(x, course[:, :, i].mean(0), color=colour, linewidth=1.6, label=label)
        axes.set_xlabel("step")
        axes.set_title(name, loc="left", fontsize=12, fontweight="bold")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    figure.savefig(path, dpi=DPI)
