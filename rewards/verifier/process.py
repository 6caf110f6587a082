"""Worker processes seen from outside: started, asked, killed at the deadline, replaced."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from rewards.errors import TautError
from rewards.verifier.channel import Channel

START_DEADLINE_S = 300.0  # importing sympy takes half a second, and a minute on a machine that swaps
SERVER_DEADLINE_S = 60.0  # forking and reaping take milliseconds; the server never runs what could hang
STARVED = 0.2  # a process that got less than this share of a core until its deadline is given more time,
PATIENCE = 10  # up to so many times the deadline
RENEW = 20_000  # questions that one process answers at most: whatever a library keeps of them goes with it


class Limits(NamedTuple):
    """What a worker may use: seconds a question, GiB of address space. judge: "module:function" that replaces the algebra."""

    timeout_s: float
    memory_gib: float
    judge: str | None = None


class Reply(NamedTuple):
    """What came of a question; verdict is "correct", "wrong" or "unknown". detail: the message of a judge's error."""

    verdict: str
    reason: str
    detail: str
    seconds: float


class Closed(TautError):
    """The verifier was closed while a question was waiting."""


class Server:
    """The spawned process that forks workers; started when the first is asked for, and again should it be killed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.closed = False
        self.workers: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Channel | None = None
        self._lock = threading.Lock()

    def pids(self) -> list[int]:
        """The processes that are there now: the server's, then those of the workers."""
        process = self._process
        return [process.pid, *self.workers] if process and process.poll() is None else []

    def fork(self) -> tuple[Channel, int]:
        """A new worker, not yet ready: the way to it and its pid. Raises TautError where the server does not start."""
        with self._lock:
            for fresh in (False, True, True):
                ours, theirs = socket.socketpair()
                try:
                    if fresh or self._process is None or self._process.poll() is not None:
                        self._start()
                    pid = self._ask({}, theirs.fileno())["pid"]
                    self.workers.add(pid)
                    return Channel(ours), pid
                except BaseException as error:
                    ours.close()
                    if not isinstance(error, OSError | EOFError):
                        raise
                    # it was killed from outside, maybe as it started: once more, with a new one
                finally:
                    theirs.close()
        raise TautError("verifier: the server of its processes is killed as soon as it starts; is there memory enough?")

    def reap(self, pid: int) -> int | None:
        """Kill a worker of `fork`; its exit status, None where nobody knows it any more."""
        with self._lock:
            if pid not in self.workers:
                return None
            self.workers.discard(pid)
            try:
                return self._ask({"reap": pid})["status"]
            except (OSError, EOFError):
                return None

    def close(self) -> None:
        """End the server and its workers; nothing can be forked any more."""
        self.closed = True
        process = self._process  # without the lock: a thread that waits for the server must not keep it alive
        if self._control:
            self._control.shut()
        if process:
            _end(process)
            if self._control:
                self._control.close()
        self.workers.clear()

    def disown(self) -> None:
        """Forget the processes without ending them: this is a fork of the process that they belong to."""
        self.closed = True
        if self._control:
            self._control.close()
        if self._process:
            self._process.returncode = 0  # so that nobody waits for a process that is not a child of this one
        self._process, self._control = None, None

    def _ask(self, request: dict[str, Any], *files: int) -> dict[str, Any]:
        assert self._control
        self._control.send(request, files, SERVER_DEADLINE_S)
        return self._control.receive(SERVER_DEADLINE_S)

    def _start(self) -> None:
        """A new server. Raises TautError where it cannot start, EOFError where it was killed before it had."""
        if self._process:
            _end(self._process)
        if self._control:
            self._control.close()
        self.workers.clear()
        if self.closed:
            raise Closed("verifier: it was closed while this verdict was under way")
        ours, theirs = socket.socketpair()
        setup = {"path": sys.path, "parent": os.getpid(), **self.limits._asdict()}
        # one order of hashes: sympy's results must not depend on the process that finds them
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        script = Path(__file__).with_name("server.py")
        with theirs:
            self._control = Channel(ours)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(script), str(theirs.fileno()), json.dumps(setup)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                raise TautError(
                    f"verifier: {sys.executable} cannot be started ({error}); is there memory enough?"
                ) from error
        try:
            error = self._control.receive(START_DEADLINE_S).get("error")
        except (OSError, EOFError) as failed:
            error = f"{type(failed).__name__}: {failed}"
        if error:
            _end(self._process)
            if (self._process.returncode or 0) < 0:
                raise EOFError(f"killed by signal {-self._process.returncode}")
            raise TautError(
                f"verifier: the process for symbolic comparison does not start: {error}; "
                f"is math-verify installed for {sys.executable}?"
            )


