"""Adapters: advantages, CANON's schedule, constrained composition, DRPO's weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.conformance.judge import Adapter, Case, Pair
from rewards.base import Scores
from rewards.batch import Batch, Floats
from rewards.multipliers import Multipliers
from rewards.normalise import standardise
from rewards.progress import Progress
from rewards.schedule import WarmupCosineRestarts
from trainers.advantages import Advantage, build_advantage
from trainers.advantages.canon import Canon
from trainers.advantages.drpo import DrpoAdvantage
from trainers.advantages.length_rank import LengthRank


def _batch(inputs: dict[str, Any], group: Any, verdict: Any, **columns: Any) -> Batch:
    length = inputs.get("lengths", np.ones(len(verdict)))
    return Batch(group=np.unique(group, return_inverse=True)[1], length=length, verdict=verdict, **columns)


def _advantage(advantage: Advantage, batch: Batch, reward: Any, step: int = 0) -> Floats:
    return advantage(batch, Scores(np.asarray(reward, dtype=float), {}, np.ones(len(batch), bool)), Progress(step=step))


def grpo_verl(case: Case) -> Iterator[Pair]:
    """GRPO and Dr. GRPO as in verl."""
    inputs, reward = case["inputs"], case["inputs"]["rewards"]
    advantage = build_advantage({"type": "grpo" if case["params"]["divide_by_std"] else "dr_grpo", "singleton": "raw"})
    batch = _batch(inputs, inputs["problem_ids"], np.zeros(len(reward)))
    yield _advantage(advantage, batch, reward), case["expected"]["advantages"]


def grpo_understand_r1_zero(case: Case) -> Iterator[Pair]:
    """GRPO and Dr. GRPO as in understand-r1-zero."""
    reward, params = case["inputs"]["rewards"], case["params"]
    grpo = {"type": "grpo", "eps": params["eps"], "ddof": params["std_ddof"]}
    advantage = build_advantage(grpo if params["divide_by_std"] else "dr_grpo")
    batch = _batch({}, np.arange(len(reward)) // case["inputs"]["group_size"], np.zeros(len(reward)))
    yield _advantage(advantage, batch, reward), case["expected"]["advantages"]


def laser(case: Case, rank: bool) -> Iterator[Pair]:
    """LASER's GRPO, and its ranks by length."""
    inputs, eps = case["inputs"], case["params"]["epsilon"]
    advantage = (
        LengthRank(weight=1.0, eps=eps, singleton="raw")
        if rank
        else build_advantage({"type": "grpo", "eps": eps, "singleton": "raw"})
    )
    batch = _batch(inputs, inputs["group_ids"], np.zeros(len(inputs["rewards"])))
    yield _advantage(advantage, batch, inputs["rewards"]), case["expected"]["advantage"]


def canon(case: Case, metric: str, mu: Any = None) -> Iterator[Pair]:
    """CANON and its schedules of mu."""
    inputs, params = case["inputs"], case["params"]
    batch = _batch(inputs, inputs["group_ids"], inputs["rewards"], entropy_all=inputs.get("mean_entropy"))
    settings = {key: params[key] for key in ("alpha", "beta") if key in params}
    advantage = build_advantage(
        {"type": "canon", "metric": metric, "mu": params.get("_lambda", 1.0) if mu is None else mu}
        | {"divisor": params["max_length"], "singleton": "raw", **settings}
    )
    yield _advantage(advantage, batch, inputs["rewards"], params.get("step", 0)), case["expected"]["advantage"]


