"""GFPO: sample many, train on the k best of each group (Sample More to Think Less, 2508.09726)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from rewards.batch import Batch, Bools
from rewards.conditions import Condition
from rewards.progress import Progress
from rewards.ranks import group_rank


class BestOfGroup(Condition):
    """The k rollouts of each group that are best by `by`; for `keep`, so that mean and std are of the kept alone and the
    others get no gradient. It decides single rollouts by looking at their group.

    by: "length", the shortest, whatever the verdict (so a group without a correct rollout keeps its shortest wrong ones);
    "efficiency", most reward per token: correct / length, so correct ones come first and wrong ones are all alike. Ties by
    sample_id. Groups of k or fewer are kept whole. Published: k 6 or 8 of 8 to 24 samples.

    by_difficulty: four k's from the easiest to the hardest quarter of the step's groups by their share of correct
    rollouts, in place of k (paper: 4, 6, 8, 8 of 16). The paper keeps running quartiles over training; ours are those of the
    step, without state. A group at a quartile counts as the harder, so equally hard groups all take the last.
    """

    type: Literal["best_of_group"] = "best_of_group"
    paper: ClassVar[str] = "2508.09726"
    own_scope: ClassVar[Literal["rollout", "group", "step"]] = "step"
    picks_rollouts: ClassVar[bool] = True
    k: int = Field(default=8, ge=1)
    by: Literal["length", "efficiency"] = "length"
    by_difficulty: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=4, max_length=4)

    def holds(self, batch: Batch, progress: Progress) -> Bools:
        """(N,) bool."""
        if not len(batch):
            return np.zeros(0, dtype=bool)
        worst = batch.length if self.by == "length" else -(batch.correct / np.maximum(batch.length, 1))
        return group_rank(batch, worst) < batch.spread(self._k(batch))

    def _k(self, batch: Batch) -> np.ndarray:
        """(P,) how many of each group are kept."""
        if self.by_difficulty is None:
            return np.full(batch.num_groups, self.k)
        right = batch.group_mean(batch.correct)
        easier = (right[:, None] > np.quantile(right, [0.25, 0.5, 0.75]) + 1e-12).sum(axis=1)
        return np.asarray(self.by_difficulty)[3 - easier]
