"""What the seams of another trainer can carry: which recipe gives there, number for number, what it gives here, and why another
does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.batch import Batch
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.schedule import Schedule
from rollout.length_controller import LengthController
from rollout.plans import ModesPlan
from rollout.sampling import GroupPlan
from trainers.checks import ignored, lone, rescaled
from trainers.config import TrainConfig
from trainers.shaping import shape

ROWS = frozenset({"format_ok", "tags", "tokens"})  # columns that the response itself gives
DATA = ("budget", "reference_accuracy", "reference_length")  # columns that the data set may bring for each problem
TOLERANCE = 1e-9
GROUPS = 32  # of the batch that tells whether advantages add up to zero


class NotCarried(ValueError):
    """Why a piece cannot be carried."""


@dataclass(frozen=True)
class Seam:
    """What one framework gives and takes. columns: batch columns it can fill beyond those of the data; centred: it subtracts the
    mean of each group, so that only advantages which add up to zero come through; settings: the framework's own settings for a
    recipe, as it spells them; raises NotCarried for an objective that it has not."""

    name: str
    columns: frozenset[str]
    centred: bool
    settings: Callable[[TrainConfig], dict[str, Any]]


def reasons(config: TrainConfig, seam: Seam) -> Iterator[str]:
    """What stands against this recipe there, a line each; nothing where it is carried."""
    yield from ignored(config)
    yield from lone(config)
    yield from rescaled(config)
    yield from _plan(config)
    found = list(_columns(config, seam))
    yield from found
    try:
        seam.settings(config)
    except NotCarried as error:
        yield str(error)
    if seam.centred and not found and config.objective.reads_advantage and drift(config) > TOLERANCE:
        yield (
            f"advantage {config.advantage.type}: does not add up to zero in a group, and {seam.name} subtracts the group's mean; "
            "use an advantage that does, such as dr_grpo, or another trainer"
        )


def refuse(config: TrainConfig, seam: Seam) -> None:
    """Raises TautError with all that stands against this recipe there."""
    if lines := list(reasons(config, seam)):
        shown = "\n".join(f"  {line}" for line in lines)
        raise TautError(f"{seam.name} cannot carry this recipe:\n{shown}\n  docs/frameworks.md lists those that it can")


def _plan(config: TrainConfig) -> Iterator[str]:
    plan = config.sampling
    if isinstance(plan, ModesPlan) and plan.provides:
        yield f"sampling {plan.type}: responses with forced beginnings or instructions of their own are not sampled there"
    elif isinstance(plan, LengthController):
        yield f"sampling {plan.type}: moves the cap during training, which is fixed there"
    elif isinstance(plan.max_tokens, Schedule):
        yield f"sampling.max_tokens: is a schedule ({plan.max_tokens.type}), and the cap is fixed there; give a number"
    if isinstance(plan, GroupPlan) and isinstance(plan.budget, Schedule):
        yield (
            f"sampling.budget: is a schedule ({plan.budget.type}) that prompts tell, and the data set's prompts are fixed there"
        )
    if config.fill_rounds:
        yield f"fill_rounds={config.fill_rounds}: further problems in mid-step are not sampled there"


def _columns(config: TrainConfig, seam: Seam) -> Iterator[str]:
    readers = [(f"reward {path}", node.own_needs) for path, node in config.reward.walk()]
    readers.append((f"advantage {config.advantage.type}", config.advantage.needs))
    for who, needs in readers:
        for column in sorted(needs - seam.columns - {*DATA} - ROWS):
            yield f"{who}: needs the column {column!r}, which no seam of {seam.name} gives"


def from_data(config: TrainConfig) -> list[str]:
    """The columns that the data set must bring for this recipe."""
    needs = config.reward.needs | config.advantage.needs
    return [column for column in DATA if column in needs]


def drift(config: TrainConfig, unknown: bool = False) -> float:
    """The largest sum of a group's advantages, relative to the largest advantage, over groups of every kind; unknown: with
    verdicts that are missing."""
    config = deepcopy(config)
    rng, worst = np.random.default_rng(0), 0.0
    for step in range(3):
        batch = example(config, rng, unknown)
        progress = Progress(step, config.steps, int(batch.max_tokens[0]), config.seed)
        advantage = shape(config, batch, progress)[1]
        if advantage.ndim == 2:
            return float("inf")
        sums = np.abs(batch.group_sum(advantage)).max()
        worst = max(worst, float(sums) / max(float(np.abs(advantage).max()), 1e-12))
        config.reward.observe(batch, progress)
    return worst


def example(config: TrainConfig, rng: np.random.Generator, unknown: bool = False) -> Batch:
    """A batch with every column and groups of every kind, for this recipe's group size and cap."""
    size, cap = config.sampling.samples, config.sampling.cap(Progress(0, config.steps, 1, config.seed))
    group = np.repeat(np.arange(GROUPS), size)
    n = len(group)
    length = rng.integers(1, cap + 1, n)
    ease = rng.random(GROUPS)[group]
    truncated = rng.random(n) < 0.1
    length = np.where(truncated, cap, length)
    verdict = ((rng.random(n) < ease) & ~truncated).astype(int)
    if unknown:
        verdict = np.where(rng.random(n) < 0.1, -1, verdict)
    tags = [frozenset(), frozenset({"think"}), frozenset({"think", "answer"})]
    shared = rng.random(GROUPS)[group]
    return Batch(
        group, length, verdict, truncated=truncated, max_tokens=np.full(n, cap),
        problem_id=[f"p{g}" for g in group], format_ok=rng.random(n) < 0.8, tags=[tags[i] for i in rng.integers(0, 3, n)],
        mode=["think" if i % 2 else "no_think" for i in range(n)], budget=np.ceil(shared * cap),
        tokens=[rng.integers(0, 50, 20) for _ in range(n)], reference_accuracy=shared, reference_length=np.ceil(shared * cap),
        mean_log_prob=-rng.random(n), entropy_temperature=np.ones(n),
        **{f"{p}entropy_{q}": rng.random(n) for p in ("", "untempered_") for q in ("all", "think", "answer")},
    )  # fmt: skip
