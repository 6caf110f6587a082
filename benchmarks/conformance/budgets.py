"""Adapters: budgets, histories and caps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.conformance.judge import Adapter, Case, Pair
from rewards import Batch, Progress, build_reward
from rewards.terms.hapo import Hapo


def _one(config: dict[str, Any], length: int, correct: Any = False, **columns: Any) -> Any:
    """What a single rollout earns."""
    return build_reward(config).score(Batch([0], [length], [int(correct)], **columns)).total


def _hapo(params: dict[str, Any], **settings: Any) -> Hapo:
    settings |= {"w": params["w"], "shape": params["kind"], "tolerance": params["tolerance_ratio"]}
    return Hapo(**settings)


def hapo_pointwise(case: Case) -> Iterator[Pair]:
    """The length reward alone: `right` 0; histories, also fractional ones, as a checkpoint would hold them."""
    inputs, reward = case["inputs"], _hapo(case["params"], right=0, history="mean", clip=case["params"]["clip_correct"])
    if (known := inputs["history"]) is not None:
        state = {"type": "hapo", "version": 1, "history": "mean", "problems": {"0": [*float(known).as_integer_ratio()]}}
        reward.load_state_dict({"(self)": state})
    batch = Batch(group=[0], length=[inputs["length"]], verdict=[int(inputs["correct"])])
    yield reward.score(batch).total, [case["expected"]["length_reward"]]


def hapo_stateful(case: Case) -> Iterator[Pair]:
    """Rewards of each step, and the history after it: which problems have one, and its value."""
    reward = _hapo(case["params"], right=case["params"]["correct_reward"], history=case["params"]["mode"])
    for step, want in zip(case["inputs"]["batches"], case["expected"], strict=True):
        batch = Batch(step["problem_ids"], step["lengths"], [int(c) for c in step["correct"]])
        yield reward.score(batch).total, want["rewards"]
        reward.observe(batch, Progress())
        ours = {problem: reward.known_length(problem) for problem in want["history_after"]}
        known = [problem for problem, length in ours.items() if length is not None]
        yield [p in known for p in ours], [length is not None for length in want["history_after"].values()]
        yield [ours[p] for p in known], [want["history_after"][p] for p in known]


def hapo_repetition(case: Case) -> Iterator[Pair]:
    """The n-gram penalty."""
    p, tokens = case["params"], case["inputs"]["tokens"]
    config = {
        "type": "repetition",
        "ngram": p["ngram_size"],
        "max_penalty": p["max_penalty"],
        "only_start": p["only_start"],
    }
    yield _one(config, len(tokens), tokens=[tokens]), [case["expected"]["penalty"]]


def l1_lcpo(case: Case) -> Iterator[Pair]:
    """The reward, and the length term: what a correct rollout earns when it multiplies, a wrong one when it is added."""
    p, inputs, want = case["params"], case["inputs"], case["expected"]
    config = {"type": f"l1_{p['mode']}", "alpha": p["alpha"], "shape": p["shape"]}
    if p["mode"] == "max":
        config |= {"slope": "half", "combine": "multiply" if p["multiply"] else "add"}
    batch = Batch(
        [0, 0], [inputs["length"]] * 2, [int(inputs["correct"]), int(p["multiply"])], budget=[inputs["target"]] * 2
    )
    yield build_reward(config).score(batch).total, [want["reward"], want["length_term"]]


def cosine_demystify(case: Case) -> Iterator[Pair]:
    """The run script's cosine."""
    p, inputs = case["params"], case["inputs"]
    config = {
        "type": "cosine_length", "max_length": p["max_len"], "margin": p["margin"], "exceed": p["exceed_reward"],
        "correct_short": p["max_value_correct"], "correct_long": p["min_value_correct"],
        "wrong_short": p["min_value_wrong"], "wrong_long": p["max_value_wrong"],
    }  # fmt: skip
    yield _one(config, inputs["length"], inputs["correct"]), [case["expected"]["reward"]]


def dapo_overlong(case: Case) -> Iterator[Pair]:
    """Soft overlong punishment; verl's, which has a factor, is not floored."""
    config = {"type": "soft_overlong", "floored": "factor" not in case["params"], **case["params"]}
    yield _one(config, case["inputs"]["length"]), [case["expected"]["penalty"]]


def o1_pruner(case: Case) -> Iterator[Pair]:
    """Weights of the responses that are used; the reference columns are means over all K of a problem."""
    p, problems, want = case["params"], case["inputs"]["problems"], case["expected"]
    group = np.repeat(np.arange(len(problems)), p["K"])
    length, right = (np.concatenate([problem[key] for problem in problems]) for key in ("lengths", "correct"))
    batch = Batch(group, length, right.astype(int), sample_id=np.tile(np.arange(p["K"]), len(problems)))
    columns = {
        "reference_length": batch.group_mean(batch.length)[batch.group_index],
        "reference_accuracy": batch.group_mean(batch.correct)[batch.group_index],
    }
    batch = Batch(batch.group, batch.length, batch.verdict, sample_id=batch.sample_id, **columns)
    batch = batch.take(np.isin(batch.sample_id, p["used_indices"]))
    config = {"type": "o1_pruner", "alpha": p["alpha"], "clip_low": p["clip_low"], "clip_high": p["clip_high"]}
    yield build_reward(config | {"standardise": False}).score(batch).total, want["raw_weights"]
    yield build_reward(config).score(batch).total, want["standardised_weights"]


ADAPTERS: dict[str, Adapter] = {
    "hapo_pointwise": hapo_pointwise,
    "hapo_stateful": hapo_stateful,
    "hapo_stateful_mean_artefact": hapo_stateful,
    "hapo_repetition": hapo_repetition,
    "l1_lcpo": l1_lcpo,
    "cosine_demystify": cosine_demystify,
    "dapo_overlong_verl": dapo_overlong,
    "dapo_overlong_openr1": dapo_overlong,
    "o1_pruner": o1_pruner,
}
