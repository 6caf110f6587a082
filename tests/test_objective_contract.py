"""What every registered objective keeps, tested the day it is registered: any split, any order, absent rollouts, extremes.

And the way there: what the update hands to an objective when the plan forces a prefix, or asks for probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rewards import Batch, Scores
from rewards.registry import dump
from rollout.paths import locate
from rollout.sampler import to_batch
from rollout.types import Problem, Request, Rollout
from tests.test_objectives import run
from trainers.objectives import OBJECTIVES, MiniBatch, Objective, build_objective
from trainers.optim import make_optimizer
from trainers.policy import Policy
from trainers.settings import load_config
from trainers.update import Scored, Updater

MODES = ("think", "no_think", "long", "short", None)
VARIANTS: list[dict[str, Any]] = [
    {"type": "clipped_token", "importance": "truncate", "importance_level": "sequence", "kl_coef": 0.1},
    {"type": "clipped_token", "importance": "mask", "importance_low": 0.5, "entropy_coef": 0.1, "dual_clip": 3},
    {"type": "clipped_token", "aggregation": "sequence_mean", "kl_coef": 0.1, "kl_estimator": "low_var_kl"},
    {"type": "gspo", "clip_low": 0.2, "clip_high": 0.2},
    {"type": "drpo", "delta": 0.0, "denominator": "valid", "length_reward": "cosine", "tau": 0.5},
    {"type": "drpo", "kl_estimator": "k3", "length_reward": "concave"},
    {"type": "mode_switch", "inner": {"type": "drpo", "delta": 0.0}},
]


def objectives() -> list[Objective]:
    """Every registered objective by its example, and settings that take other branches."""
    examples = [OBJECTIVES.get(name).example() for name in OBJECTIVES.table]
    return [build_objective(value) for value in [*examples, *VARIANTS]]


every = pytest.mark.parametrize("objective", objectives(), ids=lambda o: "-".join(map(str, _words(o))))
slow_free = settings(deadline=None, max_examples=15)


def _words(objective: Objective) -> list[Any]:
    return [v if not isinstance(v, dict) else v["type"] for v in dump(objective).values()]


def columns(seed: int, objective: Objective, groups: int = 4, each: int = 4) -> dict[str, Any]:
    """Ragged columns of a mini-batch in which everything occurs: empty and one-token rollouts, forced prefixes, unknown
    verdicts (not kept, as the loop has it), groups of one kind, rollouts without a mode."""
    rng = np.random.default_rng(seed)
    n = groups * each
    lengths = rng.integers(0, 6, n)
    lengths[:2] = 0, 1
    old = [-rng.exponential(1.0, size) for size in lengths]
    probes = np.log(rng.dirichlet([1] * max(len(objective.probe_tokens), 1), n))[:, : len(objective.probe_tokens)]
    probes[lengths == 0] = np.nan
    verdict = rng.integers(-1, 2, n)
    return {
        "old_log_prob": old,
        "engine_log_prob": [row + rng.normal(0, 0.5, len(row)) for row in old],
        "ref_log_prob": [row + rng.normal(0, 0.5, len(row)) for row in old],
        "log_prob": [row + rng.normal(0, 0.4, len(row)) for row in old],
        "advantage": rng.normal(size=n),
        "group": np.repeat(np.arange(groups), each),
        "verdict": verdict,
        "keep": verdict >= 0,
        "forced": np.minimum(rng.integers(0, 3, n), lengths),
        "mode": [MODES[i] for i in rng.integers(0, len(MODES), n)],
        "probes": torch.tensor(probes),
        "entropy": [rng.random(size) for size in lengths],
    }


def take(values: dict[str, Any], rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """The columns of some rollouts, in this order."""
    return {k: v[list(rows)] if isinstance(v, np.ndarray | Tensor) else [v[i] for i in rows] for k, v in values.items()}


def outcome(
    objective: Objective, values: dict[str, Any], splits: Sequence[Sequence[int]] | None = None
) -> tuple[float, list[list[float]], dict[str, float]]:
    """(loss, gradient by log_prob, a row a rollout, diagnostics)."""
    given = dict(values)
    entropy = given.pop("entropy")
    data = MiniBatch.build(dtype=torch.float64, max_length=8, temperature=0.6, **given)
    width = data.mask.shape[1]

    def pad(rows: Sequence[Any]) -> Tensor:
        return torch.tensor(np.array([[*row, *[0.0] * (width - len(row))] for row in rows]).reshape(len(rows), width))

    loss, grad, seen = run(objective, data, pad(given["log_prob"]), splits, pad(entropy), given["probes"])
    return loss, [row[:length] for row, length in zip(grad.tolist(), data.length.tolist(), strict=True)], seen


def assert_equal(one: Any, other: Any) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-10, abs=1e-12)
    for a, b in zip(one[1], other[1], strict=True):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-12)
    assert one[2] == pytest.approx(other[2], rel=1e-10, abs=1e-12)


@every
@slow_free
@given(st.integers(0, 10**6), st.data())
def test_split_does_not_matter(objective: Objective, seed: int, draw: st.DataObject) -> None:
    values = columns(seed, objective)
    order = draw.draw(st.permutations(range(16)))
    cuts = sorted(draw.draw(st.sets(st.integers(1, 15))))
    splits = [order[a:b] for a, b in zip([0, *cuts], [*cuts, 16], strict=True)]
    assert_equal(outcome(objective, values), outcome(objective, values, splits))


@every
@slow_free
@given(st.integers(0, 10**6), st.permutations(range(16)), st.permutations(range(4)))
def test_order_and_group_numbers_do_not_matter(
    objective: Objective, seed: int, order: list[int], names: list[int]
) -> None:
    values = columns(seed, objective)
    moved = take(values, order)
    moved["group"] = np.array(names)[moved["group"]] * 7
    loss, grad, seen = outcome(objective, values)
    assert_equal((loss, [grad[i] for i in order], seen), outcome(objective, moved))


@every
@slow_free
@given(st.integers(0, 10**6))
def test_rollouts_that_are_not_kept_are_absent(objective: Objective, seed: int) -> None:
    values = columns(seed, objective)
    rows = np.flatnonzero(values["keep"])
    loss, grad, seen = outcome(objective, values)
    assert all(g == 0 for i in set(range(16)) - set(rows.tolist()) for g in grad[i])
    if any(len(values["log_prob"][i]) for i in rows):
        assert_equal((loss, [grad[i] for i in rows], seen), outcome(objective, take(values, rows)))


@every
@pytest.mark.parametrize("kept", [[], [0], [1], [0, 1], list(range(16))])
def test_few_or_empty_rollouts_and_far_ratios_stay_finite(objective: Objective, kept: list[int]) -> None:
    for shift in (0.0, 800.0, -800.0):
        values = columns(3, objective)
        values["mode"] = ["no_think", "short", *values["mode"][2:]]
        values["keep"] = np.isin(np.arange(16), kept)
        values["verdict"] = np.arange(16) % 2
        values["log_prob"] = [row + shift for row in values["log_prob"]]
        loss, grad, seen = outcome(objective, values)
        assert np.isfinite([loss, *seen.values(), *(g for row in grad for g in row)]).all()


@every
def test_a_configuration_comes_back_equal(objective: Objective) -> None:
    again = build_objective(dump(objective))
    assert again == objective and type(again) is type(objective)
    assert ("probes" in objective.needs) == bool(objective.probe_tokens)


# ---- through the update --------------------------------------------------------------------------------------------

THINK, END = 100, 101  # <think> and </think> of the embedded model


def scored(prefix: Sequence[int], mode: str) -> Scored:
    """Eight rollouts of two prompts, half of them right; they begin with `prefix`, which was forced."""
    random, rollouts = np.random.default_rng(0), []
    for i in range(8):
        ids = (*prefix, *random.integers(6, 90, 3 + i).tolist())
        request = Request(Problem(str(i // 4), "1+1", "2"), i // 4, i, "1+1", 32, prefix="forced", mode=mode)
        log_probs = (*[float("nan")] * len(prefix), *[-1.0] * (len(ids) - len(prefix)))
        versions = (0,) * len(ids)
        rollouts.append(
            Rollout(request, (7, 8, 9), ids, log_probs, "stop", versions, "x", forced=len(prefix), mode=mode)
        )
        rollouts[-1].verdict = i % 2  # type: ignore[assignment]
    batch: Batch = to_batch(rollouts)
    return Scored(rollouts, batch, Scores(np.ones(8), {}, np.ones(8, dtype=bool)), np.ones(8), None)


def first(updater: Updater) -> np.ndarray:
    """Log-probs of <think> and </think> as the first token of a response."""
    return updater.policy.log_probs([[7, 8, 9]] * 2, [[THINK], [END]]).log_prob[:, 0].numpy()


def updated(given: Scored, *arguments: str, probes: Sequence[int] = ()) -> tuple[dict[str, float], np.ndarray]:
    """(diagnostics, by how much `first` rose) of an update of the embedded model."""
    config = load_config(["optim.lr=0.003", *arguments])
    policy = Policy.load(locate("benchmarks:overthinker/checkpoint"))
    updater = Updater(policy, make_optimizer(policy.model, config.optim), config)
    updater.probe_ids = tuple((0, token) for token in probes)
    before = first(updater)
    old = updater.measure(given.rollouts, frozenset())[1]
    seen = updater.update(Scored(given.rollouts, given.batch, given.scores, given.advantage, old), 0)
    assert np.isfinite(list(seen.values())).all() and seen["grad_norm"] > 0
    return seen, first(updater) - before


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_adaptthink_makes_a_forced_first_token_that_pays_likelier(mini_batches: int) -> None:
    given = scored([END], "no_think")
    modes = "sampling={type: modes, modes: [{name: no_think, share: 1.0}]}"
    seen, rise = updated(given, "objective=adaptthink", modes, f"mini_batches={mini_batches}")
    assert seen["updates"] == mini_batches and rise[1] > 0
    given.advantage[:] = -1
    assert updated(given, "objective={type: adaptthink, nothinking_ratio: 0.001}", modes)[1][1] < 0


@pytest.mark.parametrize("name", ["drpo", "disco", "gspo"])
def test_an_update_by(name: str) -> None:
    whole, split = (updated(scored([], "think"), f"objective={name}", f"micro_tokens={m}") for m in (10_000, 20))
    assert split[0] == pytest.approx(whole[0], rel=1e-3, abs=1e-5)


def test_mode_switch_moves_the_choice_of_the_first_token() -> None:
    """Short, which begins with `</think>`, is right; long, with `<think>`, is wrong: the margin pulls them apart."""
    given = scored([], "short")
    for i, rollout in enumerate(given.rollouts):
        rollout.mode = "short" if i % 2 else "long"
    given.advantage[:] = 0
    tokens = "objective={type: mode_switch, weight: 1, tokens: {long: <think>, short: </think>}}"
    modes = "sampling={type: modes, modes: [{name: long, share: 0.5}, {name: short, share: 0.5}]}"
    seen, rise = updated(given, tokens, modes, "rollout.temperature=0.6", probes=[THINK, END])
    assert rise[1] > rise[0] and seen["mode_prefers_short"] == 1 and seen["mode_switch_loss"] > 1
