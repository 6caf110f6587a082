"""Budgets, histories and caps: hand-worked numbers, edge cases, bad input."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loops.budgets import LOOPS
from rewards import Batch, Linear, Piecewise, Progress, Reward, TautError, build_reward, dump
from rewards.terms.alp import Alp
from rewards.terms.cosine_length import CosineLength
from rewards.terms.dast import Dast
from rewards.terms.hapo import Hapo
from rewards.terms.l1 import L1Exact, L1Max
from rewards.terms.o1_pruner import O1Pruner
from rewards.terms.repetition import CHUNK, Repetition, repetition
from rewards.terms.soft_overlong import SoftOverlong
from tests.batches import CAP, batches

CONTEXT = Progress(max_length=4000)


def group(length: list[int], verdict: list[int], **columns: Any) -> Batch:
    columns = {"max_tokens": [4000] * len(length), **columns}
    return Batch(group=[0] * len(length), length=length, verdict=verdict, **columns)


def paid(reward: Reward, batch: Batch, progress: Progress = CONTEXT) -> list[float]:
    return reward.score(batch, progress).total.round(6).tolist()


def known(reward: Hapo, *batches: Batch) -> Hapo:
    for batch in batches:
        reward.observe(batch, CONTEXT)
    return reward


# ---- HAPO ----------------------------------------------------------------------------------------------------------


def test_hapo_cosine() -> None:
    lengths = [0, 100, 150, 200, 400]
    reward = known(Hapo(), group([100, 300, 50], [1, 1, 0]))
    assert reward.known_length("0") == 100
    assert paid(reward, group(lengths, [1] * 5)) == [2, 1, 0.3, 0.3, 0.3]  # cos(3 pi / 4) = -0.707 is below the clip
    assert paid(reward, group(lengths, [0] * 5)) == [0, 0, round(math.cos(0.75 * math.pi), 6), -1, -1]
    assert paid(known(Hapo(w=0.5), group([100], [1])), group(lengths, [1] * 5)) == [1.5, 1, 0.65, 0.65, 0.65]


def test_hapo_linear() -> None:
    reward = known(Hapo(shape="linear"), group([100], [1]))
    assert paid(reward, group([50, 100, 109, 130, 400], [1] * 5)) == [1.5, 1, 1, 0.8, 0.3]
    assert paid(reward, group([50, 100, 109, 130, 400], [0] * 5)) == [0, 0, 0, -0.2, -1]


def test_hapo_judges_a_step_by_the_steps_before_it() -> None:
    reward, batch = Hapo(), group([100, 50, 80], [1, 1, 0])
    assert paid(reward, batch) == [1, 1, 0] and reward.known_length("0") is None  # a first meeting
    assert paid(known(reward, batch), batch) == [0.3, 1, round(math.cos(0.8 * math.pi), 6)]
    assert known(reward, group([10], [0])).known_length("0") == 50  # none correct: it stays
    assert known(reward, group([700, 90], [1, 1])).known_length("0") == 50  # it only falls
    assert reward.known_length("another") is None


def test_hapo_truncated_and_validation_never_write() -> None:
    cut = group([10, 90], [1, 1], truncated=[1, 0])
    reward = known(Hapo(), cut)
    assert reward.known_length("0") == 90
    assert paid(reward, cut) == [0, 1]  # wrong, though it was verified
    for origin in ("validation", "monitor"):
        assert known(reward, group([5], [1], origin=[origin])).known_length("0") == 90


def test_hapo_means_are_exact() -> None:
    reward = known(Hapo(history="mean"), group([100, 101, 7], [1, 1, 0]), group([100], [1]))
    assert reward.known_length("0") == 301 / 3
    late = known(Hapo(history="mean", confirmations=2), group([100], [1]))
    assert late.known_length("0") is None and known(late, group([50], [1])).known_length("0") == 75


def test_hapo_confirmations_and_floor() -> None:
    reward = known(Hapo(confirmations=2), group([40], [1]))
    assert reward.known_length("0") is None and paid(reward, group([40], [1])) == [1]
    assert known(reward, group([100, 120], [1, 1])).known_length("0") == 100
    assert known(reward, group([60, 30], [1, 1])).known_length("0") == 40  # the second shortest so far
    assert paid(known(Hapo(floor=80), group([10], [1])), group([80, 160], [1, 1])) == [1, 0.3]
    assert paid(known(Hapo(), group([0], [1])), group([0, 1, 2], [1, 1, 1])) == [2, 1, 0.3]  # counts as one token


def test_hapo_groups_of_one_problem_share_a_history() -> None:
    batch = Batch(group=[0, 1, 1], length=[70, 60, 90], verdict=[1, 1, 1], problem_id=["a", "a", "a"])
    assert known(Hapo(), batch).known_length("a") == 60
    assert known(Hapo(history="mean"), batch).known_length("a") == 220 / 3
    assert known(Hapo(confirmations=3), batch).known_length("a") == 90


def test_hapo_weight() -> None:
    above = Hapo(w=2, allow_above_one=True)
    bounds, within = above.bounds(CONTEXT), Hapo().bounds(CONTEXT)
    assert bounds and not bounds.ordered and within and within.ordered
    rising = Hapo(w=Linear(start=0, end=2))
    assert rising.score(group([5], [1]), Progress(0, 4)).total[0] == 1
    with pytest.raises(TautError, match=r"w=1.5 at step 3; give 0 to 1.*allow_above_one"):
        rising.score(group([5], [1]), Progress(3, 4))


def test_hapo_refuses_a_history_of_another_kind() -> None:
    state = known(Hapo(), group([9], [1])).state_dict()
    assert state == {"(self)": {"type": "hapo", "version": 1, "history": "min", "problems": {"0": [9]}}}
    with pytest.raises(TautError, match="history of kind 'min', but history is 'mean'"):
        Hapo(history="mean").load_state_dict(state)


# ---- repetition ----------------------------------------------------------------------------------------------------


def shares(*responses: list[int], **settings: Any) -> list[float]:
    batch = group([len(r) for r in responses], [1] * len(responses), tokens=list(responses))
    return paid(Repetition(**settings), batch)


def test_repetition_by_hand() -> None:
    assert shares([1, 2, 3, 1, 2, 3]) == [-0.5]
    assert shares([], [7], [7, 7], [7, 7, 7], [7, 7, 7, 7]) == [0, 0, 0, 0, -0.75]
    assert shares([7] * 6, ngram=2) == [round(-5 / 6, 6)] and shares([7] * 6, ngram=1) == [round(-5 / 6, 6)]
    # pairs repeat from the second on: with only_start each is too near the one before
    assert shares([7] * 6, ngram=2, only_start=True) == [round(-2 / 6, 6)]
    assert shares([1, 2, 3, 1, 2, 3], form="distinct") == [-0.25] and shares([1, 2], form="distinct") == [0]
    assert shares([1, 2, 1, 2], [2, 1, 2, 1], ngram=2, max_penalty=-0.1) == [-0.05, -0.05]  # responses stay apart


@given(st.lists(st.lists(st.integers(0, 2), max_size=30), min_size=1, max_size=5), st.integers(1, 6))
def test_repetition_does_not_depend_on_the_other_responses(responses: list[list[int]], ngram: int) -> None:
    for settings in ({}, {"only_start": True}, {"form": "distinct"}):
        apart = [share for r in responses for share in shares(r, ngram=ngram, **settings)]
        assert shares(*responses, ngram=ngram, **settings) == apart


def test_repetition_takes_long_n_grams_and_large_ids() -> None:
    rng = np.random.default_rng(0)
    block = rng.integers(0, 2**31, 300)
    tokens = np.empty(3, dtype=object)
    tokens[:] = [np.concatenate([block, block]), rng.integers(0, 2**31, 600), np.concatenate([block[:99]] * 2)]
    np.testing.assert_allclose(repetition(tokens, 100), [0.5, 0, 0])
    np.testing.assert_allclose(repetition(tokens, 40), [0.5, 0, 0.5])
    many = np.empty(3, dtype=object)
    many[:] = [np.resize(block, CHUNK // 2)] * 3  # more than one chunk
    np.testing.assert_allclose(repetition(many, 3), 1 - 300 / len(many[0]))


# ---- L1 ------------------------------------------------------------------------------------------------------------


def test_l1_exact() -> None:
    batch = group([1000, 1100, 900, 0, 4000], [1, 1, 1, 0, 0], budget=[1000] * 5)
    assert paid(L1Exact(), batch) == [1, 0.97, 0.97, -0.3, -0.9]
    assert paid(L1Exact(target=1000), batch) == paid(L1Exact(), batch)
    assert L1Exact().needs == {"budget"} and not L1Exact(target=9).needs
    moving = L1Exact(target=Piecewise(from_steps=[0, 2], values=[1000, 100]), alpha=0.001)
    assert paid(moving, batch, Progress(2))[0] == 0.1
    assert paid(L1Exact(shape="sigmoid"), batch)[:2] == [1.5, round(1 + 1 / (1 + math.exp(-0.03)), 6)]
    near, far = L1Exact(target=1000).bounds(CONTEXT), L1Exact(target=10).bounds(CONTEXT)
    assert near.ordered and not far.ordered  # 3990 tokens off cost more than a right answer is worth
    assert L1Exact().bounds(CONTEXT).wrong.low == -math.inf and L1Exact(alpha=0).bounds(CONTEXT).ordered


def test_l1_max() -> None:
    batch = group([1000, 0, 2000, 4000, 1000], [1, 1, 1, 1, 0], budget=[1000] * 5)
    assert paid(L1Max(), batch) == [0.5, 0.8, 0.2, 0, 0]
    assert paid(L1Max(slope="half"), batch) == [0.5, 0.65, 0.35, 0.05, 0]
    assert paid(L1Max(combine="add"), batch) == [1.5, 1.8, 1.2, 1, 0.5]
    assert paid(L1Max(shape="sigmoid", alpha=1), batch) == [0.6, 1, 0, 0, 0]  # and no overflow


# ---- cosine --------------------------------------------------------------------------------------------------------


def test_cosine() -> None:
    batch = group([0, 2000, 3983, 3984, 0, 2000, 3984], [1, 1, 1, 1, 0, 0, 0])
    assert paid(CosineLength(), batch) == [2, 1.5, 1.000045, -10, -10, -5, -10]
    assert paid(CosineLength(max_length=2016), batch)[:2] == [2, -10]
    assert paid(CosineLength(margin=0), batch)[3] == 1.000039
    bounds = CosineLength().bounds(CONTEXT)
    assert (bounds.correct.low, bounds.correct.high, bounds.wrong.low, bounds.wrong.high) == (-10, 2, -10, 0)


def test_cosine_repetition_is_for_wrong_answers_within_the_cap() -> None:
    tokens = [np.zeros(n, int) for n in (100, 100, 3990)]
    batch = group([100, 100, 3990], [1, 0, 0], tokens=tokens)
    plain, reward = CosineLength(), CosineLength(repetition=-2, ngram=1)
    assert reward.needs == {"tokens"} and not plain.needs
    lost = np.subtract(paid(plain, batch), paid(reward, batch))
    np.testing.assert_allclose(lost, [0, 2 * 0.99, 0], atol=1e-6)


# ---- soft overlong -------------------------------------------------------------------------------------------------


def test_soft_overlong() -> None:
    batch = group([0, 3000, 3500, 4000], [1, 1, 0, 0], truncated=[0, 0, 0, 1])
    assert paid(SoftOverlong(cache=1000), batch) == [0, 0, -0.5, -1]
    assert paid(SoftOverlong(cache=1000, factor=0.5), batch) == [0, 0, -0.25, -0.5]
    assert paid(SoftOverlong(cache=1000, max_length=3000), batch) == [0, -1, -1, -1]
    assert paid(SoftOverlong(cache=1000, max_length=3000, floored=False), batch) == [0, -1, -1.5, -2]
    assert paid(SoftOverlong(), batch) == [0, -0.75, -0.875, -1]  # the cache is larger than the cap
    assert paid(SoftOverlong(cache=0, max_length=3000), batch) == [0, 0, -1, -1]
    caps = group([100, 100], [1, 1], max_tokens=[100, 200])
    assert paid(SoftOverlong(cache=50), caps) == [-1, 0]


# ---- ALP, DAST, O1-Pruner ------------------------------------------------------------------------------------------


def test_alp() -> None:
    lengths = [100, 200, 300, 400]
    assert paid(Alp(beta=0.001), group(lengths, [1, 1, 0, 0])) == [0.95, 0.9, -0.15, -0.2]
    assert paid(Alp(beta=0.001), group(lengths, [0] * 4)) == [-0.025, -0.05, -0.075, -0.1]  # 1 / K
    assert paid(Alp(beta=0.001), group(lengths, [1] * 4)) == [0.9, 0.8, 0.7, 0.6]
    assert paid(Alp(beta=0.001), group([100], [0])) == [-0.1]
    assert paid(Alp(beta=1, per_cap=True), group(lengths, [1] * 4)) == [0.975, 0.95, 0.925, 0.9]
    assert paid(Alp(beta=0.001), group(lengths, [1, 1, -1, -1])) == [0.9, 0.8, 0, 0]  # unknown is absent from K and p


def test_dast() -> None:
    # p .5, mean 1000, cap 4000: budget 2500
    assert paid(Dast(), group([1000, 1000, 1000, 1000], [1, 1, 0, 0])) == [0.8, 0.8, -0.64, -0.64]
    assert paid(Dast(), group([800, 1200], [1, 1])) == [0.6, 0.4]  # p 1, budget 1000
    assert paid(Dast(), group([2000], [0])) == [-0.55]  # p 0: the cap
    assert paid(Dast(), group([4000, 0], [0, 0])) == [-0.1, -1]
    assert paid(Dast(), group([0, 0], [1, 1])) == [1, 1]  # a budget of 0 counts as one token
    assert paid(Dast(max_length=1000), group([2000], [0])) == [-0.1]
    known = {"reference_accuracy": [1, 1], "reference_length": [1000, 1000]}
    assert paid(Dast(difficulty="reference"), group([800, 800], [1, 0], **known)) == [0.6, -0.28]
    assert Dast(difficulty="reference").needs == set(known) and not Dast().needs


def test_o1_pruner() -> None:
    reference = {"reference_accuracy": [0.5] * 4, "reference_length": [1000.0] * 4}
    batch = group([500, 2000, 1000, 0], [1, 0, 1, 1], **reference)
    assert paid(O1Pruner(alpha=2, standardise=False), batch) == [2, -1.5, 1, 4]
    assert paid(O1Pruner(standardise=False), batch) == [3.5, -2, 2.5, 4]
    scored = np.array(paid(O1Pruner(), batch))
    np.testing.assert_allclose([scored.mean(), scored.std()], [0, 1], atol=1e-6)
    assert paid(O1Pruner(), batch.take([0])) == [0] and paid(O1Pruner(), batch.take([0, 0])) == [0, 0]
    assert O1Pruner(standardise=False).bounds(CONTEXT).correct.high == 4 and O1Pruner().scope == "dataset"


def test_nothing_known_is_no_error() -> None:
    columns = {"tokens": [[1], [1]], "budget": [5, 5], "reference_accuracy": [0, 0], "reference_length": [0, 0]}
    for method, _ in LOOPS.values():
        assert paid(method, group([3, 4], [-1, -1], **columns)) == [0, 0]


# ---- the plain loops, bad input --------------------------------------------------------------------------------------

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "hapo": [{"shape": "linear"}, {"history": "mean", "w": 0.5}, {"floor": 90, "confirmations": 2}],
    "repetition": [{"only_start": True}, {"form": "distinct"}, {"ngram": 1}],
    "l1_exact": [{"target": 100, "alpha": 0.01}, {"shape": "sigmoid"}],
    "l1_max": [{"slope": "half", "alpha": 0.01}, {"combine": "add"}, {"shape": "sigmoid", "alpha": 0.1}],
    "cosine_length": [{"max_length": 200}, {"repetition": -1, "ngram": 4}],
    "soft_overlong": [{"cache": 100}, {"cache": 100, "max_length": 200, "floored": False, "factor": 2}],
    "alp": [{"beta": 0.01}, {"beta": 1, "per_cap": True}],
    "dast": [{"difficulty": "reference"}, {"max_length": 200}],
    "o1_pruner": [{"standardise": False, "alpha": 2}],
}


@pytest.mark.parametrize("name", LOOPS)
@given(batch=batches(unknown=False), data=st.data())
def test_plain_loops_agree(name: str, batch: Batch, data: st.DataObject) -> None:
    method, loop = LOOPS[name]
    method = build_reward(dump(method) | data.draw(st.sampled_from([{}, *SETTINGS[name]])))
    columns = SimpleNamespace(**{k: v.tolist() for k, v in vars(batch).items() if isinstance(v, np.ndarray)})
    progress = Progress(max_length=CAP)
    method.observe(batch, progress)
    np.testing.assert_allclose(method.score(batch, progress).total, loop(method, columns, progress), atol=1e-9)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"type": "hapo", "w": 1.5}, "w=1.5 at step 0; give 0 to 1.*allow_above_one: true"),
        ({"type": "hapo", "w": -0.1, "allow_above_one": True}, "w=-0.1 at step 0; give 0 to 1"),
        ({"type": "hapo", "clip": 0.5}, "clip: .*less than or equal to 0, got 0.5"),
        ({"type": "hapo", "confirmations": 0}, "confirmations: .*greater than or equal to 1, got 0"),
        ({"type": "hapo", "floor": -1}, "negative"),
        ({"type": "hapo", "shape": "cos"}, "shape: .*'cosine' or 'linear', got 'cos'"),
        ({"type": "repetition", "max_penalty": 0.5}, "max_penalty: .*less than or equal to 0"),
        ({"type": "repetition", "ngram": 0}, "ngram"),
        ({"type": "l1_exact", "target": -4}, "-4 tokens is negative"),
        ({"type": "l1_exact", "combine": "add"}, "'l1_exact' has no setting 'combine'"),
        ({"type": "l1_max", "shape": "square"}, "shape"),
        ({"type": "cosine_length", "margin": -1}, "margin"),
        ({"type": "cosine_length", "repetition": 1}, "repetition"),
        ({"type": "soft_overlong", "max_length": 100}, "cache=4096 is more than max_length=100"),
        ({"type": "dast", "difficulty": "level"}, "difficulty"),
        ({"type": "o1_pruner", "clip_low": 4}, "clip_low=4 must be below clip_high=4"),
    ],
)
def test_bad_config_names_place_and_remedy(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_reward(config)


def test_missing_columns_are_named() -> None:
    for reward, column in (
        (L1Exact(), "budget"),
        (L1Max(), "budget"),
        (O1Pruner(), "reference_accuracy"),
        (Repetition(), "tokens"),
        (CosineLength(repetition=-1), "tokens"),
        (Dast(difficulty="reference"), "reference_accuracy"),
    ):
        with pytest.raises(TautError, match=f"needs the column '{column}'"):
            reward.score(group([3], [1]))