class Worker:
    """One worker process, forked when first asked and replaced after a failure. Used by one thread at a time."""

    def __init__(self, server: Server) -> None:
        self.server, self.limits = server, server.limits
        self.pid: int | None = None
        self.served = 0
        self._channel: Channel | None = None
        self._spare: tuple[Channel, int] | None = None  # ready to take over

    def ask(self, request: dict[str, Any]) -> Reply:
        """The worker's reply. What killed a fresh process is recorded; a used one may have died of something else, so the
        question is asked once more, within the deadline. Raises TautError where no process can be started."""
        if self.served >= RENEW:
            self.stop()
        if self._channel is None:
            self._fork()
        spent = 0.0  # on the question: what a new server takes to start, on a slow machine longer than a deadline, is not its fault
        while True:
            used, start = self.served, time.monotonic()
            verdict, reason, detail = self._ask_once(request, self.limits.timeout_s - spent)
            spent += time.monotonic() - start
            if reason in ("killed", "memory") and used and spent < 0.9 * self.limits.timeout_s:
                self._fork()
                continue
            return Reply(verdict, reason, detail, spent)

    def stop(self) -> int | None:
        """Kill the process; its exit status. The next question starts another."""
        pid, channel = self.pid, self._channel
        self.pid, self._channel, self.served = None, None, 0
        if channel:
            channel.close()
        return None if pid is None else self.server.reap(pid)

    def _ask_once(self, request: dict[str, Any], seconds: float) -> tuple[str, str, str]:
        assert self._channel
        self.served += 1
        try:
            self._channel.send(request, seconds=seconds)
            reply = self._reply(seconds)
        except TimeoutError:
            self.stop()
            return "unknown", "timeout", ""
        except EOFError:
            status = self.stop()
            if self.server.closed:
                raise Closed("verifier: it was closed while this verdict was under way") from None
            # the kernel ends a process that overran its processor time, should nobody else do so in time
            return "unknown", "timeout" if status == -signal.SIGPROF else "killed", f"exit status {status}"
        if reply["reason"] == "memory":
            self.stop()
        return reply["verdict"], reply["reason"], reply["detail"]

    def _reply(self, seconds: float) -> dict[str, Any]:
        """The reply within the deadline; later only where the machine, not the question, was at fault."""
        assert self._channel
        start, processor = time.monotonic(), self._processor_seconds()
        try:
            return self._channel.receive(seconds / 2)
        except TimeoutError:
            with contextlib.suppress(TautError):  # told when the process is needed
                self._spare = self._spare or self._ready()
        left = seconds - (time.monotonic() - start)
        while True:
            try:
                return self._channel.receive(max(left, 0.0))
            except TimeoutError:
                # a judge may be waiting for something, which looks the same from here
                starved = self._processor_seconds() - processor < STARVED * seconds and not self.limits.judge
                if not starved or time.monotonic() - start > (PATIENCE - 1) * seconds:
                    raise
                left = seconds

    def _processor_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # not Linux, or the process is gone: the deadline is the wall clock's
            return math.inf
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _fork(self) -> None:
        self._channel, self.pid = self._spare or self._ready()
        self._spare, self.served = None, 0

    def _ready(self) -> tuple[Channel, int]:
        """A new process that waits for its first question."""
        channel, pid = self.server.fork()
        try:
            error = channel.receive(START_DEADLINE_S).get("error")
        except (TimeoutError, EOFError) as failed:
            error = f"{type(failed).__name__}: {failed}"
        if not error:
            return channel, pid
        channel.close()
        self.server.reap(pid)
        if self.server.closed:
            raise Closed("verifier: it was closed while this verdict was under way")
        judge, gib = self.limits.judge, self.limits.memory_gib
        remedy = f"give more than memory_gib={gib:g}"
        if judge:
            remedy += (
                f", or mend judge={judge}: it must be the module:function of an importable file, not of a notebook"
            )
        raise TautError(f"verifier: a worker process does not start: {error}; {remedy}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the server to end its workers and itself, as it does when its socket is closed; kill it if it does not."""
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
