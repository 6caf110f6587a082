"""What a sweep's trainings took: tokens sampled, how rollouts' lengths went, and the alarms, a row a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.run_data import RunData, alarms_of, read_run
from benchmarks.tables import table
from rewards.errors import TautError

if TYPE_CHECKING:
    from benchmarks.sweep_plan import Planned

ENDS = 0.1  # share of the steps at either end whose rollouts' lengths are told

NOTE = (
    "Tokens sampled: of all rollouts of a training, mean over seeds and, in brackets, their range; as a share of the first line's: "
    "seed by seed. First and last: a tenth of the steps. What ends at one point can differ in how soon it is there."
)


def training(runs: Sequence[Planned], labels: Mapping[str, str], reference: str | None) -> str:
    """A Markdown table of the trained runs, the reference's line first; "" where none is."""
    found: dict[str, dict[int, RunData]] = {}
    for run in runs:
        if run.config is not None:
            try:
                found.setdefault(labels.get(run.configuration, run.configuration), {})[run.config.seed] = read_run(
                    run.folder
                )
            except TautError:
                continue  # not begun: the report names it among its warnings
    names = sorted(found, key=lambda n: n != reference)
    if not names:
        return ""
    sampled = {n: {seed: total(data) for seed, data in found[n].items()} for n in names}
    first = names[0]
    rows = [
        ["configuration", "steps", "tokens sampled", f"to {first}'s", "tokens a rollout, first → last steps", "alarms"]
    ]
    for name in names:
        of = found[name].values()
        shared = [sampled[name][s] / sampled[first][s] for s in sampled[name] if sampled[first].get(s)]
        ends = np.mean([_ends(data) for data in of], axis=0)
        raised = dict.fromkeys(alarm.kind for data in of for alarm in alarms_of(data.rows))
        rows.append(
            [
                name,
                "/".join(dict.fromkeys(str(len(data.rows)) for data in of)),
                _range([t / 1000 for t in sampled[name].values()], "{:,.0f} k"),
                _range(shared, "{:.2f}") if name != first and shared else "",
                f"{ends[0]:.0f} → {ends[1]:.0f}",
                ", ".join(raised),
            ]
        )
    return table(rows)


def total(data: RunData) -> float:
    """Tokens of all rollouts; steps that do not say are left out."""
    pairs = zip(data.series("tokens"), data.series("rollouts"), strict=True)
    return sum(tokens * rollouts for tokens, rollouts in pairs if tokens is not None and rollouts is not None)


def _ends(data: RunData) -> tuple[float, float]:
    lengths = [t for t in data.series("tokens") if t is not None] or [float("nan")]
    count = max(1, round(ENDS * len(lengths)))
    return float(np.mean(lengths[:count])), float(np.mean(lengths[-count:]))


def _range(values: Sequence[float], form: str) -> str:
    ends = f" [{form.format(min(values))}, {form.format(max(values))}]" if len(values) > 1 else ""
    return form.format(float(np.mean(values))) + ends
