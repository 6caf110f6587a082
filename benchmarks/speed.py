"""Where a step's time goes, how far each phase is from what the hardware allows, and how it grows; two revisions compared.

    python -m benchmarks.speed --json now.json --plot growth.png    # about five minutes on one core
    python -m benchmarks.speed --compare before.json now.json       # exit code 1 where a phase got worse by more than 15 %

Every figure is a real `taut train` in a process of its own, on the embedded model, at equal lengths (no response ends before its
cap), one thread. The limit of a phase: the arithmetic it cannot do without, at the rate of a large matrix product on this
machine, or the bytes it must read at the rate of a large copy, whichever takes longer; both rates are measured in the same run.
Growth: one of rollouts, cap, group size and Ray workers is varied at a time (workers take a core each: two are needed). The
exponent is that of seconds against the phase's own work (arithmetic for sampling and the update, rollouts for the reward, tokens
for the log), by least squares on logarithms: above 1, it grows faster than its work. verify: what is left of judging once
sampling has ended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.programs import Work, endless, taut
from benchmarks.tables import publish
from rewards.errors import TautError
from rollout.paths import locate

ROOT = Path(__file__).parents[1]
WORSE = 1.15
PHASES = ("sample", "update", "score", "log")
AXES = {
    "rollouts": [{"prompts": n} for n in (4, 8, 16, 32)],
    "cap": [{"cap": n} for n in (32, 64, 128, 256)],
    "group": [{"prompts": 64 // n, "samples": n} for n in (4, 8, 16, 32)],
    "workers": [{"workers": n, "prompts": 32} for n in (1, 2)],
}
RATES = """
import json, time, torch
def best(call, repeats=5):
    call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter(); call(); found.append(time.perf_counter() - start)
    return min(found)
a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
c = torch.empty(1 << 26); d = torch.empty(1 << 26); c.zero_(); d.zero_()
print(json.dumps({"flops": 2 * 1024**3 / best(lambda: a @ b), "bytes": 4 * (1 << 26) / best(lambda: d.copy_(c))}))
"""


@dataclass(frozen=True)
class Model:
    """What its arithmetic depends on. weights: numbers in matrices that every token is multiplied by."""

    weights: int
    attention: int  # layers x heads x head size

    @classmethod
    def of(cls, folder: str) -> Model:
        """Counted from the config.json of a Qwen3-like model."""
        c = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        heads, kv, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        layer = c["hidden_size"] * size * (2 * heads + 2 * kv) + 3 * c["hidden_size"] * c["intermediate_size"]
        weights = c["num_hidden_layers"] * layer + c["hidden_size"] * c["vocab_size"]
        return cls(weights, c["num_hidden_layers"] * heads * size)

    def forward(self, sequences: float, length: float, begun: float = 0.0) -> float:
        """Operations of a causal pass over positions `begun` to `length` of so many sequences."""
        new, pairs = length - begun, (length**2 - begun**2) / 2
        return sequences * (2 * self.weights * new + 4 * self.attention * pairs)


def works(model: Model, work: Work, prompt: float) -> dict[str, float]:
    """What each phase has to do: operations, rollouts, tokens."""
    rollouts, length = work.prompts * work.samples, prompt + work.cap
    return {
        "sample": model.forward(work.prompts, prompt) + model.forward(rollouts, length, prompt),
        "update": 3 * model.forward(rollouts, length),
        "score": rollouts,
        "log": rollouts * length,
    }


def limits(model: Model, work: Work, prompt: float, rates: dict[str, float]) -> dict[str, float]:
    """Seconds below which sampling and the update cannot be."""
    needs = works(model, work, prompt)
    reads = 4 * model.weights * work.cap / rates["bytes"]  # all weights for each token of the batch
    return {"sample": max(needs["sample"] / rates["flops"], reads), "update": needs["update"] / rates["flops"]}


def exponent(work: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Of seconds ~ work ** exponent; None where the work is the same throughout."""
    if max(work) < 1.01 * min(work):
        return None
    return float(np.polyfit(np.log(work), np.log(np.maximum(seconds, 1e-6)), 1)[0])


