"""Advantages: official numbers, and what must hold for any rewards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rewards.base import Scores
from rewards.batch import Batch
from tests.oracle import cases, close
from trainers.advantages import build_advantage
from trainers.advantages.base import Advantage

NAMES = ["grpo", "dr_grpo", "rloo"]


def scores(total: object, keep: object = None) -> Scores:
    array = np.asarray(total, dtype=np.float64)
    return Scores(array, {"total": array}, np.ones(len(array), bool) if keep is None else np.asarray(keep, bool))


def batch(groups: object, sample_id: object = None) -> Batch:
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = len(group)
    return Batch(group=group, length=np.full(n, 3), verdict=[1] * n, sample_id=sample_id)  # type: ignore[arg-type]


def compute(advantage: Advantage | str, groups: object, total: object, keep: object = None) -> NDArray[np.float64]:
    return build_advantage(advantage)(batch(groups), scores(total, keep))


@pytest.mark.parametrize("case", cases("grpo_advantage_verl"))
def test_verl(case: dict) -> None:
    name = "grpo" if case["params"]["divide_by_std"] else "dr_grpo"
    advantage = build_advantage({"type": name, "singleton": "raw"})
    got = compute(advantage, case["inputs"]["problem_ids"], case["inputs"]["rewards"])
    assert close(got, case["expected"]["advantages"])


@pytest.mark.parametrize("case", cases("drgrpo_advantage"))
def test_understand_r1_zero(case: dict) -> None:
    rewards = case["inputs"]["rewards"]
    groups = np.arange(len(rewards)) // case["inputs"]["group_size"]
    name = {"type": "grpo", "eps": 1e-8} if case["params"]["divide_by_std"] else "dr_grpo"
    assert close(compute(build_advantage(name), groups, rewards), case["expected"]["advantages"])


@pytest.mark.parametrize("case", cases("laser_grpo_advantage"))
def test_laser(case: dict) -> None:
    advantage = build_advantage({"type": "grpo", "singleton": "raw"})
    got = compute(advantage, case["inputs"]["group_ids"], case["inputs"]["rewards"])
    assert close(got, case["expected"]["advantage"])


@pytest.mark.parametrize("case", cases("canon_repo_drgrpo"))
def test_canon_dr_grpo(case: dict) -> None:
    advantage = build_advantage({"type": "dr_grpo", "singleton": "raw"})
    got = compute(advantage, case["inputs"]["group_ids"], case["inputs"]["rewards"]) / case["params"]["max_length"]
    assert close(got, case["expected"]["advantage"])


def test_rloo_by_hand() -> None:
    got = compute("rloo", [0, 0, 0], [1.0, 0.0, 0.5])
    assert np.allclose(got, [1 - 0.25, 0 - 0.75, 0.5 - 0.5])


@pytest.mark.parametrize("name", NAMES)
def test_group_of_one(name: str) -> None:
    assert compute(name, [0, 1, 1], [0.7, 1, 0])[0] == 0
    raw = compute(build_advantage({"type": name, "singleton": "raw"}), [0], [0.7])[0]
    assert raw == pytest.approx(0.7 / (1 + 1e-6) if name == "grpo" else 0.7, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7, 1e17])
def test_equal_rewards_give_exactly_zero(name: str, value: float) -> None:
    assert not compute(name, [0] * 7, [value] * 7).any()


@pytest.mark.parametrize("name", NAMES)
def test_one_kept_rollout_counts_as_a_group_of_one(name: str) -> None:
    assert not compute(name, [0, 0, 0], [1.0, 0.0, 5.0], keep=[True, False, False]).any()


def test_bad_scores_are_named() -> None:
    with pytest.raises(ValueError, match="score of rollout 1 is nan"):
        compute("grpo", [0, 0], [1.0, np.nan])
    with pytest.raises(ValueError, match="3 rollouts"):
        compute("grpo", [0, 0, 0], [1.0, 2.0])


def test_unknown_names_and_settings_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'dr_grpo'"):
        build_advantage("dr_grp0")
    with pytest.raises(ValueError, match="did you mean 'singleton'"):
        build_advantage({"type": "rloo", "singelton": "raw"})


def test_per_token_advantages_fit_the_contract() -> None:
    class PerToken(Advantage):
        def compute(self, batch, reward, progress):
            return np.outer(reward, np.arange(int(batch.length.max())))

    got = PerToken()(batch([0, 0]), scores([1.0, 2.0], [True, False]))
    assert got.tolist() == [[0, 1, 2], [0, 0, 0]]

    class TooNarrow(Advantage):
        def compute(self, batch, reward, progress):
            return np.zeros((len(batch), 2))

    with pytest.raises(ValueError, match="up to 3 tokens"):
        TooNarrow()(batch([0, 0]), scores([1.0, 2.0]))


rollouts = st.lists(st.tuples(st.integers(0, 3), st.floats(-2, 2).map(lambda x: round(x, 3))), min_size=1, max_size=20)
named = st.sampled_from(NAMES)


@given(named, rollouts, st.randoms(use_true_random=False))
def test_order_does_not_matter(name: str, rows: list[tuple[int, float]], random) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    group, total = (np.array(c) for c in zip(*rows, strict=True))
    advantage = build_advantage(name)
    straight = advantage(batch(group, np.arange(len(rows))), scores(total))
    shuffled = advantage(batch(group[order], np.array(order)), scores(total[order]))
    assert np.array_equal(straight[order], shuffled), "bit for bit: groups are read in sample_id order"


@given(named, rollouts, st.integers(0, 3), st.floats(-1e6, 1e6))
def test_an_unknown_changes_nothing(name: str, rows: list[tuple[int, float]], group: int, reward: float) -> None:
    groups, total = (list(c) for c in zip(*rows, strict=True))
    without = compute(name, groups, total)
    with_it = compute(name, [*groups, group], [*total, reward], [True] * len(rows) + [False])
    assert np.array_equal(without, with_it[:-1]) and with_it[-1] == 0


@given(named, rollouts, st.floats(-10, 10))
def test_shift_invariance(name: str, rows: list[tuple[int, float]], shift: float) -> None:
    groups, total = (np.array(c) for c in zip(*rows, strict=True))
    assert np.allclose(compute(name, groups, total), compute(name, groups, total + shift), atol=1e-6)


@given(rollouts)
def test_dr_grpo_and_rloo_add_up_to_zero(rows: list[tuple[int, float]]) -> None:
    groups, total = (np.array(c) for c in zip(*rows, strict=True))
    for name in ("dr_grpo", "rloo"):
        got = compute(name, groups, total)
        assert all(abs(got[groups == g].sum()) < 1e-12 for g in set(groups.tolist()))
