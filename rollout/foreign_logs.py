"""Logs of rollouts, ours and others', as steps of batches: what `taut replay` reads.

Ours: a run folder, its rollouts/, files of `rollout.log`, and the parquet of `taut eval`. Others': verl's `rollout_data_dir`
(JSON lines with input, output, score), TRL's `completions_*.parquet` (prompt, completion), and any JSON lines or parquet once
`columns` says what its columns are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rewards.batch import Batch
from rewards.errors import TautError
from rollout.foreign import Foreign, Row, column_names, one_measure, to_batch
from rollout.log import LoggedStep, read_rollouts
from rollout.rows import FORMATS, missing, read_rows, short


def read_log(path: Path, foreign: Foreign) -> Iterator[tuple[str, LoggedStep]]:
    """(place, step) of every step of a log, in order. Raises TautError naming file, row and remedy."""
    for file in log_files(path):
        if file.suffix == ".parquet" and is_ours(file):
            one_measure(foreign, "token ids", str(file))
            step = read_rollouts(file, foreign.wanted)
            _refuse_duplicates(str(file), step.batch)
            yield str(file), _as_training(step)
        else:
            yield from foreign_steps(file, foreign_rows(file, foreign), foreign)


def log_files(path: Path) -> list[Path]:
    """The files of a log in the order of their steps: the file itself, or those of a folder."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TautError(missing(path))
    folder = path / "rollouts" if (path / "rollouts").is_dir() else path
    files = [p for p in folder.iterdir() if p.name.endswith(FORMATS) and not p.name.startswith(".")]
    if not files:
        raise TautError(
            f"{folder}: no rollouts in this folder (no {', '.join(FORMATS)}); give a run folder whose log.rollouts was not "
            "switched off, or a log of verl or TRL"
        )
    return sorted(files, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.name)], p.name))


def is_ours(path: Path) -> bool:
    """Whether a parquet is of `write_rollouts`. Raises TautError for one that cannot be read."""
    import pyarrow.parquet as pq

    try:
        return b"taut" in (pq.read_schema(path).metadata or {})
    except Exception as error:  # pyarrow raises many kinds; every one means the same to the user
        raise TautError(
            f"{path}: cannot be read as parquet ({error}); its writer was killed, or it is no parquet: leave the file out"
        ) from error


def _as_training(step: LoggedStep) -> LoggedStep:
    """Rollouts of an evaluation taken as if they had been trained on."""
    if "progress" in step.meta:
        return step
    batch = replace(step.batch, origin=np.array(["train"] * len(step.batch), dtype=object))
    return LoggedStep(step.meta, batch, step.columns)


def _refuse_duplicates(place: str, batch: Batch) -> None:
    order = np.argsort(batch.sample_id, kind="stable")
    twice = np.flatnonzero(np.diff(batch.sample_id[order]) == 0)
    if len(twice):
        a, b = order[twice[0]], order[twice[0] + 1]
        raise TautError(
            f"{place}: sample {batch.sample_id[a]} of problem {batch.problem_id[a]!r} stands in rows {a + 1} and {b + 1}; "
            "each rollout must stand there once: remove the copies"
        )


def foreign_rows(path: Path, foreign: Foreign) -> list[Row]:
    """The rows that `foreign.where` leaves. Raises TautError where there are none."""
    rows = [
        (place, row)
        for place, row in read_rows(path)
        if all(_same(place, row, key, value) for key, value in foreign.where.items())
    ]
    if not rows:
        raise TautError(
            f"{path}: no rows{' with ' + short(dict(foreign.where)) if foreign.where else ''}; check the file"
        )
    return rows


def foreign_steps(path: Path, rows: list[Row], foreign: Foreign) -> Iterator[tuple[str, LoggedStep]]:
    """(place, step) of every step of rows of one model. Raises TautError naming file, row and remedy."""
    names, dialect = column_names(rows[0], foreign)
    if len(models := {str(row["model"]) for _, row in rows if row.get("model") is not None}) > 1:
        raise TautError(
            f"{path}: rollouts of {len(models)} models ({', '.join(sorted(models)[:3])}), which form no groups; replay one: "
            f"where.model={min(models)}"
        )
    steps: dict[Any, list[Row]] = {}
    for place, row in rows:
        steps.setdefault(row.get(names.get("step", "step"), 0), []).append((place, row))
    for number, part in steps.items():
        batch = to_batch(part, names, foreign)
        yield f"{path}", LoggedStep({"kind": dialect, "step": number}, batch, {})


def _same(place: str, row: dict[str, Any], key: str, value: Any) -> bool:
    if key not in row:
        raise TautError(f"{place}: no column {key!r} for where.{key}; it has {', '.join(sorted(row))}")
    return row[key] == value
