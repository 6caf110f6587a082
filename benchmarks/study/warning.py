"""Early warning: which logged quantity told of a collapse, how many steps before accuracy fell, and how often for
nothing.

A run has collapsed when its held-out accuracy ends LOST or more below the base model's. Its accuracy falls at the
first step at which the training accuracy, a mean over WINDOW steps, is FALL below the run's first steps. An alarm is
a quantity's mean over WINDOW steps past a threshold; it is early when it comes before the fall, and false in a run
that has not collapsed. A threshold is the one that catches most collapses early with at most FALSE of the other runs
alarmed. To be believed it is chosen anew for each configuration without that configuration's runs, and only then
counted on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.study.runs import Floats, Study
from benchmarks.tables import table
from trainers.config import AlarmConfig
from trainers.monitor import RECENT_STEPS

LOST, FALL, FALSE = 0.05, 0.1, 0.05
WINDOW = RECENT_STEPS  # as the trainer judges
Series = Callable[[dict[str, Floats]], Floats]


def _logged(name: str) -> Series:
    return lambda steps: steps[name]


def _relative(name: str) -> Series:
    """To the mean of the run's first steps."""

    def series(steps: dict[str, Floats]) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return steps[name] / np.nanmean(steps[name][:WINDOW])

    return series


QUANTITIES: dict[str, Series] = {
    "tokens, of the start": _relative("tokens"),
    "tokens of correct answers, of the start": _relative("tokens_correct"),
    "tokens of wrong answers, of the start": _relative("tokens_wrong"),
    "longest answer, of the start": _relative("tokens_max"),
    "entropy, of the start": _relative("entropy"),
    "gradient norm, of the start": _relative("grad_norm"),
    "gradient norm": _logged("grad_norm"),
    "mean absolute advantage": _logged("advantage_abs"),
    "groups with equal verdicts": _logged("zero_signal"),
    "correct answers pushed down": _logged("correct_pushed_down"),
    "wrong answers pushed up": _logged("wrong_pushed_up"),
    "training accuracy": _logged("accuracy"),
    "training accuracy, of the start": _relative("accuracy"),
    "truncated": _logged("truncated"),
    "well-formed": _logged("format_ok"),
}


PAGE = """# Early warning

{runs} runs; {collapsed} collapsed, their held-out accuracy ending {lost} or more below the base model's: {names}. In
{seen} of them training accuracy fell by {fall}, first seen after steps {fell}.

Means over three steps. An alarm is early when it comes before the fall (or at all, where training accuracy did not
show it). Each threshold catches most collapses with at most {false:.0%} false alarms; the last three columns choose
it without the configuration on which it is counted.

{quantities}

## The trainer's alarms, as they were set when the runs were made

{own}

## And as they are set now, over three steps, on the same runs

{now}"""


@dataclass(frozen=True)
class Run:
    """collapsed: see the module; fall: the step (from 0) at which accuracy falls, T where it never does in training."""

    configuration: str
    collapsed: bool
    fall: int
    steps: dict[str, Floats]
    alarms: list[str]


@dataclass(frozen=True)
class Alarm:
    """How an alarm did. early, late: collapsed runs in which it came before the fall, or at it or after; false: others in which
    it came; leads: steps between an early alarm and the fall."""

    quantity: str
    rule: str
    early: int
    late: int
    collapsed: int
    false: int
    others: int
    leads: tuple[int, ...]


def smooth(values: Floats) -> Floats:
    """Trailing means over WINDOW steps; NaN before there are so many, and where all are."""
    out = np.full(len(values), np.nan)
    for i in range(WINDOW - 1, len(values)):
        part = values[i - WINDOW + 1 : i + 1]
        if np.isfinite(part).any():
            out[i] = part[np.isfinite(part)].mean()
    return out


def runs_of(study: Study) -> list[Run]:
    """Every trained run with its outcome."""
    least = float(np.nanmean(study.base.accuracy)) - LOST
    out = []
    for c in study.trained:
        for seed, accuracy in zip(c.seeds, np.nanmean(c.accuracy, axis=1), strict=True):
            steps = study.steps[c.name, seed]
            falling = smooth(steps["accuracy"]) <= np.nanmean(steps["accuracy"][:WINDOW]) - FALL
            fall = int(np.argmax(falling)) if falling.any() else len(falling)
            out.append(Run(c.name, bool(accuracy < least), fall, steps, study.alarms[c.name, seed]))
    return out


def first_past(series: Floats, threshold: float, below: bool) -> int:
    """The first step at which the smoothed series is past the threshold; its length where it never is."""
    past = series < threshold if below else series > threshold
    return int(np.argmax(past)) if past.any() else len(series)


def count(quantity: str, rule: str, runs: Sequence[Run], fired: Sequence[int]) -> Alarm:
    """fired: for each run the step of its first alarm, its number of steps where there was none."""
    leads, late, false = [], 0, 0
    for run, at in zip(runs, fired, strict=True):
        if at >= len(run.steps["accuracy"]):
            continue
        if not run.collapsed:
            false += 1
        elif at < run.fall:
            leads.append(run.fall - at)
        else:
            late += 1
    collapsed = sum(r.collapsed for r in runs)
    return Alarm(quantity, rule, len(leads), late, collapsed, false, len(runs) - collapsed, tuple(sorted(leads)))


