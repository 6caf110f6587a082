"""Rollouts that were sampled ahead, as rows of a checkpoint: a resumed run trains on them and not on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.batch import Verdict
from rewards.errors import TautError
from rollout.types import Problem, Request, Rollout

Pending = tuple[int, Sequence[Request], "list[Rollout] | None", float]  # step, requests, rollouts if whole, canary gap
_REQUEST = [f.name for f in dataclasses.fields(Request) if f.name != "problem"]
_ROLLOUT = [f.name for f in dataclasses.fields(Rollout) if f.name not in ("request", "tags", "verdict", "mode")]


def write_pending(path: Path, pending: Sequence[Pending]) -> None:
    """One row a request, with its rollout where its step is whole; log-probs in full precision."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for step, requests, rollouts, gap in pending:
        for i, request in enumerate(requests):
            row: dict[str, Any] = {
                "step": step,
                "gap": gap,
                "problem": request.problem.id,
                "whole": rollouts is not None,
            }
            row |= {f"request/{name}": getattr(request, name) for name in _REQUEST}
            if rollouts is not None:
                rollout = rollouts[i]
                row |= {name: getattr(rollout, name) for name in _ROLLOUT}
                row |= {"tags": sorted(rollout.tags), "verdict": int(rollout.verdict), "rollout/mode": rollout.mode}
            rows.append(row)
    columns = {name: None for row in rows for name in row}  # in the order in which they first came
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})
    pq.write_table(table, path, compression="zstd")


def read_pending(path: Path, problems: Sequence[Problem]) -> list[Pending]:
    """What `write_pending` wrote; an empty list where there is no such file.

    Raises TautError for a problem that is not among `problems`.
    """
    import pyarrow.parquet as pq

    if not path.exists():
        return []
    known = {p.id: p for p in problems}
    steps: dict[int, tuple[list[Request], list[Rollout], float]] = {}
    for row in pq.read_table(path).to_pylist():
        if row["problem"] not in known:
            raise TautError(f"{path}: problem {row['problem']!r} is not in the data any more; put the old data back")
        request = Request(problem=known[row["problem"]], **{name: row[f"request/{name}"] for name in _REQUEST})
        requests, rollouts, _ = steps.setdefault(row["step"], ([], [], row["gap"]))
        requests.append(request)
        if row["whole"]:
            rollouts.append(_rollout(request, row))
    return [(step, asked, made or None, gap) for step, (asked, made, gap) in sorted(steps.items())]


def _rollout(request: Request, row: Mapping[str, Any]) -> Rollout:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v := row[name], list) else v for name in _ROLLOUT}
    return Rollout(
        request=request,
        tags=frozenset(row["tags"]),
        verdict=Verdict(row["verdict"]),
        mode=row["rollout/mode"],
        **values,
    )
