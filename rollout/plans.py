"""Plans that ask for different things: budgets drawn by problem (L1), and modes (AdaptThink, Adaptive Deep Reasoning,
AutoThink): forced beginnings, instructions that are not trained on, caps of their own, modes read from the response."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rewards.errors import TautError
from rewards.progress import Progress
from rewards.schedule import Schedule, Tokens, at
from rollout.sampling import Render, SamplingPlan
from rollout.seeds import generator
from rollout.types import Problem, Request, Rollout

EMPTY_THINKING = r"\s*(?:<think>)?\s*(?:\.\.\.|…)?\s*</think>"


class RandomBudgetPlan(SamplingPlan):
    """L1's budgets (2503.04697): each problem is told n ~ U{low .. high}, the same for all `samples` responses.

    n is a function of run seed, step and place in the step; with `redraw: never` of run seed and problem, as in the
    official data sets, where a row keeps its number. The prompt template must have `{budget}`; the official one ends in
    "Think for {budget} tokens.", for L1-Max "Think for maximum {budget} tokens.". Held-out tests and monitors tell
    `test_budget`, by default the middle. Published: 100 to 4000, cap 4096 (Max 4500), 16 samples.
    """

    paper: ClassVar[str] = "2503.04697"
    type: Literal["random_budget"] = "random_budget"
    max_tokens: Tokens = Field(default=4096, description="most output tokens a rollout, a number or a schedule")
    low: Tokens = Field(default=100, description="least budget, in tokens")
    high: Tokens = Field(default=4000, description="largest budget, in tokens; included")
    redraw: Literal["step", "never"] = Field(
        default="step", description="whether a problem that comes again gets another"
    )
    test_budget: Tokens | None = Field(
        default=None, description="told in held-out tests; None: midway from low to high"
    )

    @model_validator(mode="after")
    def _check(self) -> RandomBudgetPlan:
        low, high, cap = (None if isinstance(x, Schedule) else x for x in (self.low, self.high, self.max_tokens))
        if low is not None and low < 1:
            raise ValueError(f"low={low:g}: a budget is 1 token or more")
        if low is not None and high is not None and low > high:
            raise ValueError(f"low={low:g} is more than high={high:g}; exchange them")
        if high is not None and cap is not None and high > cap:
            raise ValueError(f"high={high:g} is more than max_tokens={cap:g}: no response can use it; raise the cap")
        return self

    @property
    def provides(self) -> frozenset[str]:
        """See SamplingPlan."""
        return frozenset({"budget"})

    def _range(self, progress: Progress) -> tuple[int, int]:
        low, high = int(at(self.low, progress)), int(at(self.high, progress))
        if not 1 <= low <= high:
            raise TautError(f"sampling: low={low}, high={high} at step {progress.step}; budgets need 1 <= low <= high")
        return low, high

    def told_budget(self, progress: Progress) -> int | None:
        """See SamplingPlan."""
        return sum(self._range(progress)) // 2 if self.test_budget is None else int(at(self.test_budget, progress))

    def requests(
        self, problems: Sequence[Problem], render: Render, progress: Progress, rng: np.random.Generator
    ) -> list[Request]:
        """See SamplingPlan."""
        (low, high), cap, first = self._range(progress), self.cap(progress), self.first_id(problems, progress)
        budgets = rng.integers(low, high, len(problems), endpoint=True).tolist()
        if self.redraw == "never":  # numbers from 2**32 on: the stream's lower ones belong to steps
            keys = [2**32 + zlib.crc32(p.id.encode()) for p in problems]
            budgets = [int(generator(progress.seed, "plan", k).integers(low, high, endpoint=True)) for k in keys]
        return [
            Request(problem, g, first + g * self.samples + k, prompt, cap, budget=budget)
            for g, (problem, budget) in enumerate(zip(problems, budgets, strict=True))
            for prompt in [render(problem, budget)]
            for k in range(self.samples)
        ]


class Mode(BaseModel):
    """A part of each group. `share` of the samples or `count`; `prefix`: how its responses begin, whatever the policy would
    write (its tokens count, but earn no gradient); `instruction`: text with `{problem}` that stands in the problem's place;
    `cap`: most output tokens, the prefix included, where it differs from the plan's."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    share: float | None = Field(default=None, gt=0, le=1)
    count: int | None = Field(default=None, ge=1)
    prefix: str = ""
    instruction: str | None = None
    cap: Tokens | None = None

    @model_validator(mode="after")
    def _check(self) -> Mode:
        if (self.share is None) == (self.count is None):
            raise ValueError(f"mode {self.name!r}: give either share or count")
        if self.instruction is not None and "{problem}" not in self.instruction:
            raise ValueError(
                f"mode {self.name!r}: no {{problem}} in {self.instruction!r}; put it where the problem's text belongs"
            )
        return self


