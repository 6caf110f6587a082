"""Rewards: the formulas against official code, the algebra, and what every reward must obey."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rewards import (
    AroraZanette,
    Batch,
    Constant,
    Correct,
    Cosine,
    Drops,
    Finished,
    GroupGate,
    IsCorrect,
    Keep,
    Laser,
    Linear,
    LinearLength,
    Piecewise,
    Progress,
    Reward,
    RolloutGate,
    Sum,
    TautError,
    TopCorrectRatio,
    Verdict,
    Weight,
    build_reward,
    dump,
)
from tests.oracle import cases, close

PROGRESS = Progress(step=3, total_steps=10, max_length=400)
SHAPED: list[Reward] = [
    Correct(),
    LinearLength(),
    Laser(target=60),
    Laser(target=60, bonus="hybrid", format=False),
    AroraZanette(alpha=0.4),
    Correct() + RolloutGate(when=IsCorrect(), then=-0.5 * LinearLength()),
    GroupGate(when=TopCorrectRatio(share=0.3), then=AroraZanette(), otherwise=Correct()),
    Linear(start=1, end=0) * Correct() * LinearLength(scale=400),
    Keep(when=Finished(), term=AroraZanette()),
    Sum(terms=[Laser(target=50), Correct()], allow_wholes=True),
]


@st.composite
def batches(draw: st.DrawFn, verdicts: tuple[int, ...] = (0, 1, -1)) -> Batch:
    n = draw(st.integers(1, 24))

    def column(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=n, max_size=n))

    group = column(st.integers(0, 4))
    return Batch(
        group=group,
        problem_id=[f"p{g}" for g in group],
        length=column(st.integers(1, 400)),
        verdict=column(st.sampled_from(verdicts)),
        truncated=column(st.booleans()),
        format_ok=column(st.booleans()),
        max_tokens=[400] * n,
        sample_id=draw(st.permutations(range(n))),
    )


@pytest.mark.parametrize("case", cases("laser_step"))
def test_laser_is_the_official_code(case: dict) -> None:
    inputs, params = case["inputs"], case["params"]
    batch = Batch(
        group=np.unique(inputs["group_ids"], return_inverse=True)[1],
        length=inputs["lengths"],
        verdict=inputs["correct"],
        format_ok=[score != -1.0 for score in inputs["base_scores"]],
    )
    reward = Laser(target=params["target_length"], alpha=params["alpha"], bonus=params["length_reward_type"])
    assert close(reward.score(batch).total, case["expected"]["reward"])


@pytest.mark.parametrize("case", cases("arora_zanette"))
def test_arora_zanette_is_the_official_code(case: dict) -> None:
    inputs, params = case["inputs"], case["params"]
    batch = Batch(
        group=[0] * len(inputs["lengths"]),
        length=inputs["lengths"],
        verdict=inputs["correct"],
        truncated=[not f for f in inputs["finished"]],
    )
    reward = AroraZanette(
        alpha=params["alpha"],
        eps=params["std_eps"],
        ddof=params["std_ddof"],
        unfinished_is_wrong=params["unfinished_counts_wrong"],
    )
    assert close(reward.score(batch).total, case["expected"]["rewards"])


def test_grpo_lambda_by_hand() -> None:
    # METHODS: lengths 100/200/300 all correct, alpha .2: selected 0.9546, 0.9, 0.8454; not selected 1, 1, 1
    group = np.repeat(np.arange(5), 3)
    right = [1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    batch = Batch(group=group, length=[100, 200, 300] * 5, verdict=right)
    scores = GroupGate(when=TopCorrectRatio(share=0.2), then=AroraZanette(alpha=0.2), otherwise=Correct()).score(batch)
    np.testing.assert_allclose(scores.total[:3], [0.9546, 0.9, 0.8454], atol=5e-5)
    np.testing.assert_array_equal(scores.total[3:], right[3:])
    np.testing.assert_array_equal(scores.terms["group_gate/open"], [1, 1, 1] + [0] * 12)


@pytest.mark.parametrize("reward", SHAPED, ids=lambda r: r.title)
@given(batch=batches(), data=st.data())
def test_order_of_rollouts_never_matters(reward: Reward, batch: Batch, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(batch)))))
    plain, moved = reward.score(batch, PROGRESS), reward.score(batch.take(order), PROGRESS)
    np.testing.assert_allclose(moved.total, plain.total[order], atol=1e-12)
    np.testing.assert_array_equal(moved.keep, plain.keep[order])


@pytest.mark.parametrize("reward", SHAPED, ids=lambda r: r.title)
@given(batch=batches())
def test_unknown_is_absent_and_scoring_is_pure(reward: Reward, batch: Batch) -> None:
    whole, again = reward.score(batch, PROGRESS), reward.score(batch, PROGRESS)
    np.testing.assert_array_equal(whole.total, again.total)
    part = reward.score(batch.take(batch.known), PROGRESS)
    np.testing.assert_array_equal(whole.total[batch.known], part.total)
    assert not whole.keep[~batch.known].any() and not whole.total[~batch.known].any()
    for path, values in whole.terms.items():
        np.testing.assert_array_equal(values[batch.known], part.terms[path])


@pytest.mark.parametrize("reward", SHAPED, ids=lambda r: r.title)
def test_yaml_means_the_same_tree(reward: Reward) -> None:
    text = yaml.safe_dump(dump(reward))
    assert build_reward(yaml.safe_load(text)) == reward
    assert yaml.safe_dump(dump(build_reward(yaml.safe_load(text)))) == text


@pytest.mark.parametrize("reward", SHAPED, ids=lambda r: r.title)
def test_state_goes_round(reward: Reward) -> None:
    again = build_reward(dump(reward))
    again.load_state_dict(reward.state_dict())
    assert again.state_dict() == reward.state_dict()


@pytest.mark.parametrize("reward", [Laser(target=60), AroraZanette(), SHAPED[5]], ids=lambda r: r.title)
@given(lengths=st.lists(st.integers(1, 400), min_size=2, max_size=8))
def test_shorter_never_pays_less_among_correct(reward: Reward, lengths: list[int]) -> None:
    n = len(lengths)
    batch = Batch(group=[0] * n, length=sorted(lengths), verdict=[1] * n, format_ok=[1] * n, max_tokens=[400] * n)
    assert (np.diff(reward.score(batch, PROGRESS).total) <= 1e-12).all()


def test_breakdown_names_every_node() -> None:
    reward = (
        Correct()
        + 0.5 * LinearLength()
        + Weight(weight=-1, term=Constant(value=2), name="offset")
        + 0.1 * LinearLength()
    )
    scores = reward.score(Batch(group=[0, 0], length=[100, 200], verdict=[1, 0], max_tokens=[200, 200]))
    assert list(scores.terms) == [
        "sum", "sum/correct", "sum/weight", "sum/weight/linear_length", "sum/offset", "sum/offset/constant",
        "sum/weight-2", "sum/weight-2/linear_length",
    ]  # fmt: skip
    paid = sum(scores.terms[f"sum/{name}"] for name in ("correct", "weight", "offset", "weight-2"))
    np.testing.assert_allclose(scores.total, paid)
    np.testing.assert_allclose(scores.total, [1 + 0.25 - 2 + 0.05, 0.5 - 2 + 0.1])


def test_product_and_keep() -> None:
    batch = Batch(group=[0] * 3, length=[10, 20, 40], verdict=[1, 0, 1], truncated=[0, 0, 1], max_tokens=[40] * 3)
    np.testing.assert_allclose((Correct() * LinearLength()).score(batch).total, [0.25, 0, 1])
    kept = Keep(when=Finished(), term=Correct()).score(batch)
    np.testing.assert_array_equal(kept.keep, [True, True, False])
    np.testing.assert_array_equal(kept.total, [1, 0, 0])


def test_gate_hides_the_filter_of_a_closed_branch() -> None:
    batch = Batch(group=[0] * 2, length=[10, 20], verdict=[1, 0], truncated=[1, 1])
    scores = RolloutGate(when=IsCorrect(), then=Keep(when=Finished(), term=Correct()), otherwise=Correct()).score(batch)
    np.testing.assert_array_equal(scores.keep, [False, True])


def test_schedules() -> None:
    at = [Progress(step=s, total_steps=4) for s in range(6)]
    np.testing.assert_allclose([Linear(start=0, end=1).at(p) for p in at], [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(
        [Cosine(start=1, end=0).at(p) for p in at], [1, 0.853553, 0.5, 0.146447, 0, 0], atol=1e-6
    )
    np.testing.assert_allclose([Drops(start=8, factor=0.5, every=2, floor=3).at(p) for p in at], [8, 8, 4, 4, 3, 3])
    np.testing.assert_allclose([Piecewise(from_steps=[0, 2], values=[5, 6]).at(p) for p in at], [5, 5, 6, 6, 6, 6])
    batch = Batch(group=[0], length=[1], verdict=[1])
    assert (Linear(start=0, end=1) * Correct()).score(batch, at[1]).total[0] == 0.25


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("lasr", "did you mean 'laser'"),
        ({"type": "laser", "targt": 60}, "did you mean 'target'"),
        ({"type": "laser", "target": -1}, "negative"),
        ({"type": "laser", "target": "short"}, "target"),
        ({"type": "laser"}, "target: Field required"),
        ({"type": "sum", "terms": [{"type": "correct"}, {"type": "laser", "target": 9}]}, "allow_wholes"),
        ({"type": "sum", "terms": []}, "terms"),
        ({"type": "group_gate", "when": "is_correct", "then": "correct"}, "use rollout_gate"),
        ({"type": "rollout_gate", "when": "top_correct_ratio", "then": "correct"}, "use group_gate"),
        ({"type": "weight", "weight": {"type": "linera"}, "term": "correct"}, "did you mean 'linear'"),
        ({"target": 3}, "mapping with `type`"),
        ("no.such:Reward", "cannot be imported"),
    ],
)
def test_bad_config_names_place_and_remedy(config: object, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        build_reward(config)


def test_bad_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Batch\.length.*negative"):
        Batch(group=[0], length=[-1], verdict=[1])
    with pytest.raises(ValueError, match=r"Batch\.verdict"):
        Batch(group=[0, 0], length=[1, 1], verdict=[1])
    with pytest.raises(ValueError, match=r"Batch\.verdict"):
        Batch(group=[0], length=[1], verdict=[7])
    with pytest.raises(ValueError, match=r"Batch\.verdict: 0\.9"):
        Batch(group=[0], length=[1], verdict=[0.9])  # a score is not a verdict, and not a wrong answer
    with pytest.raises(TautError, match="format_ok"):
        Laser(target=3).score(Batch(group=[0], length=[1], verdict=[1]))


class Broken(Reward):
    """A user's reward that divides by nothing."""

    type: str = "tests.test_rewards:Broken"

    def compute(self, batch: Batch, progress: Progress) -> np.ndarray:
        return np.full(len(batch), np.nan)


