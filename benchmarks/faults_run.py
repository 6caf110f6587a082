"""One run of `benchmarks.faults`: a trainer that shoots at itself and at the processes it started, and what brings it back."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np

from trainers.run import Run
from trainers.settings import load_config

LIMIT_S = 600.0  # of one life of a run
MARK = "TAUT_FAULTS_RUN"  # in the environment of all that a run starts
OPTIONS = [
    "prompts=4", "sampling.samples=4", "sampling.max_tokens=96", "heldout.problems=8", "heldout.every=4", "checkpoint.every=1",
    "micro_tokens=1000", "reward=hapo", "objective.importance=truncate",
]  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """victim: driver, worker, rank or verifier. phase: of the trainer. entry: how often the phase is entered before, from 1.
    moment: the share of the phase's usual time after which the shot falls."""

    victim: str
    phase: str
    entry: int
    moment: float


@dataclass(frozen=True)
class Case:
    """A run and the kills it gets, one a life for those of the driver."""

    name: str
    engine: str
    mode: str
    workers: int
    steps: int
    kills: tuple[Kill, ...]
    ranks: int = 0
    in_flight: bool = False

    @property
    def options(self) -> list[str]:
        """What `taut train` takes."""
        more = [
            f"mode={self.mode}",
            f"rollout.engine={self.engine}",
            f"rollout.workers={self.workers}",
            f"trainer.ranks={self.ranks}",
            f"in_flight={self.in_flight}",
            f"steps={self.steps}",
        ]
        return [*OPTIONS, *more, *(["max_staleness=2"] if self.mode == "async" else [])]


def unbroken(case: Case, out: Path) -> Path:
    """A run of the same settings that is left alone, made once."""
    kind = (case.engine, case.mode, case.workers, case.ranks, case.in_flight, case.steps)
    whole = out / "-".join(["whole", *map(str, kind)])
    status = whole / "status.json"
    if not (status.exists() and json.loads(status.read_text())["state"] == "finished"):
        arguments = [f"resume={whole}"] if (whole / "config.yaml").exists() else [f"out={whole}", *case.options]
        code = _live(arguments, whole, [])
        if code != 0:
            raise SystemExit(f"{whole}: the run that is left alone ended with exit code {code}; see {whole}.log")
    return whole


def run_case(case: Case, run: Path, whole: Path) -> tuple[list[dict[str, Any]], int, list[str]]:
    """(kills that fell, recoveries from them, what went wrong)."""
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    usual = {p: float(np.median([row.get(f"time/{p}", 0.0) for row in rows])) for p in {k.phase for k in case.kills}}
    file = Path(f"{run}.kills")
    file.unlink(missing_ok=True)
    while True:
        fell = _fired(file)
        waiting = case.kills[len(fell) :]
        arguments = [f"resume={run}"] if (run / "config.yaml").exists() else [f"out={run}", *case.options]
        code = _live(arguments, run, [(kill, usual[kill.phase] * kill.moment) for kill in waiting])
        fired = _fired(file)
        if code == -signal.SIGKILL and len(fired) > len(fell) and fired[-1]["victim"] == "driver":
            continue
        if code != 0:
            return fired, len(fell), [f"exit code {code} in the life after {fell[-1:]}; see {run}.log"]
        wrong = [f"the run ended before {case.kills[len(fired) :]}"] if len(fired) < len(case.kills) else []
        return fired, len(fired), wrong


def left_over(run: Path, seconds: float = 90.0) -> list[tuple[int, str]]:
    """(pid, command) of the processes that a run started and that are still there, after waiting so long for their end."""
    until = time.monotonic() + seconds
    while found := _marked(str(run.resolve())):
        if time.monotonic() > until:
            return found
        time.sleep(0.2)
    return []


def _fired(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _marked(mark: str) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}\0".encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:  # a zombie has none
                        found.append((int(entry.name), command[:80]))
    return found


def _live(arguments: list[str], run: Path, shots: list[tuple[Kill, float]]) -> int | None:
    """One life of a run, in a process of its own; its exit code, negative for a signal, None when it hung and was ended."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_train, args=(arguments, str(run.resolve()), shots))
    resource_tracker.ensure_running()  # this process's own helper, which stays: it must not carry the run's mark
    os.environ[MARK] = str(run.resolve())
    try:
        process.start()
    finally:
        del os.environ[MARK]
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _train(arguments: list[str], run: str, shots: list[tuple[Kill, float]]) -> None:
    """`taut train ARGUMENTS`, with these shots in it."""
    log = os.open(f"{run}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import trainers.grpo as grpo
    from trainers.train import train

    _arm(grpo, shots, Path(f"{run}.kills"))
    try:
        made = Run.resume(Path(run)) if arguments[0].startswith("resume=") else Run.start(load_config(arguments))
        code = 0 if made.step >= made.config.steps or train(made) == "finished" else 1
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _arm(grpo: Any, shots: list[tuple[Kill, float]], file: Path) -> None:
    """Have the trainer's display shoot, one kill after the other: it knows the phase."""
    trainers: list[Any] = []
    begin, entries = grpo.Trainer.__init__, [0]

    def remember(self: Any, *args: Any) -> None:
        begin(self, *args)
        trainers.append(self)

    def shoot(kill: Kill, fired: Any) -> None:
        if not fired.acquire(blocking=False):
            return
        trainer, victim = trainers[-1], kill.victim
        pid = {
            "driver": os.getpid,
            "worker": lambda: trainer.engine.facts[0]["pid"],
            "rank": lambda: trainer.learner.facts[-1]["pid"],
            "verifier": lambda: next(reversed(trainer.sampler.verifier.pids()), None),
        }[victim]()
        if pid is None or not Path(f"/proc/{pid}").exists():  # none was needed yet, or it is just being replaced
            pid, victim = os.getpid(), "driver"
        with file.open("a") as lines:
            lines.write(json.dumps({**asdict(kill), "victim": victim, "step": trainer.step_number + 1}) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        os.kill(pid, signal.SIGKILL)

    class Shooting(grpo.Display):
        @contextlib.contextmanager
        def phase(self, name: str) -> Iterator[None]:
            kill, delay = shots[0] if shots else (None, 0.0)
            if kill is None or name != kill.phase or entered() < kill.entry:
                with super().phase(name):
                    yield
                return
            fired = threading.Lock()
            timer = threading.Timer(delay, shoot, (kill, fired))
            timer.start()
            try:
                with super().phase(name):
                    yield
                    timer.cancel()  # where it was quicker than usual: now, while it is still this phase
                    shoot(kill, fired)
            finally:
                timer.cancel()
                if fired.locked():  # a shot at a rank ends the phase with an error
                    shots.pop(0)
                    entries[0] = 0

    def entered() -> int:
        entries[0] += 1
        return entries[0]

    grpo.Trainer.__init__, grpo.Display = remember, Shooting
