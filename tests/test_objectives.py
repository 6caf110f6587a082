"""Objectives: each method by hand, and the clipped token objective in all its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.conformance.objectives import VERL_NAMES
from rewards.errors import TautError
from rewards.registry import dump
from trainers.objectives import MiniBatch, Objective, Tally, build_objective
from trainers.objectives.parts import Aggregation, aggregate, kl

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


def test_dual_clip_counts_where_it_binds() -> None:
    """A = -1: r = e and 1 are below the bound of 3, r = e**1.5 is not; for A > 0 it never binds."""
    data = mini_batch([[1, 1, 1], [1, 0, 0]], [[-2.0, -2.0, -2.0], [-2.0, 0, 0]], [-1.0, 1.0])
    log_prob = padded([[-1.0, -2.0, -0.5], [-0.1, 0, 0]], 3)
    loss, grad, seen = run(build_objective({"type": "clipped_token", "dual_clip": 3.0}), data, log_prob)
    assert loss == pytest.approx((np.e + 1 + 3 - 1.2) / 4) and seen["clip_dual"] == 0.25
    assert grad[0, 2] == 0 and grad[0, 0] == pytest.approx(np.e / 4)


EVERYTHING = {"kl_coef": 0.3, "entropy_coef": 0.01, "dual_clip": 3.0, "clip_high": 0.28}
EVERYTHING |= {"importance": "truncate", "importance_high": 1.5}


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
    assert seen.get("importance_weight") is None


E5 = np.exp(0.5)


@pytest.mark.parametrize(
    ("settings", "weights", "outside"),
    [
        ({"importance": "off"}, [1, 1, 1], None),
        ({"importance": "truncate", "importance_high": 1.1}, [1.1, 1, 1 / E5], 1 / 3),
        ({"importance": "truncate", "importance_high": 9.0}, [E5, 1, 1 / E5], 0),
        ({"importance": "mask", "importance_low": 0.9, "importance_high": 1.1}, [0, 1, 0], 2 / 3),
        ({"importance": "mask", "importance_high": 1.1}, [0, 1, 1 / E5], 1 / 3),
        ({"importance": "truncate", "importance_level": "sequence", "importance_high": 1.1}, [1.1, 1.1, 1 / E5], 2 / 3),
        ({"importance": "mask", "importance_level": "sequence", "importance_high": 1.1}, [0, 0, 1 / E5], 2 / 3),
        ({"importance": "mask", "importance_level": "sequence", "importance_high": 1.7}, [E5, E5, 1 / E5], 0),
    ],
)
def test_importance_weights_by_hand(settings: dict[str, Any], weights: list[float], outside: float | None) -> None:
    """Two rollouts: a forced token, then old / engine = e**0.5 and 1; old / engine = e**-0.5. A = 1, new = old."""
    old, engine = [[-1.0, -1.5, -1.0], [-1.0, 0, 0]], [[float("nan"), -2.0, -1.0], [-0.5, 0, 0]]
    data = mini_batch([[1, 1, 1], [1, 0, 0]], old, [1.0, 1.0], engine_log_prob=engine, forced=[1, 0])
    loss, grad, seen = run(build_objective({"type": "clipped_token", **settings}), data, padded(old, 3))
    assert loss == pytest.approx(-sum(weights) / 3), "the total keeps what is masked"
    assert grad.flatten().tolist() == pytest.approx([0, *(-w / 3 for w in weights), 0, 0])
    if outside is not None:
        assert seen["importance_weight"] == pytest.approx(sum(weights) / 3)
        name = "importance_masked" if settings["importance"] == "mask" else "importance_truncated"
        assert seen[name] == pytest.approx(outside)


def test_low_var_kl_is_cut_off_as_verl_does() -> None:
    log_prob = torch.tensor([-1.0, -9.0], dtype=torch.float64, requires_grad=True)
    value = kl(log_prob, torch.tensor([-0.8, -1.0], dtype=torch.float64), "low_var_kl")
    value.sum().backward()
    assert value.tolist() == pytest.approx([np.exp(0.2) - 1.2, 10.0]) and log_prob.grad is not None
    assert log_prob.grad.tolist() == pytest.approx([1 - np.exp(0.2), 0.0])


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
        ({"type": "clipped_token", "importance_cap": 2.0}, "has no setting 'importance_cap'"),
        ({"type": "clipped_token", "importance": "truncate", "importance_low": 0.5}, "importance: mask"),
        ({"type": "clipped_token", "importance": "mask", "importance_low": 3.0}, "must be below importance_high 2.0"),
        ({"type": "gspo", "clip_low": 1.0}, "clip_low"),
        ({"type": "adaptthink", "nothinking_ratio": 1.0}, "nothinking_ratio"),
        ({"type": "drpo", "length_temperature": 0.0}, "length_temperature"),
        ({"type": "drpo", "lambda": 0.1}, "has no setting 'lambda'"),
        ({"type": "disco", "length_temperature": 0.1}, "has no setting 'length_temperature'"),
        ({"type": "mode_switch", "inner": "drop"}, "unknown objective 'drop'; did you mean 'drpo'"),
        ({"type": "mode_switch", "tokens": {"long": "<a>", "short": "<a>"}}, "a token of its own"),
        ({"type": "mode_switch", "tokens": {"medium": "<a>"}}, "medium"),
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


# ---- GSPO and AdaptThink -------------------------------------------------------------------------------------------


def test_gspo_by_hand() -> None:
    """log ratios 0.2 and 0.4: s = e**0.3, clipped at 1.2 where A > 0, whole where A < 0 (d s / d token = s / 2)."""
    old, new = [[-1.0, -1.0]] * 2, [[-0.8, -0.6]] * 2
    data = mini_batch([[1, 1]] * 2, old, [1.0, -1.0])
    objective = build_objective({"type": "gspo", "clip_low": 0.2, "clip_high": 0.2})
    loss, grad, seen = run(objective, data, padded(new, 2))
    s = np.exp(0.3)
    assert loss == pytest.approx((-1.2 + s) / 2) and grad.flatten().tolist() == pytest.approx([0, 0, s / 4, s / 4])
    assert (seen["clip_high"], seen["clip_low"], seen["sequence_ratio"]) == pytest.approx((0.5, 0, s))
    assert build_objective("gspo").model_dump() == {"type": "gspo", "clip_low": 3e-4, "clip_high": 4e-4}


def test_gspo_takes_each_tokens_own_advantage() -> None:
    data = mini_batch([[1, 1]], [[-1.0, -1.0]], [[3.0, -1.0]])
    loss, grad, _ = run(build_objective("gspo"), data, padded([[-1.0, -1.0]], 2))
    assert loss == pytest.approx(-1.0) and grad.flatten().tolist() == pytest.approx([-1.5, 0.5])


def test_adaptthink_trains_the_forced_first_token() -> None:
    """Share 0.25. No thinking, forced: old first log-prob log 0.25; thinking: log 0.75. The others keep theirs."""
    nan, old = float("nan"), [[-9.0, -1.0], [-0.1, -1.0]]
    data = mini_batch(
        [[1, 1]] * 2, old, [1.0, -1.0], mode=["no_think", "think"], forced=[1, 0], engine_log_prob=[[nan, -1.0], old[1]]
    )
    objective = build_objective({"type": "adaptthink", "nothinking_ratio": 0.25})
    loss, grad, _ = run(objective, data, padded([[-2.0, -1.0], [-0.1, -1.0]], 2))
    s = np.exp((-2 - np.log(0.25)) / 2), np.exp((-0.1 - np.log(0.75)) / 2)
    assert s[0] < 0.8 and loss == pytest.approx((-s[0] + s[1]) / 2)
    assert grad.flatten().tolist() == pytest.approx([-s[0] / 4, -s[0] / 4, s[1] / 4, s[1] / 4])
    plain = run(build_objective("gspo"), data, padded([[-2.0, -1.0], [-0.1, -1.0]], 2))[1]
    assert plain[0, 0] == 0, "a forced token is left out by every other objective"


def test_adaptthink_leaves_later_forced_tokens_and_rollouts_without_a_mode_alone() -> None:
    old = [[-1.0, -1.0, -1.0]] * 2
    data = mini_batch([[1, 1, 1]] * 2, old, [1.0, 1.0], mode=["no_think", None], forced=[2, 1])
    _, grad, _ = run(build_objective("adaptthink"), data, padded([[-2.0, -1.0, -1.0]] * 2, 3))
    assert [[g != 0 for g in row] for row in grad.tolist()] == [[True, False, True], [False, True, True]]
    with pytest.raises(TautError, match=r"no rollout has a mode.*sampling.type=modes"):
        run(build_objective("adaptthink"), mini_batch([[1]], [[-1.0]], [1.0]), padded([[-1.0]], 1))


# ---- DRPO and DisCO ------------------------------------------------------------------------------------------------


def decoupled(settings: Any, lengths: list[int], verdict: list[int], **columns: Any) -> tuple[float, list[float], Any]:
    """(loss, gradient by each rollout's first token times its length, diagnostics) at log-probs of -1, cap 10."""
    mask = [[int(t < n) for t in range(10)] for n in lengths]
    rows = [[-1.0] * 10] * len(lengths)
    columns = {"group": [0] * len(lengths), "log_prob": rows, "max_length": 10} | columns
    data = mini_batch(mask, rows, np.zeros(len(lengths)), verdict=verdict, **columns)
    loss, grad, seen = run(build_objective(settings), data, padded(rows, max([1, *lengths])))
    return loss, (grad[:, 0] * torch.tensor(lengths)).tolist(), seen


def test_drpo_by_hand() -> None:
    """Correct ones of 2 and 4 of 10 tokens, lambda 0.2: weights e**1 : 1 for linear; the wrong one takes the whole push."""
    for reward, gap in {
        "linear": 1.0,
        "concave": 0.6,
        "cosine": 0.5 * (np.cos(0.2 * np.pi) - np.cos(0.4 * np.pi)) / 0.2,
    }.items():
        settings = {"type": "drpo", "length_temperature": 0.2, "length_reward": reward}
        loss, grad, seen = decoupled(settings, [2, 4, 10], [1, 1, 0])
        w = 1 / (1 + np.exp(-gap))
        assert grad == pytest.approx([-w, w - 1, 1.0])
        assert loss == pytest.approx(1.0 + 10.0), "the official surrogate: w s = -1, the wrong ones' term is worth tau"
        assert seen["objective_value"] == pytest.approx(-1.0 + 1.0), "the true value: log mean exp(s / tau) = s / tau"
    assert decoupled("disco", [2, 4, 10], [1, 1, 0])[1] == pytest.approx([-0.5, -0.5, 1.0])


def test_drpo_edge_cases() -> None:
    assert decoupled("drpo", [3, 5], [1, 1])[:2] == (0, [0, 0]) == decoupled("drpo", [3, 5], [0, 0])[:2]
    assert decoupled("drpo", [7, 3], [1, 0])[1] == pytest.approx([-1, 1]), "one correct: its length has no effect"
    assert decoupled("drpo", [6, 6, 3], [1, 1, 0])[1] == pytest.approx([-0.5, -0.5, 1])
    truncated = decoupled("drpo", [10, 5, 3], [1, 1, 0])[1][0]
    assert truncated == pytest.approx(-1 / (1 + np.exp(5))), "truncated but correct: least weight, still positive"
    assert decoupled("drpo", [0, 4, 0, 3], [1, 1, 0, 0])[1] == pytest.approx([0, -1, 0, 1]), "empty ones are in neither"
    assert decoupled("drpo", [0, 3], [1, 0])[1] == [0, 0]
    for temperature in (1e-3, 1e-30, 1e-300):
        _, grad, seen = decoupled({"type": "drpo", "length_temperature": temperature}, [2, 3, 4], [1, 1, 0])
        assert grad == pytest.approx([-1, 0, 1]) and np.isfinite(list(seen.values())).all()
    assert decoupled("drpo", [2, 3, 4], [1, -1, 0])[1] == pytest.approx([-1, 0, 1]), "unknown: in neither set"


def test_drpo_denominator() -> None:
    """A group with both kinds and one without: the latter counts in the mean, or does not."""
    lengths, verdict, group = [2, 3, 4, 5], [1, 0, 1, 1], [0, 0, 1, 1]
    assert decoupled("drpo", lengths, verdict, group=group)[1] == pytest.approx([-0.5, 0.5, 0, 0])
    _, grad, seen = decoupled({"type": "drpo", "denominator": "valid"}, lengths, verdict, group=group)
    assert grad == pytest.approx([-1, 1, 0, 0]) and seen["objective_value"] == pytest.approx(0.0)


def test_drpo_constraint_is_half_the_squared_hinge() -> None:
    """K = 0.3 (k1), delta 0.1, beta 2: gradient 2 * 0.2 * dK = -0.4 / tokens each; a negative K is free."""
    settings = {"type": "drpo", "beta": 2.0, "delta": 0.1}
    for drift, factor in ((0.3, 0.4), (-0.3, 0.0), (0.05, 0.0)):
        new = [[-1.0 - drift, -1.0 - drift]]
        data = mini_batch([[1, 1]], [[-1.0, -1.0]], [0.0], log_prob=new)
        loss, grad, seen = run(build_objective(settings), data, padded(new, 2))
        assert grad.flatten().tolist() == pytest.approx([-factor / 2] * 2) and loss == pytest.approx(factor * drift)
        assert seen["constraint_kl"] == pytest.approx(drift) and seen["constraint_active"] == (factor > 0)


# ---- mode switch ---------------------------------------------------------------------------------------------------


def switch(
    right_short: int, right_long: int, of: int = 4, temperature: float = 1.0, **settings: Any
) -> tuple[float, Any]:
    """(loss, diagnostics) of the switching term alone, on a prompt with z_short = 2.0 and z_long = 1.5."""
    mode = ["short"] * of + ["long"] * of
    verdict = [int(i < right_short) for i in range(of)] + [int(i < right_long) for i in range(of)]
    one = [[-1.0]] * len(mode)
    data = mini_batch(
        [[1]] * len(mode),
        one,
        np.zeros(len(mode)),
        group=[0] * len(mode),
        verdict=verdict,
        mode=mode,
        temperature=temperature,
    )
    probes = torch.log_softmax(torch.tensor([[1.5, 2.0, 0.3]], dtype=torch.float64) / temperature, -1)[:, :2]
    objective = build_objective({"type": "mode_switch", "weight": 1.0, **settings})
    return (lambda out: (out[0], out[2]))(run(objective, data, padded(one, 1), None, None, probes.expand(len(mode), 2)))


def test_mode_switch_by_hand() -> None:
    assert switch(3, 4)[0] == pytest.approx(1.5), "3/4 < 4/4: hard, long is preferred"
    assert switch(4, 4)[0] == pytest.approx(0.5), "all right: simple, short is preferred"
    assert switch(1, 1)[0] == pytest.approx(1.5), "below the threshold: hard"
    assert switch(1, 1, threshold=0.25)[0] == pytest.approx(0.5)
    assert switch(0, 0)[0] == 0 and switch(0, 1)[0] == pytest.approx(1.5)
    assert switch(4, 4, margin=0.4)[0] == 0 and switch(4, 4, weight=0.1)[0] == pytest.approx(0.05)
    assert switch(4, 4, temperature=0.6)[0] == pytest.approx(0.5), "the margin is of logits, whatever the temperature"
    seen = switch(4, 4)[1]
    assert seen["mode_prefers_short"] == 1 and seen["mode_switch_loss"] == pytest.approx(0.5) and seen["ratio"] == 1


def test_mode_switch_is_a_mean_over_prompts_with_both_modes() -> None:
    """Groups of two (short right), of four (long right), of one mode only, of no verdict: 0.5, 1.5, nothing, nothing."""
    group, mode = (
        [0, 0, 1, 1, 1, 1, 2, 2, 3, 3],
        ["long", "short", "long", "short", "long", "short", "long", None, "long", "short"],
    )
    verdict, one = [0, 1, 1, 0, 1, 0, 1, 1, -1, 1], [[-1.0]] * 10
    data = mini_batch([[1]] * 10, one, np.zeros(10), group=group, verdict=verdict, mode=mode, max_length=1)
    probes = torch.log_softmax(torch.tensor([1.5, 2.0], dtype=torch.float64), -1).expand(10, 2)
    loss, _, seen = run(build_objective({"type": "mode_switch", "weight": 1}), data, padded(one, 1), None, None, probes)
    assert loss == pytest.approx((0.5 + 1.5) / 4)
    assert seen["mode_switch_loss"] == pytest.approx(1.0) and seen["mode_prefers_short"] == 0.5


def test_mode_switch_asks_for_what_its_inner_objective_asks_for() -> None:
    outer = build_objective({"type": "mode_switch", "inner": {"type": "clipped_token", "kl_coef": 0.1}})
    assert outer.needs == {"probes", "ref_log_prob"} and not outer.whole_groups and outer.reads_advantage
    assert outer.probe_tokens == ((0, "<long>"), (0, "<short>"))
    tokens = {"long": "<think>", "short": "</think>"}
    outer = build_objective(
        {"type": "mode_switch", "inner": {"type": "mode_switch", "inner": "drpo"}, "tokens": tokens}
    )
    assert outer.whole_groups and not outer.reads_advantage
    assert outer.probe_tokens == ((0, "<long>"), (0, "<short>"), (0, "<think>"), (0, "</think>"))
    assert build_objective(dump(outer)) == outer
