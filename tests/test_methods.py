"""What every method must obey, by the registries: a new one is tested the day it is registered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards import CONDITIONS, REWARDS, SCHEDULES, Batch, Progress, Reward, Scores, TautError, build_reward, dump
from tests.batches import CAP, KINDS, SEEN, batches, make, variants
from trainers.advantages import ADVANTAGES, Advantage

PROGRESS = Progress(step=3, total_steps=10, max_length=CAP, seed=1)
REWARD_VARIANTS, ADVANTAGE_VARIANTS = list(variants(REWARDS)), list(variants(ADVANTAGES))
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def among(chosen: Callable[[Reward], Any]) -> Any:
    some = [(name, r) for name, r in REWARD_VARIANTS if chosen(r)]
    return pytest.mark.parametrize("reward", [r for _, r in some], ids=[name for name, _ in some])


rewards = among(lambda r: True)
stateful = among(lambda r: any(node.state_version for _, node in r.walk()))
advantages = pytest.mark.parametrize(
    "advantage", [a for _, a in ADVANTAGE_VARIANTS], ids=[name for name, _ in ADVANTAGE_VARIANTS]
)


def fresh(reward: Reward) -> Reward:
    return build_reward(dump(reward))


def with_history(reward: Reward, seed: int) -> Reward:
    """A copy that has observed two steps and, where it watches problems beside training, a monitor's batch."""
    reward, rng = fresh(reward), np.random.default_rng(seed)
    groups = [(int(size), "mixed") for size in rng.integers(1, 9, 6)]
    if reward.monitor():
        reward.observe(make(groups, rng, origin="monitor"), PROGRESS)
    for _ in range(2):
        reward.observe(make(groups, rng), PROGRESS)
    return reward


def same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1.0, np.abs(b).max(initial=0.0)))


@rewards
@few
@given(batch=batches(), seed=st.integers(0, 999))
def test_order_never_matters(reward: Reward, batch: Batch, seed: int) -> None:
    reward, order = with_history(reward, seed), np.random.default_rng(seed).permutation(len(batch))
    plain, moved = reward.score(batch, PROGRESS), reward.score(batch.take(order), PROGRESS)
    same(moved.total, plain.total[order])
    np.testing.assert_array_equal(moved.keep, plain.keep[order])


@rewards
@few
@given(batch=batches(), seed=st.integers(0, 999))
def test_scoring_is_pure_and_finite(reward: Reward, batch: Batch, seed: int) -> None:
    reward = with_history(reward, seed)
    before, columns = (
        json.dumps(reward.state_dict()),
        {k: v.copy() for k, v in vars(batch).items() if hasattr(v, "copy")},
    )
    with np.errstate(all="raise", under="ignore"):
        first, again = reward.score(batch, PROGRESS), reward.score(batch, PROGRESS)
    np.testing.assert_array_equal(first.total, again.total)
    assert json.dumps(reward.state_dict()) == before
    for key, column in columns.items():
        assert all(np.array_equal(x, y) for x, y in zip(column, vars(batch)[key], strict=True)), key
    for path, values in first.terms.items():
        assert np.isfinite(values).all() and values.shape == (len(batch),), path


@rewards
@few
@given(batch=batches(), seed=st.integers(0, 999))
def test_unknown_is_absent(reward: Reward, batch: Batch, seed: int) -> None:
    known = batch.known
    one, other = with_history(reward, seed), with_history(reward, seed)
    whole, part = one.score(batch, PROGRESS), other.score(batch.take(known), PROGRESS)
    same(whole.total[known], part.total)
    np.testing.assert_array_equal(whole.keep[known], part.keep)
    assert not whole.keep[~known].any() and not whole.total[~known].any()
    one.observe(batch, PROGRESS)
    other.observe(batch.take(known), PROGRESS)
    assert one.state_dict() == other.state_dict()


@among(lambda r: r.shorter_pays)
@few
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(1, 16), min_size=1, max_size=4))
def test_shorter_never_pays_less_among_correct(reward: Reward, seed: int, sizes: list[int]) -> None:
    rng, reward = np.random.default_rng(seed), with_history(reward, seed)
    batch = make([(size, "mixed") for size in sizes], rng)
    columns = {k: v for k, v in vars(batch).items() if isinstance(v, np.ndarray)}
    n = len(batch)
    alike = Batch(
        **columns
        | {
            "format_ok": np.ones(n, bool),
            "truncated": np.zeros(n, bool),
            "tags": [frozenset({"think", "answer"})] * n,
            "mode": ["think"] * n,
            "tokens": [np.arange(k) for k in batch.length],
            "untempered_entropy_think": np.ones(n),
            "untempered_entropy_answer": np.ones(n),
        }
    )
    scores = reward.score(alike, PROGRESS)
    for rows in alike.groups():
        rows = rows[alike.correct[rows] & scores.keep[rows]]
        paid = scores.total[rows[np.argsort(alike.length[rows], kind="stable")]]
        assert (np.diff(paid) <= 1e-9).all()


