"""Adapters: the LASER family and its relatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.conformance.judge import Adapter, Case, Pair
from rewards import Batch, Progress, Reward, build_reward
from rewards.terms.laser_d import AdaptiveTarget, LaserD
from rewards.terms.laser_targets import bands, shares
from rewards.terms.token_loops import loop_start

OFFICIAL = {"low": "hard", "medium": "medium", "high": "easy"}


def _batch(case: Case, **columns: Any) -> Batch:
    inputs = case["inputs"]
    names = inputs.get("group_ids", [""] * len(inputs["lengths"]))
    if "base_scores" in inputs:
        columns["format_ok"] = [score != -1.0 for score in inputs["base_scores"]]
    group = np.unique(names, return_inverse=True)[1]
    return Batch(group=group, length=inputs["lengths"], verdict=inputs["correct"], **columns)


def _reward(config: dict[str, Any], batch: Batch) -> Any:
    return build_reward(config).score(batch).total


def laser_step(case: Case) -> Iterator[Pair]:
    """LASER with its three kinds of bonus."""
    p = case["params"]
    config = {"type": "laser", "target": p["target_length"], "alpha": p["alpha"], "bonus": p["length_reward_type"]}
    yield _reward(config, _batch(case)), case["expected"]["reward"]


def laser_d_target_selection(case: Case) -> Iterator[Pair]:
    """Grid, coverage, shares of the bands, targets."""
    p, want, longest = case["params"], case["expected"], case["inputs"]["batch_max_response_length"]
    reward = LaserD(
        target=p["lower_bound"], interval=p["interval"], rounding=p["round_method"], fallback="batch",
        expected_correct=p["expected_n_correct"], n_rollouts=p["n_rollout"], monitor_edge="harder",
    )  # fmt: skip
    batch, progress = (
        _batch(case, origin=["monitor"] * len(case["inputs"]["lengths"])),
        Progress(0, 1, p["upper_bound"]),
    )
    reward.observe(batch, progress)
    state = reward.state_dict()["(self)"]
    yield state["lengths"], want["thresholds"]
    yield shares(bands(batch, "harder")), [want["proportion"][band] for band in OFFICIAL]
    yield reward.targets(np.array([p["n_rollout"]]), longest, progress), [[want["target_lengths"][b] for b in OFFICIAL]]
    for theirs, ours in OFFICIAL.items():
        yield state["coverage"][ours], [want["coverage"][theirs][str(length)] for length in want["thresholds"]]


def _monitored(case: Case, **settings: Any) -> Reward:
    """A reward that has the case's table, as a checkpoint would hold it."""
    p, table = case["params"], case["inputs"]["monitor_coverage"]
    reward = build_reward(
        {"target": 1, "alpha": p["alpha"], "rounding": p["round_method"], "expected_correct": p["expected_n_correct"],
         "n_rollouts": p["n_rollout"], "fallback": "batch", "unmonitored": p["fallback_target_length"], **settings}
    )  # fmt: skip
    if table:
        rows = {ours: [table[theirs][str(length)] for length in p["thresholds"]] for theirs, ours in OFFICIAL.items()}
        own = {"type": reward.type, "version": 1, "lengths": p["thresholds"], "coverage": rows}
        reward.load_state_dict({"(self)": own})
    return reward


def _adaptive(case: Case, batch: Batch, want: dict[str, Any], **settings: Any) -> Iterator[Pair]:
    reward, progress = _monitored(case, **settings), Progress()
    assert isinstance(reward, AdaptiveTarget)
    yield reward.score(batch, progress).total, want["reward"]
    yield reward.target_of(batch, progress), want["per_sample_target"]
    table = reward.targets(batch.group_size[:1], int(batch.length.max()), progress)
    yield table, [[want["target_lengths"][band] for band in OFFICIAL]]


def laser_d_reward(case: Case) -> Iterator[Pair]:
    """LASER-D's rewards and targets from a given table."""
    bonus = case["params"]["length_reward_type"]
    yield from _adaptive(case, _batch(case), case["expected"], type="laser_d", bonus=bonus)


def laser_de_reward(case: Case) -> Iterator[Pair]:
    """LASER-DE as released (no repetition is ever found) and as meant."""
    batch = _batch(case, tokens=case["inputs"]["tokens"])
    yield from _adaptive(case, batch, case["expected"]["as_run_torch_tokens"], type="laser_de")
    yield from _adaptive(case, batch, case["expected"]["intended_list_tokens"], type="laser_de", skip_loops=True)


def laser_ngram_repetition(case: Case) -> Iterator[Pair]:
    """Where a loop of tokens begins."""
    tokens = np.array(case["inputs"]["tokens"])
    yield loop_start(tokens), case["expected"]["repeat_start"]
    yield loop_start(tokens) < len(tokens), case["expected"]["is_repeated"]


def laser_repo_kimi(case: Case) -> Iterator[Pair]:
    """Kimi's rule in LASER's repository, on LASER's base scores."""
    p = case["params"]
    kimi = {"type": "kimi", "eps": p["epsilon"], "format": True, "singleton": "raw"}
    base = {"type": "laser", "target": 0, "alpha": 0}
    config = {"type": "sum", "terms": [base, {"type": "weight", "weight": p["len_coef"], "term": kimi}]}
    yield _reward(config, _batch(case)), case["expected"]["reward"]


def laser_repo_normlen_arora(case: Case) -> Iterator[Pair]:
    """Arora and Zanette's rule in LASER's repository."""
    p = case["params"]
    config = {"type": "arora_zanette", "alpha": p["len_coef"], "eps": p["epsilon"], "ddof": 1, "singleton": "raw"}
    config |= {"wrong": -0.5, "malformed": -1.0, "format": True}
    yield _reward(config, _batch(case)), case["expected"]["reward"]


def kimi_length_openr1(case: Case) -> Iterator[Pair]:
    """Kimi's length reward alone."""
    yield _reward({"type": "kimi"}, _batch(case)), case["expected"]["length_rewards"]


def shorterbetter(case: Case) -> Iterator[Pair]:
    """ShorterBetter."""
    yield _reward({"type": "shorter_better", **case["params"]}, _batch(case)), case["expected"]["rewards"]


def arora_zanette(case: Case) -> Iterator[Pair]:
    """Arora and Zanette, with rollouts that did not finish."""
    p = case["params"]
    config = {"type": "arora_zanette", "alpha": p["alpha"], "eps": p["std_eps"], "ddof": p["std_ddof"]}
    config |= {"unfinished_is_wrong": p["unfinished_counts_wrong"]}
    batch = _batch(case, truncated=[not finished for finished in case["inputs"]["finished"]])
    yield _reward(config, batch), case["expected"]["rewards"]


def canon_repo_length_reward_baselines(case: Case) -> Iterator[Pair]:
    """The two length rewards that CANON is compared with."""
    p = case["params"]
    o1 = {"type": "mean_over_length", "coefficient": p["coeff"]}
    cmu1 = {"type": "arora_zanette", "alpha": p["coeff"], "ddof": 1}
    yield _reward({"o1": o1, "cmu1": cmu1}[p["eff_type"]], _batch(case)), case["expected"]["reward"]


ADAPTERS: dict[str, Adapter] = {
    adapter.__name__: adapter
    for adapter in (
        laser_step, laser_d_target_selection, laser_d_reward, laser_de_reward, laser_ngram_repetition, laser_repo_kimi,
        laser_repo_normlen_arora, kimi_length_openr1, shorterbetter, arora_zanette, canon_repo_length_reward_baselines,
    )
}  # fmt: skip
