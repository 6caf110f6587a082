"""The rollout log: one parquet file a step, one row a rollout, enough to replay the step's rewards and advantages."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewards.base import Scores
from rewards.batch import OPTIONAL, Batch
from rewards.errors import TautError
from rollout.ragged import flat
from rollout.types import Rollout

_BATCH_COLUMNS = ("group", "length", "verdict", "problem_id", "sample_id", "truncated", "max_tokens", "origin")
_OWN = ("tokens", "tags")  # columns of the batch that parquet holds in a form of its own


def write_atomically(path: Path, write: Any) -> None:
    """Call write(temporary path) and move the result into place: a reader never sees half a file.

    Raises TautError when the disk is full or not writable; what was at `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TautError(f"{path}: cannot be written ({error}); free some space or choose another `out`") from error


def write_rollouts(
    path: Path, rollouts: Sequence[Rollout], batch: Batch, meta: Mapping[str, Any],
    scores: Scores | None = None, advantage: np.ndarray | None = None, more: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write one step, one row a rollout.

    Columns: the batch's (`tags` as lists of names); `level`, `source`, `gold`, `answer`, `text`, `reason`, `finish_reason`,
    `forced`, `version` (of the last token),
    `oldest_version`, `prompt_ids` (of the prompt that is trained on), `token_ids`, `log_probs` (engine, nats); when given
    `reward`, `keep`, `advantage` (N,) or (N, T), `term/<path>` by node; and `more`.
    `meta` goes into the schema as JSON: step, progress, configuration, and the states at the start of the step.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: getattr(batch, name) for name in _BATCH_COLUMNS}
    columns |= {name: v for name in OPTIONAL if name not in _OWN and (v := getattr(batch, name)) is not None}
    if batch.tags is not None:
        columns["tags"] = pa.array([sorted(tags) for tags in batch.tags], pa.list_(pa.string()))
    columns |= {
        "level": [r.request.problem.level for r in rollouts],
        "source": [r.request.problem.source for r in rollouts],
        "gold": [r.request.problem.answer for r in rollouts],
        "text": [r.text for r in rollouts],
        "answer": [r.answer for r in rollouts],
        "reason": [r.reason for r in rollouts],
        "finish_reason": [r.finish_reason for r in rollouts],
        "forced": [r.forced for r in rollouts],
        "version": [r.versions[-1] if r.versions else -1 for r in rollouts],
        "oldest_version": [min(r.versions, default=-1) for r in rollouts],
        "prompt_ids": _lists([r.prompt_ids for r in rollouts]),
        "token_ids": _lists([r.token_ids for r in rollouts]),
        "log_probs": _lists([r.log_probs for r in rollouts], np.float32),
    }
    if scores is not None:
        columns |= {"reward": scores.total, "keep": scores.keep}
        columns |= {f"term/{name}": values for name, values in scores.terms.items()}
    if advantage is not None:
        columns["advantage"] = list(advantage) if advantage.ndim == 2 else advantage
    columns |= more or {}
    table = pa.table({name: pa.array(v) if not isinstance(v, pa.Array) else v for name, v in columns.items()})
    table = table.replace_schema_metadata({"taut": json.dumps(dict(meta))})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _lists(rows: Sequence[Sequence[float]], kind: type[np.number] = np.int32) -> Any:
    """An arrow column of lists of numbers."""
    import pyarrow as pa

    values, ends = flat(rows, kind)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))


class Columns(Mapping[str, list[Any]]):
    """The columns of one file as lists, each read when it is first asked for."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, tuple(names)
        self._read: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = _table(self.path, [name])[name].to_pylist()
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LoggedStep:
    """One step of a log: `meta` as it was written, the batch, and the file's columns under their names."""

    meta: dict[str, Any]
    batch: Batch
    columns: Mapping[str, list[Any]]


# columns of the batch whose lists take most of the time to read
LIST_OF = {"tokens": "token_ids", "mean_log_prob": "log_probs"}
Wanted = Callable[[Mapping[str, Any]], frozenset[str]]


def read_rollouts(path: Path, wanted: Wanted = lambda meta: frozenset({"tokens"})) -> LoggedStep:
    """Read what `write_rollouts` wrote. wanted: those of LIST_OF that the batch must have, by the file's meta.

    A mean_log_prob that was not logged is made of the engine's log-probs; forced tokens have none.

    Raises TautError for a file that is no rollout log.
    """
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except Exception as error:  # pyarrow raises many kinds; every one means the same to the user
        raise _unreadable(path, error) from error
    raw = (schema.metadata or {}).get(b"taut")
    missing = [name for name in (*_BATCH_COLUMNS, "token_ids") if name not in schema.names]
    if raw is None or missing:
        raise TautError(
            f"{path}: no Taut rollout log (missing {missing or 'metadata'}); give a file of RUN/rollouts or RUN/heldout"
        )
    meta = json.loads(raw)
    optional = [name for name in OPTIONAL if name in schema.names]
    wants = wanted(meta) - set(optional)
    table = _table(path, [*_BATCH_COLUMNS, *optional, *(LIST_OF[name] for name in wants)])
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if name == LIST_OF["mean_log_prob"]:
            columns["mean_log_prob"] = [_mean(nats) for nats in column.to_pylist()]
        elif name in (LIST_OF["tokens"], *_OWN) or column.null_count:
            columns[name] = column.to_pylist()
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    if "tags" in columns:
        columns["tags"] = [frozenset(names) for names in columns["tags"]]
    batch = Batch(tokens=columns.pop("token_ids", None), **columns)
    return LoggedStep(meta, batch, Columns(path, schema.names))


def _mean(nats: Sequence[float]) -> float:
    chosen = [x for x in nats if not math.isnan(x)]
    return sum(chosen) / len(chosen) if chosen else 0.0


def _table(path: Path, names: list[str]) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=names, use_threads=False)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> TautError:
    return TautError(f"{path}: cannot be read as parquet ({error}); give a file of RUN/rollouts or RUN/heldout")
