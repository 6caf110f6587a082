"""What every Ray actor of ours can do, whatever its work is: say who it is, and have the stacks of its threads written down."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.metadata
import os
import platform
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "transformers", "vllm")


class Actor:
    """SIGUSR1 makes its process write the stacks of all threads into a file that `dump_stack` reads."""

    def __init__(self) -> None:
        self._stack = tempfile.TemporaryFile("w+")  # noqa: SIM115 - until the process ends
        faulthandler.register(signal.SIGUSR1, file=self._stack, all_threads=True)

    def hello(self) -> dict[str, Any]:
        """Who this is; answers as soon as the process is there. stack: the file that `dump_stack` reads."""
        import ray

        facts = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "stack": self._stack.fileno(),
            "versions": versions(),
        }
        return facts | {"node": ray.get_runtime_context().get_node_id()}


def versions() -> dict[str, str]:
    """Versions that driver and workers must share, of what is installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def dump_stack(pid: int, file: int, wait_s: float = 2.0) -> str:
    """The stacks of all threads of a worker on this machine, also of one that is stuck inside native code; "" where it does not
    answer signals either. file: `stack` of its `hello`."""
    path = Path(f"/proc/{pid}/fd/{file}")
    try:
        before = path.stat().st_size
        os.kill(pid, signal.SIGUSR1)
        until = time.monotonic() + wait_s
        while path.stat().st_size == before and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.1)  # it is written line by line
        return path.read_text(errors="replace")[before:]
    except OSError:
        return ""
