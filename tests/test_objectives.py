"""The clipped token objective: official numbers, and the same loss and gradient however a mini-batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.oracle import cases, close
from trainers.objectives import MiniBatch, Objective, Tally, build_objective
from trainers.objectives.parts import Aggregation, aggregate, kl

VERL_NAMES: dict[str, Aggregation] = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-sum-norm": "token_sum_constant",
}
AGGREGATIONS: list[Aggregation] = [*VERL_NAMES.values(), "sequence_sum_constant"]


def ragged(values: Any, mask: Any) -> list[list[float]]:
    return [[v for v, m in zip(row, keep, strict=True) if m] for row, keep in zip(values, mask, strict=True)]


def mini_batch(mask: Any, old: Any, advantage: Any, **columns: Any) -> MiniBatch:
    """From padded rows, as the oracles have them; float64."""
    n = len(mask)
    filled = {"group": np.arange(n), "verdict": [1] * n, "keep": [True] * n, "max_length": len(mask[0]), **columns}
    for name in ("engine_log_prob", "ref_log_prob", "log_prob"):
        if name in filled:
            filled[name] = ragged(filled[name], mask)
    return MiniBatch.build(old_log_prob=ragged(old, mask), advantage=advantage, dtype=torch.float64, **filled)


def run(
    objective: Objective,
    data: MiniBatch,
    log_prob: Tensor,
    splits: Sequence[Sequence[int]] | None = None,
    entropy: Tensor | None = None,
    probes: Tensor | None = None,
) -> tuple[float, Tensor, dict[str, float]]:
    """(loss, gradient with respect to log_prob, diagnostics) with the mini-batch taken in the given splits."""
    leaf = log_prob.clone().requires_grad_()
    total, tally, plan = 0.0, Tally(), objective.plan(data)
    for rows in splits or [range(len(data))]:
        width = int(data.length[list(rows)].max())
        part = [None if x is None else x[list(rows)] for x in (entropy, probes)]
        micro = data.micro(rows, leaf[list(rows), :width], None if part[0] is None else part[0][:, :width], part[1])
        loss, diagnostics = objective.loss(micro, plan)
        loss.backward()
        total += loss.item()
        tally.add(diagnostics)
    assert leaf.grad is not None
    return total, leaf.grad, tally.means()


def padded(rows: Any, width: int) -> Tensor:
    return torch.tensor([row[:width] for row in rows], dtype=torch.float64)


def random_batch(seed: int, n: int = 9, width: int = 7, **columns: Any) -> tuple[MiniBatch, Tensor, Tensor]:
    """(mini-batch, log_prob, entropy): ratios on both sides of every clip range, a rollout that is not kept."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, width + 1, n)
    rows = {
        k: [-rng.exponential(1.0, size) for size in lengths]
        for k in ("old_log_prob", "engine_log_prob", "ref_log_prob")
    }
    log_prob = np.zeros((n, lengths.max()))
    for i, row in enumerate(rows["old_log_prob"]):
        log_prob[i, : len(row)] = row + rng.normal(0, 0.8, len(row))
    filled = {
        "advantage": rng.normal(size=n),
        "group": np.arange(n) // 3,
        "verdict": rng.integers(-1, 2, n),
        "keep": rng.random(n) < 0.8,
        "forced": rng.integers(0, 2, n),
        "max_length": 50,
        **rows,
        **columns,
    }
    data = MiniBatch.build(dtype=torch.float64, **filled)
    return data, torch.tensor(log_prob), torch.tensor(rng.random(log_prob.shape))


@pytest.mark.parametrize("case", cases("loss_aggregation_verl"))
def test_aggregation(case: dict) -> None:
    values, mask = torch.tensor(case["inputs"]["loss"]), torch.tensor(case["inputs"]["mask"]).bool()
    data = mini_batch(mask.tolist(), values.tolist(), np.zeros(len(mask)), max_length=mask.shape[1])
    how = VERL_NAMES[case["params"]["mode"]]
    got = aggregate(values.double(), mask, how, data.scale, data.scale.tokens, case["params"]["norm_constant"])
    assert close(got, case["expected"]["loss"])


