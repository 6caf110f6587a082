"""What an advantage is: (batch, scores, progress) -> (N,) float64, or (N, T) where tokens differ.

Rollouts whose `scores.keep` is False (unknown verdict, filtered) are absent from every statistic and get 0. Results
do not depend on the order of the rollouts. To add a method: one file with one class, one line in `ADVANTAGES`; fill
in `of_groups` for what each group decides by itself, `compute` for everything else.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny

from rewards.base import Scores
from rewards.batch import Batch, Floats
from rewards.errors import TautError
from rewards.progress import Progress
from rewards.registry import Node, Registry

ADVANTAGES = Registry(
    "advantage",
    {
        "grpo": "trainers.advantages.grpo:Grpo",
        "dr_grpo": "trainers.advantages.dr_grpo:DrGrpo",
        "rloo": "trainers.advantages.rloo:Rloo",
        "batch_std": "trainers.advantages.batch_std:BatchStd",
        "length_rank": "trainers.advantages.length_rank:LengthRank",
        "canon": "trainers.advantages.canon:Canon",
        "drpo": "trainers.advantages.drpo:DrpoAdvantage",
        "raw": "trainers.advantages.raw:Raw",
    },
)


class Advantage(Node):
    """How scores become advantages. Call it; subclasses fill in `compute`. Fields are the settings."""

    registry: ClassVar[Registry] = ADVANTAGES
    grouped: ClassVar[bool] = True  # whether it compares rollouts of one prompt

    @property
    def needs(self) -> frozenset[str]:
        """Optional batch columns that it reads (CANON: entropy_all)."""
        return frozenset()

    def compute(self, batch: Batch, reward: Floats, progress: Progress) -> Floats:
        """(N,) or (N, T) for rewards (N,). All rollouts here are kept, with known verdicts and finite rewards. Pure."""
        raise NotImplementedError

    def __call__(self, batch: Batch, scores: Scores, progress: Progress | None = None) -> Floats:
        """(N,) float64, spread over a response's tokens by the objective; or (N, T), T at least the longest response,
        column t for response token t. 0 where `scores.keep` is False.

        Raises TautError for a batch without groups, without a column in `needs` or with one that is not finite; ValueError
        for scores of another length, a kept score that is not finite, or a result of another shape.
        """
        n, keep = len(batch), scores.keep
        if scores.total.shape != (n,) or keep.shape != (n,):
            raise ValueError(f"{self.type}: scores of shape {scores.total.shape} for {n} rollouts")
        bad = np.flatnonzero(keep & ~np.isfinite(scores.total))
        if len(bad):
            raise ValueError(
                f"{self.type}: the score of rollout {bad[0]} is {scores.total[bad[0]]}; set its keep to False"
            )
        if self.grouped and not batch.grouped:
            raise TautError(f"advantage {self.type}: compares rollouts of one prompt; give the batch group=[...]")
        lacking = [column for column in sorted(self.needs) if getattr(batch, column) is None]
        if lacking:
            raise TautError(
                f"advantage {self.type}: needs the column {lacking[0]!r}, which this batch lacks; give it, or use another"
            )
        for column in sorted(self.needs):  # a NaN would be ranked or weighted like a number
            if len(bad := np.flatnonzero(keep & (batch.length > 0) & ~np.isfinite(getattr(batch, column)))):
                raise TautError(
                    f"advantage {self.type}: {column} is {getattr(batch, column)[bad[0]]} for problem "
                    f"{batch.problem_id[bad[0]]!r} (length {batch.length[bad[0]]}); give a number, or set its keep to False"
                )
        whole = bool(keep.all())
        part, reward = (batch, scores.total) if whole else (batch.take(keep), scores.total[keep])
        got = np.asarray(self.compute(part, reward, progress or Progress()), dtype=np.float64)
        longest = int(part.length.max(initial=0))
        if got.shape[:1] != (len(part),) or got.ndim > 2 or (got.ndim == 2 and got.shape[1] < longest):
            raise ValueError(
                f"{self.type}: advantages of shape {got.shape} for {len(part)} rollouts of up to {longest} tokens"
            )
        if whole:
            return got
        out: Floats = np.zeros((n, *got.shape[1:]))
        out[keep] = got
        if out.ndim == 2 and out.shape[1] < (width := int(batch.length.max(initial=0))):
            out = np.pad(out, ((0, 0), (0, width - out.shape[1])))
        return out


class GroupAdvantage(Advantage):
    """An advantage that each group decides by itself from its kept rewards; equal rewards give exactly 0.

    singleton: what the only kept rollout of a group gets: "zero" (nothing to compare it with), or "raw" (the method's
    formula with mean 0 and std 1, as verl does).
    """

    singleton: Literal["zero", "raw"] = "zero"

    def of_groups(self, batch: Batch, reward: Floats) -> Floats:
        """(N,) advantages, by the batch's group statistics. What it gives to groups of one or of equal rewards is not used."""
        raise NotImplementedError

    def of_singleton(self, reward: Floats) -> Floats:
        """(n,) advantages of lone rollouts where singleton is "raw"."""
        return reward

    def compute(self, batch: Batch, reward: Floats, progress: Progress) -> Floats:
        """(N,)."""
        varied = batch.group_min(reward) < batch.group_max(reward)
        out = self.of_groups(batch, reward) * batch.spread(varied)
        if self.singleton == "raw" and (batch.group_size == 1).any():
            out = np.where(batch.spread(batch.group_size == 1), self.of_singleton(reward), out)
        return out


def build_advantage(value: Any) -> Advantage:
    """An advantage from a name, a mapping with `type`, or an advantage. Raises ValueError naming the nearest known
    name."""
    advantage = ADVANTAGES.build(value)
    if not isinstance(advantage, Advantage):
        raise ValueError(f"expected an advantage, got {value!r}")
    return advantage


AnyAdvantage = Annotated[SerializeAsAny[Advantage], BeforeValidator(build_advantage)]
