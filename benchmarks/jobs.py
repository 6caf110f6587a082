"""Run commands side by side, each on a core or a GPU of its own: the scheduler of a sweep. Knows nothing of training.

A job is a row of stages (train, then evaluate); a stage is a command and a test of whether it is done, so what is done
is never done again and what was cut off goes on. A job that fails does not stop the others; it is tried once more when
they have had their turn, unless another has failed twice in the very same way.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.places import Place, Process, Slot

GRACE_S = 60.0  # how long an interrupted job may take to save before it is killed


@dataclass(frozen=True)
class Stage:
    """One command of a job. `command` is asked when the stage starts, so it may depend on what is on disk."""

    label: str
    command: Callable[[], list[str]]
    done: Callable[[], bool]


@dataclass(eq=False)
class Job:
    """What is run under one name; output of all stages goes to `log`.

    state: waiting | running | finished | failed | interrupted. skipped: finished before this sweep began. error: how it failed
    last. failures: how it failed each time. seconds: wall time of all attempts.
    """

    name: str
    stages: Sequence[Stage]
    log: Path
    state: str = "waiting"
    skipped: bool = False
    stage: str = ""
    error: str = ""
    failures: list[str] = field(default_factory=list)
    _before: float = 0.0
    _began: float | None = None
    _process: Process | None = field(default=None, repr=False)
    _place: Place = field(default_factory=Slot, repr=False)

    def next_stage(self) -> Stage | None:
        """The first stage that is not done."""
        return next((s for s in self.stages if not s.done()), None)

    @property
    def seconds(self) -> float:
        """Wall time so far, or in all; the time between two attempts is not in it."""
        return self._before + (time.monotonic() - self._began if self._began is not None else 0.0)

    @property
    def likeness(self) -> str:
        """How the job failed last and what it said then, without its name and numbers: the same for the same mistake."""
        last = re.sub(rf"\b{re.escape(self.name)}\b", "", tail(self.log, 1))
        return re.sub(r"\d+", "#", f"{self.error}: {last}")

    def clock(self, runs: bool) -> None:
        """Start the clock, or stop it."""
        self._before, self._began = self.seconds, time.monotonic() if runs else None


class Watcher(Protocol):
    """Who is told how the jobs go."""

    def changed(self, job: Job) -> None:
        """The job started, began another stage, finished, failed, or (waiting) failed and will be tried once more."""

    def tick(self, jobs: Sequence[Job]) -> None:
        """Called several times a second."""


def run_jobs(jobs: Sequence[Job], places: Sequence[Place], watcher: Watcher, poll_s: float = 0.2) -> bool:
    """Run all jobs; True when none was left over. Ctrl-C or SIGTERM stops them: they are asked to save, then waited for."""
    waiting, free, running = [], list(places), []
    hopeless: set[str] = set()  # how jobs failed that failed alike twice
    for job in jobs:
        if job.next_stage() is None:
            job.state, job.skipped = "finished", True
            watcher.changed(job)
        else:
            waiting.append(job)
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _as_interrupt) if main_thread else None
    try:
        while waiting or running:
            while waiting and free:
                job = waiting.pop(0)
                if job.failures and job.likeness in hopeless:
                    job.state, job.error = "failed", f"{job.error}, as another did twice"
                    watcher.changed(job)
                    continue
                if not _begin(job, free[0]):  # what was missed at first has come, as on a file system that lags
                    watcher.changed(job)
                    continue
                free.pop(0)
                job.clock(True)
                running.append(job)
                watcher.changed(job)
            time.sleep(poll_s)
            for job in [j for j in running if _ended(j)]:
                if job.state != "running" or not _begin(job, job._place):
                    running.remove(job)
                    free.append(job._place)
                    job.clock(False)
                if job.state == "failed" and _try_again(job, hopeless):
                    waiting.append(job)
                watcher.changed(job)
            watcher.tick(jobs)
        return True
    except KeyboardInterrupt:
        _stop(running, watcher)
        return False
    finally:
        for job in running:  # an error of ours must not leave processes behind
            _kill(job)
        if main_thread:
            signal.signal(signal.SIGTERM, before)


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, carriage returns of progress bars resolved."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        text = file.read().decode("utf-8", errors="replace")
    kept = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
    return "\n".join([line for line in kept if line][-lines:])


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _begin(job: Job, place: Place) -> bool:
    """Start the next stage there; False where none is left, and the job is finished."""
    stage = job.next_stage()
    if stage is None:
        job.state, job.stage = "finished", ""
        return False
    job.state, job.stage, job._place = "running", stage.label, place
    job._process = place.start(stage.command(), job.log)
    return True


def _ended(job: Job) -> bool:
    """Whether the job's process is gone; sets the state to failed where the stage is not done."""
    assert job._process is not None
    code = job._process.poll()
    if code is None:
        return False
    stage = next(s for s in job.stages if s.label == job.stage)
    if code != 0 or not stage.done():
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        job.state = "failed"
        job.error = f"{job.stage}: {how}" + ("" if code else ", but the stage is not finished")
        job.failures.append(job.error)
    return True


def _try_again(job: Job, hopeless: set[str]) -> bool:
    """Whether a failed job is tried once more, which makes it wait. What failed twice alike is remembered in `hopeless`: a
    mistake that all share must not cost each of them two attempts. A signal is nobody's mistake."""
    if len(job.failures) > 1:
        if "killed by" not in job.error:
            hopeless.add(job.likeness)
        return False
    job.state = "waiting"
    return True


def _stop(running: list[Job], watcher: Watcher) -> None:
    """SIGINT to each job, once; wait; kill what does not end in time. A second Ctrl-C kills at once."""
    for job in running:
        job.state = "interrupted"
        watcher.changed(job)
        if job._process:
            job._process.interrupt()
    until = time.monotonic() + GRACE_S
    try:
        while time.monotonic() < until and any(j._process and j._process.poll() is None for j in running):
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass


def _kill(job: Job) -> None:
    if job._process:
        job._process.kill()
