"""How soon training gets there: what tells methods apart that end at one point.

A run's pace is the mean length of its rollouts over the whole training: what training costs, and the lower the sooner answers
became short. Seeds decide which problems come when, for all configurations alike, so a configuration is held against REFERENCE,
the linear penalty of middle strength, seed by seed: the ratio of their paces, with Student's t over seeds on its logarithm,
variances drawn towards those of the configurations with much the same pace (`moderate`). Only configurations are told of that end
where the others do, at an accuracy that is not told to be below that of linear penalties with as many tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.intervals import CONFIDENCE, Estimate
from benchmarks.study.reference import Against, all_against_linear
from benchmarks.study.runs import Floats, Study, first_down, trailing
from benchmarks.study.uncertainty import SETTLED, Uncertainty, moderate, text
from benchmarks.tables import table

REFERENCE = "linear-1"
WINDOW = 3  # steps that are averaged before a run counts as being half way
FEWEST = 9  # configurations, without which the spread over seeds is not known
ALIKE = 3  # thirds: configurations of much the same pace share a prior
COLORS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#56B4E9", "#8C564B", "#333333")
DRAWN = ("linear", "laser", "alp", "dler", "grpo-lambda", "hapo", "pear", "thinkprune")


@dataclass(frozen=True)
class Pace:
    """ratio: of the configuration's tokens in training to the reference's, its standard error that of the logarithm; half: by
    seed, the step at which half of what the reference saves is saved, or None."""

    name: str
    ratio: Estimate
    half: tuple[int | None, ...]


def tokens_of(study: Study, name: str) -> Floats:
    """(S,): mean length of a rollout over the training, of each seed."""
    return np.array([study.steps[name, seed]["tokens"].mean() for seed in study.configurations[name].seeds])


def settled(study: Study, u: Uncertainty, held: Mapping[str, Against]) -> list[str]:
    """The configurations that end within SETTLED tokens of the median, and are not told to be below linear penalties."""
    median = float(np.median([u.mean[c.name][1] for c in study.trained]))
    near = [c.name for c in study.trained if abs(float(u.mean[c.name][1]) - median) <= SETTLED]
    return [n for n in near if n not in held or not held[n].value.high < 0]


def paces(study: Study, u: Uncertainty, held: Mapping[str, Against]) -> list[Pace]:
    """Of those that settle, the soonest first; [] where REFERENCE does not, or with one seed, or with too few of its seeds."""
    names = settled(study, u, held)
    seeds = study.configurations[REFERENCE].seeds if REFERENCE in names else ()
    names = [n for n in names if study.configurations[n].seeds == seeds]
    if len(seeds) < 2 or len(names) < FEWEST:
        return []
    log = {n: np.log(tokens_of(study, n)) for n in names}
    names.sort(key=lambda n: float(log[n].mean()))
    apart = np.array([log[n] - log[REFERENCE] for n in names])  # (C, S)
    goal = (float(u.mean[study.base.name][1]) + float(u.mean[REFERENCE][1])) / 2
    found = []
    for third in np.array_split(np.arange(len(names)), ALIKE):
        others = [i for i in third if names[i] != REFERENCE]
        freedom = np.full(len(others), float(len(seeds) - 1))
        moderated = moderate(apart[others].var(axis=1, ddof=1), freedom)
        error = dict(zip(others, np.sqrt(moderated.each / len(seeds)), strict=True))
        for i in third:
            value = float(apart[i].mean())
            wide = error.get(i, 0.0) * float(student.ppf((1 + CONFIDENCE) / 2, moderated.freedom + len(seeds) - 1))
            ratio = Estimate(math.exp(value), error.get(i, 0.0), math.exp(value - wide), math.exp(value + wide))
            half = tuple(first_down(study.steps[names[i], seed]["tokens"], WINDOW, goal) for seed in seeds)
            found.append(Pace(names[i], ratio, half))
    return found


def soonest(study: Study, found: list[Pace]) -> list[Pace]:
    """Each method's soonest strength, in order."""
    first: dict[str, Pace] = {}
    for p in found:
        first.setdefault(study.configurations[p.name].method, p)
    return list(first.values())


def page(study: Study, u: Uncertainty, held: Mapping[str, Against]) -> str:
    """The section of the report; says why where there is nothing to tell."""
    found = paces(study, u, held)
    if not found:
        return f"Not told: it takes {REFERENCE} and {FEWEST - 1} others that settle, with the same two seeds or more."
    rows = [["method", "its soonest strength", f"tokens in training to {REFERENCE}'s", "half way at step", "accuracy"]]
    for p in soonest(study, found):
        c = study.configurations[p.name]
        half = " ".join("never" if h is None else str(h) for h in p.half)
        ratio = "1" if p.name == REFERENCE else text(p.ratio, 2)
        rows.append([c.method, p.name, ratio, half, text(u.of(p.name, "accuracy"))])
    rest = [p for p in found if p.name != REFERENCE]
    less, more = (sum(side) for side in zip(*((p.ratio.high < 1, p.ratio.low > 1) for p in rest), strict=True))
    error = float(np.median([p.ratio.se for p in rest]))
    told = {p.name for p in found}
    never = [m for m in dict.fromkeys(c.method for c in study.trained) if not any(c.name in told for c in study.of(m))]
    return "\n\n".join(
        [
            f"{len(found)} configurations end at one point, not below linear penalties. Against {REFERENCE}, {less} of them spend "
            f"fewer tokens on training, {more} more, and {len(rest) - less - more} are not told apart from it (the median standard "
            f"error of a ratio is {error:.1%}).",
            table(rows),
            "A stronger length term is there sooner until it costs accuracy, so methods are compared at the soonest of their "
            "strengths that still ends with the others; which one that is was picked by its result. Half way: of the tokens that "
            f"{REFERENCE} saves, mean over {WINDOW} steps, by seed. No strength of these ends there: {', '.join(never)}.",
        ]
    )


def draw(study: Study, u: Uncertainty, path: Path) -> None:
    """Training tokens by step: of some methods the soonest strength that settles, mean and range over seeds, and plain GRPO."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    of = {
        study.configurations[p.name].method: p.name
        for p in soonest(study, paces(study, u, all_against_linear(study, u)))
    }
    names = ["plain", *(of[m] for m in DRAWN if m in of)]
    for name, color in zip(names, ("#999999", *COLORS), strict=False):
        seeds = study.configurations[name].seeds
        smooth = np.array([trailing(study.steps[name, seed]["tokens"], WINDOW) for seed in seeds])
        at = np.arange(WINDOW, WINDOW + smooth.shape[1])
        axes.fill_between(at, smooth.min(axis=0), smooth.max(axis=0), color=color, alpha=0.15, linewidth=0)
        axes.plot(at, smooth.mean(axis=0), color=color, linewidth=1.6, label=name)
    axes.set_title("How soon: the soonest strength of some methods", loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel("training step")
    axes.set_ylabel(f"tokens a rollout, mean over {WINDOW} steps")
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, ncols=3, loc="upper right")
    figure.savefig(path, dpi=150)
