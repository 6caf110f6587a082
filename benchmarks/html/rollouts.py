"""Rollouts to show: rows of an evaluation or of a rollout log, with their texts capped, chosen by length and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.batch import Verdict
from rewards.errors import TautError
from rollout.paths import locate
from rollout.rows import read_rows

SHOWN = ("problem_id", "level", "length", "verdict", "truncated", "sample_id", "gold", "answer")
HEAD, TAIL = 3_000, 1_500  # characters of a text that are shown, from its beginning and its end
VERDICTS = {int(Verdict.CORRECT): "correct", int(Verdict.WRONG): "wrong", int(Verdict.UNKNOWN): "unknown"}


class Texts:
    """The rows of one parquet file: cheap columns at once, the texts of a few rows when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises TautError when the file cannot be read, or lacks problem, length, verdict."""
        import pyarrow.parquet as parquet

        self.path = path
        try:
            names = parquet.read_schema(path).names
            table = parquet.read_table(path, columns=[c for c in SHOWN if c in names])
        except Exception as error:  # pyarrow raises many kinds; every one means the same to the user
            raise TautError(f"{path}: cannot be read as parquet ({error}); is the file complete?") from error
        if missing := [c for c in ("problem_id", "length", "verdict") if c not in names]:
            raise TautError(f"{path}: no column {', '.join(missing)}; give an evaluation or a file of RUN/rollouts")
        self.has_text = "text" in names
        self.columns: dict[str, list[Any]] = {c: table[c].to_pylist() for c in table.column_names}
        self.problem = np.array([str(p) for p in self.columns["problem_id"]])
        self.length = np.array(self.columns["length"], dtype=np.int64)
        self.verdict = np.array([Verdict.UNKNOWN if v is None else v for v in self.columns["verdict"]], dtype=np.int64)
        self.level = np.array([str(v) for v in self.columns.get("level", [""] * len(self.problem))])

    def rows(self, chosen: Sequence[int], texts_of: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """The rollouts at `chosen` as `common.js` shows them; `texts_of`: problems by id, where they are known."""
        import pyarrow.parquet as parquet

        texts: list[Any] = [None] * len(chosen)
        if self.has_text and len(chosen):
            texts = parquet.read_table(self.path, columns=["text"])["text"].take(list(chosen)).to_pylist()
        return [self._row(i, text, texts_of or {}) for i, text in zip(chosen, texts, strict=True)]

    def _row(self, i: int, text: str | None, texts_of: Mapping[str, str]) -> dict[str, Any]:
        def column(name: str) -> Any:
            return self.columns[name][i] if name in self.columns else None

        problem = str(self.problem[i])
        said = texts_of.get(problem, "")
        return {
            "problem": problem,
            "problem_text": said if said != problem and not problem.endswith(f":{said}") else "",
            "level": self.level[i],
            "tokens": int(self.length[i]),
            "verdict": VERDICTS.get(int(self.verdict[i]), "unknown"),
            "truncated": bool(column("truncated")),
            "answer": None if "answer" not in self.columns else _short(column("answer") or ""),
            "gold": None if "gold" not in self.columns else _short(column("gold") or ""),
            **capped("(this file holds no texts)" if text is None else text),
        }


def _short(answer: str, most: int = 80) -> str:
    return answer if len(answer) <= most else answer[: most - 1] + "…"


def capped(text: str) -> dict[str, Any]:
    """{text, left_out, rest}: all of a short text, else its beginning, how many characters are left out, and its end."""
    if len(text) <= HEAD + TAIL:
        return {"text": text, "left_out": 0, "rest": ""}
    return {"text": text[:HEAD], "left_out": len(text) - HEAD - TAIL, "rest": text[-TAIL:]}


def problem_texts(data: Any, columns: Any, wanted: set[str]) -> dict[str, str]:
    """{id: problem} of the wanted problems from the data file that a log names; {} where it is not at hand any more."""
    if not data or not wanted:
        return {}
    names = columns if isinstance(columns, dict) else {}
    found: dict[str, str] = {}
    try:
        for _, row in read_rows(locate(str(data))):
            identity = str(row.get(names.get("id", "id")))
            if identity in wanted:
                found[identity] = capped(str(row.get(names.get("problem", "problem"), "")))["text"]
    except TautError:  # moved or deleted since: the ids still stand there
        return found
    return found


def shortest_and_longest(texts: Texts, each: int) -> list[tuple[int, str]]:
    """(row, "short" | "long") of the `each` shortest and longest rollouts of every verdict, each of another problem."""
    chosen: list[tuple[int, str]] = []
    for verdict in VERDICTS:
        rows = np.flatnonzero(texts.verdict == verdict)
        order = rows[np.lexsort((rows, texts.length[rows]))].tolist()
        half = min(each, (len(order) + 1) // 2)
        short = _distinct(order, texts, half, set())
        long = _distinct(order[::-1], texts, each, set(short))
        chosen += [(i, "short") for i in short] + [(i, "long") for i in long]
    return chosen


def _distinct(order: Sequence[int], texts: Texts, most: int, without: set[int]) -> list[int]:
    found: list[int] = []
    seen: set[str] = set()
    for i in order:
        if len(found) < most and i not in without and texts.problem[i] not in seen:
            found.append(i)
            seen.add(texts.problem[i])
    return found
