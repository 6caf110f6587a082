"""Dynamic sampling (DAPO, 2503.14476 eq. 11): groups without signal are made up for by groups of further problems.

Nothing is thrown away: every group is in the log and is observed by rewards with state; those without signal are left out of the
update (`drop_zero_signal`). What has signal is decided on raw verdicts, never on shaped rewards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rewards.progress import Progress
from rollout.sampler import to_batch
from rollout.sampling import Render
from rollout.seeds import generator
from rollout.types import Problem, Request, Rollout
from trainers.config import TrainConfig
from trainers.monitor import zero_signal

FIRST_ID = 1 << 48  # sample ids from here on: no step's own ever get there


def fill_requests(
    config: TrainConfig,
    problems: Sequence[Problem],
    render: Render,
    progress: Progress,
    sampled: Sequence[Rollout],
    turn: int,
) -> list[Request]:
    """As many groups as are without signal in `sampled`, the step's rollouts so far, of problems that are not among them; none
    when `config.prompts` groups have signal, or no problem is left. turn: counts the calls of a step, from 0.

    They are drawn from all problems alike by the place in the run, beside the order of the epochs, which does not move.
    """
    batch = to_batch(sampled)
    lacking = config.prompts - int((~zero_signal(batch)).sum())
    seen, number = {r.request.problem.id for r in sampled}, progress.step * config.fill_rounds + turn
    rng = generator(config.seed, "fill", number)
    chosen = [problems[i] for i in rng.permutation(len(problems)) if problems[i].id not in seen][: max(lacking, 0)]
    if not chosen:
        return []
    group = 1 + max(r.request.group for r in sampled)
    first = FIRST_ID + number * config.prompts * config.sampling.samples
    requests = config.sampling.requests(chosen, render, progress, rng)
    return [dataclasses.replace(r, group=group + r.group, sample_id=first + i) for i, r in enumerate(requests)]
