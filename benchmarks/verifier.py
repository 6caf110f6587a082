"""How often the verifier is right, and how fast: labelled cases in, agreement and latency by mode out.

    python -m benchmarks.verifier CASES.jsonl [--peers] [--json OUT]
    python -m benchmarks.verifier --throughput ROLLOUTS.jsonl.gz ... [--source NAME]

A case is {"gold", "prediction", "expected"} with `mode` (the extraction that judges it: boxed where it is absent),
`category`, `id` and `ambiguous`; ambiguous ones are policy, counted and left out. Every response is taken to have ended by
itself. A verdict that is unknown is a miss: a false reject where the case expects `correct`, else neither of the two.

Verdicts are timed one by one in one thread, each mode by a verifier of its own whose process has answered one question
before, with nothing in its memo. `--peers` judges the same cases with the graders of other projects, each in a process of
its own. `--throughput` compares with math-verify on whole logged responses. The exit code is 0 when all was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import verifier_peers, verifier_speed
from benchmarks.tables import table
from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.verifier import Verifier
from rollout.rows import as_text, read_rows, short

WARM = ("x", r"\boxed{2x-x}")  # needs algebra: starts the process and fills the parser's tables


@dataclass(frozen=True)
class Case:
    """One labelled pair. `expected`: whether the prediction is right; `place`: where it stands, for messages."""

    gold: str
    prediction: str
    expected: bool
    mode: str
    category: str
    id: str
    ambiguous: bool
    place: str


@dataclass(frozen=True)
class Outcome:
    """What a grader said of a case: right, wrong or None (it could not tell), why, and in how many seconds."""

    case: Case
    right: bool | None
    reason: str
    seconds: float

    @property
    def kind(self) -> str:
        """ "agreed", "false accept", "false reject" or "unknown"; the last where it is expected wrong and not known."""
        if self.right is None:
            return "false reject" if self.case.expected else "unknown"
        if self.right == self.case.expected:
            return "agreed"
        return "false accept" if self.right else "false reject"


def read_cases(path: Path) -> list[Case]:
    """The cases of a .jsonl, .jsonl.gz or .parquet file. Raises TautError (file:line, value, remedy)."""
    cases = [_case(place, row) for place, row in read_rows(path)]
    if not cases:
        raise TautError(f"{path}: holds no case; each line is {{gold, prediction, expected}}")
    return cases


def _case(place: str, row: dict[str, Any]) -> Case:
    for name in ("gold", "prediction", "expected"):
        if name not in row:
            has = ", ".join(row) or "none"
            raise TautError(f"{place}: no {name!r} among its keys ({has}); each line is {{gold, prediction, expected}}")
    for name in ("expected", "ambiguous"):
        if not isinstance(value := row.get(name) or False, bool):
            raise TautError(f"{place}: {name} is {short(value)}; write true or false")
    mode = row.get("mode") or "boxed"
    return Case(
        gold=as_text(place, "gold", row["gold"]), prediction=as_text(place, "prediction", row["prediction"]),
        expected=bool(row["expected"]), mode=as_text(place, "mode", mode),
        category=as_text(place, "category", row.get("category")) or "none",
        id=as_text(place, "id", row.get("id")) or place, ambiguous=bool(row.get("ambiguous")), place=place,
    )  # fmt: skip


def judge(cases: Sequence[Case], mode: str) -> list[Outcome]:
    """Our verdicts on the cases under one extraction, timed one by one. Raises TautError for a mode there is not."""
    outcomes = []
    try:
        verifier = Verifier(extraction=mode)  # type: ignore[arg-type]  # a file's text; the verifier checks it
    except TautError as error:
        raise TautError(f"{cases[0].place}: mode: {error}") from None
    with verifier:
        verifier.verify(*WARM)
        for case in cases:
            start = time.perf_counter()
            judgement = verifier.verify(case.gold, case.prediction)
            took = time.perf_counter() - start
            right = None if judgement.verdict is Verdict.UNKNOWN else judgement.verdict is Verdict.CORRECT
            outcomes.append(Outcome(case, right, judgement.reason, took))
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Cases, agreement (a share), false accepts and rejects (counts), verdicts a second, latencies in milliseconds."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    milliseconds = 1000 * np.array([outcome.seconds for outcome in outcomes])
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {
        "cases": len(outcomes), "agreement": kinds["agreed"] / len(outcomes), "false_accepts": kinds["false accept"],
        "false_rejects": kinds["false reject"], "verdicts_per_second": 1000 * len(outcomes) / float(milliseconds.sum()),
        "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(milliseconds.max()),
    }  # fmt: skip


HEAD = ["cases", "agreement", "false accepts", "false rejects", "verdicts/s", "p50 ms", "p99 ms", "max ms"]


def cells(row: dict[str, float]) -> list[str]:
    """A summary as the cells under HEAD."""
    counts = [str(row["false_accepts"]), str(row["false_rejects"])]
    times = [f"{row[name]:,.{digits}f}" for name, digits in (("p50_ms", 3), ("p99_ms", 1), ("max_ms", 1))]
    return [str(row["cases"]), f"{row['agreement']:.4f}", *counts, f"{row['verdicts_per_second']:,.0f}", *times]


def by_category(outcomes: Sequence[Outcome]) -> str:
    """A table: cases, false accepts, false rejects and unknowns of each category, those with most misses first."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.case.category, Counter())[outcome.kind] += 1
    kinds = ("false accept", "false reject", "unknown")
    rows = [["category", "cases", *(f"{kind}s" for kind in kinds)]]
    for name, count in sorted(counts.items(), key=lambda item: (item[1]["agreed"] - item[1].total(), item[0])):
        rows.append([name, str(count.total()), *(str(count[kind]) for kind in kinds)])
    return table(rows)