def choose(series: Sequence[Floats], runs: Sequence[Run]) -> tuple[float, bool] | None:
    """(threshold, below) that catches most collapses early with at most FALSE of the others alarmed; None where none does.

    Of thresholds that do equally well the middle one, as far as may be from where either kind of run would be mistaken.
    """
    finite = np.concatenate([s[np.isfinite(s)] for s in series])
    if not len(finite):
        return None
    candidates = np.unique(np.quantile(finite, np.linspace(0, 1, 201)))
    falls = np.array([r.fall for r in runs])
    collapsed = np.array([r.collapsed for r in runs])
    results: dict[tuple[int, int, bool], list[float]] = {}
    for below in (True, False):
        reached = np.stack([_running(s, below) for s in series])  # (runs, steps): the most extreme value so far
        for threshold in candidates:
            past = reached < threshold if below else reached > threshold
            fired = np.where(past.any(axis=1), past.argmax(axis=1), past.shape[1])
            false = int((past.any(axis=1) & ~collapsed).sum())
            if false <= FALSE * (~collapsed).sum() and (early := int((collapsed & (fired < falls)).sum())):
                results.setdefault((early, -false, below), []).append(float(threshold))
    if not results:
        return None
    best = max(results)
    return results[best][len(results[best]) // 2], best[2]


def _running(series: Floats, below: bool) -> Floats:
    filled = np.where(np.isfinite(series), series, np.inf if below else -np.inf)
    return np.minimum.accumulate(filled) if below else np.maximum.accumulate(filled)


def judge(name: str, runs: Sequence[Run]) -> tuple[Alarm, Alarm] | None:
    """(with the threshold of all runs, with thresholds chosen without the configuration judged); None where nothing helps."""
    series = [smooth(QUANTITIES[name](run.steps)) for run in runs]
    chosen = choose(series, runs)
    if chosen is None:
        return None
    fired = [first_past(s, *chosen) for s in series]
    held_out = [len(s) for s in series]
    for configuration in dict.fromkeys(r.configuration for r in runs):
        inside = [i for i, r in enumerate(runs) if r.configuration == configuration]
        others = [i for i in range(len(runs)) if i not in inside]
        found = choose([series[i] for i in others], [runs[i] for i in others])
        for i in inside:
            held_out[i] = len(series[i]) if found is None else first_past(series[i], *found)
    rule = f"{'below' if chosen[1] else 'above'} {chosen[0]:.3g}"
    return count(name, rule, runs, fired), count(name, "chosen without it", runs, held_out)


def of_the_trainer(runs: Sequence[Run]) -> list[Alarm]:
    """The trainer's own alarms as they were set when the runs were made."""
    kinds = dict.fromkeys(kind for run in runs for told in run.alarms for kind in told.split("; ") if kind)
    out = []
    for kind in kinds:
        fired = [next((i for i, told in enumerate(r.alarms) if kind in told.split("; ")), len(r.alarms)) for r in runs]
        out.append(count(kind, "as set", runs, fired))
    return out


def as_set_now(runs: Sequence[Run]) -> list[Alarm]:
    """The trainer's alarms on lengths and signs with their thresholds of now, on the same runs."""
    now = AlarmConfig()
    out = []
    for kind, quantity, threshold, below in (
        ("length collapse", "tokens, of the start", now.collapse, True),
        ("length explosion", "tokens, of the start", now.explosion, False),
        ("wrong answers pushed up", "wrong answers pushed up", now.wrong_up, False),
    ):
        fired = [first_past(smooth(QUANTITIES[quantity](run.steps)), threshold, below) for run in runs]
        out.append(count(f"{kind}, {'below' if below else 'above'} {threshold:g}", "as set now", runs, fired))
    return out


def _row(a: Alarm) -> list[str]:
    lead = f"{np.median(a.leads):.0f} ({a.leads[0]} to {a.leads[-1]})" if a.leads else ""
    return [f"{a.early} of {a.collapsed}", str(a.late), lead, f"{a.false} of {a.others}"]


def report(study: Study) -> str:
    """Every quantity with its best threshold, as counted on the runs that chose it and on those that did not."""
    runs = runs_of(study)
    collapsed = [r for r in runs if r.collapsed]
    seen = [r.fall for r in collapsed if r.fall < len(r.steps["accuracy"])]
    head = ["quantity", "alarm when", "early", "too late", "steps ahead: median (range)", "false"]
    held = ["early, chosen without", "steps ahead", "false, chosen without"]
    rows = [[*head, *held]]
    if collapsed:
        found = [f for f in (judge(name, runs) for name in QUANTITIES) if f is not None]
        for own, other in sorted(found, key=lambda f: (-f[1].early, f[1].false)):
            cells = _row(other)
            rows.append([own.quantity, own.rule, *_row(own), cells[0], cells[2], cells[3]])
    own_rows = [["alarm", "early", "too late", "steps ahead: median (range)", "false"]]
    own_rows += [[a.quantity, *_row(a)] for a in of_the_trainer(runs)]
    now_rows = [own_rows[0], *([a.quantity, *_row(a)] for a in as_set_now(runs))]
    names = dict.fromkeys(r.configuration for r in collapsed)
    fell = f"{np.median(seen):.0f} ({min(seen)} to {max(seen)})" if seen else "never"
    return PAGE.format(
        runs=len(runs), collapsed=len(collapsed), lost=LOST, names=", ".join(names), seen=len(seen), fall=FALL, fell=fell,
        false=FALSE, quantities=table(rows), own=table(own_rows) if len(own_rows) > 1 else "None came.", now=table(now_rows),
    )  # fmt: skip
