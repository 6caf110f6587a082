"""Problem sets: JSONL, JSONL.gz or parquet in, `Problem` records out; what is wrong in a file is said with its line."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rewards.errors import TautError
from rewards.verifier import check_golds
from rollout.paths import locate
from rollout.rows import as_text, missing, read_json_lines, read_rows, short
from rollout.types import Problem

FIELDS = ("id", "problem", "answer", "level", "source")
REQUIRED = ("id", "problem", "answer")
LISTED = 20  # rows with a bad answer that a message shows


def load_problems(
    path: str | Path,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
    unverifiable: Literal["refuse", "drop"] = "refuse",
    verifier: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """The problems of a `.jsonl`, `.jsonl.gz` or `.parquet` file, in file order; the first `limit` of them when given.

    Each row has `id`, `problem` and `answer` (text or a number), and may have `level` and `source`; every other column
    goes to `Problem.extra`. `columns` maps our names to the file's: `{"problem": "question"}`.
    Rows whose answer the verifier cannot parse are refused, or dropped with a warning (`unverifiable`). `verifier`: the
    settings of the Verifier that is to judge them, where they are not the default ones.
    Raises TautError (file:line, value, remedy) for a file that is missing, empty, of another format or not UTF-8, and
    for a row that is not JSON, lacks a column or repeats an id.
    """
    path = Path(path)
    names = _column_names(path, columns or {})
    if limit is not None and limit < 1:
        raise TautError(f"{path}: limit={limit}: give a number of problems, 1 or more, or leave it out to take all")
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for place, row in read_rows(path):
        problem = _problem(place, row, names)
        if problem.id in places:
            raise TautError(
                f"{place}: id {problem.id!r} already stands at {places[problem.id]}; "
                "rewards keep state by id, so give every row its own"
            )
        places[problem.id] = place
        problems.append(problem)
        if limit is not None and len(problems) == limit:
            break
    if not problems:
        raise TautError(f"{path}: the file holds no problem; it needs one row of {{id, problem, answer}} or more")
    doubts = dict(zip(places, check_golds([p.answer for p in problems], **(verifier or {})), strict=True))
    bad = [
        f"{places[p.id]}: answer {short(p.answer)} cannot be verified: {doubts[p.id]}" for p in problems if doubts[p.id]
    ]
    if not bad:
        return problems
    listed = "\n".join(bad[:LISTED]) + (f"\n... and {len(bad) - LISTED} more" if len(bad) > LISTED else "")
    if unverifiable == "refuse" or len(bad) == len(problems):
        raise TautError(
            f"{listed}\n{len(bad)} of {len(problems)} rows: correct them, or drop them with unverifiable=drop"
        )
    warnings.warn(f"{listed}\n{len(bad)} of {len(problems)} rows dropped", stacklevel=2)
    return [problem for problem in problems if not doubts[problem.id]]


def load_problem_sets(
    data: str,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
    unverifiable: Literal["refuse", "drop"] = "refuse",
    verifier: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """`load_problems` of FILE or FILE,FILE: the first `limit` of each. Of several, rows without a `source` get their file's name.

    Raises TautError as that does, and where two files hold the same id.
    """
    if "," not in data or locate(data).exists():
        return load_problems(locate(data), limit, columns, unverifiable, verifier)
    problems: dict[str, Problem] = {}
    files: dict[str, str] = {}
    for file in [name.strip() for name in data.split(",") if name.strip()]:
        path = locate(file)
        for p in load_problems(path, limit, columns, unverifiable, verifier):
            if p.id in problems:
                raise TautError(
                    f"{file}: problem {p.id!r} stands in {files[p.id]} too; give it another id in one of them, or use one file"
                )
            problems[p.id], files[p.id] = p if p.source else replace(p, source=path.name.partition(".")[0]), file
    return list(problems.values())


@dataclass(frozen=True)
class Reference:
    """What a model did on one problem: share correct and mean length in tokens, over `samples` with a known verdict; None
    where there was none."""

    id: str
    accuracy: float | None
    length: float | None
    samples: int | None = None
    correct: int | None = None


def load_reference(path: str | Path) -> tuple[dict[str, Reference], dict[str, Any]]:
    """({problem id: Reference}, what the file says of how it was made) of a file that `taut eval reference=FILE` wrote.

    One JSON line a problem, {"id", "accuracy", "length", "samples", "correct"} (the last two may be absent), in any order;
    the first line may be {"_meta": {...}}. Raises TautError (file:line, value, remedy) for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise TautError(f"{missing(path)}; references are written by: taut eval model=... data=... reference={path}")
    found: dict[str, Reference] = {}
    places: dict[str, str] = {}
    meta: dict[str, Any] = {}
    for i, (place, row) in enumerate(read_json_lines(path)):
        if "_meta" in row:
            if i or not isinstance(row["_meta"], dict):
                raise TautError(f"{place}: _meta stands in the first line only, as an object; keep one model in a file")
            meta = row["_meta"]
            continue
        entry = _reference(place, row)
        if entry.id in places:
            raise TautError(
                f"{place}: problem {entry.id!r} already stands at {places[entry.id]}; remove one of the two"
            )
        places[entry.id], found[entry.id] = place, entry
    if not found:
        raise TautError(f"{path}: holds no reference; write it with: taut eval model=... data=... reference={path}")
    return found, meta


