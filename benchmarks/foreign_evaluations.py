"""Rollouts that others logged, as points of a front: `taut pareto rollouts.jsonl --tokenizer FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.statistics import Samples
from rollout.foreign import Foreign, Row
from rollout.foreign_logs import foreign_rows, foreign_steps, is_ours


def is_foreign(path: Path) -> bool:
    """Whether a file is not one that `taut eval` or a run wrote. Raises TautError for a parquet that cannot be read."""
    return path.is_file() and not (path.suffix == ".parquet" and is_ours(path))


def foreign_samples(path: Path, foreign: Foreign) -> dict[str, tuple[Samples, dict[str, Any]]]:
    """{model: (samples, what is known of them)} of a file of rollouts; "" where it names no model. Raises TautError.

    Each model of the column `model` is one evaluation. Steps of a training log are taken together.
    """
    models: dict[str, list[Row]] = {}
    for place, row in foreign_rows(path, foreign):
        models.setdefault(str(row.get("model") or ""), []).append((place, row))
    found: dict[str, tuple[Samples, dict[str, Any]]] = {}
    for model, rows in models.items():
        batches = [step.batch for _, step in foreign_steps(path, rows, foreign)]
        samples = Samples(
            np.concatenate([b.problem_id for b in batches]), np.concatenate([b.length for b in batches]),
            np.concatenate([b.verdict for b in batches]), np.concatenate([b.truncated for b in batches]),
        )  # fmt: skip
        found[model] = samples, {"model": model or path.name, "data": "", "samples": None}
    return found
