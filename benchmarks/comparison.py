"""Two configurations on the same problems: paired differences, and how often one's answers win, also at equal lengths."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.analyses.win_rate import LengthControlledWinRate, paired
from benchmarks.collect import Configuration
from benchmarks.intervals import CONFIDENCE, RESAMPLES, SEED, Estimate
from benchmarks.statistics import compare
from benchmarks.tables import table
from rewards.errors import TautError

REFITS = 500  # of the win rate's regression: two milliseconds each


def comparison(
    configurations: Sequence[Configuration], first: str, second: str, path: Path,
    resamples: int = RESAMPLES, seed: int = SEED, confidence: float = CONFIDENCE,
) -> str:  # fmt: skip
    """`second` against `first` as a table, which is written to `path` as CSV: differences of accuracy and tokens, win rates.

    A problem's preference is 0.5 + half the difference of its accuracies, so a win rate of 50 % says "as often right";
    length-controlled: of the regression's prediction at equal lengths (characters), which is 50 % where what one gains, it
    gains by length alone. Intervals resample problems. Raises TautError for a name that is none of the configurations or stands
    there twice; a win rate whose answers' texts are not at hand is n/a with the reason.
    """
    found = {c.name: c for c in configurations}
    for name in (first, second):
        if name not in found:
            raise TautError(f"--compare {first} {second}: {name!r} is none of the configurations: {', '.join(found)}")
    if first == second:
        raise TautError(f"--compare {first} {second}: name two configurations of {', '.join(found)}")
    a, b = found[first], found[second]
    got = compare(b.evaluations, a.evaluations, resamples=resamples, seed=seed, confidence=confidence)
    measures = {"accuracy": got.accuracy, "tokens": got.tokens, "tokens, relative": got.tokens_ratio}
    measures |= _win_rates(a, b, confidence)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["measure", "from", "to", "value", "se", "low", "high", "reason"])
        for name, e in measures.items():
            numbers = ["" if np.isnan(x) else f"{x:.6g}" for x in (e.value, e.se, e.low, e.high)]
            writer.writerow([name, first, second, *numbers, e.reason])
    digits = {"tokens": 1, "win rate, %": 1, "win rate at equal lengths, %": 1}
    rows = [[f"{first} -> {second}", f"change [{confidence:.0%} interval]"]]
    rows += [[name, e.text(digits.get(name, 3))] for name, e in measures.items()]
    return table(rows)


def _win_rates(a: Configuration, b: Configuration, confidence: float) -> dict[str, Estimate]:
    names = ("win rate, %", "win rate at equal lengths, %")
    try:
        for c in (a, b):
            if len(c.files) < len(c.evaluations):
                raise TautError(
                    f"{c.name} was logged by others; win rates read the texts of evaluations by `taut eval`"
                )
            if any(about.get("strategy") for about in c.about):
                raise TautError(f"{c.name} was answered with a strategy: its texts are those of single calls")
        old, new, preference = paired(a.files, b.files)
        got = LengthControlledWinRate().compute(
            old.tolist(), new.tolist(), preference.tolist(), resamples=REFITS, confidence=confidence
        )
    except TautError as error:
        nan = float("nan")
        return dict.fromkeys(names, Estimate(nan, nan, nan, nan, str(error)))
    raw = Estimate(got.raw, float(preference.std() / np.sqrt(len(preference)) * 100), got.raw_low, got.raw_high)
    return dict(zip(names, (raw, Estimate(got.length_controlled, got.standard_error, got.low, got.high)), strict=True))
