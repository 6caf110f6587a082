"""The graders of other projects, each in a process of its own that can be killed: `Peer`, and the script it runs.

The script (this file) imports the standard library alone, so that any interpreter can run it: the projects need not be
installed beside Taut. A grader's module is imported without running its packages' `__init__`, which would want torch, Ray
and vLLM. Golds without delimiters are given in dollars to graders that parse whole texts, and as they are to the others.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any, Self

Grade = Callable[[str, str], bool | None]
START_S = 120.0  # imports, on a busy machine


def _module(name: str) -> Any:
    """The module, with empty stand-ins for the packages above it."""
    parts = name.split(".")
    spec = importlib.util.find_spec(parts[0])
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {parts[0]!r}", name=parts[0])
    folder = next(iter(spec.submodule_search_locations))
    for i in range(1, len(parts)):
        package = types.ModuleType(".".join(parts[:i]))
        package.__path__ = [os.path.join(folder, *parts[1:i])]
        sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(name)


def _delimited(gold: str) -> str:
    return gold if any(mark in gold for mark in ("$", "\\boxed", "\\(", "\\[")) else f"${gold}$"


def _bare(gold: str) -> str:
    inner = gold.strip()
    return inner[1:-1] if len(inner) > 2 and inner[0] == inner[-1] == "$" and inner.count("$") == 2 else gold


def _math_verify() -> Grade:
    from math_verify import parse, verify

    return lambda gold, text: verify(parse(_delimited(gold)), parse(text))


def _trl() -> Grade:
    reward = _module("trl.rewards.accuracy_rewards").accuracy_reward

    def grade(gold: str, text: str) -> bool | None:
        (score,) = reward([[{"role": "assistant", "content": text}]], [_delimited(gold)])
        return None if score is None else score == 1

    return grade


def _verl_math_verify() -> Grade:
    module = _module("verl.utils.reward_score.math_verify")
    inner = getattr(
        module, "_verify_in_subprocess", None
    )  # its pool would import all of verl; this process is one already
    if inner:
        return lambda gold, text: inner(f"\\boxed{{{_bare(gold)}}}", text) == 1
    return lambda gold, text: module.compute_score(text, _bare(gold)) == 1


def _verl_prime_math() -> Grade:
    score = _module("verl.utils.reward_score.prime_math").compute_score
    return lambda gold, text: bool(score(text, _bare(gold))[0])


def _verl_math_dapo() -> Grade:
    score = _module("verl.utils.reward_score.math_dapo").compute_score
    return lambda gold, text: bool(score(text, _bare(gold))["acc"])


def _lm_eval_minerva() -> Grade:
    tools = _module("lm_eval.tasks.minerva_math.utils")
    # imports its parser here, not under the grader's own alarm, which would leave it in halves
    tools.parse_latex("x+1")

    def grade(gold: str, text: str) -> bool:
        box = tools.last_boxed_only_string(text)  # its tasks ask for a phrase, which these responses were not asked for
        found = tools.get_unnormalized_answer(text) if box is None else tools.remove_boxed(box)
        return bool(tools.is_equiv(tools.normalize_final_answer(found), tools.normalize_final_answer(_bare(gold))))

    return grade


def _lm_eval_hendrycks() -> Grade:
    tools = _module("lm_eval.tasks.hendrycks_math.utils")

    def grade(gold: str, text: str) -> bool:
        box = tools.last_boxed_only_string(text)
        return bool(tools.is_equiv(text if box is None else tools.remove_boxed(box), _bare(gold)))

    return grade


GRADERS: dict[str, tuple[str, str, Callable[[], Grade]]] = {  # name: (distribution, what pip installs, how it is made)
    "math-verify": ("math-verify", "math-verify[antlr4_13_2]", _math_verify),
    "trl accuracy_reward": ("trl", "trl[math_verify]", _trl),
    "verl math_verify": ("verl", "verl math-verify", _verl_math_verify),
    "verl prime_math": ("verl", "verl pylatexenc antlr4-python3-runtime==4.11.0", _verl_prime_math),
    "verl math_dapo": ("verl", "verl", _verl_math_dapo),
    "lm-eval minerva": ("lm-eval", "lm-eval[math] antlr4-python3-runtime==4.11.0", _lm_eval_minerva),
    "lm-eval hendrycks": ("lm-eval", "lm-eval", _lm_eval_hendrycks),
}


class Peer:
    """One grader in a process. `absent`: why it does not run and what to install, "" where it does; `version`: its own."""

    def __init__(self, name: str, python: str = sys.executable, limit_s: float = 15.0) -> None:
        self.name, self.python, self.limit_s = name, python, limit_s
        self.absent = self.version = ""
        self.child: subprocess.Popen[bytes] | None = None
        self._start()

    def grade(self, gold: str, text: str) -> tuple[bool | None, str, float]:
        """(right, reason, seconds); None for what it leaves open, raises at, or cannot finish within `limit_s`."""
        if self.child is None:
            self._start()
        start = time.perf_counter()
        reply = self._ask({"gold": gold, "text": text}, self.limit_s)
        took = time.perf_counter() - start
        if reply is None:
            self.close()
            return None, "killed", took
        return reply["right"], reply["error"], reply["seconds"]

    def _start(self) -> None:
        self.pending = b""
        try:
            self.child = subprocess.Popen(
                [self.python, "-P", __file__, self.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True, bufsize=0,
            )  # fmt: skip
            reply = self._receive(START_S) or {"error": "its process does not start"}
        except OSError as error:
            reply = {"error": f"{self.python}: {error}"}
        self.absent = reply.get("error", "") and f"{reply['error']}; pip install {GRADERS[self.name][1]}"
        self.version = reply.get("version", "")

    def _ask(self, request: dict[str, str], seconds: float) -> dict[str, Any] | None:
        assert self.child and self.child.stdin
        data = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while data:
                data = data[self.child.stdin.write(data) :]  # type: ignore[attr-defined]
        except OSError:
            return None
        return self._receive(seconds)

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None when it does not come in time or the process is gone."""
        assert self.child and self.child.stdout
        deadline = time.monotonic() + seconds
        while b"\n" not in self.pending:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.child.stdout.fileno(), 1 << 16) if ready else b""
            if not chunk:
                return None
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process and those that it started."""
        child, self.child = self.child, None
        if child:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(name: str) -> None:
    """The script: a line {"gold", "text"} in, a line {"right", "error", "seconds"} out, until the input ends."""
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some graders print

    def send(reply: dict[str, Any]) -> None:
        os.write(replies, json.dumps(reply).encode() + b"\n")

    distribution, _, make = GRADERS[name]
    try:
        grade = make()
        grade("x", "so \\boxed{2x-x}")  # lazy imports and tables, before the clock runs
        if not grade("2", "so \\boxed{2}"):
            raise RuntimeError("it does not take 2 for 2: something that it needs is missing")
        version = importlib.metadata.version(distribution)
    except BaseException as error:  # whatever a foreign import may raise
        send({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    send({"version": version})
    for line in sys.stdin:
        request = json.loads(line)
        start, right, error = time.perf_counter(), None, ""
        try:
            right = grade(request["gold"], request["text"])
        except BaseException as raised:  # math-verify's timeout is no Exception
            error = f"{type(raised).__name__}: {raised}"[:200]
        send({"right": None if right is None else bool(right), "error": error, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    serve(sys.argv[1])
