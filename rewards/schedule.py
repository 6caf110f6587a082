"""Numbers that move with training: wherever a reward takes a number, a schedule may stand instead."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from rewards.progress import Progress
from rewards.registry import Node, Registry

SCHEDULES = Registry(
    "schedule",
    {
        "linear": "rewards.schedule:Linear",
        "cosine": "rewards.schedule:Cosine",
        "drops": "rewards.schedule:Drops",
        "piecewise": "rewards.schedule:Piecewise",
        "warmup_cosine_restarts": "rewards.schedule:WarmupCosineRestarts",
    },
)


class Schedule(Node):
    """A pure function of `Progress`: nothing to checkpoint, the step decides."""

    registry: ClassVar[Registry] = SCHEDULES

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        raise NotImplementedError

    def __mul__(self, reward: Any) -> Any:
        return reward.__rmul__(self)


def _tidy(value: float) -> float:
    """To 12 digits: 1000 * 0.7 ** 2 is 490 tokens, not 489.99999999999994, of which the 490th would be over the budget."""
    return float(f"{value:.12g}")


class _Ramp(Schedule):
    start: float = Field(examples=[1.0])
    end: float = Field(examples=[0.0])
    begin: int = Field(default=0, ge=0)
    steps: int | None = Field(default=None, ge=1, description="length of the ramp; None: to the end of training")

    def _share(self, progress: Progress) -> float:
        steps = self.steps or max(progress.total_steps - self.begin, 1)
        return min(max((progress.step - self.begin) / steps, 0.0), 1.0)


class Linear(_Ramp):
    """From `start` to `end` in a straight line over `steps` steps after `begin`, constant before and after."""

    type: Literal["linear"] = "linear"

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        return _tidy(self.start + (self.end - self.start) * self._share(progress))


class Cosine(_Ramp):
    """From `start` to `end` along half a cosine."""

    type: Literal["cosine"] = "cosine"

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * self._share(progress)))


class Drops(Schedule):
    """start * factor ** (step // every): the exponential budget of Train Long, Think Short (2508.08940)."""

    type: Literal["drops"] = "drops"
    start: float = Field(examples=[256])
    factor: float = Field(gt=0, examples=[0.7])
    every: int = Field(ge=1, examples=[150])
    floor: float = 0.0

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        return max(self.floor, _tidy(self.start * self.factor ** (progress.step // self.every)))


class Piecewise(Schedule):
    """Constant stages: `values[i]` from step `from_steps[i]` on (ThinkPrune's caps, AutoThink's stages)."""

    type: Literal["piecewise"] = "piecewise"
    from_steps: list[int] = Field(examples=[[0, 100]])
    values: list[float] = Field(examples=[[4000, 3000]])

    @model_validator(mode="after")
    def _check(self) -> Piecewise:
        steps = self.from_steps
        if len(steps) != len(self.values) or not steps or steps[0] != 0 or sorted(set(steps)) != steps:
            raise ValueError(f"from_steps {steps} must rise from 0 and be as many as values {self.values}")
        return self

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        return self.values[sum(progress.step >= s for s in self.from_steps) - 1]


class WarmupCosineRestarts(Schedule):
    """CANON's schedule of mu (2509.23962): v(t) = start + (hi - start) (t + 1) / warmup for t < warmup, then
    lo + (hi - lo) (1 + cos(pi ((t - warmup) mod C) / C)) / 2 with C = (total - warmup) // cycles; t: rollout steps done.

    It goes on restarting after `total` (None: the planned steps). Published: warmup 30, total 150, 3 cycles of 40; First-
    Inter-Later-Intra hi 1, lo 0.4. First-Intra-Later-Inter is 1 - v for hi 0.6, lo 0, which is start 1, hi 0.4, lo 1.
    """

    type: Literal["warmup_cosine_restarts"] = "warmup_cosine_restarts"
    hi: float = 1.0
    lo: float = 0.4
    start: float = Field(default=0.0, description="where the warm-up begins")
    warmup: int = Field(default=30, ge=0)
    total: int | None = Field(default=150, ge=1)
    cycles: int = Field(default=3, ge=1)

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        if progress.step < self.warmup:
            return self.start + (self.hi - self.start) * (progress.step + 1) / self.warmup
        period = max(((self.total or progress.total_steps) - self.warmup) // self.cycles, 1)
        phase = (progress.step - self.warmup) % period / period
        return self.lo + 0.5 * (self.hi - self.lo) * (1 + math.cos(math.pi * phase))


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number or a schedule, got {value!r}")
    if isinstance(value, str):
        try:
            value = float(value)  # YAML reads 1e-3 as a string
        except ValueError:
            pass  # then it is a schedule's name
    return float(value) if isinstance(value, int | float) else SCHEDULES.build(value)


def _tokens(value: float | Schedule) -> float | Schedule:
    if isinstance(value, float) and value < 0:
        raise ValueError(f"{value:g} tokens is negative; a budget is a number of output tokens, 0 or more")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float | SerializeAsAny[Schedule], BeforeValidator(_number)]
Tokens = Annotated[Number, AfterValidator(_tokens)]


def at(number: float | Schedule, progress: Progress) -> float:
    """The number's value at this step."""
    return number.at(progress) if isinstance(number, Schedule) else number
