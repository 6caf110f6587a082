"""Run commands side by side, each on a core or a GPU of its own: the scheduler of a sweep. Knows nothing of training.

A job is a row of stages (train, then evaluate); a stage is a command and a test of whether it is done, so what is done
is never done again and what was cut off goes on. A job that fails does not stop the others; it is tried once more when
they have had their turn, unless another has failed twice in the very same way.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

GRACE_S = 60.0  # how long an interrupted job may take to save before it is killed
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Stage:
    """One command of a job. `command` is asked when the stage starts, so it may depend on what is on disk."""

    label: str
    command: Callable[[], list[str]]
    done: Callable[[], bool]


class Process(Protocol):
    """A command that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def interrupt(self) -> None:
        """Ask it to save and end."""

    def kill(self) -> None:
        """End it and all it started, and wait for that."""


class Place(Protocol):
    """Where one job at a time runs."""

    def start(self, command: Sequence[str], log: Path) -> Process:
        """Run the command here; what it prints is appended to `log`."""
        ...


@dataclass(frozen=True)
class Slot:
    """A place on this machine: a CPU core, or a GPU by its id; neither: anywhere."""

    core: int | None = None
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """Variables for the job: its GPU; on a core one thread."""
        if self.gpu is not None:
            return {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {"OMP_NUM_THREADS": "1"} if self.core is not None else {}

    def start(self, command: Sequence[str], log: Path) -> Process:
        """See `Place`."""
        return LocalProcess(command, log, {**os.environ, **self.environment()}, core=self.core)


class LocalProcess:
    """A command in a session of its own on this machine; when we end, it is sent `farewell`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        folder: Path | None = None,
        core: int | None = None,
        farewell: signal.Signals = signal.SIGTERM,
    ) -> None:
        with open_log(log, command) as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={"PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone, which passes it on once
                preexec_fn=prepare(core, farewell),
            )

    def poll(self) -> int | None:
        """See `Process`."""
        return self._process.poll()

    def interrupt(self) -> None:
        """See `Process`."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """See `Process`."""
        if self.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


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


def open_log(log: Path, command: Sequence[str]) -> BinaryIO:
    """The log, open for what the command will print below its own line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output = log.open("ab")
    output.write(f"$ {shlex.join(command)}\n".encode())
    output.flush()
    return output


def prepare(core: int | None, farewell: signal.Signals) -> Callable[[], None]:
    """What the child does before it becomes the command: bind itself, hear SIGINT even where a shell's `&` or Ray made us
    deaf to it, and die with us rather than go on unseen."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None

    def in_the_child() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if core is not None:
            os.sched_setaffinity(0, {core})
        if library is not None:
            library.prctl(PR_SET_PDEATHSIG, farewell)

    return in_the_child


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
