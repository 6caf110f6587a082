"""Fuzzing of the verifier: generated inputs, and whether any hangs, crashes, is paid for wrongly, runs code or leaks.

    python -m benchmarks.fuzz_verifier [--inputs 10000] [--seed 0] [--only I]

Input I of a seed is the same in every run; --only shows one and its verdict. A violation is an exception, a verdict that
took longer than the deadline and a second, a verdict that cannot be right by how the input was made, a file that a Python
payload made, or, at the end, a process, thread or file left open or memory kept. Exit code 1 on any.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fuzz_verifier import KINDS, Generator
from benchmarks.fuzz_verifier.run import CASES, Found, ask, fuzz
from benchmarks.tables import table
from rewards.batch import Verdict
from rewards.verifier import Verifier


def report(found: Found) -> str:
    """Counts by kind, the slowest, memory and violations, as text."""
    names = [*(verdict.name.lower() for verdict in sorted(Verdict, reverse=True)), "crash"]
    rows = [["kind", "inputs", *names, "slowest, s"]]
    for kind in KINDS:
        count = found.verdicts.get(kind, Counter())
        seconds = f"{found.seconds.get(kind, 0.0):.2f}"
        rows.append([kind, str(count.total()), *(str(count[name]) for name in names), seconds])
    slowest = [f"{took:.2f} s: input {i} ({kind}): {reason}" for took, i, kind, reason in found.slowest]
    violations = found.violations or ["no violation"]
    return "\n".join([table(rows), "", *slowest, "", *found.memory, "", *violations])


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fuzz_verifier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=2.0, metavar="S", help="of a comparison (default 2)")
    parser.add_argument("--only", type=int, metavar="I", help="show input I and its verdict")
    options = parser.parse_args(argv)
    if options.only is not None:
        item = Generator(options.seed, CASES, Path("executed"))(options.only)
        with Verifier(timeout_s=options.deadline, extraction=item.mode) as verifier:  # type: ignore[arg-type]
            print(repr(item)[:20_000], ask(verifier, item)._replace(answer=""), sep="\n")
        return 0
    found = fuzz(options.inputs, options.seed, options.deadline, lambda line: print(line, file=sys.stderr, flush=True))
    print(report(found))
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
