"""Adapters: methods with modes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.conformance.judge import Adapter, Case, Pair
from rewards.batch import Batch
from rewards.progress import Progress
from rewards.terms.adaptthink import AdaptThink
from rewards.terms.autothink import AutoThink
from rollout.length_controller import LengthController


def autothink(case: Case) -> Iterator[Pair]:
    """All three stages; `alpha`, `beta` and `balance` given."""
    inputs, params = case["inputs"], case["params"]
    batch = Batch(
        group=inputs["problem_ids"],
        length=inputs["lengths"],
        verdict=inputs["correct"],
        mode=["think" if thinking else "no_think" for thinking in inputs["thinking"]],
    )
    base = {name.replace("nothink", "no_think"): value for name, value in params["base"].items()}
    numbers = {"alpha": params["alpha"], "beta": params["beta"], "balance": params["balance_rate"]}
    reward = AutoThink(**numbers, **base, slope=params["slope"], format=False)
    yield reward.score(batch).total, case["expected"]["rewards_float32"]


def adaptthink_reward(case: Case) -> Iterator[Pair]:
    """The advantages of one problem."""
    inputs = case["inputs"]
    n = len(inputs["correct"])
    batch = Batch(
        group=[0] * n,
        length=[1] * n,
        verdict=inputs["correct"],
        mode=["no_think" if nothinking else "think" for nothinking in inputs["nothinking"]],
        reference_accuracy=[inputs["ref_accuracy"]] * n,
    )
    yield AdaptThink(delta=case["params"]["delta"]).score(batch).total, case["expected"]["advantages"]


def length_controller(case: Case) -> Iterator[Pair]:
    """The adaptive truncation of LASER's repository: the cap of each step, moved by what was measured before it."""
    p = case["params"]
    settings = {key: p[key] for key in p if key.startswith("target_") or key in ("start_step", "interval", "reduction")}
    names = {"strategy": p["length_strategy"], "max_tokens": p["init_length"], "min_tokens": p["min_length"]}
    plan, caps = LengthController(**names, **settings), []
    for row in case["inputs"]:
        measured = None if row["clip_ratio"] == -1 else row["clip_ratio"]
        plan.move(row["step"], measured, row["passk_difference"])
        caps.append(plan.cap(Progress(step=row["step"] - 1)))
    yield caps, case["expected"]["max_tokens"]


ADAPTERS: dict[str, Adapter] = {
    "laser_length_controller": length_controller,
    "autothink": autothink,
    "adaptthink_reward": adaptthink_reward,
}
