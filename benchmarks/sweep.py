"""Several configurations, several seeds, one front: `taut sweep [FILE.yaml] [--out DIR] [--jobs N|ray] [key=value ...]`.

    base: {steps: 40}                     # for every run: what `taut train` takes, nested or dotted; `recipe` too
    runs:
      plain: {reward: {type: correct}}
      laser: {reward: {type: laser, target: 60}}
      alp: {recipe: alp, grid: {reward.beta: [0.1, 0.5], advantage: [grpo, dr_grpo]}}  # a run for every combination
    first: {replay: base/eval.parquet, keep: 4}   # predict all from a log, train the best four and plain
    search:                               # beside runs or instead: Optuna draws trials, trained like runs
      settings: {recipe: laser}
      space: {reward.target: {low: 20, high: 200, log: true}, advantage: [grpo, dr_grpo]}
      trials: 20
    seeds: [0, 1]                         # each run is made with each seed
    evaluation: {problems: 600, samples: 4}   # what `taut eval` takes; the base model is evaluated too
    labels: {laser: LASER T=60}           # names in table and picture
    resources: {cpus: 1, gpus: 1}         # of each run, with --jobs ray; gpus unsaid: 1 where the cluster has any
    ray: {address: HOST:PORT}             # with --jobs ray: a cluster that is there; without it one is started

Each run is a process of its own, `taut train`, then `taut eval`, bound to a core or a GPU of this machine; with --jobs ray,
wherever a Ray cluster has room, and --out lies where all its nodes see it. Given again, the same command goes on where it
was: finished runs are left as they are, interrupted ones are resumed. What other code made is never mixed in or made again
unsaid: it is an error that names it, unless --other-code is given.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks import sweep_code
from benchmarks.board import make_board
from benchmarks.evaluate import read_evaluation
from benchmarks.jobs import Job, run_jobs, tail
from benchmarks.places import Place, slots
from benchmarks.ray_jobs import ray_places
from benchmarks.statistics import summarise
from benchmarks.sweep_jobs import evaluated, make_job, settle
from benchmarks.sweep_plan import Overrides, Planned, SweepConfig, load_sweep, plan
from benchmarks.sweep_predict import KL, choose
from benchmarks.sweep_report import write_report
from benchmarks.sweep_trials import Trials
from benchmarks.tables import table
from benchmarks.warm import warm
from rewards.errors import TautError

OTHER_CODE = (
    "runs that other code made: take them as they are, which the report says, or make them anew (the old ones are moved to "
    "replaced/). It holds for this call: what was taken stays as it is, and a later call asks again"
)


class Session:
    """The runs of one call of `taut sweep`, as they are carried out."""

    def __init__(self, sweep: SweepConfig, out: Path, overrides: Overrides, args: argparse.Namespace) -> None:
        self.sweep, self.out, self.overrides, self.args = sweep, out, overrides, args
        self.only = [n for n in args.runs.split(",") if n]
        self.all = plan(sweep, out, overrides)
        self.runs = plan(sweep, out, overrides, self.only)
        self.jobs: list[Job] = []
        self.notes: list[str] = []
        self.sections: dict[str, str] = {}

    def prune(self) -> None:
        """Leave out the configurations that `first` does not keep; say which, and why."""
        first = self.sweep.first
        configs = {r.configuration: r.config for r in self.all if r.config is not None}
        if first is None or not configs:
            return
        log, scale = first.log(), math.sqrt(2 * KL)
        predictions = {name: log.predict_run(name, config) for name, config in configs.items()}
        plain = [r.configuration for r in self.all if r.kind == "plain"]
        choices = choose(predictions, plain, first.keep)
        rows = [["configuration", "trained", "Δ accuracy", "Δ tokens", "why"]]
        for c in choices:
            p = predictions[c.name]
            numbers = ["", ""] if math.isnan(p.score) else [f"{scale * p.accuracy:+.4f}", f"{scale * p.tokens:+.1f}"]
            rows.append([c.name, "yes" if c.trained else "no", *numbers, "no prediction" if p.why else c.why])
        told = (
            f"{log.rollouts:,} rollouts of {log.problems:,} problems in {first.replay}, arrows at a KL of {KL:g} nats"
        )
        reasons = "\n".join(f"- {c.name}: {c.why}" for c in choices if predictions[c.name].why)
        self.sections["Before training"] = f"{told}:\n\n{table(rows)}" + (f"\n\n{reasons}" if reasons else "")
        print(f"predicted from {self.sections['Before training']}\n")
        self.notes += log.notes
        dropped = {c.name for c in choices if not c.trained}
        self.all = [r for r in self.all if r.configuration not in dropped]
        self.runs = [r for r in self.runs if r.configuration not in dropped]

    def carry_out(self, runs: Sequence[Planned], places: Sequence[Place]) -> bool:
        """Make what is not made yet; False when stopped."""
        self.notes += settle(runs, self.args.other_code, self.out)
        jobs = [make_job(run) for run in runs]
        self.jobs += jobs
        with make_board({run.name: run for run in runs}, len(places)) as board:
            return run_jobs(jobs, places, board)

    def search(self, places: Sequence[Place]) -> bool:
        """Draw trials and make them, batch after batch; False when stopped."""
        search = self.sweep.search
        if search is None or self.only:
            return True
        trials = Trials(search, self.out)
        for name, (settings, values) in trials.made().items():
            if values is not None:
                self._planned(name, settings)
        whole = True
        while whole and (batch := trials.batch()):
            print(f"{', '.join(batch)} of {search.trials} trials, counted from 0", flush=True)
            planned = {name: self._planned(name, settings) for name, settings in batch.items()}
            whole = self.carry_out([run for runs in planned.values() for run in runs], places)
            if whole:
                trials.tell({name: measured(runs) for name, runs in planned.items()})
        rows = [["trial", "accuracy", "tokens", "drawn"]]
        for name, (settings, values) in trials.made().items():
            numbers = [f"{values[0]:.3f}", f"{values[1]:.1f}"] if values else ["failed", ""]
            rows.append([name, *numbers, search.chosen(settings)])
        self.sections["Search"] = table(rows)
        return whole

    def _planned(self, name: str, settings: dict[str, Any]) -> list[Planned]:
        """The runs of a trial, which join the others; none where the settings do not go together."""
        try:
            one = plan(self.sweep.model_copy(update={"runs": {name: settings}}), self.out, self.overrides)
        except TautError as error:
            self.notes.append(f"{name}: cannot be trained: {error}")
            return []
        new = [run for run in one if run.name not in [r.name for r in self.all]]
        self.all += new
        return [run for run in one if run.kind != "base" or run in new]

    def report(self, command: str) -> int:
        """Table, picture and report; the exit code."""
        everything = self.all
        if self.only:
            everything = [r for r in self.all if r in self.runs or make_job(r).next_stage() is None]
        failed = {job.name: (job.error, tail(job.log)) for job in self.jobs if job.state == "failed"}
        for job in self.jobs:
            if job.failures and job.state == "finished":
                self.notes.append(f"{job.name}: failed once ({job.failures[0]}), finished at the second attempt")
        seconds = {j.name: j.seconds for j in self.jobs}
        picture = write_report(self.out, self.sweep, everything, failed, seconds, command, self.notes, self.sections)
        for run, (error, last) in failed.items():
            print(f"{run} failed: {error}; its log ends with\n{last}\n", file=sys.stderr)
        if picture is not None:
            print(picture)
        return 1 if failed else 0


def measured(runs: Sequence[Planned]) -> tuple[float, float] | None:
    """(accuracy, tokens) over the seeds of a trial; None where one of them has no evaluation."""
    seeds = [run for run in runs if run.kind != "base"]
    if not seeds or not all(run.evaluation is not None and evaluated(run) for run in seeds):
        return None
    summary = summarise([read_evaluation(Path(run.evaluation.out))[0] for run in seeds if run.evaluation])
    return summary.accuracy.value, summary.tokens.value


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


@contextmanager
def _places(jobs: str | None, sweep: SweepConfig, out: Path) -> Iterator[Sequence[Place]]:
    """Where the runs run, by --jobs."""
    if jobs == "ray":
        with ray_places(sweep.ray, sweep.resources, out) as places:
            yield places
        return
    if unheeded := sorted({"ray", "resources"} & sweep.model_fields_set):
        print(f"{', '.join(unheeded)}: for --jobs ray alone; here each run has a core or a GPU", flush=True)
    yield warm(slots(int(jobs) if jobs else None))


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
    parser.add_argument(
        "--jobs",
        metavar="N|ray",
        help="runs side by side on this machine (default: one a GPU, else one a core); ray: as a Ray cluster has room",
    )
    parser.add_argument("--runs", default="", help="only these, separated by commas; no search")
    parser.add_argument("--other-code", choices=sweep_code.CHOICES, help=OTHER_CODE)
    parser.add_argument("--dry-run", action="store_true", help="say what would be run")
    args = parser.parse_intermixed_args(arguments)
    files = [a for a in args.arguments if "=" not in a]
    if len(files) > 1:
        raise TautError(f"{' '.join(files)}: give one sweep file; overrides are key=value")
    if args.jobs not in (None, "ray") and not (args.jobs.isdecimal() and int(args.jobs)):
        raise TautError(f"--jobs {args.jobs}: give how many runs side by side, 1 or more, or ray")
    name = files[0] if files else "front"
    out = Path(args.out or f"runs/{Path(name).stem}")
    sweep, overrides = load_sweep(name, [a for a in args.arguments if "=" in a])
    session = Session(sweep, out, overrides, args)
    if args.dry_run:
        session.prune()
        for job in map(make_job, session.runs):
            stage = job.next_stage()
            print(f"{job.name}: {stage.label if stage else 'finished'}")
        if sweep.search:
            print(f"search: {sweep.search.trials} trials with {len(sweep.seeds)} seeds each")
        return 0
    with _lock(out):
        session.prune()
        command = shlex.join(["taut", "sweep", *arguments])
        with _places(args.jobs, sweep, out) as places:
            whole = session.carry_out(session.runs, places) and session.search(places)
        if not whole:
            print(f"stopped; finished runs are kept and the others resumable: go on with\n  {command}")
            return 130
        return session.report(command)


if __name__ == "__main__":
    sys.exit(main())
