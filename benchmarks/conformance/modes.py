"""Adapters: methods with modes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.conformance.judge import Adapter, Case, Pair
from rewards.batch import Batch
from rewards.terms.adaptthink import AdaptThink
from rewards.terms.autothink import AutoThink


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


ADAPTERS: dict[str, Adapter] = {
    "autothink": autothink,
    "adaptthink_reward": adaptthink_reward,
}
