"""Kills at random moments: does a run always go on, with no group lost and none trained on twice?

    python -m benchmarks.faults --kills 100          # 80 on the transformers engine, 20 on vLLM; over an hour on two cores
    python -m benchmarks.faults --kills 6 --out DIR  # what the tests run; given again, it goes on where it was
    python -m benchmarks.faults --runs run-001,run-004  # two runs of the hundred kills

Short runs of `taut train` on the embedded benchmark are shot at: SIGKILL for the trainer's process, for a verifier's, a rollout
worker's or one of the trainer's ranks, while the run samples, syncs, updates or writes a checkpoint, at a random moment of that
phase. A trainer that was killed is resumed by `taut train resume=RUN`; the others must be replaced by the run itself. At the end
every sample of every step must stand in the log once, no token may be older than the mode allows, no process may be left, and in
the modes that promise it (sync, overlap) all metrics must be those of a run that was left alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults_run import Case, Kill, left_over, run_case, unbroken

PHASES = ("sample", "sync", "update", "checkpoint")
MODES = {"sync": 0, "overlap": 1, "async": 2}  # and the most versions that a token may be behind
KILLS_A_RUN = 5
VERIFIER_SHARE = 0.1  # of the kills


def plan(kills: int, seed: int) -> list[Case]:
    """The runs, each with the kills it gets: every fifth run on vLLM, phases in turn, so that each has its share."""
    chance, cases, total = random.Random(seed), list[Case](), 0
    while total < kills:
        size = min(KILLS_A_RUN, kills - total)
        number = len(cases)
        engine, mode = "vllm" if number % 5 == 4 else "transformers", list(MODES)[number % len(MODES)]
        with_worker = number % 5 == 1 or (engine == "vllm" and mode != "sync")
        with_ranks = number % 5 == 3
        shots = []
        for k in range(total, total + size):
            phase = PHASES[k % len(PHASES)]
            victim = "driver"
            if phase == "sample" and chance.random() < VERIFIER_SHARE * len(PHASES):
                victim = "verifier"
            elif with_worker and phase in ("sample", "sync") and chance.random() < 0.75:
                victim = "worker"
            elif with_ranks and phase != "sample" and chance.random() < 0.75:
                victim = "rank"
            shots.append(Kill(victim, phase, chance.randint(1, 2), chance.random()))
        cases.append(
            Case(
                name=f"run-{number:03d}",
                engine=engine,
                mode=mode,
                workers=1 if with_worker else 0,
                steps=2 * KILLS_A_RUN + 2,
                kills=tuple(shots),
                ranks=2 if with_ranks else 0,
                in_flight=mode == "async" and number % 2 == 1,
            )
        )
        total += size
    return cases


def check(case: Case, run: Path, whole: Path) -> list[str]:
    """What is wrong with a run that ended; nothing when all is as it should be."""
    import pyarrow.parquet as pq

    wrong = []
    for step in range(case.steps):
        file = run / f"rollouts/step-{step + 1:06d}.parquet"
        wanted = [i + step * 16 for i in range(16)]
        found = pq.read_table(file, columns=["sample_id", "oldest_version"]).to_pydict() if file.exists() else {}
        counted = Counter(found.get("sample_id", []))
        if lost := [i for i in wanted if not counted[i]]:
            wrong.append(f"step {step + 1}: samples {lost[:4]} are lost")
        if doubled := [i for i, n in counted.items() if n > 1 or i not in wanted]:
            wrong.append(f"step {step + 1}: samples {doubled[:4]} are doubled")
        if any(step - v > MODES[case.mode] for v in found.get("oldest_version", [])):
            wrong.append(f"step {step + 1}: rollouts older than {MODES[case.mode]} versions")
    if case.mode != "async":
        ours, theirs = metrics(run), metrics(whole)
        if ours != theirs:
            steps = [a["step"] for a, b in zip(ours, theirs, strict=False) if a != b]
            wrong.append(f"metrics differ from those of a run left alone, first at step {steps[:1] or len(ours)}")
    return wrong


def metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run without what may differ: times, and the restarts of workers."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/") and k != "events"} for row in rows]


def report(done: list[dict[str, Any]]) -> str:
    """The table of all kills."""
    shots = [kill | {"engine": row["engine"], "mode": row["mode"]} for row in done for kill in row["fired"]]
    lines = [f"{len(shots)} kills in {len(done)} runs: {sum(row['recovered'] for row in done)} recoveries"]
    for key in ("phase", "victim", "engine", "mode"):
        counts = Counter(shot[key] for shot in shots)
        lines.append(f"  by {key}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    wrong = [f"{row['name']}: {w}" for row in done for w in row["wrong"]]
    lines += ["  nothing lost, nothing doubled, nothing left behind"] if not wrong else [f"  WRONG {w}" for w in wrong]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Shoot, resume, check; 1 when anything was lost or doubled, or a run did not come back."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", help="only these of them: run-001,run-004")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    options = parser.parse_args(arguments)
    cases = {case.name: case for case in plan(options.kills, options.seed)}
    wanted = options.runs.split(",") if options.runs else list(cases)
    if unknown := [name for name in wanted if name not in cases]:
        parser.error(f"--runs {','.join(unknown)}: {options.kills} kills make {', '.join(cases)}")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"faults-{options.kills}-{options.seed}.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {row["name"] for row in done}
    for case in [cases[name] for name in wanted if name not in known]:
        start, run = time.monotonic(), options.out / case.name
        shutil.rmtree(run, ignore_errors=True)
        whole = unbroken(case, options.out)
        fired, recovered, wrong = run_case(case, run, whole)
        if not wrong:
            wrong = check(case, run, whole)
        wrong += [f"process {pid} was left: {command}" for pid, command in left_over(run)]
        row = {**dataclasses.asdict(case), "fired": fired, "recovered": recovered, "wrong": wrong}
        done.append(row | {"seconds": round(time.monotonic() - start, 1)})
        with file.open("a") as lines:
            lines.write(json.dumps(done[-1]) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        print(
            f"{case.name} {case.engine} {case.mode} workers={case.workers} ranks={case.ranks}: {len(fired)} kills, "
            f"{recovered} recoveries, {'; '.join(wrong) or 'whole'} ({done[-1]['seconds']:.0f} s)",
            flush=True,
        )
        if not options.keep and not wrong:
            shutil.rmtree(run)
    print(report(done))
    return int(any(row["wrong"] or row["recovered"] != len(row["kills"]) for row in done))


if __name__ == "__main__":
    raise SystemExit(main())
