"""Length-rank GRPO: rollouts of equal length rank are compared across prompts (LASER's repository, `length_grpo` in
verl/trainer/ppo/core_algos.py; not in the paper 2505.15612)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.batch import Batch, Floats
from rewards.progress import Progress
from rewards.ranks import group_rank
from rewards.schedule import Number, at
from trainers.advantages.base import Advantage
from trainers.advantages.grpo import Grpo


class LengthRank(Advantage):
    """(1 - weight) A_grpo + weight A_rank. A_rank: rank the rollouts of a group by length (shortest 0, ties by sample_id),
    then (r - mean) / (std + eps) over all groups' rollouts of equal rank.

    A rank that only one rollout has, and ranks of equal rewards: A_rank 0. So with one group A_rank is 0 everywhere, and
    groups of unequal size leave their longest rollouts with few to compare with. A_rank keeps no baseline of its own prompt.
    singleton: a lone rollout of a prompt gets "zero" (it still counts among its rank), or "raw", both parts as in the official
    code. No weight is published; 0.5 is ours, 1 is A_rank alone.
    """

    type: Literal["length_rank"] = "length_rank"
    paper: ClassVar[str] = "2505.15612"
    weight: Number = 0.5
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-6, gt=0)
    singleton: Literal["zero", "raw"] = "zero"

    def of_ranks(self, batch: Batch, reward: Floats) -> Floats:
        """(N,) A_rank."""
        order = batch.order  # summed in one order, whatever arrived first
        rank, r = group_rank(batch, batch.length)[order], reward[order]
        ranks = int(rank.max(initial=-1)) + 1
        low, high = np.full(ranks, np.inf), np.full(ranks, -np.inf)
        np.minimum.at(low, rank, r)
        np.maximum.at(high, rank, r)
        count = np.bincount(rank, minlength=ranks)
        mean = np.bincount(rank, r, ranks) / np.maximum(count, 1)
        std = np.sqrt(np.bincount(rank, (r - mean[rank]) ** 2, ranks) / np.maximum(count - self.ddof, 1))
        out = np.empty(len(batch))
        out[order] = np.where((low < high)[rank], (r - mean[rank]) / (std[rank] + self.eps), 0.0)
        return out

    def compute(self, batch: Batch, reward: Floats, progress: Progress) -> Floats:
        """(N,)."""
        weight = at(self.weight, progress)
        grpo = Grpo(ddof=self.ddof, eps=self.eps, singleton=self.singleton).compute(batch, reward, progress)
        out = (1.0 - weight) * grpo + weight * self.of_ranks(batch, reward)
        return out if self.singleton == "raw" else np.where(batch.spread(batch.group_size == 1), 0.0, out)
