"""What an advantage is: (batch, scores, progress) -> (N,) float64, or (N, T) where tokens differ.

Rollouts whose `scores.keep` is False (unknown verdict, filtered) are absent from every statistic and get 0. Results
do not depend on the order of the rollouts. To add a method: one file with one class, one line in `ADVANTAGES`; fill
in `of_group` for what one group decides by itself, `compute` for everything else.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny

from rewards.base import Scores
from rewards.batch import Batch, Floats
from rewards.progress import Progress
from rewards.registry import Node, Registry

ADVANTAGES = Registry(
    "advantage",
    {
        "grpo": "trainers.advantages.grpo:Grpo",
        "dr_grpo": "trainers.advantages.dr_grpo:DrGrpo",
        "rloo": "trainers.advantages.rloo:Rloo",
    },
)


class Advantage(Node):
    """How scores become advantages. Call it; subclasses fill in `compute`. Fields are the settings."""

    registry: ClassVar[Registry] = ADVANTAGES

    @property
    def needs(self) -> frozenset[str]:
        """Optional batch columns that it reads (CANON: entropy_all)."""
        return frozenset()

    def compute(self, batch: Batch, scores: Scores, progress: Progress) -> Floats:
        """(N,) or (N, T). Rows with `scores.keep` False may hold anything finite. Pure."""
        raise NotImplementedError

    def __call__(self, batch: Batch, scores: Scores, progress: Progress | None = None) -> Floats:
        """(N,) float64, spread over a response's tokens by the objective; or (N, T), T at least the longest response,
        column t for response token t. 0 where `scores.keep` is False.

        Raises ValueError for scores of another length, a kept score that is not finite, or a result of another shape.
        """
        n = len(batch)
        if scores.total.shape != (n,) or scores.keep.shape != (n,):
            raise ValueError(f"{self.type}: scores of shape {scores.total.shape} for {n} rollouts")
        bad = np.flatnonzero(scores.keep & ~np.isfinite(scores.total))
        if len(bad):
            raise ValueError(
                f"{self.type}: the score of rollout {bad[0]} is {scores.total[bad[0]]}; set its keep to False"
            )
        out = np.asarray(self.compute(batch, scores, progress or Progress()), dtype=np.float64)
        longest = int(batch.length.max(initial=0))
        if out.shape[:1] != (n,) or out.ndim > 2 or (out.ndim == 2 and out.shape[1] < longest):
            raise ValueError(f"{self.type}: advantages of shape {out.shape} for {n} rollouts of up to {longest} tokens")
        out[~scores.keep] = 0.0
        return out


class GroupAdvantage(Advantage):
    """An advantage that each group decides by itself from its kept rewards.

    singleton: what the only kept rollout of a group gets: "zero" (nothing to compare it with), or "raw" (the method's
    formula with mean 0 and std 1, as verl does).
    """

    singleton: Literal["zero", "raw"] = "zero"

    def of_group(self, rewards: Floats) -> Floats:
        """(n,) advantages of one group of n >= 2 kept rewards that are not all equal."""
        raise NotImplementedError

    def of_singleton(self, reward: Floats) -> Floats:
        """(1,) advantage of a lone rollout where singleton is "raw"."""
        return reward

    def compute(self, batch: Batch, scores: Scores, progress: Progress) -> Floats:
        """(N,). Equal rewards give exactly 0, also where their mean is not representable."""
        out = np.zeros(len(batch))
        for rows in batch.groups():
            rows = rows[scores.keep[rows]]
            rewards = scores.total[rows]
            if len(rows) == 1 and self.singleton == "raw":
                out[rows] = self.of_singleton(rewards)
            elif len(rows) > 1 and rewards.max() > rewards.min():
                out[rows] = self.of_group(rewards)
        return out


def build_advantage(value: Any) -> Advantage:
    """An advantage from a name, a mapping with `type`, or an advantage. Raises ValueError naming the nearest known
    name."""
    advantage = ADVANTAGES.build(value)
    if not isinstance(advantage, Advantage):
        raise ValueError(f"expected an advantage, got {value!r}")
    return advantage


AnyAdvantage = Annotated[SerializeAsAny[Advantage], BeforeValidator(build_advantage)]