def add_reference(problems: Sequence[Problem], path: str | Path) -> list[Problem]:
    """The problems with `reference_accuracy` and `reference_length` in `extra`, which rewards read as columns.

    Entries of other problems are left alone. Raises TautError for a problem without an entry, or whose entry has no numbers.
    """
    found, _ = load_reference(path)
    again = "measure it: taut eval model=... data=... (this run's data) samples=... reference=FILE"
    if lacking := [p.id for p in problems if p.id not in found]:
        raise TautError(
            f"{path}: {len(lacking)} of {len(problems)} problems have no entry, such as {lacking[0]!r}; {again}"
        )
    out = []
    for p in problems:
        entry = found[p.id]
        if entry.accuracy is None or entry.length is None:
            raise TautError(
                f"{path}: problem {p.id!r} has no sample with a known verdict; {again}, or drop the problem"
            )
        out.append(replace(p, extra=p.extra | {"reference_accuracy": entry.accuracy, "reference_length": entry.length}))
    return out


def between(problems: Sequence[Problem], low: float, high: float) -> list[Problem]:
    """The problems whose reference accuracy lies in [low, high], in order. Raises TautError when none does."""
    accuracies = [float(p.extra["reference_accuracy"]) for p in problems]
    kept = [p for p, a in zip(problems, accuracies, strict=True) if low - 1e-9 <= a <= high + 1e-9]
    if not kept:
        spread = f"they run from {min(accuracies):g} to {max(accuracies):g}" if accuracies else "there are none"
        raise TautError(
            f"difficulty: no problem has a reference accuracy in [{low:g}, {high:g}] ({spread}); widen low and high"
        )
    return kept


def _reference(place: str, row: dict[str, Any]) -> Reference:
    id = as_text(place, "id", row.get("id"))
    if not id.strip():
        raise TautError(f"{place}: id is {short(row.get('id'))}; each line is {{id, accuracy, length}}")
    values: dict[str, Any] = {}
    for name, most in (("accuracy", 1.0), ("length", math.inf), ("samples", math.inf), ("correct", math.inf)):
        value = row.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in ("accuracy", "length") and name not in row:
            raise TautError(
                f"{place}: no {name!r} among its keys ({', '.join(row)}); each line is {{id, accuracy, length}}"
            )
        if value is not None and not (number and math.isfinite(value) and 0 <= value <= most):
            raise TautError(f"{place}: {name} is {short(value)}; give a number from 0{' to 1' if most == 1 else ' on'}")
        values[name] = value
    return Reference(id, **values)


def _column_names(path: Path, columns: dict[str, str]) -> dict[str, str]:
    for key in columns:
        if key not in FIELDS:
            near = difflib.get_close_matches(key, FIELDS, 1) or [f"one of {', '.join(FIELDS)}"]
            raise TautError(
                f"{path}: columns: {key!r} is not one of our columns (did you mean {near[0]}?); write ours: theirs"
            )
    return {name: columns.get(name, name) for name in FIELDS}


def _problem(place: str, row: dict[str, Any], names: dict[str, str]) -> Problem:
    values: dict[str, str] = {}
    for field, column in names.items():
        text = as_text(place, column, row.get(column))
        if field in REQUIRED and not text.strip():
            raise TautError(_no_column(place, row, field, column))
        values[field] = text
    used = set(names.values())
    return Problem(**values, extra={key: value for key, value in row.items() if key not in used})


def _no_column(place: str, row: dict[str, Any], field: str, column: str) -> str:
    if column in row:
        return f"{place}: {column} is empty ({row[column]!r}); give the row one or take it out"
    has = ", ".join(map(str, row)) or "none"
    remedy = f"add it, or name the column that holds it: columns: {{{field}: NAME}}"
    return f"{place}: no {column!r} among its columns ({has}); {remedy}"
