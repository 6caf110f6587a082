"""The study's table in Markdown: every configuration, every method's own curve, levels, seeds, and what can be told
apart."""

from __future__ import annotations

import numpy as np

from benchmarks.metrics import dominated
from benchmarks.study import pace
from benchmarks.study.curves import curve_table
from benchmarks.study.reference import AS_FEW, Against, all_against_linear
from benchmarks.study.runs import Floats, Study
from benchmarks.study.uncertainty import Noise, Uncertainty, noise, text
from benchmarks.tables import table

PLAIN = "plain"
CLOSE = 0.05  # accuracy below plain GRPO's at which a configuration is no rival any more


def on_front(study: Study, u: Uncertainty) -> tuple[list[bool], Floats]:
    """Whether each configuration is on the front by its mean, and in which share of the draws."""
    names = list(study.configurations)
    means = np.array([u.mean[n] for n in names])
    draws = np.stack([u.draws[n] for n in names], axis=1)
    inside = np.array([~dominated(d[:, 0], d[:, 1]) for d in draws]).mean(axis=0)
    return list(~dominated(means[:, 0], means[:, 1])), inside


def answer(against: dict[str, Against]) -> str:
    """Who does better and who does worse than linear penalties with as many tokens, in words."""
    above = [n for n, a in against.items() if a.value.low > 0]
    below = sorted((n for n, a in against.items() if a.value.high < 0), key=lambda n: against[n].value.value)
    between = len(against) - len(above) - len(below)
    return (
        f"Held against linear length penalties with as many tokens, which {len(against)} configurations can be: better are "
        f"{', '.join(above) if above else 'none'}; not told apart {between}; worse are "
        f"{', '.join(below) if below else 'none'} (the worst first). One in forty would lie below by chance, and one above."
    )


def configurations(study: Study, u: Uncertainty, held: dict[str, Against]) -> str:
    """A row a configuration, from most tokens to fewest."""
    front, inside = on_front(study, u)
    place = {n: i for i, n in enumerate(study.configurations)}
    head = [
        "configuration", "seeds", "accuracy", "tokens", "Δ accuracy to plain", "tokens of plain's",
        "Δ accuracy to linear penalties at equal tokens", "which", "front", "in share of draws",
    ]  # fmt: skip
    rows = [head]
    for name in sorted(study.configurations, key=lambda n: -u.mean[n][1]):
        c, linear = study.configurations[name], held.get(name)
        against = u.difference(name, PLAIN, "accuracy")
        share = u.mean[name][1] / u.mean[PLAIN][1]
        rows.append(
            [
                name,
                "" if c.kind == "base" else str(len(c.seeds)),
                text(u.of(name, "accuracy")),
                text(u.of(name, "tokens"), 1),
                "" if name == PLAIN else text(against, 3, True),
                "" if name == PLAIN else f"{share:.0%}",
                text(linear.value, 3, True) if linear else "",
                " & ".join(linear.reference) if linear else "",
                "yes" if front[place[name]] else "",
                f"{inside[place[name]]:.2f}",
            ]
        )
    return table(rows)


def levels(study: Study, u: Uncertainty) -> str:
    """Accuracy @ tokens by level, averaged over seeds."""
    names = sorted(set(study.level.tolist()))
    rows = [["configuration", *(f"level {n}" for n in names)]]
    for name in sorted(study.configurations, key=lambda n: -u.mean[n][1]):
        c = study.configurations[name]
        a, t = c.accuracy.mean(axis=0), c.tokens.mean(axis=0)
        rows.append(
            [name, *(f"{np.nanmean(a[study.level == n]):.3f} @ {np.nanmean(t[study.level == n]):.0f}" for n in names)]
        )
    return table(rows)


def seeds(study: Study) -> str:
    """What each seed ended at."""
    rows = [
        ["configuration", "accuracy of each seed", "standard deviation", "tokens of each seed", "standard deviation"]
    ]
    for c in study.trained:
        if len(c.seeds) > 1:
            a, t = np.nanmean(c.accuracy, axis=1), np.nanmean(c.tokens, axis=1)
            rows.append(
                [c.name, " ".join(f"{v:.3f}" for v in a), f"{a.std(ddof=1):.3f}", " ".join(f"{v:.1f}" for v in t),
                 f"{t.std(ddof=1):.1f}"]
            )  # fmt: skip
    return table(rows) if len(rows) > 1 else ""


