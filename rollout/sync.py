"""New weights for every engine, and a canary that dies when they did not arrive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rewards.errors import TautError
from rollout.engine import Engine

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Canary:
    """A fixed prompt whose token log-probs engine and trainer must agree on; at least two tokens."""

    ids: tuple[int, ...]


def sync(
    engine: Engine,
    weights: Mapping[str, torch.Tensor],
    version: int,
    canary: Canary,
    trainer_score: Callable[[Sequence[int]], list[float]],
) -> float:
    """Load `weights` into every worker of `engine`, then compare the canary's log-probs; the largest gap, in nats.

    trainer_score(ids): the trainer's log-probs of ids[1:] at the sampling temperature. Raises TautError when a worker's gap
    is above the engine's tolerance: then rollouts would come from another policy than the one that is trained.
    """
    engine.load_weights(weights, version)
    return confirm(engine, version, canary, trainer_score(canary.ids))


def confirm(engine: Engine, version: int, canary: Canary, want: Sequence[float]) -> float:
    """Compare the canary's log-probs in every worker with the trainer's, `want`; see `sync`."""
    worst = 0.0
    for worker, got in enumerate(engine.score_all(canary.ids)):
        gap = float(np.max(np.abs(np.subtract(got, want)), initial=0.0))
        if not gap <= engine.canary_tolerance:  # NaN is no agreement either
            raise TautError(
                f"weight sync: worker {worker} of engine {engine.name} is {gap:.3g} nats from the trainer on the canary at "
                f"policy version {version}, more than {engine.canary_tolerance:g}; its weights or its cache are stale, or the "
                "two compute the model differently. Try rollout.engine=transformers; if the gap is only rounding of a low "
                "precision, raise rollout.canary_tolerance"
            )
        worst = max(worst, gap)
    return worst
