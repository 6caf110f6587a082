"""The files of an evaluation: its samples, the chunks of one that is not finished, and the reference that training reads."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.analyses.length_vote import LengthVote
from benchmarks.statistics import Samples
from benchmarks.strategies import Call, Line, lines
from rewards.errors import TautError
from rollout.log import write_atomically, write_rollouts
from rollout.rows import short
from rollout.sampler import to_batch
from rollout.types import Problem

COLUMNS = ("problem_id", "level", "source", "sample_id", "length", "verdict", "truncated", "answer", "reason", "text")
CALLS = ("chain", "round", "parent")  # of a strategy with more than one round
_READ = ("problem_id", "length", "verdict", "truncated", "level", "source", "answer", "sample_id", "chain", "round")


def read_evaluation(path: Path, budget: Literal["total", "sequential"] = "total") -> tuple[Samples, dict[str, Any]]:
    """(samples, what the file says of how they were made) of an evaluation parquet; {} where it says nothing.

    Of an evaluation with a strategy a sample is an answer of it, and its length what all its calls cost (`total`) or the
    longest way through them (`sequential`). Raises TautError naming the file, the row where there is one, and the remedy when the
    file is torn, lacks a column, holds a sample twice, or a value that cannot be.
    """
    columns, about = _read(path)
    if about.get("strategy") is None:
        given = {name: column for name, column in columns.items() if name not in ("sample_id", "chain", "round")}
        return Samples(**{name: np.array(column, dtype=object) for name, column in given.items()}), about
    line = _lines(columns, about)[-1]
    return (line.total if budget == "total" else line.sequential), about


def read_lines(path: Path) -> list[Line]:
    """What each way of answering gives, from a single answer to the strategy's; [] for an evaluation without one."""
    columns, about = _read(path)
    return _lines(columns, about) if about.get("strategy") is not None else []


def _lines(columns: Mapping[str, list[Any]], about: Mapping[str, Any]) -> list[Line]:
    vote = about.get("vote")
    return lines(columns, about["strategy"], LengthVote(**vote) if vote else None)


