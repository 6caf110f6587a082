"""The update: one gradient whatever the split, whole groups, and nothing moves for rollouts that are left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards import Batch, Scores
from rollout.paths import locate
from rollout.sampler import to_batch
from rollout.types import Problem, Request, Rollout
from trainers.objectives.base import Objective
from trainers.optim import make_optimizer
from trainers.policy import Policy
from trainers.settings import load_config
from trainers.update import Scored, Updater

MODEL = locate("benchmarks:overthinker/checkpoint")


def updater(*arguments: str) -> Updater:
    config = load_config(["optim.lr=0.01", *arguments])
    policy = Policy.load(MODEL)
    return Updater(policy, make_optimizer(policy.model, config.optim), config, think_end=5)


def scored(groups: int = 4, samples: int = 3) -> Scored:
    random = np.random.default_rng(0)
    rollouts = []
    for i in range(groups * samples):
        ids = tuple(random.integers(6, 120, 3 + i).tolist())
        request = Request(Problem(str(i // samples), "1+1", "2"), i // samples, i, "1+1", 32)
        rollouts.append(Rollout(request, (7, 8, 9), ids, (-1.0,) * len(ids), "stop", (0,) * len(ids), "x"))
    batch, n = to_batch(rollouts), groups * samples
    scores = Scores(random.normal(size=n), {}, np.ones(n, dtype=bool))
    return Scored(rollouts, batch, scores, random.normal(size=n), None)


def weights(u: Updater) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in u.policy.model.parameters()])


def gradient(u: Updater, s: Scored) -> tuple[float, torch.Tensor]:
    from trainers.objectives.parts import Tally

    loss = u._backward(np.flatnonzero(s.scores.keep), s, Tally())
    return loss, torch.cat([p.grad.flatten() for p in u.optimizer.masters if p.grad is not None])


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum_constant"])
def test_loss_and_gradient_do_not_depend_on_the_split(aggregation: str) -> None:
    s = scored()
    results = [
        gradient(updater(f"objective.aggregation={aggregation}", f"micro_tokens={m}"), s) for m in (1, 40, 10_000)
    ]
    for loss, grad in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-6)
        torch.testing.assert_close(grad, results[0][1], atol=1e-6, rtol=1e-5)
    assert results[0][1].abs().max() > 1e-4


def test_one_pass_or_two_give_the_same_update() -> None:
    s, one, two = scored(), updater(), updater()
    columns, old = two.measure(s.rollouts, frozenset({"mean_log_prob", "entropy_think", "untempered_entropy_all"}))
    assert old is not None and one.measure(s.rollouts, frozenset()) == ({}, None)
    np.testing.assert_allclose(columns["mean_log_prob"], [float(row.mean()) for row in old])
    np.testing.assert_allclose(columns["untempered_entropy_all"], columns["entropy_all"], rtol=1e-6)  # T = 1
    a, b = one.update(s, 0), two.update(dataclasses.replace(s, old=old), 0)
    assert a["ratio"] == 1 and b["ratio"] == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(weights(one), weights(two), atol=1e-5, rtol=1e-5)


def test_a_forced_prefix_has_no_part_in_the_mean_log_prob() -> None:
    s, u = scored(), updater()
    for rollout in s.rollouts:
        rollout.forced = 2
    columns, old = u.measure(s.rollouts, frozenset({"mean_log_prob"}))
    assert old is not None
    np.testing.assert_allclose(columns["mean_log_prob"], [float(row[2:].mean()) for row in old])


def test_what_is_kept_does_not_change_the_scale() -> None:
    """Modes with caps of their own: the constant that divides is the step's, also where only the shorter mode is kept."""
    s, keep, losses = scored(), np.arange(12) % 3 == 0, []
    for caps in (np.full(12, 64), np.where(keep, 32, 64)):
        batch = dataclasses.replace(s.batch, max_tokens=caps)
        part = dataclasses.replace(s, batch=batch, scores=Scores(s.scores.total, {}, keep))
        losses.append(updater("objective.aggregation=sequence_sum_constant").update(part, 0)["loss"])
    assert losses[0] == losses[1] != 0


def test_what_is_left_out_moves_nothing() -> None:
    s = scored()
    keep = np.array([True] * 9 + [False] * 3)
    part = Scored(s.rollouts[:9], s.batch.take(keep), Scores(s.scores.total[:9], {}, keep[:9]), s.advantage[:9], None)
    whole = dataclasses.replace(s, scores=Scores(s.scores.total, {}, keep))
    a, b = updater(), updater()
    assert a.update(whole, 0) == b.update(part, 0)
    assert torch.equal(weights(a), weights(b))
    none = dataclasses.replace(s, scores=Scores(s.scores.total, {}, np.zeros(12, dtype=bool)))
    before = weights(a)
    assert a.update(none, 1)["updates"] == 0 and torch.equal(weights(a), before)


def test_mini_batches_keep_groups_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    u, seen = updater("mini_batches=3"), []
    monkeypatch.setattr(u, "_backward", lambda rows, s, tally: seen.append(set(s.batch.group[rows])) or 0.0)
    monkeypatch.setattr(u.optimizer, "update", lambda lr, clip: 0.0)
    assert u.update(scored(), 0)["updates"] == 3
    assert seen == [{0, 1}, {2}, {3}]


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    u, s = updater(), scored()
    before = weights(u)
    out = u.update(dataclasses.replace(s, advantage=np.full(12, 1e39)), 0)  # infinite in float32
    assert not np.isfinite(out["grad_norm"]) and torch.equal(weights(u), before)


class WholeGroups(Objective):
    """A user's objective that couples rollouts: what it needs reaches it without a change to the loop."""

    type: str = "tests.test_update:WholeGroups"
    whole_groups = True

    @property
    def probe_tokens(self) -> tuple[tuple[int, str], ...]:
        return ((0, "<think>"),)

    def plan(self, data):
        assert data.log_prob is not None and data.probes is not None and data.probes.shape == (12, 1)
        mean = (data.log_prob * data.mask).sum(1) / data.length
        return {"weight": torch.softmax(mean, 0)}

    def loss(self, micro, plan):
        assert micro.probes is not None
        return -(plan["weight"][micro.index] * micro.log_prob.sum(1)).sum() - 0.1 * micro.probes.mean(), {}


def test_an_objective_that_couples_rollouts_needs_no_special_case() -> None:
    u, s = updater("objective=tests.test_update:WholeGroups"), scored()
    u.probe_ids = ((0, 6),)
    _, old = u.measure(s.rollouts, frozenset())
    assert old is not None  # whole groups: the pass before the update is made
    before = weights(u)
    u.update(dataclasses.replace(s, old=old), 0)
    assert not torch.equal(weights(u), before)


def test_batches_of_nothing(tmp_path: Path) -> None:
    empty = Batch(group=[], length=[], verdict=[])
    assert len(empty) == 0 and empty.num_groups == 0 and list(empty.groups()) == []
