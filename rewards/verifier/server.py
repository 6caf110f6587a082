"""The server of worker processes. Run as a script: it gets math-verify ready once, then forks a worker whenever it is asked.

It is spawned, so it has no thread, lock or device of the process that uses the verifier; a fork of it is ready in a
hundredth of a second where a fresh start takes half a one. It never touches what a model wrote: its workers do, and it
kills them. It ends, with all of them, when its parent closes the socket or dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.util
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

HEADROOM = 64 << 20  # bytes of address space that a worker must have left when it starts
PATROL_S = 1.0  # between looks whether the parent is still there; a sibling of it may hold the socket open
PARENT_DIED = 1  # PR_SET_PDEATHSIG

Answerer = Callable[[dict[str, Any]], tuple[str, str, str]]  # (verdict, reason, detail) of a request


def sibling(name: str) -> ModuleType:
    """A module of this folder, without importing the package around it (nor standing in for a user's module of that name)."""
    spec = importlib.util.spec_from_file_location(f"taut_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def algebra_answerer() -> Answerer:
    """Answers {"pairs": [[gold, answer], ...]} and {"parse": gold} with math-verify, which it makes ready."""
    algebra = sibling("algebra")
    algebra.warm_up()  # before the first deadline runs; the workers inherit it

    def answer(request: dict[str, Any]) -> tuple[str, str, str]:
        try:
            if "parse" in request:
                return *algebra.readable(request["parse"]), ""
            return *algebra.decide_all(request["pairs"]), ""
        except RecursionError:
            return "wrong", "too deep", ""

    return answer


def judge_answerer(name: str) -> Answerer:
    """Answers {"judge": [gold, answer]} and {"check": gold} with a user's function; its errors are verdicts of their own."""
    module, _, attribute = name.partition(":")
    function = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    if not callable(function):
        raise TypeError(f"{name} is a {type(function).__name__}, not a function")
    check = getattr(function, "check_gold", None)

    def answer(request: dict[str, Any]) -> tuple[str, str, str]:
        try:
            if "check" in request:
                why = None if check is None else check(request["check"])
                return ("unknown", "gold refused", str(why)) if why else ("correct", "", "")
            return *_verdict(function(*request["judge"])), ""
        except MemoryError:
            raise
        except BaseException as error:  # SystemExit too: a judge must not be able to end the worker without a word
            return "unknown", "judge_error", f"{type(error).__name__}: {error}"

    return answer


def _verdict(value: Any) -> tuple[str, str]:
    """What a judge returned: True, False, None, or a Verdict (1, 0, -1)."""
    if value is None or value == -1:
        return "unknown", "judge"
    if isinstance(value, int) or type(value).__name__ in ("bool", "bool_"):  # numpy's bool is no int
        if value in (0, 1):
            return ("correct" if value else "wrong"), "judge"
    raise TypeError(f"the judge returned {value!r:.80}; return True, False, None or a Verdict")


def work(channel: Any, setup: dict[str, Any], answerer: Answerer | None) -> None:
    """A worker's life: limits, then one reply a request until the channel closes or somebody kills it."""
    try:
        limit_memory(setup["memory_gib"])
        if answerer:
            answerer({"pairs": [["x", "2x-x"]]})  # the first pass through memory shared with the server copies it
        answerer = answerer or judge_answerer(setup["judge"])
    except MemoryError:
        channel.send({"error": f"memory_gib={setup['memory_gib']:g} is not enough to start with"})
        return
    except BaseException as error:  # told to the parent, which raises it to the user
        channel.send({"error": f"{type(error).__name__}: {error}"})
        return
    channel.send({"ready": True})
    while True:
        request = channel.receive()
        # the second line of defence: the kernel ends this process, whoever holds the GIL, when nobody else can
        signal.setitimer(signal.ITIMER_PROF, setup["timeout_s"] + 1.0)
        try:
            verdict, reason, detail = answerer(request)
        except MemoryError:
            verdict, reason, detail = "unknown", "memory", ""
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.send({"verdict": verdict, "reason": reason, "detail": detail})


def limit_memory(gib: float) -> None:
    """Caps this process's address space; math beyond it raises MemoryError here and harms nobody else. MemoryError when the
    limit leaves no headroom."""
    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        mmap.mmap(-1, HEADROOM).close()  # asks for the room without touching it
    except OSError as error:
        raise MemoryError from error


class Server:
    """Forks and reaps workers for the one process at the other end of `control`."""

    def __init__(self, control: Any, setup: dict[str, Any], answerer: Answerer | None, new_channel: Any) -> None:
        self.control, self.setup, self.answerer, self.new_channel = control, setup, answerer, new_channel
        self.workers: set[int] = set()
        with contextlib.suppress(OSError, AttributeError):
            self.prctl = ctypes.CDLL(None).prctl

    def serve(self) -> None:
        """Until the parent closes the socket or is gone."""
        try:
            while os.getppid() == self.setup["parent"]:
                with contextlib.suppress(TimeoutError):
                    request = self.control.receive(PATROL_S)
                    self.control.send(self.reap(request["reap"]) if "reap" in request else self.fork())
        except EOFError:
            pass
        finally:
            for pid in list(self.workers):
                self.reap(pid)

    def fork(self) -> dict[str, Any]:
        """A new worker on the socket that came with the request."""
        end, me = self.control.files.pop(), os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._be_worker(end, me)
            finally:
                os._exit(0)
        os.close(end)
        self.workers.add(pid)
        with contextlib.suppress(OSError):  # the worker has done it, or is dead
            os.setpgid(pid, pid)
        return {"pid": pid}

    def reap(self, pid: int) -> dict[str, Any]:
        """End a worker, and what it may have started; its exit status, negative for a signal."""
        self.workers.discard(pid)
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}

    def _be_worker(self, end: int, server: int) -> None:
        self.control.close()
        os.setpgid(0, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        if hasattr(self, "prctl"):
            self.prctl(PARENT_DIED, signal.SIGKILL)
        if os.getppid() == server:
            with contextlib.suppress(EOFError):
                work(self.new_channel(socket.socket(fileno=end)), self.setup, self.answerer)


def main() -> None:
    """`server.py SOCKET SETUP`: the number of the control socket, and the settings as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    new_channel = sibling("channel").Channel
    control = new_channel(socket.socket(fileno=int(sys.argv[1])))
    setup = json.loads(sys.argv[2])
    sys.path[:] = setup["path"]
    try:
        # a user's module may start threads, which do not survive a fork: each worker imports it for itself
        answerer = None if setup["judge"] else algebra_answerer()
    except BaseException as error:  # told to the parent, which raises it to the user
        control.send({"error": f"{type(error).__name__}: {error}"})
        return
    gc.freeze()  # what is there now stays shared with the workers
    control.send({"ready": True})
    Server(control, setup, answerer, new_channel).serve()


if __name__ == "__main__":
    main()