def measure(steps: int) -> dict[str, Any]:
    """Everything, as a JSON object."""
    base = Work(
        str(locate("benchmarks:overthinker/checkpoint")),
        "benchmarks:overthinker/data/train.jsonl",
        8,
        8,
        128,
        steps,
        16,
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", RATES], env=environment, capture_output=True, text=True, check=True)
    rates = json.loads(said.stdout)
    growth: dict[str, list[dict[str, float]]] = {}
    with endless(base) as work:
        model = Model.of(work.model)
        for axis, shapes in AXES.items():
            growth[axis] = []
            for shape in shapes:
                sizes = dict(shape)
                workers = sizes.pop("workers", 0)
                given = replace(work, **sizes)
                found = taut(given, 1, f"rollout.workers={workers}")
                needs = {f"work/{phase}": size for phase, size in works(model, given, found["prompt"]).items()}
                growth[axis].append({**shape, **found, **needs})
                print(f"{axis} {shape}: {found['step']:.3f} s", file=sys.stderr, flush=True)
        found = next(row for row in growth["rollouts"] if row["prompts"] == base.prompts)
        least = limits(model, work, found["prompt"], rates)
    return {
        "rates": rates,
        "step": found["step"],
        "seconds": {phase: found[phase] for phase in (*PHASES, "sync", "verify")},
        "limits": least,
        "ratios": {phase: found[phase] / seconds for phase, seconds in least.items()},
        "share": sum(found[phase] for phase in ("score", "log", "verify")) / found["step"],
        "growth": growth,
        "exponents": {
            axis: {p: exponent([r[f"work/{p}"] for r in rows], [r[p] for r in rows]) for p in PHASES}
            for axis, rows in growth.items()
            if axis in ("rollouts", "cap")
        },
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    rates = found["rates"]
    lines = [
        f"{rates['flops'] / 1e9:.0f} G operations/s (matrix product, one thread), {rates['bytes'] / 1e9:.1f} GB/s (copy).",
        "",
        "| phase | seconds | share | limit | times the limit |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for phase, seconds in found["seconds"].items():
        least = found["limits"].get(phase)
        cells = [phase, f"{seconds:.4f}", f"{seconds / found['step']:.1%}"]
        cells += [f"{least:.3f}", f"{seconds / least:.1f}"] if least else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Reward, verifier and log together: {found['share']:.1%} of a step of {found['step']:.3f} s.",
        "",
    ]
    lines += ["| grows with | " + " | ".join(PHASES) + " |", "| --- |" + " ---: |" * len(PHASES)]
    for axis, fits in found["exponents"].items():
        lines.append(
            f"| {axis} | " + " | ".join("" if fits[phase] is None else f"{fits[phase]:.2f}" for phase in PHASES) + " |"
        )
    rows = found["growth"]["group"]
    spread = {phase: max(r[phase] for r in rows) / min(r[phase] for r in rows) for phase in PHASES}
    same = "| group size, same rollouts: slowest / fastest | "
    lines.append(same + " | ".join(f"{spread[phase]:.2f}" for phase in PHASES) + " |")
    one, two = (row["sample"] for row in found["growth"]["workers"])
    told = "Sampling 256 rollouts by Ray workers, a core each: "
    told += f"{one:.3f} s with one, {two:.3f} s with two, {one / two:.2f} times as fast."
    return "\n".join([*lines, "", told])


def compare(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, bool]:
    """(a table of both, whether a phase got worse by more than WORSE): by times the limit, which no other machine changes much."""
    lines = ["| | before | now | now / before |", "| --- | ---: | ---: | ---: |"]
    worse = False
    pairs = {f"{p}, times its limit": (before["ratios"][p], now["ratios"][p]) for p in now["ratios"]}
    pairs["reward, verifier and log, share of a step"] = before["share"], now["share"]
    for axis, fits in now["exponents"].items():
        for p, value in fits.items():
            if value is not None:
                pairs[f"{p}, exponent in {axis}"] = before["exponents"][axis][p], value
    for name, (old, new) in pairs.items():
        ratio = new / old if old else math.inf
        bad = ratio > WORSE and not (name.startswith(("score", "log")) or ("share" in name and new < 0.05))
        worse |= bad
        lines.append(f"| {name} | {old:.3f} | {new:.3f} | {ratio:.2f}{' WORSE' if bad else ''} |")
    return "\n".join(lines), worse


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds of each phase against what is varied."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(AXES), sharey=True)
    for panel, (axis, rows) in zip(axes, found["growth"].items(), strict=True):
        x = [8 * r["prompts"] if axis == "rollouts" else r[{"group": "samples"}.get(axis, axis)] for r in rows]
        for phase in PHASES:
            panel.plot(x, [r[phase] for r in rows], marker="o", label="reward" if phase == "score" else phase)
        panel.set(
            xscale="log",
            yscale="log",
            xlabel={"cap": "tokens a rollout", "group": "group size", "workers": "Ray workers"}.get(axis, axis),
        )
        panel.set_xticks(x, [f"{v:g}" for v in x])
        panel.minorticks_off()
    axes[0].set_ylabel("seconds a step")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(PHASES), frameon=False)
    figure.savefig(path, dpi=140)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a process, after one that warms up")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--plot", type=Path, help="draw growth there")
    parser.add_argument("--out", type=Path, help="put the tables there, below the text before the mark")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "NOW"))
    given = parser.parse_args(argv)
    if given.compare:
        text, worse = compare(*(json.loads(path.read_text(encoding="utf-8")) for path in given.compare))
        print(text)
        return int(worse)
    found = measure(given.steps)
    publish(table(found) + "\n", given.out)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if given.plot:
        draw(found, given.plot)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TautError as error:
        sys.exit(f"speed: {error}")