class Counter(Reward):
    """A user's reward with state: pays what it has seen."""

    type: str = "tests.test_rewards:Counter"
    state_version: ClassVar[int] = 1
    _seen: int = 0

    def compute(self, batch: Batch, progress: Progress) -> np.ndarray:
        return np.full(len(batch), float(self._seen))

    def _observe(self, batch: Batch, progress: Progress) -> None:
        self._seen += len(batch)

    def _state(self) -> dict:
        return {"seen": self._seen}

    def _load_state(self, state: dict) -> None:
        self._seen = int(state["seen"])


def test_a_users_own_reward_needs_no_entry() -> None:
    batch = Batch(group=[0, 0, 0], length=[1, 2, 3], verdict=[1, 0, None])
    reward = Correct() + 0.5 * build_reward("tests.test_rewards:Counter")
    assert build_reward(dump(reward)) == reward
    reward.observe(batch, PROGRESS)
    own = {"type": "tests.test_rewards:Counter", "version": 1, "seen": 2}  # the unknown one is absent
    assert reward.state_dict() == {"weight": {"Counter": {"(self)": own}}}
    again = build_reward(dump(reward))
    again.load_state_dict(reward.state_dict())
    np.testing.assert_array_equal(again.score(batch).total, [2, 1, 0])
    with pytest.raises(TautError, match="state for correct/weight"):
        Correct().load_state_dict(reward.state_dict())
    with pytest.raises(TautError, match=r"nan for problem '0'"):
        Broken().score(batch)


def test_kind_scope_and_needs() -> None:
    reward = Correct() + 0.5 * RolloutGate(when=IsCorrect(), then=LinearLength())
    assert (reward.kind, reward.scope, reward.needs) == ("whole", "rollout", frozenset())
    assert LinearLength().kind == "term" and Laser(target=1).needs == {"format_ok"}
    gate = GroupGate(when=TopCorrectRatio(), then=AroraZanette(), otherwise=Correct())
    assert (gate.kind, gate.scope) == ("whole", "step")


def test_group_statistics() -> None:
    batch = Batch(group=[5, 3, 5, 3, 5], length=[1, 2, 3, 4, 5], verdict=[1, 1, 0, 0, 1])
    np.testing.assert_allclose(batch.group_mean(batch.length), [3, 3])
    np.testing.assert_allclose(batch.group_mean(batch.length, batch.correct), [2, 3])
    np.testing.assert_allclose(batch.group_std(batch.length, ddof=1), [np.sqrt(2), 2])
    assert [list(g) for g in batch.groups()] == [[1, 3], [0, 2, 4]]
    assert Batch(group=[0], length=[1], verdict=[None]).verdict[0] == Verdict.UNKNOWN
