"""Plans against reality: what `taut plan` makes of one run, beside what other modes and numbers of workers then take.

    python -m benchmarks.plan_check --out runs/plan            # about a quarter of an hour on two cores

Runs of `taut train` on the embedded benchmark, by turns, for each engine: sync on one worker (whose seconds the plan is made from,
with its engine timed on this machine), sync on two, overlap and async on one. A step is what the clock says between two rows of
metrics.jsonl, without tests and checkpoints; the median of the steps after the first three counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.plan import PlanConfig, plan
from benchmarks.tables import table

WAYS = (("sync", 1), ("sync", 2), ("overlap", 1), ("async", 1))
STALENESS = 2
WARM = 3


def train(out: Path, engine: str, mode: str, workers: int, steps: int) -> Path:
    """A run, made once."""
    folder = out / f"{engine}-{mode}-{workers}"
    status = folder / "status.json"
    if not (status.exists() and json.loads(status.read_text())["state"] == "finished"):
        settings = {
            "out": folder, "steps": steps, "prompts": 16, "sampling.samples": 16, "rollout.engine": engine,
            "rollout.workers": workers, "mode": mode, "objective.importance": "truncate",
            "heldout.every": 1000, "heldout.problems": 2, "checkpoint.every": 1000,
        }  # fmt: skip
        if mode == "async":
            settings["max_staleness"] = STALENESS
        pairs = [f"{key}={value}" for key, value in settings.items()]
        subprocess.run([sys.executable, "taut.py", "train", *pairs], check=True, stdout=subprocess.DEVNULL)
    return folder


def measured(run: Path) -> float:
    """Median seconds of a step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return median(row["time/step"] for row in rows[WARM:-1])


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/plan"))
    parser.add_argument("--engines", default="transformers,vllm")
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args(arguments)
    rows = [["engine, mode", "workers", "predicted, s", "measured, s", "predicted / measured"]]
    notes = []
    for engine in options.engines.split(","):
        runs = {way: train(options.out, engine, *way, options.steps) for way in WAYS}
        numbers = sorted({workers for _, workers in WAYS})
        found, said = plan(
            PlanConfig(run=str(runs["sync", 1]), measure=True, workers=numbers, max_staleness=STALENESS, steps=24)  # type: ignore[call-arg]
        )
        steps = {(of.mode, of.workers): predicted.step_s for of, predicted in found}
        for mode, workers in WAYS:
            predicted, took = steps[mode, workers], measured(runs[mode, workers])
            name = f"{engine}, async K={STALENESS}" if mode == "async" else f"{engine}, {mode}"
            rows.append([name, str(workers), f"{predicted:.2f}", f"{took:.2f}", f"{predicted / took:.2f}"])
        notes.append(f"{engine}: {said[0]}; {said[1]}")
    print(table(rows))
    print("\n".join(notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
