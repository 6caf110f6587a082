"""Composition: what is normalised, constrained, kept, scheduled; what may not stand together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rewards import Batch, Correct, Keep, LinearLength, Progress, RolloutGate, Scores, TautError, build_reward
from rewards.best_of_group import BestOfGroup
from rewards.bounds import Interval
from rewards.constrained import Constrained
from rewards.multipliers import Multipliers
from rewards.normalise import Normalise
from rewards.ranks import group_rank
from rewards.schedule import Drops, Linear, WarmupCosineRestarts
from trainers.advantages import build_advantage

STEP = Progress(step=0, total_steps=10, max_length=100)
FINISHED = {"type": "keep", "when": "finished", "term": "correct"}
OVERLONG = {"type": "soft_overlong"}


def batch(length: list[int], verdict: list[int], group: list[int] | None = None, **columns: object) -> Batch:
    return Batch(
        group=group or [0] * len(length), length=length, verdict=verdict, max_tokens=[100] * len(length), **columns
    )


# ---- filters and punishments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "sum", "terms": [FINISHED, OVERLONG]},
        {"type": "sum", "terms": [OVERLONG, FINISHED]},
        {"type": "keep", "when": "finished", "term": {"type": "sum", "terms": ["correct", OVERLONG]}},
        {"type": "keep", "when": "finished", "term": {"type": "weight", "weight": 0.5, "term": OVERLONG}},
        {"type": "product", "factors": [{"type": "weight", "weight": 2, "term": OVERLONG}, FINISHED]},
        {"type": "rollout_gate", "when": "is_correct", "then": FINISHED, "otherwise": OVERLONG},
        {"type": "constrained", "maximise": OVERLONG, "subject_to": [{"term": FINISHED, "at_least": 0.5}]},
        {"type": "sum", "terms": ["linear_length", {"type": "normalise", "term": {"type": "sum", "terms": [FINISHED, OVERLONG]}}]},
    ],
)  # fmt: skip
def test_a_filter_and_its_punishment_are_refused_wherever_they_stand(tree: dict) -> None:
    with pytest.raises(
        ValueError, match=r"keep leaves truncated rollouts out, .*soft_overlong is there to punish them"
    ):
        build_reward(tree)


def test_other_filters_may_stand_beside_the_punishment() -> None:
    kept = {"type": "keep", "when": {"type": "best_of_group", "k": 2}, "term": "correct"}
    assert build_reward({"type": "sum", "terms": [kept, OVERLONG]}).scope == "step"
    assert build_reward({"type": "sum", "terms": [FINISHED, "linear_length"]}).scope == "rollout"


# ---- GFPO ----------------------------------------------------------------------------------------------------------


def test_group_rank() -> None:
    uneven = batch([5, 3, 3, 9, 1], [1] * 5, [1, 0, 0, 0, 1], sample_id=[4, 3, 2, 1, 0])
    assert group_rank(uneven, uneven.length).tolist() == [1, 1, 0, 2, 0]
    even = batch([5, 3, 3, 9], [1] * 4, [1, 0, 1, 0], sample_id=[3, 2, 1, 0])
    assert group_rank(even, even.length).tolist() == [1, 0, 0, 1]


def test_gfpo_keeps_the_best_and_takes_its_statistics_from_them() -> None:
    rollouts = batch([40, 10, 20, 30], [1, 0, 1, 1])
    assert BestOfGroup(k=2).holds(rollouts, STEP).tolist() == [False, True, True, False]
    assert BestOfGroup(k=2, by="efficiency").holds(rollouts, STEP).tolist() == [False, False, True, True]
    assert BestOfGroup(k=9).holds(rollouts, STEP).all()
    scores = Keep(when=BestOfGroup(k=2), term=Correct()).score(rollouts, STEP)
    assert build_advantage("dr_grpo")(rollouts, scores).tolist() == [0, -0.5, 0.5, 0]
    wrong = batch([30, 20, 10], [0, 0, 0])
    assert BestOfGroup(k=1).holds(wrong, STEP).tolist() == [False, False, True]
    assert BestOfGroup(k=1, by="efficiency").holds(wrong, STEP).tolist() == [True, False, False]  # alike: by sample_id
    empty = batch([0, 1], [1, 1])
    assert BestOfGroup(k=1, by="efficiency").holds(empty, STEP).tolist() == [True, False]


def test_gfpo_keeps_more_of_harder_problems() -> None:
    right = [1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    rollouts = batch(list(range(16)), right, np.repeat(range(4), 4).tolist())
    kept = BestOfGroup(by_difficulty=[1, 2, 3, 4]).holds(rollouts, STEP)
    assert rollouts.group_sum(kept).tolist() == [1, 2, 3, 4]
    alike = batch([1, 2, 3, 4], [1] * 4, [0, 0, 1, 1])
    assert BestOfGroup(by_difficulty=[1, 1, 1, 2]).holds(alike, STEP).all()
    with pytest.raises(ValueError, match="by_difficulty"):
        BestOfGroup(by_difficulty=[1, 2])


def test_a_condition_that_picks_rollouts_gates_rollouts() -> None:
    gate = RolloutGate(when=BestOfGroup(k=1), then=Correct())
    assert gate.score(batch([9, 5], [1, 1]), STEP).total.tolist() == [0, 1] and gate.scope == "step"
    with pytest.raises(ValueError, match="use rollout_gate"):
        build_reward({"type": "group_gate", "when": "best_of_group", "then": "correct"})


# ---- normalise -----------------------------------------------------------------------------------------------------


def test_normalise_by_hand() -> None:
    rollouts = batch([10, 30, 10, 20, 5], [1, 0, 1, 1, 1], [0, 0, 1, 1, 2])
    half = 0.5**0.5
    got = Normalise(term=Correct()).score(rollouts, STEP).total
    np.testing.assert_allclose(got, [half, -half, 0, 0, 0], rtol=1e-5)  # equal scores, and a group of one: 0
    length = Normalise(term=LinearLength(), over="step", ddof=0).score(rollouts, STEP)
    np.testing.assert_allclose(length.total, (rollouts.length - 15) / rollouts.length.std(), rtol=1e-4)
    np.testing.assert_allclose(length.terms["normalise/linear_length"], rollouts.length / 100)
    assert not Normalise(term=Correct(), over="step").score(batch([1], [1]), STEP).total.any()


def test_normalise_leaves_out_what_is_not_kept() -> None:
    rollouts = batch([10, 30, 100], [1, 0, 0], truncated=[0, 0, 1])
    scores = Normalise(term=build_reward(FINISHED)).score(rollouts, STEP)
    np.testing.assert_allclose(scores.total, [0.5**0.5, -(0.5**0.5), 0], rtol=1e-5)
    assert scores.keep.tolist() == [True, True, False]


def test_bounds_of_what_is_normalised() -> None:
    bounds = Normalise(term=Correct()).bounds(STEP)
    assert bounds.correct == Interval(0, np.inf) and bounds.wrong == Interval(-np.inf, 0) and bounds.ordered
    assert not Normalise(term=LinearLength()).bounds(STEP).ordered


def test_gdpo_tells_apart_what_grpo_takes_for_the_same() -> None:
    # 2601.05242: sums 0, 1 and 0, 2 give one pair of advantages under GRPO; decoupled, earning both pays more
    groups, verdict, length = [0, 0, 1, 1], [0, 1, 0, 1], [90, 90, 90, 10]
    rollouts = batch(length, verdict, groups)
    short = build_reward(
        {
            "type": "rollout_gate",
            "when": {"type": "shorter_than", "target": 50},
            "then": {"type": "constant", "value": 1},
        }
    )
    summed = Scores(Correct().score(rollouts, STEP).total + short.score(rollouts, STEP).total, {}, np.ones(4, bool))
    grpo = build_advantage("grpo")(rollouts, summed)
    np.testing.assert_allclose(grpo[1], grpo[3], rtol=1e-5)
    gdpo = Normalise(over="step", term=Normalise(term=Correct()) + Normalise(term=short, name="short"))
    advantage = build_advantage("raw")(rollouts, gdpo.score(rollouts, STEP))
    np.testing.assert_allclose(advantage[3], 2 * advantage[1], rtol=1e-5)


# ---- constrained ---------------------------------------------------------------------------------------------------


def fewest_tokens(**settings: object) -> Constrained:
    tree = {"type": "constrained", "maximise": {"type": "weight", "weight": -1, "term": "linear_length"}}
    constraint = {"term": "correct", "at_least": 0.6}
    reward = build_reward(tree | {"subject_to": [constraint]} | settings)
    assert isinstance(reward, Constrained)
    return reward


HALF_RIGHT = batch([10, 20, 30, 40], [1, 0, 1, 0])


def test_constrained_mixes_standardised_parts() -> None:
    reward = fewest_tokens(ddof=0)
    scores = reward.score(HALF_RIGHT, STEP)  # sigmoid(0) = 1/2 on each
    z = (25 - HALF_RIGHT.length) / HALF_RIGHT.length.std()
    np.testing.assert_allclose(scores.total, 0.5 * z + 0.5 * np.array([1, -1, 1, -1]), rtol=1e-6)
    assert scores.terms["constrained/multiplier-1"].tolist() == [0.5] * 4
    assert not scores.terms["constrained/saturated"].any()
    np.testing.assert_allclose(scores.terms["constrained/correct"], [1, 0, 1, 0])
    lone = fewest_tokens(over="group").score(batch([10, 20], [1, 0], [0, 1]), STEP)
    assert not lone.total.any()


def test_the_multiplier_rises_below_the_floor_and_falls_above_it() -> None:
    below, above = fewest_tokens(), fewest_tokens(subject_to=[{"term": "correct", "at_least": 0.4}])
    for reward in (below, above):
        reward.observe(HALF_RIGHT, STEP)
    # sigmoid'(0) = 1/4, mean 1/2: gradient (0.5 - 0.6) / 4, lr 0.1; the first momentum is the gradient
    assert below.multipliers.raw == pytest.approx((0.1 * 0.1 / 4,)) and above.multipliers.raw[0] < 0
    first = below.multipliers
    below.observe(HALF_RIGHT, STEP)
    slope = first.values[0] * (1 - first.values[0])
    assert below.multipliers.momentum == pytest.approx((0.1 * -0.025 - 0.1 * slope,))


def test_equality_uses_tanh_and_may_turn_negative() -> None:
    reward = fewest_tokens(subject_to=[{"term": "correct", "equals": 0.25}], lr=10.0)
    assert reward.multipliers.values == (0.0,)  # all weight on the task at first
    reward.observe(HALF_RIGHT, STEP)
    assert reward.multipliers.values[0] < 0
    assert reward.score(HALF_RIGHT, STEP).terms["constrained/multiplier-1"][0] < 0


def test_saturation_is_told_and_unsquashed_multipliers_stay_positive() -> None:
    assert fewest_tokens(initial=9.0).score(HALF_RIGHT, STEP).terms["constrained/saturated"].all()
    plain = fewest_tokens(squash="none", lr=100.0, subject_to=[{"term": "correct", "at_least": 0.1}])
    assert plain.multipliers.values == (0.5,)
    plain.observe(HALF_RIGHT, STEP)
    assert plain.multipliers.raw == (0.0,)


def test_only_training_batches_that_hold_the_component_move_it() -> None:
    reward, columns = fewest_tokens(), {"length": [1, 2], "verdict": [0, 0], "max_tokens": [9, 9]}
    for origin in ("validation", "monitor"):
        reward.observe(Batch(group=[0, 0], origin=[origin] * 2, **columns), STEP)
    reward.observe(Batch(group=[0, 0], length=[1, 2], verdict=[None, None]), STEP)
    filtered = fewest_tokens(subject_to=[{"term": FINISHED, "at_least": 1.0}])
    filtered.observe(Batch(group=[0, 0], truncated=[1, 1], **columns), STEP)
    lacking = fewest_tokens(subject_to=[{"term": {"type": "laser", "target": 9}, "at_least": 1.0}])
    lacking.observe(Batch(group=[0, 0], **columns), STEP)  # laser reads format_ok
    for one in (reward, filtered, lacking):
        assert one.multipliers.momentum == (None,) and one.multipliers.raw == (0.0,)


def test_what_keep_leaves_out_moves_no_state_but_what_is_monitored_does() -> None:
    columns: dict[str, object] = {"length": [4, 9], "verdict": [1, 0], "truncated": [False, True], "max_tokens": [9, 9]}
    inner = fewest_tokens(subject_to=[{"term": "correct", "equals": 1.0}])
    around = build_reward({"type": "keep", "when": "finished", "term": inner})
    around.observe(Batch(group=[0, 0], **columns), STEP)
    assert inner.multipliers.raw == (0.0,) and inner.multipliers.momentum == (0.0,)  # of the finished all are right
    history = build_reward({"type": "keep", "when": {"type": "shorter_than", "target": 5}, "term": "hapo"})
    history.observe(Batch(group=[0, 1], **columns | {"verdict": [1, 1], "truncated": None}), STEP)
    assert history.state_dict()["hapo"]["(self)"]["problems"] == {"0": [4]}
    targets = {"type": "laser_d", "target": 8, "interval": 8, "format": False}
    watched = build_reward({"type": "keep", "when": "finished", "term": targets})
    watched.observe(Batch(group=[0, 0], origin=["monitor"] * 2, **columns), STEP)
    assert watched.state_dict()["laser_d"]["(self)"]["coverage"]["medium"][0] == 0.5


def test_one_absent_component_leaves_the_others_their_step() -> None:
    start = Multipliers.start([0.3, -0.2], ["sigmoid", "tanh"])
    moved = start.update([None, 0.5], lr=0.1, momentum=0.1, max_norm=0.5)
    assert moved.raw[0] == 0.3 and moved.momentum[0] is None and moved.raw[1] < -0.2
    steep = start.update([40.0, -40.0], lr=1.0, momentum=0.0, max_norm=0.5)
    assert np.hypot(steep.raw[0] - 0.3, steep.raw[1] + 0.2) == pytest.approx(0.5, abs=1e-6)  # clipped jointly
    with pytest.raises(TautError, match="constraint 1"):
        start.update([0.1, float("nan")], 0.1, 0.1, 0.5)


def test_multipliers_go_through_a_checkpoint_and_foreign_ones_are_refused() -> None:
    reward, again = fewest_tokens(), fewest_tokens()
    reward.observe(HALF_RIGHT, STEP)
    again.load_state_dict(json.loads(json.dumps(reward.state_dict())))
    assert again.multipliers == reward.multipliers
    two = fewest_tokens(subject_to=[{"term": "correct", "at_least": 0.6}, {"term": "linear_length", "equals": 0.5}])
    with pytest.raises(TautError, match="1 multipliers for 2 constraints"):
        two.load_state_dict(reward.state_dict())


@pytest.mark.parametrize("limits", [{}, {"at_least": 0.5, "equals": 0.5}])
def test_a_constraint_has_one_limit(limits: dict) -> None:
    with pytest.raises(ValueError, match="at_least or equals, and not both"):
        fewest_tokens(subject_to=[{"term": "correct", **limits}])


def test_a_budget_that_falls_to_a_whole_number_is_that_number() -> None:
    drops, line = Drops(start=1000, factor=0.7, every=1), Linear(start=100, end=0)
    assert [drops.at(Progress(step=s)) for s in range(4)] == [1000, 700, 490, 343]
    assert [line.at(Progress(step=s, total_steps=100)) for s in range(100)] == list(range(100, 0, -1))
    assert Drops(start=1e-9, factor=1 / 3, every=1).at(Progress(step=1)) == pytest.approx(1e-9 / 3, rel=1e-11)


# ---- CANON's schedule ----------------------------------------------------------------------------------------------


def test_warmup_cosine_restarts_by_hand() -> None:
    def values(schedule: WarmupCosineRestarts, *steps: int) -> list[float]:
        return [schedule.at(Progress(step=s, total_steps=150)) for s in steps]

    later_intra = WarmupCosineRestarts()
    np.testing.assert_allclose(values(later_intra, 0, 29, 30, 50, 70, 150), [1 / 30, 1, 1, 0.7, 1, 1])
    assert values(WarmupCosineRestarts(total=None), 40) == values(later_intra, 40)
    inverse = WarmupCosineRestarts(hi=0.6, lo=0.0)
    mirrored = WarmupCosineRestarts(start=1.0, hi=0.4, lo=1.0)
    np.testing.assert_allclose(values(mirrored, 3, 30, 47, 69), 1 - np.array(values(inverse, 3, 30, 47, 69)))
    assert values(WarmupCosineRestarts(warmup=0, total=2, cycles=9), 0, 1) == [1, 1]  # never a cycle of no steps
