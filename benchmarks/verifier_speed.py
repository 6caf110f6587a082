"""Verdicts a second on whole logged responses, against math-verify's own on the same responses in the same run.

All run in turn on one core (the verifier's process is held to it too), several rounds, the median of the rounds counts.
math-verify parses the gold and the response and compares, as its documentation shows. Ours starts each round with an empty
memo, once with room for nothing in it, once with room for all: then several samples of a problem share verdicts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from rewards.errors import TautError
from rewards.verifier import Verifier
from rollout.rows import as_text, read_rows

Pair = tuple[str, str]  # gold, response
WAYS = ("math-verify", "no memo", "with memo")


def measure(
    files: Sequence[Path], sources: Sequence[str] | None, rounds: int, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """{"file: source": {"responses", verdicts/s by way, times math-verify's}}; says a table. Raises TautError."""
    sets = {name: pairs for path in files for name, pairs in responses(path, sources).items()}
    found: dict[str, Any] = {}
    rows = [["responses", "number", *(f"{way}, 1/s" for way in WAYS), *(f"times ({way})" for way in WAYS[1:])]]
    with one_core() as core:
        for name, pairs in sets.items():
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way in WAYS:
                    seconds[way].append(_math_verify(pairs) if way == "math-verify" else _ours(pairs, way))
            rate = {way: len(pairs) / statistics.median(seconds[way]) for way in WAYS}
            times = {
                way: statistics.median(a / b for a, b in zip(seconds["math-verify"], seconds[way], strict=True))
                for way in WAYS[1:]
            }
            found[name] = {"responses": len(pairs), "verdicts_per_second": rate, "times_math_verify": times}
            counts = [str(len(pairs)), *(f"{rate[way]:,.0f}" for way in WAYS)]
            rows.append([name, *counts, *(f"{times[way]:.1f}" for way in WAYS[1:])])
    say(table(rows))
    say(f"core {core}, median of {rounds} alternating rounds")
    return found


def responses(path: Path, sources: Sequence[str] | None) -> dict[str, list[Pair]]:
    """{"file: source": (gold, response) pairs} of a rollout file with the columns answer, response and perhaps source."""
    sets: dict[str, list[Pair]] = {}
    seen = set()
    for place, row in read_rows(path):
        source = as_text(place, "source", row.get("source"))
        seen.add(source)
        if sources and source not in sources:
            continue
        for name in ("answer", "response"):
            if row.get(name) is None:
                raise TautError(f"{place}: no {name!r}; each row has answer and response")
        pair = as_text(place, "answer", row["answer"]), as_text(place, "response", row["response"])
        sets.setdefault(f"{path.name.partition('.')[0]}: {source}", []).append(pair)
    if not sets:
        raise TautError(
            f"{path}: no row of source {', '.join(sources or [])}; it has {', '.join(sorted(seen)) or 'none'}"
        )
    return sets


@contextmanager
def one_core() -> Iterator[int]:
    """Holds this process, and those that it starts, to the last of its cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield max(cores)
    finally:
        os.sched_setaffinity(0, cores)


def _math_verify(pairs: Sequence[Pair]) -> float:
    from math_verify import parse, verify

    start = time.perf_counter()
    for gold, response in pairs:
        verify(parse(f"${gold}$"), parse(response))
    return time.perf_counter() - start


def _ours(pairs: Sequence[Pair], way: str) -> float:
    with Verifier(memo=len(pairs) if way == "with memo" else 0) as verifier:
        verifier.verify("x", r"\boxed{2x-x}")  # starts the process
        start = time.perf_counter()
        for gold, response in pairs:
            verifier.verify(gold, response)
        return time.perf_counter() - start
