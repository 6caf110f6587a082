"""What takes part in a run, made from its configuration: problems, policy, optimiser, engine, verifier, restored where it stood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewards.errors import TautError
from rewards.progress import Progress
from rewards.verifier import Verifier
from rollout.engine import make_engine
from rollout.paths import locate
from rollout.problems import load_problems
from rollout.prompts import PromptTemplate, load_tokenizer, stop_ids
from rollout.sampler import Sampler
from rollout.sync import Canary
from rollout.types import Problem
from trainers.config import TrainConfig
from trainers.optim import make_optimizer
from trainers.policy import Policy
from trainers.run import Run
from trainers.update import Updater


@dataclass
class Parts:
    """All that a trainer works with. warnings: what a person should know before the first step."""

    problems: list[Problem]
    heldout: list[Problem]
    tokenizer: Any
    updater: Updater
    sampler: Sampler
    canary: Canary
    warnings: list[str]


def progress_at(step: int, config: TrainConfig) -> Progress:
    """Where a run stands after `step` steps, as rewards and plans see it."""
    cap = config.sampling.cap(Progress(step, config.steps, 1, config.seed))
    return Progress(step, config.steps, cap, config.seed)


def assemble(run: Run) -> Parts:
    """The parts of a run; from its checkpoint, if there is one, with optimiser, reward and plan state put back.

    Raises TautError for a bad model folder, bad data, problems that are both trained on and held out, or a foreign checkpoint.
    """
    config = run.config
    torch.manual_seed(config.seed)  # nothing of ours draws from torch; a model or a plug-in might
    problems = load_problems(locate(config.data), unverifiable=config.unverifiable)
    held = config.heldout
    heldout = load_problems(locate(held.data), held.problems, None, config.unverifiable) if held.data else []
    if shared := {p.id for p in problems} & {p.id for p in heldout}:
        raise TautError(
            f"heldout.data={held.data}: {len(shared)} problems are also trained on, such as {sorted(shared)[0]!r}; "
            "take them out of one"
        )
    source = run.source / "model" if run.source else locate(config.model)
    tokenizer = load_tokenizer(source)
    policy = Policy.load(source, dtype=config.dtype)
    reference = None
    if "ref_log_prob" in config.objective.needs:
        reference = Policy.load(locate(config.kl_reference or config.model), dtype=config.dtype)
    think_end = tokenizer.convert_tokens_to_ids("</think>")
    updater = Updater(
        policy=policy,
        optimizer=make_optimizer(policy.model, config.optim),
        config=config,
        reference=reference,
        think_end=None if think_end == tokenizer.unk_token_id else think_end,
        probe_ids=tuple((position, _one_token(tokenizer, text)) for position, text in config.objective.probe_tokens),
    )
    if run.source and run.state:
        _restore(run.source, run.state, config, updater)
    stops, warnings = stop_ids(tokenizer, policy.model.config, policy.model.generation_config)
    template = PromptTemplate(tokenizer, config.prompt.template, config.prompt.system)
    canary = template.render(problems[0], config.sampling.told_budget(progress_at(run.step, config)))
    engine = make_engine(config.rollout, str(source), stops)
    sampler = Sampler(engine, template, Verifier(**vars(config.verifier)), stops, config.seed)
    return Parts(problems, heldout, tokenizer, updater, sampler, Canary(template.encode(canary)), warnings)


def _restore(source: Path, state: dict[str, Any], config: TrainConfig, updater: Updater) -> None:
    try:
        saved = torch.load(source / "trainer.pt", map_location="cpu", weights_only=True)
        updater.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["torch_rng"])
        config.reward.load_state_dict(state["reward"])
        config.sampling.load_state_dict(state["sampling"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise TautError(f"{source}: not a checkpoint of this run ({error}); remove it, or start a new run") from error


def _one_token(tokenizer: Any, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise TautError(
            f"objective: {text!r} is {len(ids)} tokens in this tokenizer; a mode is named by a single token"
        )
    return ids[0]