@pytest.mark.parametrize("case", cases("laser_policy_loss"))
def test_laser_loss_and_low_var_kl(case: dict) -> None:
    given, want = case["inputs"], case["expected"]
    data = mini_batch(given["mask"], given["old_log_prob"], given["advantages"], ref_log_prob=given["ref_log_prob"])
    log_prob = padded(given["log_prob"], data.mask.shape[1])
    loss, _, diagnostics = run(build_objective({"type": "clipped_token", **case["params"]}), data, log_prob)
    assert close(loss, want["pg_loss"], rel=2e-5), "the official code ran in float32"
    assert close(diagnostics["clip_low"] + diagnostics["clip_high"], want["clipfrac"])
    per_token = kl(torch.tensor(given["log_prob"]).double(), torch.tensor(given["ref_log_prob"]).double(), "k3")
    assert torch.allclose(per_token, torch.tensor(want["low_var_kl_per_token"]).double(), atol=5e-7)


@pytest.mark.parametrize("case", cases("canon_repo_policy_loss"))
def test_dual_clip_and_aggregations_of_canon(case: dict) -> None:
    given, want, config = case["inputs"], case["expected"], dict(case["params"])
    config |= {"dual_clip": config.pop("clip_ratio_c"), "aggregation": VERL_NAMES[config.pop("loss_agg_mode")]}
    data = mini_batch(given["mask"], given["old_log_prob"], given["advantages"])
    log_prob = padded(given["log_prob"], data.mask.shape[1])
    objective = build_objective({"type": "clipped_token", **config})
    loss, _, diagnostics = run(objective, data, log_prob)
    assert close(loss, want["pg_loss"])
    assert close(diagnostics["clip_low"] + diagnostics["clip_high"], want["clipfrac"])
    bites = (log_prob - data.old_log_prob > np.log(3.0)) & (data.advantage < 0) & data.mask
    assert close(diagnostics["clip_dual"], bites.sum() / data.mask.sum()), (
        "the official counter compares too late: always 0"
    )
    assert close(kl(data.old_log_prob, log_prob, "k1")[data.mask].mean(), want["ppo_kl"])