class ModesPlan(SamplingPlan):
    """Each group's samples are divided among `modes`, exactly and in their order; without modes all are asked alike.

    With `train_plain` responses to an instruction are trained as responses to the prompt without it. Their engine's
    log-probs are then those under the instruction: the mismatch that is logged contains it.

    `read` names modes by how the response begins (a forced prefix included): a regular expression at its start, or
    `empty_thinking` (`</think>` with nothing but white space, "<think>" or "..." before it). The first that fits counts,
    else `otherwise`; it overrules the mode asked for, so that a response which ignores its instruction is counted as what it
    is. Without `read` the mode is the one asked for. Held-out tests and monitors ask plainly.

    AdaptThink (2505.13417): half of 16 begin with `</think>`, 4k tokens. Adaptive Deep Reasoning (2505.20101): half under a
    long, half under a short instruction; its wording is not published. AutoThink (2505.10832): one mode with the prefix
    "<think>\\n...\\n" (less what the chat template writes), which the policy may go on from either way, read afterwards.
    """

    type: Literal["modes"] = "modes"
    modes: list[Mode] = Field(default=[], description="the parts of each group; none: all responses are asked alike")
    train_plain: bool = True
    read: dict[str, str] = Field(default={}, description="mode: how its responses begin; the first that fits counts")
    otherwise: str | None = Field(default=None, description="the mode of responses that nothing in `read` fits")

    @field_validator("read")
    @classmethod
    def _compiles(cls, read: dict[str, str]) -> dict[str, str]:
        for name, pattern in read.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}: {pattern!r} is not a regular expression ({error}); escape it") from None
        return read

    @model_validator(mode="after")
    def _check(self) -> ModesPlan:
        self.counts()
        if self.otherwise is not None and not self.read:
            raise ValueError(f"otherwise={self.otherwise!r} is of use with `read` only; add it, or leave it out")
        return self

    @property
    def provides(self) -> frozenset[str]:
        """See SamplingPlan."""
        return frozenset({"mode"}) if self.modes or self.read else frozenset()

    def counts(self) -> list[int]:
        """Responses a problem by mode. Raises ValueError, with the numbers, where `samples` do not divide as asked."""
        out = []
        for mode in self.modes:
            wanted = mode.count or (mode.share or 0.0) * self.samples
            out.append(round(wanted))
            if abs(out[-1] - wanted) > 0.01 or out[-1] < 1:
                raise ValueError(
                    f"mode {mode.name!r}: share {mode.share:g} of samples={self.samples} is {wanted:g} responses; "
                    "choose samples that divide, or give count"
                )
        if self.modes and sum(out) != self.samples:
            parts = " + ".join(f"{n} {mode.name}" for mode, n in zip(self.modes, out, strict=True))
            raise ValueError(f"modes ask for {parts} = {sum(out)} responses a problem, but samples={self.samples}")
        return out

    def _cap(self, mode: Mode, progress: Progress) -> int:
        cap = super().cap(progress) if mode.cap is None else int(at(mode.cap, progress))
        if cap < 1:
            raise TautError(
                f"sampling: the cap of mode {mode.name!r} is {cap} at step {progress.step}; give at least 1"
            )
        return cap

    def cap(self, progress: Progress) -> int:
        """See SamplingPlan."""
        return max((self._cap(mode, progress) for mode in self.modes), default=super().cap(progress))

    def requests(
        self, problems: Sequence[Problem], render: Render, progress: Progress, rng: np.random.Generator
    ) -> list[Request]:
        """See SamplingPlan."""
        first, cap, out = self.first_id(problems, progress), self.cap(progress), []
        parts = [(mode, n, self._cap(mode, progress)) for mode, n in zip(self.modes, self.counts(), strict=True)]
        for g, problem in enumerate(problems):
            plain, asked = render(problem, None), []
            for mode, n, most in parts:
                prompt, trained = plain, None
                if mode.instruction is not None:
                    text = mode.instruction.replace("{problem}", problem.problem)
                    prompt = render(replace(problem, problem=text), None)
                    trained = plain if self.train_plain else None
                asked += [(prompt, most, trained, mode.prefix, None, mode.name)] * n
            for k, settings in enumerate(asked or [(plain, cap)] * self.samples):
                out.append(Request(problem, g, first + g * self.samples + k, *settings))
        return out

    def read_modes(self, rollouts: Sequence[Rollout]) -> None:
        """See SamplingPlan."""
        rules = [(n, re.compile(EMPTY_THINKING if p == "empty_thinking" else p, re.S)) for n, p in self.read.items()]
        for rollout in rollouts if rules else ():
            rollout.mode = next((name for name, rule in rules if rule.match(rollout.text)), self.otherwise)
