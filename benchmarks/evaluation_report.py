"""Everything an evaluation says, as a dictionary beside its parquet and as short tables on the console."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import CONFIDENCE, Floats, mean_interval, share_interval
from benchmarks.metrics import (
    SHORTEST,
    accuracy_among_shortest,
    budget_by_problem,
    majority_by_problem,
    pass_by_problem,
)
from benchmarks.statistics import Samples, Summary, by_level, compare, summarise
from benchmarks.strategies import Line
from benchmarks.tables import table
from rewards.batch import Verdict

FIRST_BUDGET = 16  # tokens; then doubled until every response fits


HEAD = ("problems", "samples", "accuracy", "tokens", "truncated", "unknown")


def level_table(samples: Samples) -> str:
    """Accuracy, tokens and truncation by level and in all, with intervals; where there are several data sets, by these too."""
    rows = [["level", *HEAD]]
    rows += [_row(level, summary) for level, summary in by_level(samples).items()]
    rows.append(_row("all", summarise(samples)))
    sources = _names(samples.source)
    if len(sources) < 2:
        return table(rows)
    sets = [_row(name, summarise(samples.take(samples.source == name))) for name in sources]
    return f"{table(rows)}\n\n{table([['data set', *HEAD], *sets])}"


def _names(column: Any) -> list[str]:
    """The values of a column in natural order (2 before 10), without the empty one."""
    return sorted({str(v) for v in np.unique(column)} - {""}, key=lambda v: (len(v), v))


def _row(name: str, s: Summary) -> list[str]:
    counts = [str(s.problems), str(s.samples)]
    return [name, *counts, s.accuracy.text(3), s.tokens.text(1), f"{s.truncation.value:.3f}", str(s.unknown)]


def report(samples: Samples) -> list[dict[str, Any]]:
    """One dictionary for all samples, then one a level, then one a source where there are several.

    Keys: `by` ("all", "level", "source"), `name`, `problems`, `samples`, `unknown`; `accuracy` (avg@k) and `truncation`: [value,
    low, high]; `tokens`, `tokens_correct`, `tokens_wrong`: {"mean": [value, low, high] over problems, "median", "p90" over
    samples}; `pass_at` and `maj_at`: {k: [value, low, high]} for k = 1, 2, 4 ... and the most that every problem has (`maj_at`
    only where the evaluation has answers); `shortest`: {share: [accuracy, low, high, answers]}; `by_budget`: [[tokens, value,
    low, high]].
    What is not defined is None. Unknown verdicts are absent from all but their own count.
    """
    parts = [("all", "", samples)]
    for by in ("level", "source"):
        column = getattr(samples, by)
        names = _names(column)
        if by == "level" or len(names) > 1:
            parts += [(by, name, samples.take(column == name)) for name in names]
    return [{"by": by, "name": name, **_of(part)} for by, name, part in parts]


def _of(samples: Samples) -> dict[str, Any]:
    s, known = summarise(samples), samples.take(samples.known)
    right = known.verdict == Verdict.CORRECT
    ids, count = np.unique(known.problem_id, return_counts=True)
    counts = sorted({1 << i for i in range(int(count.min()).bit_length())} | {int(count.min())}) if len(ids) else []
    longest = known.length.max() if len(known) else 0
    budgets = [FIRST_BUDGET << i for i in range(40) if FIRST_BUDGET << max(i - 1, 0) < max(longest, 1) or i == 0]
    floor = float((1 / count).mean()) if len(ids) else 1.0
    curve = budget_by_problem(samples, budgets)
    answers = bool((samples.answer != "").any())
    shortest = {f"{share:g}": accuracy_among_shortest(samples, share) for share in SHORTEST}
    return {
        "problems": s.problems,
        "samples": s.samples,
        "unknown": s.unknown,
        "accuracy": _numbers(s.accuracy.value, *s.accuracy.interval),
        "truncation": _numbers(s.truncation.value, *s.truncation.interval),
        "tokens": {"mean": _numbers(s.tokens.value, *s.tokens.interval), **_middle(known.length)},
        "tokens_correct": _tokens(known.take(right)),
        "tokens_wrong": _tokens(known.take(~right)),
        "pass_at": {str(k): _share(pass_by_problem(samples, k)) for k in counts},
        "maj_at": {str(k): _share(majority_by_problem(samples, k)) for k in counts if answers},
        "shortest": {share: [*_numbers(*values), number] for share, (*values, number) in shortest.items()},
        "by_budget": [[limit, *_share(curve[:, i], floor)] for i, limit in enumerate(budgets)],
    }


def _tokens(samples: Samples) -> dict[str, Any]:
    """Of the problems that have such samples: {"mean": [...], "median", "p90"}."""
    ids, index, count = np.unique(samples.problem_id, return_inverse=True, return_counts=True)
    means = np.bincount(index, samples.length, len(ids)) / count if len(ids) else np.zeros(0)
    low, high = mean_interval(means) if len(means) > 1 else (math.nan, math.nan)
    value = means.mean() if len(means) else math.nan
    return {"mean": _numbers(value, low, high), **_middle(samples.length)}


def _middle(length: Floats) -> dict[str, Any]:
    median, p90 = np.quantile(length, [0.5, 0.9]) if len(length) else (math.nan, math.nan)
    return dict(zip(("median", "p90"), _numbers(median, p90), strict=True))


def _share(values: Floats, floor: float = 0.0) -> list[float | None]:
    """[mean, low, high] of one value in [0, 1] a problem."""
    low, high = share_interval(values, floor) if len(values) > 1 else (math.nan, math.nan)
    return _numbers(values.mean() if len(values) else math.nan, low, high)


def _numbers(*values: Any) -> list[float | None]:
    return [None if math.isnan(v) else round(float(v), 6) for v in values]


def strategy_report(found: Sequence[Line]) -> list[dict[str, Any]]:
    """What each way of answering gives, from a single answer on: `name`, `problems`, `answers`, `unknown`, `accuracy`, `sequential`
    and `total` (mean output tokens an answer), each [value, low, high]; `gain`: its accuracy minus the first's, paired."""
    return [
        {
            "name": line.name,
            "problems": s.problems,
            "answers": s.samples,
            "unknown": s.unknown,
            "accuracy": _numbers(s.accuracy.value, *s.accuracy.interval),
            "sequential": _numbers(q.tokens.value, *q.tokens.interval),
            "total": _numbers(s.tokens.value, *s.tokens.interval),
            "gain": None if i == 0 else _numbers(d.value, max(d.low, -1.0), min(d.high, 1.0)),
        }
        for i, line in enumerate(found)
        for s, q in [(summarise(line.total), summarise(line.sequential))]
        for d in [compare(line.total, found[0].total).accuracy]
    ]


