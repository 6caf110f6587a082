"""The process that does the algebra. Run as a script: it imports nothing of ours and expects to be killed.

Requests and replies are JSON lines on the pipes that were its stdin and stdout. The first request sets the limits.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any


def equal(gold: str, answer: str) -> tuple[str, str]:
    """("correct" | "wrong" | "unknown", reason) of two normalised LaTeX texts, by math-verify."""
    from math_verify import verify

    left = parse(gold)
    if not left:
        return "unknown", "gold unparseable"
    right = parse(answer)
    if not right:
        return "wrong", "answer unparseable"
    same = verify(left, right, timeout_seconds=None, raise_on_error=False)
    return ("correct" if same else "wrong"), "symbolic"


def parse(text: str) -> list[Any]:
    """What math-verify reads in one LaTeX text; [] where it reads nothing. Nothing is ever evaluated as Python."""
    from math_verify import LatexExtractionConfig
    from math_verify import parse as read

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    return read("\\boxed{" + text + "}", config, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]


def answer_request(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to {"gold", "answer"} (a comparison) or {"gold"} alone (can it be parsed?)."""
    try:
        if "answer" in request:
            verdict, reason = equal(request["gold"], request["answer"])
        else:
            verdict, reason = ("correct", "") if parse(request["gold"]) else ("unknown", "gold unparseable")
    except MemoryError:
        verdict, reason = "unknown", "memory"
    except RecursionError:
        verdict, reason = "wrong", "too deep"
    return {"verdict": verdict, "reason": reason}


def limit_memory(gib: float) -> None:
    """Caps this process's address space; math beyond it raises MemoryError here and harms nobody else."""
    import resource

    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main() -> None:
    """Answers requests until the parent closes the pipe, dies, or kills this process."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # a library that prints must not write into the replies
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends this process at the alarm, whoever holds the GIL
    pending = b""

    def send(reply: dict[str, Any]) -> None:
        os.write(replies, json.dumps(reply).encode() + b"\n")

    def receive() -> dict[str, Any] | None:
        nonlocal pending
        while b"\n" not in pending:
            while not select.select([requests], [], [], 2.0)[0]:
                if os.getppid() != parent:  # a forked sibling may hold the pipe open
                    return None
            chunk = os.read(requests, 1 << 16)
            if not chunk:
                return None
            pending += chunk
        line, _, pending = pending.partition(b"\n")
        return json.loads(line)

    setup = receive()
    if setup is None:
        return
    sys.path[:] = setup["path"]
    try:
        limit_memory(setup["memory_gib"])
        import math_verify  # noqa: F401  the slow import, before the first deadline runs
    except Exception as error:  # told to the parent, which raises it to the user
        send({"error": f"{type(error).__name__}: {error}"})
        return
    send({"ready": True})
    serve(receive, send, setup["timeout_s"])


def serve(
    receive: Callable[[], dict[str, Any] | None], send: Callable[[dict[str, Any]], None], timeout_s: float
) -> None:
    """One reply a request. The alarm is the second line of defence: it holds when the parent is gone."""
    while (request := receive()) is not None:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 1.0)
        reply = answer_request(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(reply)


if __name__ == "__main__":
    main()
