"""Rollouts that others logged, as points of a front: `taut pareto rollouts.jsonl --tokenizer FOLDER`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.statistics import Samples
from rewards.errors import TautError
from rollout.foreign import Foreign
from rollout.foreign_logs import is_ours, read_log
from rollout.rows import read_rows


def is_foreign(path: Path) -> bool:
    """Whether a file is not one that `taut eval` or a run wrote. Raises TautError for a parquet that cannot be read."""
    return path.is_file() and not (path.suffix == ".parquet" and is_ours(path))


def foreign_samples(path: Path, foreign: Foreign) -> dict[str, tuple[Samples, dict[str, Any]]]:
    """{model: (samples, what is known of them)} of a file of rollouts; "" where it names no model. Raises TautError.

    Each model of the column `model` is one evaluation. Steps of a training log are taken together.
    """
    models = dict.fromkeys(str(row.get("model") or "") for _, row in read_rows(path))
    found: dict[str, tuple[Samples, dict[str, Any]]] = {}
    for model in models:
        here = replace(foreign, where={**foreign.where, **({"model": model} if model else {})})
        batches = [step.batch for _, step in read_log(path, here)]
        foreign.counted_by = here.counted_by
        samples = Samples(
            np.concatenate([b.problem_id for b in batches]), np.concatenate([b.length for b in batches]),
            np.concatenate([b.verdict for b in batches]), np.concatenate([b.truncated for b in batches]),
        )  # fmt: skip
        found[model] = samples, {"model": model or path.name, "data": "", "samples": None}
    if not found:
        raise TautError(f"{path}: no rows; check the file")
    return found
