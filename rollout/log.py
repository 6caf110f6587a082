"""The rollout log: one parquet file a step, one row a rollout, enough to replay the step's rewards and advantages."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewards.base import Scores
from rewards.batch import OPTIONAL, Batch
from rewards.errors import TautError
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
    scores: Scores | None = None, advantage: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write one step, one row a rollout.

    Columns: the batch's (`tags` as lists of names); `level`, `gold`, `answer`, `text`, `reason`, `finish_reason`, `forced`,
    `version`, `prompt_ids` (of the prompt that is trained on), `token_ids`, `log_probs` (engine, nats); when given `reward`,
    `keep`, `advantage` (N,) or (N, T), `term/<path>` by node.
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
        "gold": [r.request.problem.answer for r in rollouts],
        "text": [r.text for r in rollouts],
        "answer": [r.answer for r in rollouts],
        "reason": [r.reason for r in rollouts],
        "finish_reason": [r.finish_reason for r in rollouts],
        "forced": [r.forced for r in rollouts],
        "version": [r.versions[-1] if r.versions else -1 for r in rollouts],
        "prompt_ids": pa.array([r.prompt_ids for r in rollouts], pa.list_(pa.int32())),
        "token_ids": pa.array([r.token_ids for r in rollouts], pa.list_(pa.int32())),
        "log_probs": pa.array([r.log_probs for r in rollouts], pa.list_(pa.float32())),
    }
    if scores is not None:
        columns |= {"reward": scores.total, "keep": scores.keep}
        columns |= {f"term/{name}": values for name, values in scores.terms.items()}
    if advantage is not None:
        columns["advantage"] = list(advantage) if advantage.ndim == 2 else advantage
    table = pa.table({name: pa.array(v) if not isinstance(v, pa.Array) else v for name, v in columns.items()})
    table = table.replace_schema_metadata({"taut": json.dumps(dict(meta))})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


@dataclass(frozen=True)
class LoggedStep:
    """One step of a log: `meta` as it was written, the batch, and all other columns under their names."""

    meta: dict[str, Any]
    batch: Batch
    columns: dict[str, Any]


def read_rollouts(path: Path) -> LoggedStep:
    """Read what `write_rollouts` wrote. Raises TautError for a file that is no rollout log."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except Exception as error:  # pyarrow raises many kinds; every one means the same to the user
        raise TautError(
            f"{path}: cannot be read as parquet ({error}); give a file of RUN/rollouts or RUN/heldout"
        ) from error
    raw = (table.schema.metadata or {}).get(b"taut")
    missing = [name for name in _BATCH_COLUMNS if name not in table.column_names]
    if raw is None or missing:
        raise TautError(
            f"{path}: no Taut rollout log (missing {missing or 'metadata'}); give a file of RUN/rollouts or RUN/heldout"
        )
    columns = {name: table[name].to_pylist() for name in table.column_names}
    optional = {name: columns[name] for name in OPTIONAL if name in columns}
    if "tags" in optional:
        optional["tags"] = [frozenset(names) for names in optional["tags"]]
    batch = Batch(**{name: columns[name] for name in _BATCH_COLUMNS}, tokens=columns["token_ids"], **optional)
    return LoggedStep(json.loads(raw), batch, columns)
