"""Several configurations, several seeds, one front: `taut sweep [FILE.yaml] [--out DIR] [--jobs N] [key=value ...]`.

    base: {steps: 40}                     # for every run: what `taut train` takes, nested or dotted; `recipe` too
    runs:
      plain: {reward: {type: correct}}
      laser: {reward: {type: laser, target: 60}}
      alp: {recipe: alp, grid: {reward.beta: [0.1, 0.5], advantage: [grpo, dr_grpo]}}  # a run for every combination
    seeds: [0, 1]                         # each run is made with each seed
    evaluation: {problems: 600, samples: 4}   # what `taut eval` takes; the base model is evaluated too
    labels: {laser: LASER T=60}           # names in table and picture

Each run is a process of its own, `taut train`, then `taut eval`, bound to a core or a GPU. Given again, the same command
goes on where it was: finished runs are left as they are, interrupted ones are resumed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from benchmarks.board import make_board
from benchmarks.jobs import Job, Stage, run_jobs, slots, tail
from benchmarks.sweep_plan import Planned, load_sweep, plan, train_arguments
from benchmarks.sweep_report import write_report
from rewards.errors import TautError
from trainers.config import read_yaml, to_mapping
from trainers.run import flat

TAUT = (sys.executable, "-m", "taut")
# Settings of a finished run that may differ from what the sweep asks for: they decide how it was done, not its numbers.
INCIDENTAL = (
    "out",
    "log.",
    "checkpoint.",
    "heldout.",
    "alarms.",
    "micro_tokens",
    "rollout.workers",
    "rollout.deadline_s",
    "rollout.core",
)


def make_job(run: Planned) -> Job:
    """The processes of a run. Raises TautError when its folder holds a run with other settings."""
    stages = []
    if run.config is not None:
        _same_run(run)
        stages.append(Stage("train", lambda: _train_command(run), lambda: trained(run)))
    if run.evaluation is not None:
        stages.append(Stage("evaluate", lambda: _evaluate_command(run), lambda: evaluated(run)))
    return Job(run.name, stages, run.folder / "log.txt")


def _same_run(run: Planned) -> None:
    saved = run.folder / "config.yaml"
    if not saved.exists():
        return
    before, now = flat(read_yaml(saved)), flat(to_mapping(run.config))
    for key, value in now.items():
        if key in before and before[key] != value and not key.startswith(INCIDENTAL):
            raise TautError(
                f"{saved}: this run was made with {key}={before[key]!r}, the sweep asks for {value!r}; "
                f"choose another --out, or remove {run.folder}"
            )


def _train_command(run: Planned) -> list[str]:
    run.folder.mkdir(parents=True, exist_ok=True)
    if (run.folder / "config.yaml").exists():
        return [*TAUT, "train", f"resume={run.folder}"]
    return [*TAUT, "train", *train_arguments(run.requested, run.folder / "sweep.yaml", run.folder)]


def _evaluate_command(run: Planned) -> list[str]:
    assert run.evaluation is not None
    Path(run.evaluation.out).unlink(missing_ok=True)  # made with other settings, or torn
    values = run.evaluation.model_dump(mode="json", exclude_none=True)
    return [*TAUT, "eval", *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())]


def trained(run: Planned) -> bool:
    """Whether the run stands at its last step and has left its model."""
    assert run.config is not None
    try:
        status = json.loads((run.folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    finished = status.get("state") == "finished" and status.get("step", 0) >= run.config.steps
    return finished and (run.folder / "model" / "config.json").exists()


def evaluated(run: Planned) -> bool:
    """Whether the run's evaluation is there, whole, and made as the sweep asks."""
    assert run.evaluation is not None
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = Path(run.evaluation.out)
    if not path.exists():
        return False
    try:
        made = json.loads((parquet.read_schema(path).metadata or {}).get(b"taut", b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return False
    wanted = run.evaluation.model_dump(mode="json", exclude={"rollout", "out", "reference"})
    if run.config is not None:
        wanted.pop("model")  # it lies beside the evaluation, wherever the folder was moved to
    return all(made.get(key) == value for key, value in wanted.items())


def _lock(out: Path) -> IO[str]:
    out.mkdir(parents=True, exist_ok=True)
    file = (out / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise TautError(
            f"{out}: another sweep is running in this folder; wait for it, or choose another --out"
        ) from None
    return file


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep to its front. 0: all finished; 1: some run failed; 130: stopped, the same command goes on."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="taut sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="FILE.yaml | key=value", help="default: the embedded benchmark's front"
    )
    parser.add_argument("--out", help="folder of all runs (default: runs/NAME)")
    parser.add_argument("--jobs", type=int, help="runs side by side (default: one a GPU, else one a core)")
    parser.add_argument("--runs", default="", help="only these, separated by commas")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run")
    args = parser.parse_intermixed_args(arguments)
    files = [a for a in args.arguments if "=" not in a]
    if len(files) > 1:
        raise TautError(f"{' '.join(files)}: give one sweep file; overrides are key=value")
    if args.jobs is not None and args.jobs < 1:
        raise TautError(f"--jobs {args.jobs}: give 1 or more")
    name = files[0] if files else "front"
    out = Path(args.out or f"runs/{Path(name).stem}")
    sweep, overrides = load_sweep(name, [a for a in args.arguments if "=" in a])
    only = [n for n in args.runs.split(",") if n]
    runs = plan(sweep, out, overrides, only)
    jobs = [make_job(run) for run in runs]
    if args.dry_run:
        for job in jobs:
            stage = job.next_stage()
            print(f"{job.name}: {stage.label if stage else 'finished'}")
        return 0
    with _lock(out):
        places = slots(args.jobs)
        command = shlex.join(["taut", "sweep", *arguments])
        board = make_board({run.name: run for run in runs}, len(places))
        with board:
            whole = run_jobs(jobs, places, board)
        if not whole:
            print(f"stopped; finished runs are kept and the others resumable: go on with\n  {command}")
            return 130
        everything = (
            runs
            if not only
            else [r for r in plan(sweep, out, overrides) if r in runs or make_job(r).next_stage() is None]
        )
        failed = {job.name: (job.error, tail(job.log)) for job in jobs if job.state == "failed"}
        picture = write_report(out, sweep, everything, failed, {j.name: j.seconds for j in jobs}, command)
    for run, (error, last) in failed.items():
        print(f"{run} failed: {error}; its log ends with\n{last}\n", file=sys.stderr)
    if picture is not None:
        print(picture)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
