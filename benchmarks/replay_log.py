"""What a log says of the run that wrote it, whether a replay of it gave the same, and what makes it unfit for a what-if."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.replay_plan import AS_LOGGED, PIECES, Configuration
from rewards.base import Scores
from rewards.batch import Batch, Floats
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.registry import dump
from rollout.foreign import Foreign
from rollout.log import LoggedStep
from rollout.paths import locate
from trainers.settings import resolve


def progress_of(step: LoggedStep) -> Progress:
    """Where the run stood; of an evaluation and of others' logs, the cap and the step as far as they say."""
    if "progress" in step.meta:
        return Progress(**step.meta["progress"])
    cap = step.meta.get("max_tokens") or int(step.batch.max_tokens.max(initial=1))
    number = step.meta.get("step", 0)
    return Progress(step=number if isinstance(number, int) else 0, max_length=cap, seed=step.meta.get("seed", 0))


def logged_nodes(step: LoggedStep) -> Iterator[tuple[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """(path, (settings, state)) of every node of the run's reward that had state at the start of this step."""
    config, state = step.meta.get("config"), (step.meta.get("state") or {}).get("reward") or {}
    if not isinstance(config, dict) or "reward" not in config:
        return
    for path, node in logged_configuration(step.meta).reward.walk():
        at: Any = state
        for part in path.split("/")[1:]:
            at = at.get(part, {})
        if "(self)" in at:
            yield path, (dump(node), at["(self)"])


def logged_configuration(meta: Mapping[str, Any]) -> Configuration:
    """The configuration of the run that wrote this step, by the step's meta."""
    return _configuration_of(json.dumps({k: meta["config"][k] for k in PIECES if k in meta["config"]}))


@functools.lru_cache(maxsize=64)  # it is the same in every step of a run
def _configuration_of(pieces: str) -> Configuration:
    return resolve(Configuration, {"name": AS_LOGGED, **json.loads(pieces)}, "the log's config")


def difference(place: str, step: LoggedStep, scores: Scores, advantage: Floats) -> str:
    """The first row where reward, keep, a term or the advantage is not, bit for bit, what was logged; "" where all are."""
    columns = step.columns
    pairs = [("reward", scores.total), ("keep", scores.keep), ("advantage", advantage)]
    pairs += [(f"term/{name}", values) for name, values in scores.terms.items()]
    for name, values in pairs:
        if name not in columns:
            return f"{place}: no column {name!r} to compare with"
        if values.tolist() != columns[name]:
            row = next(i for i, (a, b) in enumerate(zip(values.tolist(), columns[name], strict=True)) if a != b)
            return f"{place}: row {row + 1}: {name} is {values[row]!r} here, {columns[name][row]!r} in the log"
    return ""


def check_groups(place: str, batch: Batch, foreign: Foreign) -> None:
    """Note problems with one rollout, which no group advantage can say anything of."""
    lone = np.flatnonzero(batch.group_size == 1)
    if len(lone):
        row = int(batch.order[batch.starts[lone[0]]])
        foreign.note(
            f"{place}: {len(lone)} of {batch.num_groups} problems have one rollout (first: row {row + 1}, "
            f"{str(batch.problem_id[row])[:60]!r}); a lone rollout is compared with nothing: log several samples a problem"
        )


def check_model(place: str, step: LoggedStep, models: dict[str, Path], log: Path) -> None:
    """Logs of models with different tokenizers have no common length."""
    model = (step.meta.get("config") or step.meta).get("model")
    if not isinstance(model, str) or model in models:
        return
    models[model] = log
    files = {name: locate(name) / "tokenizer.json" for name in models}
    if len({file.read_bytes() for file in files.values() if file.is_file()}) > 1:
        raise TautError(
            f"{place}: of {model}, whose tokenizer is not that of {next(iter(models))} before it; lengths by different "
            "tokenizers cannot be mixed: replay these logs one by one"
        )
