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
    """("correct" | "wrong" | "unknown", reason) of two tidied LaTeX texts, by math-verify and `exactly_equal`."""
    from math_verify import verify
    from math_verify.grader import should_treat_as_complex
    from sympy import Expr, Symbol, simplify

    real = None if should_treat_as_complex(gold) or should_treat_as_complex(answer) else True
    left = parse(gold, real)
    if left is None:
        return "unknown", "gold unparseable"
    right = parse(answer, real)
    if right is None:
        return "wrong", "answer unparseable"
    try:
        same = verify(left, right, allow_set_relation_comp=True, timeout_seconds=None)
        if not same and isinstance(left, Expr) and isinstance(right, Expr) and Symbol in (type(left), type(right)):
            same = simplify(left - right) == 0  # math-verify compares a lone symbol by name only
        same = same and exactly_equal(left, right)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy raises whatever it likes for objects that do not go together
        return "wrong", "not comparable"
    return ("correct" if same else "wrong"), "symbolic"


def parse(text: str, real: bool | None = True) -> Any:
    """The sympy object of one LaTeX text, None where it cannot be read. Nothing is ever evaluated as Python.

    The grammar is math-verify's; unlike there, letters keep their case, `i` is imaginary and decimals are exact.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    for units in (True, False):  # stripping units can take away a needed letter
        config = NormalizationConfig(units=units, malformed_operators=True, nits=True, boxed="none")
        try:
            read = latex2sympy(
                normalize_latex(text, config),
                is_real=real,
                normalization_config=None,
                conversion_config=ConversionConfig(lowercase_symbols=False),
            )
            return None if read is None else exact(read)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # the grammar raises bare Exceptions, and sympy whatever it likes
            continue
    return None


def exact(value: Any) -> Any:
    """The object with decimals as rationals and a free `i` as the imaginary unit; sets and chains keep their order."""
    import sympy
    from sympy.core.relational import Relational

    parts = getattr(value, "_unsorted_args", None)
    if parts is not None or isinstance(value, sympy.Tuple):
        return type(value)(*map(exact, value.args if parts is None else parts))
    if isinstance(value, Relational):
        return type(value)(exact(value.lhs), exact(value.rhs), evaluate=False)
    swap = {number: sympy.Rational(str(number)) for number in value.atoms(sympy.Float)}
    swap |= {symbol: sympy.I for symbol in getattr(value, "free_symbols", ()) if symbol.name == "i"}
    return value.xreplace(swap) if swap else value


def exactly_equal(left: Any, right: Any) -> bool:
    """False where two plain numbers that math-verify rounded to the same differ within 30 digits; True for all else."""
    import sympy

    numbers = all(isinstance(x, sympy.Expr) and not x.free_symbols for x in (left, right))
    if not numbers:
        return True
    a, b = (sympy.N(x.doit(), 40) for x in (left, right))
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return True
    percent = {sympy.Integer(1), sympy.Integer(100), sympy.Rational(1, 100)}
    return any(abs(sympy.N(a * p - b, 40)) <= sympy.Float("1e-30") * max(abs(a * p), abs(b)) for p in percent)


def answer_request(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to {"gold", "answer"} (a comparison) or {"gold"} alone (can it be parsed?)."""
    try:
        if "answer" in request:
            verdict, reason = equal(request["gold"], request["answer"])
        else:
            verdict, reason = ("correct", "") if parse(request["gold"]) is not None else ("unknown", "gold unparseable")
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
        equal("x", "2x-x")  # slow imports and the parser's tables, before the first deadline runs
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