def _read(path: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = [c for c in _READ if c in file.schema_arrow.names]
            raw = (file.schema_arrow.metadata or {}).get(b"taut", b"{}")
            columns = {name: column.to_pylist() for name, column in zip(names, file.read(names).columns, strict=True)}
    except (pa.ArrowException, OSError) as error:
        raise TautError(f"{path}: cannot be read as parquet ({error}); is the file complete? Evaluate again") from error
    if missing := [c for c in ("problem_id", "length", "verdict") if c not in columns]:
        raise TautError(f"{path}: no column {', '.join(missing)}; an evaluation has {', '.join(COLUMNS)}")
    if not columns["problem_id"]:
        raise TautError(f"{path}: holds no sample; evaluate again")
    if "sample_id" in columns:
        seen: dict[tuple[Any, Any], int] = {}
        for row, key in enumerate(zip(columns["problem_id"], columns["sample_id"], strict=True), 1):
            if key in seen:
                told = f"sample {key[1]} of problem {key[0]!r} stands in rows {seen[key]} and {row}"
                raise TautError(f"{path}: {told}; each sample must stand there once: evaluate again")
            seen[key] = row
    for name, column in columns.items():
        if name not in ("verdict", "answer", "source") and None in column:
            raise TautError(f"{path}: row {column.index(None) + 1} has no {name}; evaluate again")
    for row, (length, verdict) in enumerate(zip(columns["length"], columns["verdict"], strict=True), 1):
        if not isinstance(length, int | float) or not length >= 0:
            raise TautError(f"{path}: row {row}: length {short(length)} is no number of tokens; evaluate again")
        if verdict not in (None, -1, 0, 1):
            raise TautError(f"{path}: row {row}: verdict {short(verdict)}; 1 is correct, 0 wrong, -1 or null unknown")
    return columns, json.loads(raw)


@dataclass(frozen=True)
class Parts:
    """The finished chunks of an evaluation, a parquet each, in a folder beside its file; gone once that is whole.

    A killed evaluation goes on from them. made: all that decides the samples; `begin` refuses to mix two.
    """

    out: Path
    made: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """OUT.parts"""
        return self.out.with_name(f"{self.out.name}.parts")

    def begin(self) -> None:
        """Claim the folder. Raises TautError where it holds chunks that were made in another way."""
        note = self.folder / "made.json"
        text = json.dumps(dict(self.made), ensure_ascii=False)
        if note.exists():
            try:
                before = json.loads(note.read_text(encoding="utf-8"))
            except ValueError as error:
                raise TautError(f"{note}: cannot be read ({error}); remove {self.folder} to begin anew") from error
            before, now = _flat(before), _flat(json.loads(text))
            if other := [key for key in before | now if before.get(key) != now.get(key)]:
                key = other[0]
                raise TautError(
                    f"{self.folder}: begun with {key}={short(before.get(key))}, now it is {short(now.get(key))}; give the former "
                    f"to go on, remove the folder to begin anew, or choose another out"
                )
        write_atomically(note, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def file(self, number: int) -> Path:
        """Where chunk `number` is."""
        return self.folder / f"{number:05}.parquet"

    def size(self, number: int) -> int | None:
        """Calls in chunk `number`, None when it is still to be made. Raises TautError for one that is torn."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        if not self.file(number).exists():
            return None
        try:
            return parquet.read_metadata(self.file(number)).num_rows
        except (pa.ArrowException, OSError) as error:
            raise TautError(
                f"{self.file(number)}: cannot be read ({error}); remove this file: it will be made anew"
            ) from error

    def write(self, number: int, calls: Sequence[Call]) -> None:
        """Chunk `number` is done."""
        import pyarrow as pa

        rollouts = [call.rollout for call in calls]
        more = {
            "chain": [call.chain for call in calls],
            "round": [call.round for call in calls],
            "parent": pa.array([list(call.parents) for call in calls], pa.list_(pa.int64())),
        }
        write_rollouts(self.file(number), rollouts, to_batch(rollouts), {}, more=more)

    def join(self, count: int, meta: Mapping[str, Any]) -> None:
        """All chunks in order become `out`, with `meta`; the folder is removed. Columns that some chunk lacks are left out."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        tables = [parquet.read_table(self.file(number)) for number in range(count)]
        names = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
        whole = pa.concat_tables([table.select(names) for table in tables], promote_options="default")
        whole = whole.replace_schema_metadata({"taut": json.dumps(dict(meta))})
        write_atomically(self.out, lambda temporary: parquet.write_table(whole, temporary, compression="zstd"))
        shutil.rmtree(self.folder)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as a.b.c."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def mark(problems: Sequence[Problem], model: Path) -> dict[str, str]:
    """Marks that change with the problems, and with the files of a model's folder (by size and time)."""
    texts = json.dumps([(p.id, p.problem, p.answer, p.level, p.source) for p in problems]).encode()
    files = sorted(model.iterdir()) if model.is_dir() else []
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return {
        "the problems' mark": hashlib.sha256(texts).hexdigest()[:16],
        "the model's mark": hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16],
    }


def write_reference(path: Path, problems: Sequence[Any], samples: Samples, made_by: Mapping[str, Any]) -> None:
    """What the model did on each problem, for methods that compare with it (`taut train reference=FILE`).

    JSON lines: {"_meta": `made_by`} first (model, data, samples, temperature, cap, seed), then a line a problem, {"id",
    "accuracy", "length" (mean output tokens), "samples", "correct"}. Samples with unknown verdicts are left out of all four;
    a problem without known ones has null for accuracy and length.
    """
    known = samples.take(samples.known)
    position = {p.id: i for i, p in enumerate(problems)}
    index = np.array([position[id] for id in known.problem_id], dtype=int)
    count = np.bincount(index, minlength=len(problems))
    right = np.bincount(index, np.asarray(known.verdict == 1, dtype=float), len(problems))
    length = np.bincount(index, np.asarray(known.length, dtype=float), len(problems))
    rows: list[dict[str, Any]] = [{"_meta": dict(made_by)}]
    for p, n, c, tokens in zip(problems, count.tolist(), right.tolist(), length.tolist(), strict=True):
        accuracy, mean = (c / n, tokens / n) if n else (None, None)
        rows.append({"id": p.id, "accuracy": accuracy, "length": mean, "samples": n, "correct": int(c)})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(lines, encoding="utf-8"))
