"""Where jobs run on this machine, a core or a GPU each, and their processes."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

PR_SET_PDEATHSIG = 1


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
