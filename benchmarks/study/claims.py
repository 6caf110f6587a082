"""What the papers claim, held against the table: a number with its interval, and a verdict that follows from it by rule.

A claim that something is better is confirmed where the interval of the difference lies above 0, refuted where it lies
below. A claim that two things are equal is confirmed where the interval lies within EQUAL, refuted where it lies
outside of it. All else is undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.intervals import Estimate
from benchmarks.study.curves import most_accurate
from benchmarks.study.reference import LINEAR
from benchmarks.study.report import PLAIN
from benchmarks.study.runs import Floats, Study
from benchmarks.study.uncertainty import Uncertainty, text
from benchmarks.tables import table

EQUAL = 0.02  # accuracy within which two methods are as good as equal
Verdict = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class Claim:
    """paper: whose; says: the claim; run: what was held against what; change: what would change the verdict."""

    paper: str
    says: str
    run: str
    number: str
    verdict: Verdict
    change: str


def better(e: Estimate) -> Verdict:
    """The verdict on "better": where the whole interval lies on one side of zero."""
    return "confirmed" if e.low > 0 else "refuted" if e.high < 0 else "undecided"


def equal(e: Estimate, margin: float = EQUAL) -> Verdict:
    """The verdict on "equal": where the whole interval lies within the margin, or outside it."""
    if -margin <= e.low and e.high <= margin:
        return "confirmed"
    return "refuted" if e.low > margin or e.high < -margin else "undecided"


class Evidence:
    """Shorthand for the claims: differences of configurations, of methods over their strengths, and of what was logged."""

    def __init__(self, study: Study, u: Uncertainty) -> None:
        self.study, self.u = study, u

    def accuracy(self, first: str, second: str) -> Estimate:
        return self.u.difference(first, second, "accuracy")

    def tokens(self, first: str, second: str) -> Estimate:
        return self.u.difference(first, second, "tokens")

    def best(self, method: str) -> str:
        return most_accurate(self.study, self.u, method)

    def level(self, first: str, second: str, level: str) -> Estimate:
        """Difference in accuracy on one level: the spread over its problems and of the seeds' overall shift."""
        a, b = self.study.configurations[first], self.study.configurations[second]
        at = self.study.level == level
        each = np.nanmean(a.accuracy[:, at], axis=0) - np.nanmean(b.accuracy[:, at], axis=0)
        seeds = sum(self.u.seed_sd[c.name][0] ** 2 / len(c.seeds) for c in (a, b))
        error = math.sqrt(float(each.var(ddof=1)) / len(each) + seeds)
        value = float(each.mean())
        return Estimate(value, error, value - 1.96 * error, value + 1.96 * error)

    def logged(self, name: str, quantity: str) -> Floats:
        """(S,): the mean over a run's steps of what it logged."""
        return np.array([float(np.nanmean(s[quantity])) for (n, _), s in self.study.steps.items() if n == name])

    def ratio_of_ranges(self, first: str, second: str, measure: int) -> Estimate:
        """How far apart a method's weakest and strongest strength end, against another's: the ratio of the two distances."""
        values, draws = [], []
        for method in (first, second):
            of = [c.name for c in self.study.of(method)]
            values.append(abs(float(self.u.mean[of[0]][measure] - self.u.mean[of[-1]][measure])))
            draws.append(np.abs(self.u.draws[of[0]][:, measure] - self.u.draws[of[-1]][:, measure]))
        return self.u.estimate(values[0] / values[1], draws[0] / draws[1])


