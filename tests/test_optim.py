"""The optimiser is AdamW, with float32 masters under bfloat16 weights; the schedule is what it says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.test_policy import gradients, make, sequences
from trainers.optim import OptimConfig, lr_at, make_optimizer
from trainers.policy import Policy


def test_schedule() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4, schedule="linear")
    assert [lr_at(s, config, 8) for s in range(10)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
    assert [lr_at(s, OptimConfig(lr=2.0), 3) for s in range(4)] == [2.0] * 4
    assert lr_at(0, OptimConfig(lr=1.0, warmup_steps=5, schedule="linear"), 3) == 0.2


def loss_of(policy: Policy) -> Tensor:
    out = policy.log_probs(*sequences(), grad=True)
    return -out.log_prob.sum() / out.mask.sum()


def test_optimizer_equals_adamw_and_clips() -> None:
    config = OptimConfig(lr=1e-2, weight_decay=0.1, grad_clip=0.5)
    mine, theirs = make(), make()
    optimizer = make_optimizer(mine.model, config)
    reference = torch.optim.AdamW(theirs.model.parameters(), lr=1.0, weight_decay=0.1)
    for step in range(3):
        lr = lr_at(step, config, 3)
        loss_of(mine).backward()
        norm = optimizer.update(lr, config.grad_clip)
        loss_of(theirs).backward()
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), 0.5)), rel=1e-6)
        reference.param_groups[0]["lr"] = lr
        reference.step()
        reference.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(mine.weights().values(), theirs.weights().values(), strict=True))


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    policy = make()
    optimizer = make_optimizer(policy.model, OptimConfig(lr=1.0))
    before = {k: v.clone() for k, v in policy.weights().items()}
    (loss_of(policy) * float("nan")).backward()
    assert not torch.isfinite(torch.tensor(optimizer.update(1.0, 1.0)))
    assert all(torch.equal(v, before[k]) for k, v in policy.weights().items()) and not gradients(policy)


def test_bfloat16_weights_move_through_masters_and_resume() -> None:
    """Steps of 1e-5 are lost in bfloat16; with masters they add up, and a resumed optimiser goes on bit for bit."""

    def low() -> Policy:
        policy = make()
        policy.model.to(torch.bfloat16)
        return policy

    def train(policy: Policy, optimizer: Any, steps: int) -> None:
        for _ in range(steps):
            loss_of(policy).backward()
            loss_of(policy).backward()  # accumulates in float32
            assert all(p.grad is None for p in policy.model.parameters())
            assert optimizer.update(1e-5, None) > 0

    config = OptimConfig(lr=1e-5)
    policy = low()
    start = {k: v.clone() for k, v in policy.weights().items()}
    optimizer = make_optimizer(policy.model, config)
    train(policy, optimizer, 12)
    moved = max(
        float((m.detach() - start[k].float()).abs().max()) for k, m in zip(start, optimizer.masters, strict=True)
    )
    assert moved > 1e-4
    assert all(torch.equal(p, m.to(p.dtype)) for p, m in optimizer.pairs())

    other = low()
    other.model.load_state_dict(policy.model.state_dict())
    resumed = make_optimizer(other.model, config)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(policy, optimizer, 2)
    train(other, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(optimizer.masters, resumed.masters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(policy.weights().values(), other.weights().values(), strict=True))
