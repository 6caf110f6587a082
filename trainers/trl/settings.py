"""What of a recipe TRL's GRPOTrainer can carry, and how `GRPOConfig` spells it. Imports nothing of TRL."""

from __future__ import annotations

from typing import Any

from trainers.config import TrainConfig
from trainers.objectives.clipped_token import ClippedToken
from trainers.objectives.gspo import Gspo
from trainers.seams import NotCarried, Seam

VERSION = "1.16.0"
LOSSES = {"token_mean": "dapo", "sequence_mean": "grpo", "sequence_sum_constant": "dr_grpo"}  # aggregation: loss_type
NEUTRAL = {
    "scale_rewards": "none",
    "multi_objective_aggregation": "sum_then_normalize",
}  # TRL's own advantage step, off


def settings(config: TrainConfig) -> dict[str, Any]:
    """The `GRPOConfig` arguments of a recipe: loss, clipping, KL, sampling, optimiser. Raises NotCarried."""
    plan = config.sampling
    out: dict[str, Any] = {
        **NEUTRAL,
        **_loss(config),
        "num_generations": plan.samples,
        "temperature": config.rollout.temperature,
        "learning_rate": config.optim.lr,
    }
    if isinstance(plan.max_tokens, int):
        out["max_completion_length"] = plan.max_tokens
    if (monitor := config.reward.monitor()) is not None:
        out |= {"eval_strategy": "steps", "eval_steps": monitor.every, "eval_on_start": True}
        out["num_generations_eval"] = monitor.samples
    return out


def _loss(config: TrainConfig) -> dict[str, Any]:
    objective = config.objective
    if type(objective) is Gspo:
        clip = {"epsilon": objective.clip_low, "epsilon_high": objective.clip_high}
        return {"loss_type": "grpo", "importance_sampling_level": "sequence", **clip}
    if not isinstance(objective, ClippedToken):
        raise NotCarried(f"objective {objective.type}: TRL's loss is its own, and it has no such one")
    if objective.aggregation not in LOSSES:
        raise NotCarried(
            f"objective.aggregation={objective.aggregation}: TRL has no such mean; use one of {', '.join(LOSSES)}"
        )
    if objective.constant_length is not None:
        raise NotCarried("objective.constant_length: TRL divides by max_completion_length; leave it out")
    if objective.importance != "off":
        raise NotCarried("objective.importance: TRL corrects for vLLM by settings of its own; leave it off here")
    if objective.kl_coef and objective.kl_estimator != "k3":
        raise NotCarried(f"objective.kl_estimator={objective.kl_estimator}: TRL's is k3")
    out: dict[str, Any] = {"loss_type": LOSSES[objective.aggregation], "epsilon": objective.clip_low}
    out |= {"epsilon_high": objective.clip_high, "beta": objective.kl_coef, "use_bias_correction_kl": False}
    out |= {"entropy_coef": objective.entropy_coef} if objective.entropy_coef else {}
    return out | ({"delta": objective.dual_clip} if objective.dual_clip is not None else {})


TRL = Seam("TRL", frozenset(), True, settings)
