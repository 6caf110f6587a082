"""What takes part in a run, made from its configuration: problems, policy, optimiser, engine, verifier, restored where it stood."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewards.errors import TautError
from rewards.progress import Progress
from rewards.verifier import Verifier
from rollout.choose import make_engine
from rollout.paths import locate
from rollout.problems import add_reference, between, load_problems
from rollout.prompts import PromptTemplate, load_tokenizer, stop_ids
from rollout.sampler import Sampler
from rollout.sync import Canary
from rollout.types import Problem
from trainers.checks import refuse_without_think_end
from trainers.config import TrainConfig
from trainers.learner import Learner, foreign, make_learner, start_of
from trainers.run import Run


@dataclass
class Parts:
    """All that a trainer works with. loaded: problems in the data, before the difficulty filter. digest: of the problems
    trained on and their references: a resumed run draws from the same. warnings: what a person should know first."""

    problems: list[Problem]
    loaded: int
    digest: str
    heldout: list[Problem]
    tokenizer: Any
    learner: Learner
    sampler: Sampler
    canary: Canary
    warnings: list[str]


def progress_at(step: int, config: TrainConfig) -> Progress:
    """Where a run stands after `step` steps, as rewards and plans see it."""
    cap = config.sampling.cap(Progress(step, config.steps, 1, config.seed))
    return Progress(step, config.steps, cap, config.seed)


def load_training(config: TrainConfig) -> tuple[list[Problem], int]:
    """The problems to train on, and how many the data holds: with reference statistics, within the difficulty asked for."""
    judged_by = vars(config.verifier)
    problems = load_problems(locate(config.data), None, config.columns, config.unverifiable, judged_by)
    loaded = len(problems)
    if config.reference is not None:
        problems = add_reference(problems, locate(config.reference))
    else:
        _check_own_reference(problems, config)
    if config.difficulty is not None:
        problems = between(problems, config.difficulty.low, config.difficulty.high)
    return problems, loaded


def _check_own_reference(problems: list[Problem], config: TrainConfig) -> None:
    """Raises TautError where a method reads reference statistics from the data's own columns, and a problem has none there."""
    for column in sorted((config.reward.needs | config.advantage.needs) & {"reference_accuracy", "reference_length"}):
        most = 1.0 if column == "reference_accuracy" else math.inf
        for problem in problems:
            value = problem.extra.get(column)
            if isinstance(value, int | float) and not isinstance(value, bool):
                if math.isfinite(value) and 0 <= value <= most:
                    continue
            raise TautError(
                f"data={config.data}: problem {problem.id!r} has {column} {value!r}; give every problem a number from 0 "
                f"{'to 1' if most == 1 else 'on'}, or reference=FILE, which `taut eval ... reference=FILE` writes"
            )


def assemble(run: Run) -> Parts:
    """The parts of a run; from its checkpoint, if there is one, with optimiser, reward and plan state put back.

    Raises TautError for a bad model folder, bad data, problems that are both trained on and held out, or a foreign checkpoint.
    """
    config = run.config
    torch.manual_seed(config.seed)  # nothing of ours draws from torch; a model or a plug-in might
    problems, loaded = load_training(config)
    made_of = digest(problems)
    told = []
    if run.source and run.state and run.state.get("problems", made_of) != made_of:
        if not run.new_problems:
            raise TautError(
                f"{run.source}: was made with other problems or references than data={config.data}, "
                f"reference={config.reference} give now; put the files back, or go on with these: taut train "
                f"resume={config.out} data={config.data} (state by problem id is kept), or start a new run"
            )
        told = [f"data={config.data}: other problems than those of {run.source}; state by problem id is kept"]
    held = config.heldout
    columns = config.columns if held.columns is None else held.columns
    judged_by = vars(config.verifier)
    heldout = []
    if held.data:
        heldout = load_problems(locate(held.data), held.problems, columns, config.unverifiable, judged_by)
    if shared := {p.id for p in problems} & {p.id for p in heldout}:
        raise TautError(
            f"heldout.data={held.data}: {len(shared)} problems are also trained on, such as {sorted(shared)[0]!r}; "
            "take them out of one"
        )
    source = run.source / "model" if run.source else locate(config.model)
    tokenizer = load_tokenizer(source)
    think_end = tokenizer.convert_tokens_to_ids("</think>")
    think_end = None if think_end == tokenizer.unk_token_id else think_end
    refuse_without_think_end(config, think_end)
    probes = tuple((position, _one_token(tokenizer, text)) for position, text in config.objective.probe_tokens)
    learner = make_learner(start_of(config, run.source, think_end=think_end, probe_ids=probes))
    try:
        if run.source and run.state:
            learner.restore(run.source)
            _restore(run.source, run.state, config)
        stops, warnings = stop_ids(tokenizer, learner.model_config, learner.generation_config)
        template = PromptTemplate(tokenizer, config.prompt.template, config.prompt.system)
        canary = template.render(problems[0], config.sampling.told_budget(progress_at(run.step, config)))
        # Not from the checkpoint: a worker that is restarted later would find it gone. The weights come with the first sync.
        start = locate(config.model)
        folder = str(start if (start / "config.json").exists() else source)
        engine = make_engine(config.rollout, folder, stops, config.cluster)
    except BaseException:
        learner.close()
        raise
    sampler = Sampler(engine, template, Verifier(**vars(config.verifier)), stops, config.seed)
    return Parts(
        problems,
        loaded,
        made_of,
        heldout,
        tokenizer,
        learner,
        sampler,
        Canary(template.encode(canary)),
        told + warnings,
    )


def digest(problems: list[Problem]) -> str:
    """One number for the problems that a run draws from, their order and their references."""
    rows = [[p.id, p.extra.get("reference_accuracy"), p.extra.get("reference_length")] for p in problems]
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()


def _restore(source: Path, state: dict[str, Any], config: TrainConfig) -> None:
    try:
        config.reward.load_state_dict(state["reward"])
        config.sampling.load_state_dict(state["sampling"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise foreign(source, error) from error


def _one_token(tokenizer: Any, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise TautError(
            f"objective: {text!r} is {len(ids)} tokens in this tokenizer; a mode is named by a single token"
        )
    return ids[0]
