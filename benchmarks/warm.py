"""Runs of `taut` that do not wait for its imports: forked from a server in which they are made once.

Importing torch and transformers takes a small run longer than a good part of its training. A sweep on CPU cores starts its runs
from the standard library's fork server; on a GPU, for any other command, and once Taut's own sources are other ones than the server
has read, `Slot` starts a process from nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sweep_code
from benchmarks.places import Process, Slot, open_log, prepare

TAUT = (sys.executable, "-m", "taut")
PRELOAD = [
    "trainers.train", "benchmarks.evaluate", "rollout.transformers_engine", "transformers.masking_utils",
    "transformers.models.auto.modeling_auto", "transformers.generation.utils",
]  # fmt: skip


@dataclass(frozen=True)
class WarmSlot(Slot):
    """A CPU core whose runs of `taut` are forked from the server, which holds this code."""

    code: tuple[str, ...] = ()

    def start(self, command: Sequence[str], log: Path) -> Process:
        """See `Place`."""
        if self.core is None or tuple(command[: len(TAUT)]) != TAUT or _code() != self.code:
            return super().start(command, log)
        return WarmProcess(command[len(TAUT) :], log, self.core)


def warm(slots: Sequence[Slot]) -> list[Slot]:
    """The slots, those that are cores with a server behind them. It reads the number of threads once, when it starts: one."""
    if all(s.core is None for s in slots):
        return list(slots)
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    code = _code()
    return [s if s.core is None else WarmSlot(s.core, code=code) for s in slots]


def _code() -> tuple[str, ...]:
    return tuple(sweep_code.code(stage)["code"] for stage in sweep_code.SOURCES)


class WarmProcess:
    """`taut ARGUMENTS` on a core, in a session of its own; when we end, however, it is sent SIGTERM."""

    def __init__(self, arguments: Sequence[str], log: Path, core: int) -> None:
        open_log(log, [*TAUT, *arguments]).close()
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_run, args=(list(arguments), str(log), core, dict(os.environ)))
        self._process.start()

    def poll(self) -> int | None:
        """See `Process`."""
        return self._process.exitcode

    def interrupt(self) -> None:
        """See `Process`."""
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """See `Process`."""
        self._send(signal.SIGKILL)
        self._process.join()

    def _send(self, what: signal.Signals) -> None:
        """To its whole session when it is to be killed; before it has one, and to ask, to itself."""
        pid = self._process.pid
        if pid is None or self.poll() is not None:
            return
        try:
            if what == signal.SIGKILL and os.getpgid(pid) == pid:
                os.killpg(pid, what)
            else:
                os.kill(pid, what)
        except ProcessLookupError:
            pass  # it has just ended


def _run(arguments: list[str], log: str, core: int, environment: dict[str, str]) -> None:
    """In the child: become what `LocalProcess` would have started."""
    parent = os.getppid()
    os.setsid()
    os.environ.update(environment)
    prepare(core, signal.SIGTERM)()
    if os.getppid() != parent:  # the server ended before that
        os._exit(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which Python sets when it starts
    with open(os.devnull, "rb") as nothing, open(log, "ab") as output:
        for standard, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), standard)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = [TAUT[-1], *arguments]
    code: object = 0
    try:
        runpy.run_module(TAUT[-1], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    if isinstance(code, str):  # as `sys.exit` of a text
        print(code, file=sys.stderr)
    sys.stdout.flush()
    # Without the clean-up of the server's own things.
    os._exit(code if isinstance(code, int) else int(code is not None))
