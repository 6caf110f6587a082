"""Everything an evaluation says, as a dictionary beside its parquet and as short tables on the console."""

from __future__ import annotations

import json
import math
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
from benchmarks.statistics import Samples, Summary, by_level, summarise
from benchmarks.tables import table
from rewards.batch import Verdict

FIRST_BUDGET = 16  # tokens; then doubled until every response fits


def level_table(samples: Samples) -> str:
    """Accuracy, tokens and truncation by level and in all, with intervals."""
    rows = [["level", "problems", "samples", "accuracy", "tokens", "truncated", "unknown"]]
    rows += [_row(level, summary) for level, summary in by_level(samples).items()]
    rows.append(_row("all", summarise(samples)))
    return table(rows)


def _row(name: str, s: Summary) -> list[str]:
    counts = [str(s.problems), str(s.samples)]
    return [name, *counts, s.accuracy.text(3), s.tokens.text(1), f"{s.truncation.value:.3f}", str(s.unknown)]


def report(samples: Samples) -> list[dict[str, Any]]:
    """One dictionary for all samples, then one a level, then one a source where there are several.

    Keys: `by` ("all", "level", "source"), `name`, `problems`, `samples`, `unknown`; `accuracy` (avg@k) and `truncation`: [value,
    low, high]; `tokens`, `tokens_correct`, `tokens_wrong`: {"mean": [value, low, high] over problems, "median", "p90" over
    samples}; `pass_at` and `maj_at`: {k: [value, low, high]} for k = 1, 2, 4 ... and the most that every problem has (`maj_at`
    only where the evaluation has answers); `shortest`: {share: [accuracy, answers]}; `by_budget`: [[tokens, value, low, high]].
    What is not defined is None. Unknown verdicts are absent from all but their own count.
    """
    parts = [("all", "", samples)]
    for by in ("level", "source"):
        column = getattr(samples, by)
        names = sorted({str(v) for v in np.unique(column)} - {""}, key=lambda v: (len(v), v))
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
        "shortest": {share: [*_numbers(value), number] for share, (value, number) in shortest.items()},
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


def write_report(path: Path, parts: list[dict[str, Any]]) -> None:
    """The report as JSON: {"confidence", "parts"}; see `report`."""
    from rollout.log import write_atomically

    text = json.dumps({"confidence": CONFIDENCE, "parts": parts}, indent=1, ensure_ascii=False) + "\n"
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
        *(_text(p[m].get(k, [None])[0], 3) for m in ("pass_at", "maj_at")), *(_text(v[0], 3) for v in p["shortest"].values()),
    ] for p in order]  # fmt: skip
    limits = whole["by_budget"]
    budgets = [
        ["within", *(f"{limit[0]:,}" for limit in limits)],
        ["accuracy", *(_text(limit[1], 3) for limit in limits)],
    ]
    return f"{table([head, *rows])}\n\n{table(budgets)}"


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