EVERYTHING = {"kl_coef": 0.3, "entropy_coef": 0.01, "dual_clip": 3.0, "clip_high": 0.28, "importance_cap": 2.0}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(deadline=None, max_examples=12)
@given(st.sampled_from(["k1", "k2", "k3"]), st.integers(0, 10**6), st.data())
def test_split_does_not_matter(aggregation: str, estimator: str, seed: int, draw: st.DataObject) -> None:
    data, log_prob, entropy = random_batch(seed)
    order = draw.draw(st.permutations(range(len(data))))
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1))))
    splits = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    objective = build_objective(
        {"type": "clipped_token", "aggregation": aggregation, "kl_estimator": estimator, **EVERYTHING}
    )
    whole, split = run(objective, data, log_prob, None, entropy), run(objective, data, log_prob, splits, entropy)
    assert whole[0] == pytest.approx(split[0], rel=1e-12, abs=1e-12)
    assert torch.allclose(whole[1], split[1], rtol=1e-12, atol=1e-14)
    assert whole[2] == pytest.approx(split[2], rel=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_rollouts_that_are_not_kept_are_absent(aggregation: str) -> None:
    keep = np.array([True, False, True, True, False, True])
    data, log_prob, entropy = random_batch(3, n=6, keep=keep)
    rows = np.flatnonzero(keep)
    columns: dict[str, Any] = {
        name: [getattr(data, name)[i, : data.length[i]] for i in rows]
        for name in ("old_log_prob", "engine_log_prob", "ref_log_prob")
    }
    part = MiniBatch.build(
        dtype=torch.float64,
        advantage=data.advantage[rows],
        group=data.group[rows],
        verdict=data.verdict[rows],
        forced=data.forced[rows].sum(1),
        keep=[True] * len(rows),
        max_length=50,
        **columns,
    )
    assert part.scale == data.scale
    objective = build_objective({"type": "clipped_token", "aggregation": aggregation, **EVERYTHING})
    all_loss, all_grad, all_seen = run(objective, data, log_prob, None, entropy)
    width = part.mask.shape[1]
    loss, grad, seen = run(objective, part, log_prob[rows, :width], None, entropy[rows, :width])
    assert loss == pytest.approx(all_loss, rel=1e-12)
    assert torch.allclose(grad, all_grad[rows, :width], rtol=1e-12) and not all_grad[~keep].any()
    assert seen == pytest.approx(all_seen, rel=1e-12)


def test_forced_tokens_have_no_gradient_and_may_hold_nan() -> None:
    nan = float("nan")
    data = mini_batch(
        [[1, 1, 1]], [[-1.0, -1.0, -1.0]], [2.0], forced=[1], engine_log_prob=[[nan, -1.0, -1.1]], max_length=3
    )
    loss, grad, seen = run(build_objective("clipped_token"), data, torch.full((1, 3), -1.0, dtype=torch.float64))
    assert loss == -2.0 and grad.tolist() == [[0.0, -1.0, -1.0]]
    assert seen["mismatch"] == pytest.approx(0.05) and seen["mismatch_max"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="engine_log_prob: nan at rollout 0, token 0"):
        mini_batch([[1]], [[-1.0]], [2.0], engine_log_prob=[[nan]])


def test_nothing_kept_gives_zero() -> None:
    data, log_prob, _ = random_batch(0, keep=np.zeros(9, bool))
    loss, grad, seen = run(build_objective("clipped_token"), data, log_prob)
    assert loss == 0 and not grad.any() and seen["ratio"] == 0


def test_far_ratios_stay_finite() -> None:
    data = mini_batch([[1, 1]], [[-900.0, -0.1]], [-1.0])
    loss, grad, seen = run(build_objective("clipped_token"), data, torch.tensor([[-0.1, -900.0]], dtype=torch.float64))
    assert np.isfinite([loss, *seen.values()]).all() and grad.isfinite().all()


def test_per_token_advantages() -> None:
    data = mini_batch([[1, 1, 0]], [[-1.0, -1.0, 0]], [[1.0, -3.0, 7.0]])
    loss, grad, _ = run(build_objective("clipped_token"), data, torch.full((1, 2), -1.0, dtype=torch.float64))
    assert loss == 1.0 and grad.tolist() == [[-0.5, 1.5]]


def test_extra_terms_by_hand() -> None:
    """One token: new -1, old -1.5, engine -2, ref -0.8, A = 1; r = exp(0.5) is clipped at 1.2."""
    data = mini_batch([[1]], [[-1.5]], [1.0], engine_log_prob=[[-2.0]], ref_log_prob=[[-0.8]])
    log_prob, entropy = torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    settings = {"kl_coef": 2.0, "entropy_coef": 0.1}
    d = 0.2  # log ref / new
    for estimator, value in {"k1": -d, "k2": d * d / 2, "k3": np.exp(d) - 1 - d}.items():
        objective = build_objective({"type": "clipped_token", "kl_estimator": estimator, **settings})
        loss, _, seen = run(objective, data, log_prob, None, entropy)
        assert loss == pytest.approx(-1.2 + 2 * value - 0.1 * 0.7) and seen["clip_high"] == 1 and seen["clip_low"] == 0
    assert seen["ref_kl"] == pytest.approx(np.exp(d) - 1 - d) and seen["entropy"] == pytest.approx(0.7)
    assert seen["mismatch"] == seen["mismatch_max"] == pytest.approx(0.5)
    assert seen["mismatch_kl"] == pytest.approx(np.exp(0.5) - 1 - 0.5)  # log old / engine = 0.5
    assert seen["approx_kl"] == pytest.approx(np.exp(0.5) - 1 - 0.5) and seen["ratio"] == pytest.approx(np.exp(0.5))
    for cap, weight in ((1.1, 1.1), (9.0, np.exp(0.5))):
        objective = build_objective({"type": "clipped_token", "importance_cap": cap})
        assert run(objective, data, log_prob)[0] == pytest.approx(-1.2 * weight)


def test_kl_gradients_in_expectation() -> None:
    """k1 has no gradient, k2 that of KL(p || q), k3 that of KL(q || p): exact expectations over four outcomes."""
    z = torch.tensor([0.3, -0.5, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    log_q = torch.log_softmax(torch.tensor([0.0, 0.4, 0.1, -1.0], dtype=torch.float64), 0)
    log_p = torch.log_softmax(z, 0)
    reverse, forward = (log_p.exp() * (log_p - log_q)).sum(), (log_q.exp() * (log_q - log_p)).sum()
    wanted = {"k1": torch.zeros(4).double(), "k2": _grad(reverse, z), "k3": _grad(forward, z)}
    for estimator, gradient in wanted.items():
        got = _grad((log_p.exp().detach() * kl(log_p, log_q, estimator)).sum(), z)  # type: ignore[arg-type]
        assert torch.allclose(got, gradient, atol=1e-12)


def _grad(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf, retain_graph=True)[0]


def test_needs_follow_the_settings() -> None:
    assert build_objective("clipped_token").needs == frozenset()
    everything = build_objective({"type": "clipped_token", **EVERYTHING})
    assert everything.needs == {"ref_log_prob", "entropy", "engine_log_prob"}


def test_dr_grpo_aggregation_is_the_mean_over_sequences() -> None:
    values, mask = torch.tensor([[3.0, 1.0], [2.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    data = mini_batch(mask.tolist(), values.tolist(), [0, 0], max_length=4)
    assert aggregate(values, mask, "sequence_sum_constant", data.scale, 3) == (4 / 4 + 2 / 4) / 2
    assert aggregate(values, mask, "token_sum_constant", data.scale, 3) == 4 / 4 + 2 / 4
    assert aggregate(values, mask, "sequence_mean", data.scale, 3) == (2 + 2) / 2


def test_constant_length_defaults_to_the_cap() -> None:
    data, log_prob, _ = random_batch(1)
    constant = [
        run(build_objective({"type": "clipped_token", "aggregation": "sequence_sum_constant", **more}), data, log_prob)[
            0
        ]
        for more in ({}, {"constant_length": 50}, {"constant_length": 25})
    ]
    assert constant[0] == constant[1] == pytest.approx(constant[2] / 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cliped_token", "did you mean 'clipped_token'"),
        ({"type": "clipped_token", "clip_hihg": 0.3}, "did you mean 'clip_high'"),
        ({"type": "clipped_token", "clip_low": 1.5}, "clip_low"),
        ({"type": "clipped_token", "dual_clip": 0.5}, "dual_clip"),
        ({"type": "clipped_token", "aggregation": "token-mean"}, "token_mean"),
    ],
)
def test_bad_settings_are_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective(value)


def test_bad_columns_are_named() -> None:
    with pytest.raises(ValueError, match="ref_log_prob: rows of other lengths"):
        MiniBatch.build(
            old_log_prob=[[-1.0]],
            ref_log_prob=[[-1.0, -2.0]],
            advantage=[1.0],
            group=[0],
            verdict=[1],
            keep=[True],
            max_length=2,
        )
    with pytest.raises(ValueError, match="advantage: shape"):
        mini_batch([[1, 1]], [[-1.0, -1.0]], [[1.0]])
