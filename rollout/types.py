"""The records that travel through a step: Problem -> Request -> Completion -> Rollout. Plain data, no behaviour, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rewards.batch import Verdict


@dataclass(frozen=True)
class Problem:
    """One row of a problem set; `id` is stable across shuffles, subsets and resumes (reward state is keyed by it)."""

    id: str
    problem: str
    answer: str
    level: str = ""
    source: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a sampling plan asks for: one rollout of one problem.

    `group`: rollouts with equal `group` are compared with each other. `sample_id` is unique in a run and seeds the sampling.
    `prompt` is the text the engine sees; `train_prompt` the one the policy is trained on where it differs; `prefix` is a
    forced beginning of the response (its tokens count as response tokens, but the engine did not choose them).
    """

    problem: Problem
    group: int
    sample_id: int
    prompt: str
    max_tokens: int
    train_prompt: str | None = None
    prefix: str = ""
    budget: int | None = None
    mode: str | None = None
    origin: str = "train"  # train | monitor | validation


@dataclass(frozen=True)
class Prompt:
    """What an engine gets: token ids, the most new tokens it may add, and the seed that decides every draw."""

    ids: tuple[int, ...]
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """What an engine gives back.

    token_ids: new tokens, the end-of-sequence token included when the model ended by itself.
    log_probs: one per token, nats, of the full softmax at the sampling temperature (no top-p, no top-k).
    finish_reason: "stop" (a stop token was sampled) or "length". versions: policy version per token.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: str
    versions: tuple[int, ...]


@dataclass
class Rollout:
    """A finished, judged response. `token_ids` are prefix plus completion; `forced` of them were not chosen by the engine
    (their log-prob is NaN). `text` is the decoded response without special end tokens, `<think>` tags included."""

    request: Request
    prompt_ids: tuple[int, ...]  # the prompt that is trained on
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: str
    versions: tuple[int, ...]
    text: str
    forced: int = 0
    mode: str | None = None  # the request's, unless the plan reads it from the response (`SamplingPlan.read_modes`)
    tags: frozenset[str] = frozenset()  # tags that the response opens and closes once, one after the other
    verdict: Verdict = Verdict.UNKNOWN
    reason: str = ""
    answer: str = ""  # what the verifier took for the answer; empty when there is none
    format_ok: bool = False
