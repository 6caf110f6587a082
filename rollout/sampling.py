"""Sampling plans: what is asked of the engine for a step's problems. One plan, one class, one registry line.

A plan decides per rollout the prompt (and the one that is trained, where it differs), a budget told in it, a mode, a
forced prefix and the cap; it may have state (a cap that moves with what was observed), which travels in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny

from rewards.batch import Batch
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.registry import Node, Registry
from rewards.schedule import Tokens, at
from rollout.types import Problem, Request, Rollout

PLANS = Registry(
    "sampling plan",
    {
        "group": "rollout.sampling:GroupPlan",
        "random_budget": "rollout.plans:RandomBudgetPlan",
        "modes": "rollout.plans:ModesPlan",
        "length_controller": "rollout.length_controller:LengthController",
    },
)

Render = Callable[[Problem, "int | None"], str]  # (problem, budget told in the prompt) -> prompt text


class SamplingPlan(Node):
    """Problems in, requests out."""

    registry: ClassVar[Registry] = PLANS

    samples: int = Field(default=8, ge=1, description="rollouts a problem")
    max_tokens: Tokens = Field(default=1024, description="most output tokens a rollout, a number or a schedule")

    @property
    def provides(self) -> frozenset[str]:
        """Optional batch columns that this plan fills in for every training rollout: `budget`, `mode`."""
        return frozenset()

    def cap(self, progress: Progress) -> int:
        """The cap of this step, in tokens; the largest where rollouts differ (it becomes `Progress.max_length`)."""
        cap = int(at(self.max_tokens, progress))
        if cap < 1:
            raise TautError(f"sampling.max_tokens is {cap} at step {progress.step}; give at least 1 token")
        return cap

    def requests(
        self, problems: Sequence[Problem], render: Render, progress: Progress, rng: np.random.Generator
    ) -> list[Request]:
        """All requests of a step: `samples` a problem, group i for problems[i], sample ids unique in the run."""
        raise NotImplementedError

    def told_budget(self, progress: Progress) -> int | None:
        """The budget that prompts tell at this step (held-out tests and monitors use it too); None: none is told."""
        return None

    def first_id(self, problems: Sequence[Problem], progress: Progress) -> int:
        """The step's first sample id; with `samples` a problem no other step has one of those that follow."""
        return progress.step * len(problems) * self.samples

    def read_modes(self, rollouts: Sequence[Rollout]) -> None:
        """Set `mode` of each rollout from what it wrote, where the request did not decide it (AutoThink)."""

    def observe(self, batch: Batch, progress: Progress) -> None:
        """Move the state; once a step, the whole step."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise TautError(
                f"sampling plan {self.type!r} has no state, but the checkpoint holds {sorted(state)} for it"
            )


class GroupPlan(SamplingPlan):
    """`samples` equal requests a problem: plain GRPO. `budget`, where given, is told in the prompt."""

    type: Literal["group"] = "group"
    budget: Tokens | None = Field(default=None, description="tokens told in the prompt, which then has {budget}")

    @property
    def provides(self) -> frozenset[str]:
        """See SamplingPlan."""
        return frozenset() if self.budget is None else frozenset({"budget"})

    def told_budget(self, progress: Progress) -> int | None:
        """See SamplingPlan."""
        return None if self.budget is None else int(at(self.budget, progress))

    def requests(
        self, problems: Sequence[Problem], render: Render, progress: Progress, rng: np.random.Generator
    ) -> list[Request]:
        """See SamplingPlan."""
        cap, budget = self.cap(progress), self.told_budget(progress)
        first = self.first_id(problems, progress)
        return [
            Request(problem, g, first + g * self.samples + k, prompt, cap, budget=budget)
            for g, problem in enumerate(problems)
            for prompt in [render(problem, budget)]
            for k in range(self.samples)
        ]


AnyPlan = Annotated[SerializeAsAny[SamplingPlan], BeforeValidator(PLANS.build)]
