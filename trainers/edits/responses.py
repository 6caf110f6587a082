"""Responses to measure a model on: read from a rollout log, or sampled from problems; and where their thinking lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rewards.errors import TautError
from rollout.engine import EngineConfig
from rollout.paths import locate
from trainers.config import PromptConfig

Pair = tuple[list[int], list[int]]  # (prompt ids, response ids)


class Sampling(BaseModel):
    """How responses are come by, as key=value."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    log: str | None = Field(default=None, description="a rollout parquet of this model, or a folder of them")
    data: str | None = Field(default=None, description="problems to sample responses for, in place of `log`")
    samples: int = Field(default=1, ge=1, description="with `data`: responses a problem")
    max_tokens: int = Field(default=8192, ge=1, description="with `data`: most tokens a response")
    seed: int = Field(default=0, ge=0, description="with `data`")
    prompt: PromptConfig = PromptConfig()
    rollout: EngineConfig = EngineConfig(temperature=0.6)


def responses(c: Sampling, folder: Path, tokenizer: Any) -> list[Pair]:
    """From the log, or sampled now. Raises TautError unless exactly one of them is given."""
    if (c.log is None) == (c.data is None):
        raise TautError("give log=PARQUET or data=PROBLEMS, one of them")
    return logged(Path(c.log)) if c.log is not None else sampled(c, folder, tokenizer)


def thinking(response: Sequence[int], opens: Sequence[int], closes: Sequence[int]) -> tuple[int, int] | None:
    """(start, end) of the thinking tokens between the two marks; from the beginning where it does not open (the prompt did).
    None where it never closes or is empty: such responses are left out, as in the official code."""
    end = _find(response, closes)
    if end is None:
        return None
    at = _find(response[:end], opens)
    start = 0 if at is None else at + len(opens)
    return (start, end) if end > start else None


def _find(ids: Sequence[int], mark: Sequence[int]) -> int | None:
    wanted, n = list(mark), len(mark)
    return next((i for i in range(len(ids) - n + 1) if list(ids[i : i + n]) == wanted), None)


def logged(path: Path) -> list[Pair]:
    """(prompt ids, response ids) of every rollout of a parquet file, or of all files of a folder in order."""
    from rollout.log import read_rollouts

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise TautError(f"log={path}: no parquet files there; give RUN/rollouts or an evaluation's parquet")
    columns = [read_rollouts(file).columns for file in files]
    return [pair for c in columns for pair in zip(c["prompt_ids"], c["token_ids"], strict=True)]


def sampled(c: Sampling, folder: Path, tokenizer: Any) -> list[Pair]:
    """The same for responses that the model gives now to the problems of `data`."""
    from transformers import AutoConfig

    from rollout.choose import make_engine
    from rollout.problems import load_problems
    from rollout.prompts import PromptTemplate, stop_ids
    from rollout.seeds import seed_of
    from rollout.types import Prompt

    template = PromptTemplate(tokenizer, c.prompt.template, c.prompt.system)
    ids = [template.encode(template.render(p)) for p in load_problems(locate(str(c.data))) for _ in range(c.samples)]
    stops, _ = stop_ids(tokenizer, AutoConfig.from_pretrained(folder), None)
    engine = make_engine(c.rollout, str(folder), stops)
    try:
        prompts = [Prompt(p, c.max_tokens, seed_of(c.seed, "validation", i)) for i, p in enumerate(ids)]
        return [(list(p), list(r.token_ids)) for p, r in zip(ids, engine.generate(prompts), strict=True)]
    finally:
        engine.close()
