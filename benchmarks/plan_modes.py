"""Training steps on a simulated clock: sampling on a pool of workers, the trainer, and who waits for whom in each mode.

It follows `trainers.pipeline`: step t may be asked for once version t - K is there, parts of it are sampled by the newest weights
(async) or by those of the moment when it was asked for (sync, overlap), the engines take up steps in order, and new weights are
loaded between two parts. Engines and trainer are taken to have cores or GPUs of their own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from benchmarks.plan_pool import EngineCost, Item, simulate
from rollout.schedule import Feed

Mode = Literal["sync", "overlap", "async"]


@dataclass(frozen=True)
class TrainerCost:
    """Seconds: of a step whatever it holds, and for each of its tokens (prompts included); of handing out new weights, and of
    loading them in all engines. ranks: trainers among which the tokens are divided."""

    fixed_s: float
    token_s: float
    publish_s: float = 0.0
    load_s: float = 0.0
    ranks: int = 1

    def step(self, tokens: int) -> float:
        """Seconds of a step on so many tokens."""
        return self.fixed_s + self.token_s * tokens / self.ranks


@dataclass(frozen=True)
class Plan:
    """What is to be simulated. ahead: versions that a rollout may be behind (K); parts: pieces of a step between which new
    weights are loaded."""

    mode: Mode
    workers: int
    engine: EngineCost
    trainer: TrainerCost
    feed: Feed = "fixed"
    max_staleness: int = 1
    parts: int = 1

    @property
    def ahead(self) -> int:
        """How many steps sampling may be ahead of training."""
        return {"sync": 0, "overlap": 1, "async": self.max_staleness}[self.mode]


@dataclass(frozen=True)
class Predicted:
    """Of the steps after the first few: median seconds of one; sampled tokens a second; the share of their time that workers and
    trainer work; versions that tokens are behind, on average and at most."""

    step_s: float
    tokens_per_s: float
    workers_busy: float
    trainer_busy: float
    staleness: float
    staleness_max: int


def run(plan: Plan, draw: Callable[[int], Sequence[Sequence[Item]]], steps: int) -> Predicted:
    """Simulate `steps` steps, at least one; draw(t): the groups of step t."""
    ends: list[float] = []  # of training each step: then its version is there
    busy, works, tokens, ages = list[float](), list[float](), list[int](), list[list[int]]()
    free, loaded = 0.0, 0
    for t in range(steps):
        groups = draw(t)
        asked = ends[t - plan.ahead - 1] if t > plan.ahead else 0.0
        free, worked, versions = _sample(plan, groups, max(free, asked), max(t - plan.ahead, 0), ends, loaded)
        loaded = versions[-1]
        count = sum(i.tokens for g in groups for i in g)
        work = plan.trainer.publish_s + plan.trainer.step(count + sum(g[0].prompt * len(g) for g in groups if g))
        ends.append(max(ends[-1] if ends else 0.0, free) + work)
        busy, works, tokens, ages = (
            [*busy, worked],
            [*works, work],
            [*tokens, count],
            [*ages, [t - v for v in versions]],
        )
    warm = min(plan.ahead + 2, steps - 1)  # until the pipe is full
    spans = [b - a for a, b in zip([0.0, *ends], ends, strict=False)][warm:]
    return Predicted(
        step_s=median(spans),
        tokens_per_s=sum(tokens[warm:]) / sum(spans),
        workers_busy=sum(busy[warm:]) / sum(spans) / plan.workers,
        trainer_busy=sum(works[warm:]) / sum(spans),
        staleness=fmean(age for step in ages[warm:] for age in step),
        staleness_max=max(age for step in ages for age in step),
    )


def _sample(
    plan: Plan, groups: Sequence[Sequence[Item]], now: float, pinned: int, ends: Sequence[float], loaded: int
) -> tuple[float, float, list[int]]:
    """(when the step is whole, seconds of work of all workers, version of each of its parts)."""
    worked, versions = 0.0, list[int]()
    cuts = sorted({len(groups) * k // plan.parts for k in range(plan.parts)})
    for a, b in zip(cuts, [*cuts[1:], len(groups)], strict=True):
        version = bisect_right(ends, now) if plan.mode == "async" else pinned
        if version != loaded:
            now, loaded = now + plan.trainer.load_s, version
        call = simulate([i for g in groups[a:b] for i in g], plan.workers, plan.feed, plan.engine, now)
        now, worked = now + call.seconds, worked + sum(call.busy)
        versions.append(version)
    return now, worked, versions