def misses(outcomes: Sequence[Outcome]) -> list[str]:
    """One line a miss: kind, category, id, gold, prediction and the rule that decided."""
    missed = sorted((o for o in outcomes if o.kind != "agreed"), key=lambda o: (o.kind, o.case.category))
    return [
        f"{o.kind}: {o.case.category} {o.case.id}: gold {_tail(o.case.gold)}, prediction {_tail(o.case.prediction)}: "
        f"{'unknown' if o.right is None else 'correct' if o.right else 'wrong'} ({o.reason})"
        for o in missed
    ]


def _tail(text: str) -> str:
    return repr(text if len(text) <= 160 else "..." + text[-157:])


def _by_mode(cases: Iterable[Case]) -> dict[str, list[Case]]:
    modes: dict[str, list[Case]] = {}
    for case in cases:
        modes.setdefault(case.mode, []).append(case)
    return dict(sorted(modes.items()))


def measure(cases: Sequence[Case], say: Callable[[str], None] = print) -> dict[str, dict[str, float]]:
    """{mode: summary} of our verdicts; says the tables and the misses."""
    found: dict[str, dict[str, float]] = {}
    for mode, some in _by_mode(cases).items():
        scored = [case for case in some if not case.ambiguous]
        say(f"\nmode {mode}: {len(scored)} cases ({len(some) - len(scored)} ambiguous ones left out)")
        if not scored:
            continue
        outcomes = judge(scored, mode)
        found[mode] = summary(outcomes)
        say(table([["mode", *HEAD], [mode, *cells(found[mode])]]))
        say("\n".join(["", by_category(outcomes), "", *misses(outcomes)]))
    return found


def measure_peers(
    cases: Sequence[Case], python: str, limit_s: float, say: Callable[[str], None] = print
) -> dict[str, dict[str, dict[str, float]]]:
    """{peer: {mode: summary}} of the graders that run under this interpreter; says a table, and why others do not."""
    scored = [case for case in cases if not case.ambiguous]
    found: dict[str, dict[str, dict[str, float]]] = {}
    rows = [["peer", "mode", *HEAD]]
    absent = []
    for name in verifier_peers.GRADERS:
        with verifier_peers.Peer(name, python, limit_s) as peer:
            if peer.absent:
                absent.append(f"not run: {name}: {peer.absent}")
                continue
            outcomes = [Outcome(case, *peer.grade(case.gold, case.prediction)) for case in scored]
        for mode in _by_mode(scored):
            found.setdefault(name, {})[mode] = summary([o for o in outcomes if o.case.mode == mode])
            rows.append([f"{name} {peer.version}", mode, *cells(found[name][mode])])
    say("\n".join(["", f"peers, each alone in a process, at most {limit_s:g} s a case", table(rows), *absent]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.verifier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="labelled cases, or logged rollouts")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write {mode: {cases, agreement, ...}}")
    parser.add_argument("--peers", action="store_true", help="also the graders of other projects that are installed")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PYTHON", help="the interpreter that has them")
    parser.add_argument("--peer-limit", type=float, default=15.0, metavar="S", help="seconds a case (default 15)")
    parser.add_argument("--throughput", action="store_true", help="FILEs are rollouts: verdicts/s against math-verify")
    parser.add_argument("--source", action="append", metavar="NAME", help="of these rollouts only (throughput)")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds, the median counts (throughput)")
    options = parser.parse_args(argv)
    try:
        if options.throughput:
            result: dict[str, Any] = verifier_speed.measure(options.files, options.source, options.rounds)
        else:
            cases = [case for path in options.files for case in read_cases(path)]
            result = dict(measure(cases))
            if options.peers:
                result["peers"] = measure_peers(cases, options.peer_python, options.peer_limit)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except TautError as error:
        print(f"benchmarks.verifier: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