def rivals(study: Study, u: Uncertainty) -> list[str]:
    """Configurations that are not far below plain GRPO: those between which there is something to tell."""
    least = u.mean[PLAIN][0] - CLOSE
    return [c.name for c in study.trained if u.mean[c.name][0] > least]


def power(study: Study, u: Uncertainty) -> tuple[str, Noise]:
    """(which difference in accuracy is found 9 times of 10, by seeds and problems; the noise behind it), among rivals."""
    found = noise(study, u, rivals(study, u), "accuracy")
    sizes = [600, 1200, len(study.problems), 10_000]
    rows = [["seeds", *(f"{n:,} problems" for n in sizes)]]
    rows += [[str(s), *(f"{found.detectable(s, n):.3f}" for n in sizes)] for s in (1, 2, 3, 5, 10, 20)]
    return table(rows), found


def apart(study: Study, u: Uncertainty) -> tuple[int, int]:
    """(pairs of rivals whose interval of the accuracy difference leaves out 0, all pairs)."""
    names = rivals(study, u)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    told = [u.difference(a, b, "accuracy") for a, b in pairs]
    return sum(e.low > 0 or e.high < 0 for e in told), len(pairs)


PAGE = """# Overthinker: every shaping at three strengths

![accuracy against tokens](table.png)

{configurations} configurations, {runs} runs, {problems:,} held-out problems with one sample each at T = 1. Brackets
are 95 % intervals over problems, sampled tokens and training seeds (`benchmarks/study/uncertainty.py`); differences
are paired over problems.

Made by `{command}` on {machine}; {packages}.

{made}

Nothing was trained to make this page: `python -m benchmarks.study benchmarks/results/table` makes it again from the
folder's two files.

## What can be told apart

Which true difference in accuracy is found 9 times of 10 (two-sided, 95 %) between two of the {rivals} configurations
that end at most {close} below plain GRPO:

{power}

A training seed moves such a configuration by {noise.seed:.4f} by itself (standard deviation); how two configurations
differ varies by {noise.problem:.3f} over problems, one answer by {noise.sample:.3f} about its problem's mean;
Student's t has {noise.freedom:.1f} degrees of freedom. Of the {pairs} pairs of these configurations {apart} are told
apart.

## Configurations

{answer}

{table}

At equal tokens: against the most accurate of the other linear penalties, c(1 - a l/L), with at most {few:g} token more, or
the mixture of two of them with as many tokens in the mean (`benchmarks/study/reference.py`). Which one was picked by its
result here, which favours it. Empty: every linear penalty has more tokens. Front: no other has more accuracy for as few
tokens.

## How soon

{soon}

![tokens a rollout by training step](pace.png)

## Each method over its strengths

{curves}

Between the most and the least accurate strength lies what a wrong choice costs, within the strengths that were written down
before the runs. Methods are in the order of their worst.

Hypervolume: the area that the strengths dominate, above accuracy 0 and left of the base model's tokens, which are 1. Three
strengths each (of linear's the first, the middle and the last). It is larger for whoever was run over a wider range: a method
all of whose strengths end at one point has little. Do not rank methods by it.

## By level

{levels}

## Seeds

{seeds}
"""


def report(study: Study, u: Uncertainty) -> str:
    """The whole page."""
    about = study.about
    strengths, found = power(study, u)
    held = all_against_linear(study, u)
    distinct, pairs = apart(study, u)
    made = [
        f"- {stage}: " + ", ".join(f"{len(names)} runs by code {code}" for code, names in by.items())
        for stage, by in about.get("code", {}).items()
    ]
    return PAGE.format(
        configurations=len(study.trained),
        runs=sum(len(c.seeds) for c in study.trained),
        problems=len(study.problems),
        command=about.get("command", ""),
        machine=about.get("machine") or "a machine without a name",
        packages=", ".join(f"{k} {v}" for k, v in about.get("packages", {}).items() if v),
        made="\n".join(made),
        rivals=len(rivals(study, u)),
        close=CLOSE,
        power=strengths,
        noise=found,
        pairs=pairs,
        apart=distinct,
        answer=answer({n: a for n, a in held.items() if study.configurations[n].kind != "base"}),
        table=configurations(study, u, held),
        few=AS_FEW,
        soon=pace.page(study, u, held),
        curves=curve_table(study, u),
        levels=levels(study, u),
        seeds=seeds(study),
    )
