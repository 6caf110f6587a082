"""A cap that shrinks with training: the adaptive truncation of LASER's repository (2505.15612, hkust-nlp/Laser,
`verl/trainer/ppo/len_ctrl.py`). The paper's own runs keep it constant; no number of it is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from rewards.batch import Batch
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.schedule import Tokens
from rollout.sampling import GroupPlan, Render, SamplingPlan
from rollout.types import Problem, Request

SLACK = 1e-9  # shares are quotients of counts: 0.7 - 0.8 is a rounding error below -0.1


class LengthController(SamplingPlan):
    """`samples` equal requests a problem, capped at c(s), s = 1 for the first step: c = max(min_tokens, c - reduction) whenever

    - constant: never;
    - interval_reduction: s >= start_step and (s - start_step) mod interval = 0, so already at s = start_step;
    - monitor_clip_ratio: the share of truncated rollouts was <= target_clip_ratio in target_acc_times steps in a row (the
      count begins at start_step, and anew after each reduction);
    - monitor_passk_distribution: cutting at c - reduction would have lost at most target_comparison_num of the problems
      that have target_passk_k right answers or more.
    What is measured in a step moves the cap of the next; the first step moves nothing. A step without a known verdict
    moves nothing either. The cap never rises.

    Settings are named and preset as in the repository, but for `max_tokens` (its init_length) and `min_tokens` (its
    min_length, there the starting cap itself: set it, or nothing moves). The repository verifies the cut text again; here a
    right answer counts when the whole response fits, which is stricter where an answer comes early. Its clip ratio counts
    responses as long as the padded batch; here those that hit the step's cap.
    """

    paper: ClassVar[str] = "2505.15612"
    type: Literal["length_controller"] = "length_controller"
    max_tokens: Tokens = Field(default=16384, description="the cap at the start, a number")
    min_tokens: int = Field(ge=1, examples=[1024], description="the cap never falls below it")
    strategy: Literal["constant", "interval_reduction", "monitor_clip_ratio", "monitor_passk_distribution"] = "constant"
    start_step: int = Field(default=1, ge=1, description="first step, counted from 1, at which the cap may move")
    interval: int = Field(default=10, ge=1, description="interval_reduction: steps between reductions")
    reduction: int = Field(default=1024, ge=1, description="tokens taken off at once")
    target_clip_ratio: float = Field(
        default=0.1, ge=0, le=1, description="monitor_clip_ratio: share of truncated rollouts"
    )
    target_acc_times: int = Field(default=5, ge=1, description="monitor_clip_ratio: steps in a row")
    target_passk_k: int = Field(default=1, ge=1, description="monitor_passk_distribution: right answers a problem")
    target_comparison_num: float = Field(
        default=0.1, ge=0, le=1, description="monitor_passk_distribution: share of the problems that may be lost"
    )
    _cap: int | None = PrivateAttr(default=None)  # None: nothing has moved it yet
    _good: int = PrivateAttr(default=0)  # steps in a row within target_clip_ratio

    @model_validator(mode="after")
    def _check(self) -> LengthController:
        if not isinstance(self.max_tokens, int):
            raise ValueError("max_tokens is where the cap starts: give a whole number, the strategy moves it")
        if self.max_tokens < self.min_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens} is below min_tokens={self.min_tokens}; start at or above it"
            )
        if self.strategy == "monitor_passk_distribution" and self.target_passk_k > self.samples:
            raise ValueError(
                f"target_passk_k={self.target_passk_k} of samples={self.samples}: give at most {self.samples}"
            )
        return self

    @property
    def _monitors(self) -> bool:
        return self.strategy.startswith("monitor")

    def cap(self, progress: Progress) -> int:
        """See SamplingPlan."""
        start = int(self.max_tokens)  # type: ignore[arg-type]
        if self.strategy == "interval_reduction":  # in closed form: the step decides, nothing to remember
            times = (progress.step + 1 - self.start_step) // self.interval + 1
            return max(start - max(times, 0) * self.reduction, self.min_tokens)
        return start if self._cap is None else self._cap

    def requests(
        self, problems: Sequence[Problem], render: Render, progress: Progress, rng: np.random.Generator
    ) -> list[Request]:
        """See SamplingPlan."""
        return GroupPlan(samples=self.samples, max_tokens=self.cap(progress)).requests(problems, render, progress, rng)

    def observe(self, batch: Batch, progress: Progress) -> None:
        """See SamplingPlan."""
        batch = batch.take(batch.known & (batch.origin == "train"))
        if self._monitors and len(batch):
            fits = batch.correct & (batch.length <= max(self.cap(progress) - self.reduction, self.min_tokens))
            passed, passed_cut = (batch.group_count(x) >= self.target_passk_k for x in (batch.correct, fits))
            difference = float(passed_cut.mean() - passed.mean())
            self.move(progress.step + 2, float(batch.truncated.mean()), difference)

    def move(self, step: int, clip_ratio: float | None, passk_difference: float | None) -> None:
        """Move the cap before `step` (counted from 1) by what was measured in the step before; None: nothing was.

        clip_ratio: share of truncated rollouts. passk_difference: share of problems passed at the shorter cut minus at the cap.
        """
        if step < self.start_step:
            return
        shrink = False
        if self.strategy == "monitor_clip_ratio" and clip_ratio is not None:
            self._good = self._good + 1 if clip_ratio <= self.target_clip_ratio + SLACK else 0
            shrink = self._good >= self.target_acc_times
        elif self.strategy == "monitor_passk_distribution" and passk_difference is not None:
            shrink = passk_difference >= -self.target_comparison_num - SLACK
        if shrink:
            self._good, self._cap = 0, max(self.cap(Progress()) - self.reduction, self.min_tokens)

    def state_dict(self) -> dict[str, Any]:
        """See SamplingPlan."""
        return {"cap": self.cap(Progress()), "good": self._good} if self._monitors else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See SamplingPlan."""
        if not self._monitors:
            return super().load_state_dict(state)
        cap, good = state.get("cap"), state.get("good")
        if state.keys() != {"cap", "good"} or not isinstance(cap, int) or not isinstance(good, int):
            raise TautError(
                f"sampling plan {self.type!r}: needs its state {{cap, good}}, but the checkpoint holds {state or 'none'}; "
                "use the plan that wrote it, or start a new run"
            )
        self._cap, self._good = cap, good
