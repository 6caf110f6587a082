"""What of a recipe verl's trainer can carry, and how its configuration spells it. Imports nothing of verl."""

from __future__ import annotations

from typing import Any

from trainers.advantages.drpo import DrpoAdvantage
from trainers.config import TrainConfig
from trainers.objectives.clipped_token import ClippedToken
from trainers.objectives.drpo import Discriminative, Drpo
from trainers.objectives.gspo import Gspo
from trainers.seams import NotCarried, Seam

ESTIMATOR = "taut"  # hands on the advantages that the sampler has written
DRPO_LOSS = "taut_drpo"
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
MEANS = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "sequence_sum": "seq-mean-token-sum",
    "sequence_sum_constant": "seq-mean-token-sum-norm",
}
KL = {"k1": "kl", "k2": "mse", "k3": "low_var_kl", "low_var_kl": "low_var_kl"}
UNBOUND = 1e9  # verl always has a dual clip; this one never binds
EVEN = 1e9  # DisCO is DRPO at an infinite length temperature


def settings(config: TrainConfig) -> dict[str, Any]:
    """verl's overrides for a recipe, dotted. Raises NotCarried."""
    plan = config.sampling
    out: dict[str, Any] = {
        "algorithm.adv_estimator": ESTIMATOR,
        "algorithm.use_kl_in_reward": False,
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "TautRewardManager",
        "reward.reward_manager.module.path": "pkg://trainers.verl.reward",
        "trainer.v1.trainer_mode": "sync",
        "trainer.v1.sampler.custom_sampler.path": "pkg://trainers.verl.sampler",
        "trainer.v1.sampler.custom_sampler.name": "TautReplayBuffer",
        "trainer.checkpoint_callback_class": "trainers.verl.checkpoint.TautCheckpoint",
        "data.train_batch_size": config.prompts,
        f"{ACTOR}.ppo_mini_batch_size": max(config.prompts // config.mini_batches, 1),
        f"{ACTOR}.optim.lr": config.optim.lr,
        f"{ROLLOUT}.n": plan.samples,
        f"{ROLLOUT}.temperature": config.rollout.temperature,
        **_loss(config),
    }
    if isinstance(plan.max_tokens, int):
        out["data.max_response_length"] = plan.max_tokens
    if "mean_log_prob" in for_verl(config).advantage.needs:
        out[f"{ROLLOUT}.calculate_log_probs"] = True
    if (monitor := config.reward.monitor()) is not None:
        out |= {"trainer.val_before_train": True, "trainer.test_freq": monitor.every}
        out |= {f"{ROLLOUT}.val_kwargs.n": monitor.samples, f"{ROLLOUT}.val_kwargs.do_sample": True}
        out |= {f"{ROLLOUT}.val_kwargs.temperature": config.rollout.temperature}
    return out


def _loss(config: TrainConfig) -> dict[str, Any]:
    objective, mode = config.objective, f"{ACTOR}.policy_loss.loss_mode"
    if isinstance(objective, Discriminative):
        return {mode: DRPO_LOSS, **_discriminative(objective, config)}
    if type(objective) is Gspo:
        clip = {f"{ACTOR}.clip_ratio_low": objective.clip_low, f"{ACTOR}.clip_ratio_high": objective.clip_high}
        return {mode: "gspo", f"{ACTOR}.loss_agg_mode": MEANS["sequence_mean"], **clip}
    if objective.type == "mode_switch":
        raise NotCarried(
            "objective mode_switch: needs the log-probs of both modes' first tokens, and verl's policy loss sees those of the "
            "sampled tokens alone"
        )
    if not isinstance(objective, ClippedToken):
        raise NotCarried(f"objective {objective.type}: verl's policy loss is not told what it needs")
    if objective.aggregation not in MEANS:
        raise NotCarried(f"objective.aggregation={objective.aggregation}: verl has no such mean")
    if objective.importance != "off":
        raise NotCarried("objective.importance: verl corrects by algorithm.rollout_correction; leave it off here")
    out: dict[str, Any] = {
        mode: "vanilla",
        f"{ACTOR}.loss_agg_mode": MEANS[objective.aggregation],
        f"{ACTOR}.clip_ratio_low": objective.clip_low,
        f"{ACTOR}.clip_ratio_high": objective.clip_high,
        f"{ACTOR}.clip_ratio_c": objective.dual_clip or UNBOUND,
        f"{ACTOR}.entropy_coeff": objective.entropy_coef,
        f"{ACTOR}.use_kl_loss": bool(objective.kl_coef),
    }
    if objective.kl_coef:
        out |= {f"{ACTOR}.kl_loss_coef": objective.kl_coef, f"{ACTOR}.kl_loss_type": KL[objective.kl_estimator]}
    if objective.aggregation == "sequence_sum_constant":
        cap = config.sampling.max_tokens
        out[f"{ACTOR}.loss_scale_factor"] = objective.constant_length or (cap if isinstance(cap, int) else None)
    return out


def _discriminative(objective: Discriminative, config: TrainConfig) -> dict[str, Any]:
    """DRPO's loss takes its weights as advantages (`for_verl`); the rest stands in a configuration class of its own."""
    if objective.denominator != "all":
        raise NotCarried("objective.denominator=valid: verl's policy loss is not told of groups; use all")
    if isinstance(objective, Drpo) and objective.length_reward != "linear":
        raise NotCarried(f"objective.length_reward={objective.length_reward}: is carried as linear only")
    place = f"{ACTOR}.policy_loss"
    return {
        f"{place}._target_": "trainers.verl.algorithms.TautPolicyLossConfig",
        f"+{place}.beta": objective.beta,
        f"+{place}.delta": objective.delta,
        f"+{place}.kl_estimator": objective.kl_estimator,
        f"+{place}.samples": config.sampling.samples,
    }


def for_verl(config: TrainConfig) -> TrainConfig:
    """The recipe whose advantage carries what verl's policy loss cannot see: DRPO's and DisCO's weights."""
    objective = config.objective
    if not isinstance(objective, Discriminative):
        return config
    lam = objective.length_temperature if isinstance(objective, Drpo) else EVEN
    advantage = DrpoAdvantage(lam=lam, tau=objective.tau, scale="weights")
    return config.model_copy(update={"advantage": advantage})


VERL = Seam("verl", frozenset({"mean_log_prob"}), False, settings)
