"""Advantages: numbers by hand, and what must hold for any rewards. Official numbers: `test_conformance.py`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rewards.base import Scores
from rewards.batch import Batch
from rewards.errors import TautError
from rewards.progress import Progress
from trainers.advantages import build_advantage
from trainers.advantages.base import Advantage

NAMES = ["grpo", "dr_grpo", "rloo", "batch_std", "length_rank", "canon"]


def scores(total: object, keep: object = None) -> Scores:
    array = np.asarray(total, dtype=np.float64)
    return Scores(array, {"total": array}, np.ones(len(array), bool) if keep is None else np.asarray(keep, bool))


def batch(groups: object, sample_id: object = None) -> Batch:
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = len(group)
    return Batch(group=group, length=np.full(n, 3), verdict=[1] * n, sample_id=sample_id)  # type: ignore[arg-type]


def compute(advantage: Advantage | str, groups: object, total: object, keep: object = None) -> NDArray[np.float64]:
    return build_advantage(advantage)(batch(groups), scores(total, keep))


def test_rloo_by_hand() -> None:
    got = compute("rloo", [0, 0, 0], [1.0, 0.0, 0.5])
    assert np.allclose(got, [1 - 0.25, 0 - 0.75, 0.5 - 0.5])


@pytest.mark.parametrize("name", NAMES)
def test_group_of_one(name: str) -> None:
    assert compute(name, [0, 1, 1], [0.7, 1, 0])[0] == 0
    raw = compute(build_advantage({"type": name, "singleton": "raw"}), [0], [0.7])[0]
    wanted = {"grpo": 0.7 / (1 + 1e-6), "batch_std": 0.7 / 1e-6, "length_rank": 0.35 / (1 + 1e-6)}  # half is A_rank: 0
    assert raw == pytest.approx(wanted.get(name, 0.7), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7, 1e17])
def test_equal_rewards_give_exactly_zero(name: str, value: float) -> None:
    assert not compute(name, [0] * 7, [value] * 7).any()


@pytest.mark.parametrize("name", NAMES)
def test_one_kept_rollout_counts_as_a_group_of_one(name: str) -> None:
    assert not compute(name, [0, 0, 0], [1.0, 0.0, 5.0], keep=[True, False, False]).any()


def test_batch_std_by_hand() -> None:
    # centred: .5, -.5, 0, 0, and 0 for the group of one; std of all five, ddof 1: sqrt(.5 / 4)
    groups, reward = [0, 0, 1, 1, 2], [1.0, 0.0, 1.0, 1.0, 5.0]
    np.testing.assert_allclose(
        compute("batch_std", groups, reward)[:2], [0.5 / 0.125**0.5, -0.5 / 0.125**0.5], rtol=1e-5
    )
    of_rewards = build_advantage({"type": "batch_std", "std_of": "rewards", "ddof": 0})
    np.testing.assert_allclose(compute(of_rewards, groups, reward)[0], 0.5 / np.std(reward), rtol=1e-5)
    # a tiny difference in an all-correct group stays tiny beside a group with signal
    tiny = compute("batch_std", [0, 0, 1, 1], [1.0, 0.999, 1.0, 0.0])
    assert abs(tiny[0]) < 0.01 < abs(compute("grpo", [0, 0, 1, 1], [1.0, 0.999, 1.0, 0.0])[0])


def lengths(groups: list[int], length: list[int], **columns: object) -> Batch:
    return Batch(group=groups, length=length, verdict=columns.pop("verdict", [1] * len(groups)), **columns)


def test_length_rank_by_hand() -> None:
    # rank 0: rewards 1 and 0; rank 1: 0 and 0; rank 2 has one rollout
    batch = lengths([0, 0, 1, 1, 1], [9, 3, 4, 8, 20])
    reward = scores([0.0, 1.0, 0.0, 0.0, 1.0])
    ranks = build_advantage({"type": "length_rank", "weight": 1.0})(batch, reward)
    np.testing.assert_allclose(ranks, [0, 0.5**0.5, -(0.5**0.5), 0, 0], atol=1e-5)
    plain = build_advantage("grpo")(batch, reward)
    mixed = build_advantage({"type": "length_rank", "weight": 0.25})(batch, reward)
    np.testing.assert_allclose(mixed, 0.75 * plain + 0.25 * ranks)


def canon(batch: Batch, reward: object, **settings: object) -> NDArray[np.float64]:
    return build_advantage({"type": "canon", **settings})(batch, scores(reward))


def test_canon_by_hand() -> None:
    batch = lengths([0] * 4, [10, 20, 30, 40])
    reward = [1.0, 0.0, 1.0, 1.0]  # r_low .5, r_high 1
    np.testing.assert_allclose(canon(batch, reward), [0, -1, 0.5, 0.5])
    np.testing.assert_allclose(canon(batch, reward, mu=0), [0.5, -0.5, 0, 0])
    np.testing.assert_allclose(canon(batch, reward, alpha=0.8), [0.2, -0.8, 0.3, 0.3])
    np.testing.assert_allclose(canon(batch, reward, alpha=0.8, weighted_side="low"), [-0.2, -1, 0.6, 0.6])
    np.testing.assert_allclose(canon(batch, reward, mu=0.5), compute("dr_grpo", [0] * 4, reward))
    np.testing.assert_allclose(canon(batch, reward, beta=0.1, divisor=10), [-0.01, -0.11, 0.06, 0.06])


def test_canon_where_all_are_right_or_wrong() -> None:
    batch = lengths([0] * 4, [10, 20, 30, 40])
    np.testing.assert_allclose(canon(batch, [1.0] * 4, mu=0.5, alpha=0.96), [0.02, 0.02, -0.02, -0.02])
    assert not canon(batch, [0.0] * 4, mu=0.5, alpha=0.96).any()


def test_canon_ties_odd_groups_and_metrics() -> None:
    tied = lengths([0] * 4, [7] * 4, sample_id=[3, 2, 1, 0])
    reward = [1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(canon(tied, reward), [1, 0, -0.5, -0.5])  # sample ids 2 and 3 are the high half
    np.testing.assert_allclose(canon(tied, reward, all_equal="dr_grpo"), [0.75, -0.25, -0.25, -0.25])
    odd = lengths([0] * 3, [1, 2, 3])
    np.testing.assert_allclose(canon(odd, [1.0, 0.0, 1.0]), [0.5, -1, 0])  # the extra one is in the high half
    longest_first = lengths([0] * 2, [9, 1], entropy_all=[0.1, 2.0])
    np.testing.assert_allclose(canon(longest_first, [1.0, 0.0], alpha=0.5), [0.5, -0.5])
    np.testing.assert_allclose(canon(longest_first, [1.0, 0.0], alpha=0.5, metric="entropy"), [0.5, -0.5])
    high = canon(longest_first, [1.0, 0.0], alpha=0.5, metric="entropy", weighted_side="high")
    np.testing.assert_allclose(high, [1, -1])
    np.testing.assert_allclose(canon(longest_first, [1.0, 0.0], metric="random"), [1, -1])
    with pytest.raises(TautError, match="entropy_all"):
        canon(odd, [1.0, 0.0, 1.0], metric="entropy")


def test_canon_mu_follows_accuracy_or_a_schedule() -> None:
    batch = lengths([0] * 4, [10, 20, 30, 40], verdict=[1, 0, 1, 1])
    reward = [1.0, 0.0, 1.0, 1.0]
    inter, intra = canon(batch, reward), canon(batch, reward, mu=0)
    np.testing.assert_allclose(canon(batch, reward, mu="accuracy"), 0.75 * inter + 0.25 * intra)
    np.testing.assert_allclose(canon(batch, reward, mu="one_minus_accuracy"), 0.25 * inter + 0.75 * intra)
    moving = build_advantage({"type": "canon", "mu": {"type": "linear", "start": 0, "end": 1, "steps": 4}})
    got = moving(batch, scores(reward), Progress(step=1, total_steps=4))
    np.testing.assert_allclose(got, 0.25 * inter + 0.75 * intra)
    with pytest.raises(ValueError, match="mu"):
        build_advantage({"type": "canon", "mu": "acuracy"})


def drpo(batch: Batch, **settings: object) -> NDArray[np.float64]:
    return build_advantage({"type": "drpo", **settings})(batch, scores(np.zeros(len(batch))))


def test_drpo_weights() -> None:
    columns = {"max_tokens": [100] * 4, "mean_log_prob": [-1.0, -1.0, -1.0, -2.0]}
    batch = lengths([0] * 4, [10, 20, 30, 40], verdict=[1, 1, 0, 0], **columns)
    shorter = 1 / (1 + np.exp(-10 / (100 * 0.1)))  # 10 tokens of 100 apart, lam .1
    likelier = 1 / (1 + np.exp(-1 / 10.0))
    wanted = np.array([shorter, 1 - shorter, -likelier, likelier - 1])
    np.testing.assert_allclose(drpo(batch), 4 * wanted)
    np.testing.assert_allclose(drpo(batch, scale="weights"), wanted)
    assert drpo(batch, max_length=200)[0] < drpo(batch)[0]
    with pytest.raises(TautError, match="mean_log_prob"):
        drpo(lengths([0, 0], [1, 2]))


def test_drpo_edge_cases() -> None:
    def of(verdict: list[int], length: list[int], group: list[int] | None = None, **settings: object) -> list[float]:
        n = len(verdict)
        log_prob = [np.nan if k == 0 else -1.0 for k in length]
        batch = lengths(group or [0] * n, length, verdict=verdict, mean_log_prob=log_prob, max_tokens=[100] * n)
        return drpo(batch, scale="weights", **settings).tolist()

    assert of([1, 1, 1], [1, 2, 3]) == of([0, 0, 0], [1, 2, 3]) == [0, 0, 0]
    assert of([1], [5]) == [0]
    assert of([1, 0, 0], [90, 1, 1]) == [1, -0.5, -0.5]  # one correct: its length has no say
    assert of([1, 1, 0], [7, 7, 1]) == [0.5, 0.5, -1]
    assert of([1, 1, 0, 0], [0, 9, 0, 9]) == [0, 1, 0, -1]  # empty ones are in neither set
    assert of([1, 0], [0, 9]) == [0, 0]
    assert np.isfinite(of([1, 1, 0], [1, 100, 9], lam=1e-5)).all()
    uneven = np.array(of([1, 0, 1, 1, 0], [9, 9, 5, 6, 7], [0, 0, 1, 1, 1]))
    assert uneven[:2].tolist() == [1, -1] and abs(uneven[2:].sum()) < 1e-12


def test_raw_is_the_reward_and_needs_no_groups() -> None:
    alone = Batch(group=None, length=[3, 4], verdict=[1, None])
    assert build_advantage("raw")(alone, scores([0.25, 9.0], [True, False])).tolist() == [0.25, 0]


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


def test_a_column_that_is_not_a_number_is_refused_where_it_would_count() -> None:
    def got(name: str, column: str, length: int, keep: bool = True) -> NDArray[np.float64]:
        columns = {column: [-1.0, np.nan, -1.0, -1.0]}
        some = Batch([0] * 4, [5, length, 7, 8], [1, 0, 0, 1], **columns)
        return build_advantage(name)(some, scores([1, 0, 0, 1], [True, keep, True, True]))

    with pytest.raises(TautError, match="mean_log_prob is nan for problem '0'"):
        got("drpo", "mean_log_prob", 6)
    with pytest.raises(TautError, match="entropy_all is nan"):
        build_advantage({"type": "canon", "metric": "entropy"})(
            Batch([0] * 2, [5, 6], [1, 0], entropy_all=[1.0, np.nan]), scores([1, 0])
        )
    for empty_or_left_out in (got("drpo", "mean_log_prob", 0), got("drpo", "mean_log_prob", 6, keep=False)):
        assert np.isfinite(empty_or_left_out).all() and empty_or_left_out[1] == 0


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
