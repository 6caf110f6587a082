"""Where a run stands: all that a reward may know of training besides the batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """step: rollout steps done before this one (0 at first); total_steps: planned; max_length: the largest response the
    context allows, in tokens; seed: the run's."""

    step: int = 0
    total_steps: int = 1
    max_length: int = 1
    seed: int = 0