def canon_dr_grpo(case: Case) -> Iterator[Pair]:
    """Dr. GRPO as in CANON's repository; a group whose metrics are all equal is Dr. GRPO's, with the divisor."""
    inputs = case["inputs"]
    batch = _batch(inputs, inputs["group_ids"], inputs["rewards"])
    reward, divisor = np.asarray(inputs["rewards"]), case["params"]["max_length"]
    same = _batch({}, inputs["group_ids"], inputs["rewards"])  # all of one length
    fallback = Canon(all_equal="dr_grpo", divisor=divisor, singleton="raw")
    yield _advantage(fallback, same, reward), case["expected"]["advantage"]
    plain = build_advantage({"type": "dr_grpo", "singleton": "raw"})
    yield _advantage(plain, batch, reward) / divisor, case["expected"]["advantage"]


def cosine_restarts(case: Case) -> Iterator[Pair]:
    """CANON's schedule."""
    params = case["params"]
    schedule = WarmupCosineRestarts(
        hi=params["max"], lo=params["min"], warmup=params["warmup"], total=params["total"], cycles=params["cycles"]
    )
    yield schedule.at(Progress(step=case["inputs"]["step"])), case["expected"]["value"]


def constrained(case: Case) -> Iterator[Pair]:
    """Multipliers and mixed advantages over some steps. Unsquashed, the file's `multipliers_after` are those after the next
    update (one tensor, updated in place), so there only the raw ones are compared."""
    inputs, params = case["inputs"], case["params"]
    state = Multipliers.start(inputs["initial_raw"], [params["squash"]] * len(params["thresholds"]))
    for step, want in zip(inputs["steps"], case["expected"], strict=True):
        columns = [step["kl_advantages"], *np.transpose(step["constraint_advantages"])]
        n, ddof, eps = len(columns[0]), params["adv_std_ddof"], params["adv_norm_eps"]
        batch, keep = Batch([0] * n, [1] * n, [0] * n), np.ones(n, dtype=bool)
        main, *parts = (standardise(batch, np.asarray(c, params["dtype"]), keep, "step", ddof, eps) for c in columns)
        yield state.mix(main, parts), want["mixed_advantages"]
        excess = np.mean(step["episode_constraint_rewards"], axis=0) - params["thresholds"]
        state = state.update(excess.tolist(), params["lr"], params["momentum"], params["grad_clip_norm"])
        yield state.raw, want["raw_multipliers_after"]
        if params["squash"] != "none":
            yield state.values, want["multipliers_after"]


def drpo_weights(case: Case) -> Iterator[Pair]:
    """DRPO's weight of each response."""
    inputs, params = case["inputs"], case["params"]
    batch = _batch(inputs, inputs["group_ids"], inputs["correct"], mean_log_prob=inputs["mean_logprob"])
    advantage = DrpoAdvantage(
        lam=params["lambda"], tau=params["tau"], max_length=params["max_length_C"], scale="weights"
    )
    yield _advantage(advantage, batch, np.zeros(len(batch))), case["expected"]["coefficient"]


INTRA_LATER = {"type": "warmup_cosine_restarts", "hi": 1.0, "lo": 0.4}
INTER_LATER = {"type": "warmup_cosine_restarts", "start": 1.0, "hi": 0.4, "lo": 1.0}

ADAPTERS: dict[str, Adapter] = {
    "grpo_advantage_verl": grpo_verl,
    "drgrpo_advantage": grpo_understand_r1_zero,
    "laser_grpo_advantage": partial(laser, rank=False),
    "laser_length_rank_grpo_advantage": partial(laser, rank=True),
    "canon_length": partial(canon, metric="length"),
    "canon_entropy": partial(canon, metric="entropy"),
    "canon_entropy_annel": partial(canon, metric="entropy", mu="accuracy"),
    "canon_entropy_cosine_restart": partial(canon, metric="entropy", mu=INTER_LATER),
    "canon_entropy_cosine_restart_r": partial(canon, metric="entropy", mu=INTRA_LATER),
    "canon_random": partial(canon, metric="random"),
    "canon_repo_drgrpo": canon_dr_grpo,
    "canon_cosine_restart_schedule": cosine_restarts,
    "constrained_rlhf": constrained,
    "drpo_sequence_coefficients": drpo_weights,
}  # fmt: skip
