"""Run commands side by side, each on a core or a GPU of its own: the scheduler of a sweep. Knows nothing of training.

A job is a row of stages (train, then evaluate); a stage is a command and a test of whether it is done, so what is done
is never done again and what was cut off goes on. A job that fails does not stop the others.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

GRACE_S = 60.0  # how long an interrupted job may take to save before it is killed
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Stage:
    """One command of a job. `command` is asked when the stage starts, so it may depend on what is on disk."""

    label: str
    command: Callable[[], list[str]]
    done: Callable[[], bool]


@dataclass(frozen=True)
class Slot:
    """Where one job runs: a CPU core, or a GPU by its id; neither: anywhere."""

    core: int | None = None
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """Variables for the job: its GPU; on a core one thread."""
        if self.gpu is not None:
            return {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {"OMP_NUM_THREADS": "1"} if self.core is not None else {}


@dataclass(eq=False)
class Job:
    """What is run under one name; output of all stages goes to `log`.

    state: waiting | running | finished | failed | interrupted. skipped: finished before this sweep began.
    """

    name: str
    stages: Sequence[Stage]
    log: Path
    state: str = "waiting"
    skipped: bool = False
    stage: str = ""
    error: str = ""
    began: float = 0.0
    ended: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _slot: Slot | None = field(default=None, repr=False)
    _output: IO[bytes] | None = field(default=None, repr=False)

    def next_stage(self) -> Stage | None:
        """The first stage that is not done."""
        return next((s for s in self.stages if not s.done()), None)

    @property
    def seconds(self) -> float:
        """Wall time so far, or in all."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


class Watcher(Protocol):
    """Who is told how the jobs go."""

    def changed(self, job: Job) -> None:
        """The job started, began another stage, finished or failed."""

    def tick(self, jobs: Sequence[Job]) -> None:
        """Called several times a second."""


def slots(jobs: int | None = None) -> list[Slot]:
    """One slot a GPU where there are any, else one a CPU core; `jobs` of them where given (the places in turn)."""
    gpus = visible_gpus()
    places = [Slot(gpu=g) for g in gpus] or [Slot(core=c) for c in cores()]
    return [places[i % len(places)] for i in range(jobs or len(places))]


def cores() -> Sequence[int | None]:
    """The CPU cores this process may use, as ids to bind to; None each where the system cannot bind."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [None] * (os.cpu_count() or 1)


def visible_gpus() -> list[str]:
    """Ids of the GPUs that a child may use; asks the driver's tool, not torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [g.strip() for g in named.split(",") if g.strip() and g.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []


def run_jobs(jobs: Sequence[Job], places: Sequence[Slot], watcher: Watcher, poll_s: float = 0.2) -> bool:
    """Run all jobs; True when none was left over. Ctrl-C or SIGTERM stops them: they are asked to save, then waited for."""
    waiting, free, running = [], list(places), []
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
                job._slot = free.pop(0)
                job.began = time.monotonic()
                running.append(job)
                _begin(job)
                watcher.changed(job)
            time.sleep(poll_s)
            for job in [j for j in running if _ended(j)]:
                if job.state != "running" or not _begin(job):
                    running.remove(job)
                    free.append(job._slot or Slot())
                    job.ended = time.monotonic()
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


def _begin(job: Job) -> bool:
    """Start the next stage; False where none is left, and the job is finished."""
    stage = job.next_stage()
    if stage is None:
        job.state, job.stage = "finished", ""
        return False
    job.state, job.stage = "running", stage.label
    command, slot = stage.command(), job._slot or Slot()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job._output = job.log.open("ab")
    job._output.write(f"$ {shlex.join(command)}\n".encode())
    job._output.flush()
    job._process = subprocess.Popen(
        command,
        stdout=job._output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **slot.environment()},
        start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone, which passes it on once
        preexec_fn=_prepare(slot),
    )
    return True


def _prepare(slot: Slot) -> Callable[[], None]:
    """What the child does before it becomes the command: bind itself, hear SIGINT even where a shell's `&` made us deaf
    to it, and die with us rather than go on unseen."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if slot.core is not None:
            os.sched_setaffinity(0, {slot.core})
        if library is not None:
            library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


def _ended(job: Job) -> bool:
    """Whether the job's process is gone; sets the state to failed where the stage is not done."""
    assert job._process is not None
    code = job._process.poll()
    if code is None:
        return False
    if job._output:
        job._output.close()
    stage = next(s for s in job.stages if s.label == job.stage)
    if code != 0 or not stage.done():
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        job.state = "failed"
        job.error = f"{job.stage}: {how}" + ("" if code else ", but the stage is not finished")
    return True


def _stop(running: list[Job], watcher: Watcher) -> None:
    """SIGINT to each job, once; wait; kill what does not end in time. A second Ctrl-C kills at once."""
    for job in running:
        job.state = "interrupted"
        watcher.changed(job)
        if job._process and job._process.poll() is None:
            job._process.send_signal(signal.SIGINT)
    until = time.monotonic() + GRACE_S
    try:
        while time.monotonic() < until and any(j._process and j._process.poll() is None for j in running):
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass


def _kill(job: Job) -> None:
    if job._process and job._process.poll() is None:
        os.killpg(job._process.pid, signal.SIGKILL)
        job._process.wait()
    if job._output:
        job._output.close()