@among(lambda r: r.bounds(PROGRESS) is not None)
@few
@given(batch=batches(), seed=st.integers(0, 999), step=st.integers(0, 10))
def test_bounds_hold(reward: Reward, batch: Batch, seed: int, step: int) -> None:
    progress = Progress(step, 10, CAP, 1)
    bounds = reward.bounds(progress)
    assert bounds is not None
    scores = with_history(reward, seed).score(batch, progress)
    for part, side in ((batch.correct, bounds.correct), (batch.known & ~batch.correct, bounds.wrong)):
        paid = scores.total[part & scores.keep]
        assert (paid >= side.low - 1e-9).all() and (paid <= side.high + 1e-9).all()


@rewards
def test_yaml_means_the_same_tree(reward: Reward) -> None:
    text = yaml.safe_dump(dump(reward))
    assert build_reward(yaml.safe_load(text)) == reward
    assert yaml.safe_dump(dump(build_reward(yaml.safe_load(text)))) == text


@rewards
@few
@given(batch=batches(), later=batches(), seed=st.integers(0, 999))
def test_state_goes_round_and_the_future_is_the_same(reward: Reward, batch: Batch, later: Batch, seed: int) -> None:
    reward = with_history(reward, seed)
    reward.observe(batch, PROGRESS)
    again = fresh(reward)
    again.load_state_dict(json.loads(json.dumps(reward.state_dict())))
    for one in (reward, again):
        one.observe(later, PROGRESS)
    assert again.state_dict() == reward.state_dict()
    np.testing.assert_array_equal(again.score(later, PROGRESS).total, reward.score(later, PROGRESS).total)


@stateful
@few
@given(batch=batches(), seed=st.integers(0, 999))
def test_the_order_in_which_shards_arrive_changes_no_state(reward: Reward, batch: Batch, seed: int) -> None:
    one, other = with_history(reward, seed), with_history(reward, seed)
    shards = np.array_split(np.arange(len(batch)), 4)
    one.observe(batch, PROGRESS)
    other.observe(batch.take(np.concatenate(shards[::-1])), PROGRESS)
    assert one.state_dict() == other.state_dict()


@stateful
@few
@given(batch=batches(origin="validation"))
def test_validation_never_writes_state(reward: Reward, batch: Batch) -> None:
    reward = with_history(reward, 0)
    before = reward.state_dict()
    reward.observe(batch, PROGRESS)
    assert reward.state_dict() == before


@stateful
def test_state_of_another_version_is_refused(reward: Reward) -> None:
    text = json.dumps(fresh(reward).state_dict())
    with pytest.raises(TautError, match=r"needs the state of .*version 1.*version 99"):
        fresh(reward).load_state_dict(json.loads(text.replace('"version": 1', '"version": 99')))
    with pytest.raises(TautError, match=r"holds none"):
        fresh(reward).load_state_dict({})


@rewards
def test_no_groups_are_refused_by_name(reward: Reward) -> None:
    batch = make([(4, "mixed")], np.random.default_rng(0))
    columns = {k: v for k, v in vars(batch).items() if isinstance(v, np.ndarray)}
    alone = Batch(**columns | {"group": None})
    if reward.scope in ("group", "step"):
        with pytest.raises(TautError, match=rf"{reward.title}.*no groups; give group="):
            reward.score(alone, PROGRESS)
    else:
        assert np.isfinite(reward.score(alone, PROGRESS).total).all()


@advantages
@few
@given(batch=batches(), seed=st.integers(0, 999))
def test_advantages(advantage: Advantage, batch: Batch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = np.where(batch.correct, 1.0, 0.0) + rng.choice([0.0, 0.0, 0.5, -0.2], len(batch))
    keep = batch.known & (rng.random(len(batch)) < 0.9)
    with np.errstate(all="raise", under="ignore"):
        whole = advantage(batch, Scores(total, {}, keep), PROGRESS)
    assert np.isfinite(whole).all() and not whole[~keep].any()
    order = rng.permutation(len(batch))
    moved = advantage(batch.take(order), Scores(total[order], {}, keep[order]), PROGRESS)
    same(moved, whole[order])
    part = batch.take(keep)
    same(advantage(part, Scores(total[keep], {}, np.ones(len(part), bool)), PROGRESS), whole[keep])


@pytest.mark.parametrize("registry", [ADVANTAGES, CONDITIONS, SCHEDULES], ids=lambda r: r.kind)
def test_configurations_go_round(registry: Any) -> None:
    for label, node in variants(registry):
        again = registry.build(yaml.safe_load(yaml.safe_dump(dump(node))))
        assert again == node, label


@few
@given(batch=batches(), seed=st.integers(0, 999))
def test_conditions_do_not_depend_on_the_order(batch: Batch, seed: int) -> None:
    batch = batch.take(batch.known)
    order = np.random.default_rng(seed).permutation(len(batch))
    for label, condition in variants(CONDITIONS):
        holds, moved = condition.holds(batch, PROGRESS), condition.holds(batch.take(order), PROGRESS)
        np.testing.assert_array_equal(moved, holds[order], err_msg=label)
        for correct in (True, False):
            if (said := condition.decides(correct)) is not None:
                assert (holds[batch.correct == correct] == said).all(), label


def test_the_generator_makes_every_kind_of_group() -> None:
    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(batch=batches())
    def fill(batch: Batch) -> None:
        assert len(batch)

    fill()
    wanted = {
        *KINDS, *(f"group of {n}" for n in range(1, 17)), "uneven", "ties", "unknown verdict", "truncated", "empty",
        "really all right", "really all wrong", "nothing known",
    }  # fmt: skip
    assert not wanted - SEEN