def claims(study: Study, u: Uncertainty) -> list[Claim]:
    """Each claim of the papers that this table can speak to."""
    e = Evidence(study, u)
    out: list[Claim] = []
    weak = e.best("az")
    gated = e.accuracy("grpo-lambda-0.8", "az-0.8")
    cheaper = e.tokens("grpo-lambda-0.8", "az-0.8")
    out.append(
        Claim(
            "GRPO-λ (2505.18086)",
            "penalising only the best-answered groups keeps accuracy where penalising all loses it",
            "grpo-lambda-0.8 (the best 20 % of groups) against az-0.8 (all groups), 40 steps",
            f"accuracy {text(gated, 3, True)}, tokens {text(cheaper, 1, True)}; but against {weak}, all groups at a weaker "
            f"alpha, accuracy {text(e.accuracy('grpo-lambda-0.8', weak), 3, True)} and tokens "
            f"{text(e.tokens('grpo-lambda-0.8', weak), 1, True)}",
            better(gated),
            "longer training (sweep `long`); at equal tokens it is not shown: a weak penalty in all groups does as well",
        )
    )
    top = e.accuracy(e.best("laser-d"), e.best("laser"))
    out.append(
        Claim(
            "LASER-D (2505.15612)",
            "targets by difficulty beat one target",
            f"three lower bounds against three targets; the best: {e.best('laser-d')}, {e.best('laser')}",
            f"accuracy {text(top, 3, True)}, tokens {text(e.tokens(e.best('laser-d'), e.best('laser')), 1, True)}",
            better(top),
            "problems of which some need far more tokens than others after training too",
        )
    )
    top = e.accuracy(e.best("hapo"), e.best(LINEAR))
    out.append(
        Claim(
            "HAPO (2505.11225)",
            "a history of each problem's shortest correct answer helps",
            f"hapo at w 0.1, 0.3, 1 against the linear penalty at three strengths; the best: {e.best('hapo')}, {e.best(LINEAR)}",
            f"accuracy {text(top, 3, True)}, tokens {text(e.tokens(e.best('hapo'), e.best(LINEAR)), 1, True)}",
            better(top),
            "more than three visits to a problem",
        )
    )
    pushed = {
        n: e.logged(n, "correct_pushed_down").mean() for n in ("drpo-advantage-0.1", "linear-1", "linear-4", PLAIN)
    }
    spent = [u.mean[n][1] for n in ("drpo-advantage-0.1", "linear-1")]
    hard = e.level("drpo-advantage-0.1", "linear-1", max(study.level.tolist()))
    out.append(
        Claim(
            "DRPO (2510.04474)",
            "decoupling keeps long correct answers from being punished, and that pays in accuracy",
            f"drpo-advantage-0.1 ({spent[0]:.0f} tokens) against linear-1 ({spent[1]:.0f}), on the hardest level",
            "correct answers with a negative advantage: "
            + ", ".join(f"{n} {v:.1%}" for n, v in pushed.items())
            + f"; accuracy {text(hard, 3, True)}",
            better(hard),
            "a stronger length term; the loss itself (drpo-*) in place of its advantage",
        )
    )
    dler, laser = e.best("dler"), e.best("laser-d")
    match = e.accuracy(dler, laser)
    out.append(
        Claim(
            "DLER (2510.15110)",
            "plain truncation, trained with the batch's std, clip-higher and dynamic sampling, matches elaborate penalties",
            f"the best of three caps, {dler} ({u.mean[dler][1]:.0f} tokens), against {laser} ({u.mean[laser][1]:.0f})",
            f"accuracy {text(match, 3, True)}",
            equal(match),
            "other caps; more steps, as truncation speaks only to what is cut",
        )
    )
    tokens, accuracy = e.ratio_of_ranges("std-linear", LINEAR, 1), e.ratio_of_ranges("std-linear", LINEAR, 0)
    out.append(
        Claim(
            "Dr. GRPO (2503.20783)",
            "dividing by the group's std drives every strength to the same point",
            "c(1 - a l/L) at a = 0.1 and 4, with and without the division: the distance between the two ends, with / without",
            f"tokens {text(tokens, 2)}, accuracy {text(accuracy, 2)}",
            "confirmed" if tokens.high < 0.5 else "refuted" if tokens.low > 0.8 else "undecided",
            "an a below 0.1, at which both do next to nothing",
        )
    )
    inter, random = e.accuracy("canon-inter", "canon-random"), e.tokens("canon-inter", "canon-random")
    out.append(
        Claim(
            "CANON (2509.23962)",
            "comparing the halves of a group by length is better than comparing halves at random",
            "canon-inter (length, mu 1) against canon-random (mu 1)",
            f"accuracy {text(inter, 3, True)}, tokens {text(random, 1, True)}",
            better(inter),
            "groups of 16, as in the paper; here they have 8",
        )
    )
    eff, as_few = e.accuracy("canon-eff-0.8", "linear-1"), e.tokens("canon-eff-0.8", "linear-1")
    out.append(
        Claim(
            "CANON-Eff (2509.23962)",
            "discounting the longer half is better than a length penalty",
            "canon-eff-0.8 against linear-1",
            f"accuracy {text(eff, 3, True)}, tokens {text(as_few, 1, True)}",
            better(eff),
            "groups of 16; an alpha below 0.5",
        )
    )
    entropy = e.accuracy("canon-entropy", PLAIN)
    out.append(
        Claim(
            "CANON, first inter, later intra (2509.23962)",
            "halves by entropy raise accuracy over Dr. GRPO",
            "canon-entropy against plain, which is Dr. GRPO",
            f"accuracy {text(entropy, 3, True)}",
            better(entropy),
            "problems that plain does not solve nearly all",
        )
    )
    shorter, kept = e.tokens("pear-1", PLAIN), e.accuracy("pear-1", PLAIN)
    out.append(
        Claim(
            "PEAR (2510.08026)",
            "paying for certainty while thinking shortens answers at equal accuracy",
            "pear-1 against plain",
            f"tokens {text(shorter, 1, True)}, accuracy {text(kept, 3, True)}",
            "confirmed" if shorter.high < 0 and kept.low > -EQUAL else "refuted" if shorter.low > 0 else "undecided",
            "a model whose long answers are its uncertain ones",
        )
    )
    return out


def page(study: Study, u: Uncertainty, more: Sequence[Claim] = ()) -> str:
    """The claims as a table, those of other studies last."""
    rows = [["paper", "claim", "what was run", "number", "verdict", "what would change it"]]
    rows += [[c.paper, c.says, c.run, c.number, f"**{c.verdict}**", c.change] for c in [*claims(study, u), *more]]
    return table(rows)