def strategy_table(rows: list[dict[str, Any]]) -> str:
    """`strategy_report` for the console."""
    head = ["", "problems", "answers", "accuracy", "gain", "sequential tokens", "total tokens", "unknown"]
    cells = [
        [
            row["name"], str(row["problems"]), str(row["answers"]), _bracketed(row["accuracy"], 3),
            _bracketed(row["gain"], 3) if row["gain"] else "", _bracketed(row["sequential"], 1), _bracketed(row["total"], 1),
            str(row["unknown"]),
        ]
        for row in rows
    ]  # fmt: skip
    return table([head, *cells])


def _bracketed(values: Sequence[float | None], digits: int) -> str:
    value, low, high = (_text(v, digits) or "n/a" for v in values)
    return f"{value} [{low}, {high}]" if low != "n/a" else f"{value} [n/a]"


def write_report(path: Path, parts: list[dict[str, Any]], strategy: Sequence[dict[str, Any]] = ()) -> None:
    """The report as JSON: {"confidence", "parts"}, and {"strategy"} where there is one; see `report` and `strategy_report`."""
    from rollout.log import write_atomically

    whole = {"confidence": CONFIDENCE, "parts": parts} | ({"strategy": list(strategy)} if strategy else {})
    text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def extra_tables(parts: list[dict[str, Any]]) -> str:
    """What the table of levels has no room for: tokens right and wrong, pass@k, maj@k, the shortest; then the budgets."""
    whole = parts[0]
    k = max(whole["pass_at"], key=int, default="")
    head = [
        "",
        "median",
        "p90",
        "correct",
        "wrong",
        f"pass@{k}",
        f"maj@{k}",
        *(f"shortest {float(q):.0%}" for q in whole["shortest"]),
    ]
    order = [*(p for p in parts if p["by"] != "all"), whole]
    rows = [[
        p["name"] or "all", _text(p["tokens"]["median"], 0), _text(p["tokens"]["p90"], 0),
        _text(p["tokens_correct"]["mean"][0], 1), _text(p["tokens_wrong"]["mean"][0], 1),
        *(_text(p[m].get(k, [None])[0], 3) for m in ("pass_at", "maj_at")), *(_bracketed(v[:3], 3) for v in p["shortest"].values()),
    ] for p in order]  # fmt: skip
    limits = whole["by_budget"]
    budgets = [
        ["within", *(f"{limit[0]:,}" for limit in limits)],
        ["accuracy", *(_text(limit[1], 3) for limit in limits)],
    ]
    return f"{table([head, *rows])}\n\n{table(budgets)}"


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
