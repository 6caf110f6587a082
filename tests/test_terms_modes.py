"""Methods with modes, phase entropies and budgets: official numbers, worked examples, edge cases, bad input."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.conformance.judge import TOLERANCE, error
from benchmarks.conformance.modes import ADAPTERS
from benchmarks.loops.modes import LOOPS
from rewards import Batch, Progress, TautError, build_reward
from rewards.terms.adaptive_deep_reasoning import AdaptiveDeepReasoning
from rewards.terms.adaptthink import AdaptThink
from rewards.terms.autothink import AutoThink
from rewards.terms.budget_curriculum import BudgetCurriculum
from rewards.terms.pear import Pear
from tests.batches import make
from tests.oracle import cases

BOTH = frozenset({"think", "answer"})


def batch(verdict: Any, length: Any = 10, **columns: Any) -> Batch:
    """One group; a column given as one value is that for every rollout."""
    n = len(verdict)
    columns = {k: v if isinstance(v, list | np.ndarray) else [v] * n for k, v in columns.items()}
    return Batch(
        **{"group": [0] * n, "length": length if isinstance(length, list) else [length] * n, "verdict": verdict}
        | columns
    )


@pytest.mark.parametrize(
    ("name", "case"),
    [(n, c) for n in ("autothink", "adaptthink_reward") for c in cases(n)],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_official_numbers(name: str, case: dict) -> None:
    assert all(error(got, want) <= TOLERANCE for got, want in ADAPTERS[name](case))


@pytest.mark.parametrize("name", LOOPS)
def test_a_plain_loop_says_the_same(name: str) -> None:
    method, loop = LOOPS[name]
    rng, progress = np.random.default_rng(0), Progress(3, 10, 400, 1)
    for ties in (False, True):
        some = make([(int(size), "mixed") for size in rng.integers(1, 17, 30)], rng, ties)
        columns = SimpleNamespace(**{k: v.tolist() for k, v in vars(some).items() if isinstance(v, np.ndarray)})
        np.testing.assert_allclose(method.score(some, progress).total, loop(method, columns, progress), atol=1e-12)


# PEAR


def pear(reward: Pear, think: float, answer: float, verdict: int = 1, **columns: Any) -> float:
    entropies = {"untempered_entropy_think": think, "untempered_entropy_answer": answer}
    return float(reward.score(batch([verdict], **entropies, **columns)).total[0])


@pytest.mark.parametrize(
    ("think", "answer", "alpha", "paid"),
    [
        (0.5, 0.2, 1, 0.7),
        (0.2, 0.5, 1, 1.0),
        (0.5, 0.2, 0, 0.5),
        (0.5, 0.2, -1, 0.3),
        (1.4, 0.1, 1, -0.3),
        (0, 0, 1, 1.0),
    ],
)
def test_pear_by_hand(think: float, answer: float, alpha: float, paid: float) -> None:
    assert pear(Pear(alpha=alpha), think, answer) == pytest.approx(paid)
    assert pear(Pear(alpha=alpha, wrong=0.1), think, answer, verdict=0) == 0.1


def test_pear_floor_and_missing_tag() -> None:
    assert pear(Pear(floor=0.2), 1.4, 0.1) == 0.2 and pear(Pear(right=0.5), 0, 0) == 0.5
    strict = Pear(missing_tag_is_wrong=True, wrong=0.1)
    assert strict.needs == Pear().needs | {"tags"}
    assert pear(strict, 0.5, 0.2, tags=frozenset({"answer"})) == 0.1
    assert pear(strict, 0.5, 0.2, tags=BOTH) == pytest.approx(0.7)
    with pytest.raises(TautError, match="reward pear: needs the column 'tags'"):
        pear(strict, 0.5, 0.2)


def test_pear_counts_right_answers_that_earn_less_than_wrong_ones() -> None:
    entropies = {"untempered_entropy_think": [1.4, 0.2, 3.0], "untempered_entropy_answer": 0.1}
    scores = Pear().score(batch([1, 1, 0], **entropies))
    np.testing.assert_array_equal(scores.terms["pear/below_wrong"], [1, 0, 0])
    bounds = Pear().bounds(Progress())
    assert bounds.correct.low == -math.inf and not bounds.ordered and Pear(floor=0.1).bounds(Progress()).ordered


# AutoThink


def test_autothink_base_by_mode_and_format() -> None:
    modes = ["think", "think", "no_think", "no_think", None, "think", "no_think"]
    some = batch([1, 0, 1, 0, 1, 1, 0], mode=modes, format_ok=[1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(AutoThink(stage=2).score(some).total, [1, 0, 2, -1, 1, 0, 0])


def test_autothink_draws_the_mode_that_is_too_common_down() -> None:
    # three of four think: a = 2 (0.75 - 0.5) = 0.5; right 1 -> 0.5, wrong 0 -> -0.5; the other mode is left alone
    some = batch([1, 0, 1, 1], mode=["think", "think", "think", "no_think"], format_ok=1)
    np.testing.assert_allclose(AutoThink().score(some).total, [0.5, -0.5, 0.5, 2])
    # all without thinking: a = 1; 2 -> 1, -1 -> -2, a malformed one to -2 as well
    some = batch([1, 0, 0], mode="no_think", format_ok=[1, 1, 0])
    np.testing.assert_allclose(AutoThink().score(some).total, [1, -2, -2])


def test_autothink_balances_over_the_step_and_compares_within_a_problem() -> None:
    # lengths 10, 20, 30: z = -1, 0, 1 among the right ones of problem 0; one right one in problem 1 is compared with none
    some = Batch(group=[0, 0, 0, 1], length=[10, 20, 30, 99], verdict=[1] * 4, mode=["think"] * 4, format_ok=[1] * 4)
    paid = AutoThink(stage=3).score(some).total
    np.testing.assert_allclose(paid, [math.exp(0.05), 1, math.exp(-0.05), 1])
    assert AutoThink(stage=3).scope == "step"
    wrong = Batch(group=[0] * 3, length=[10, 20, 30], verdict=[0] * 3, mode=["think"] * 3, format_ok=[1] * 3)
    np.testing.assert_allclose(AutoThink(stage=3).score(wrong).total, [1 - math.exp(0.05), 0, 1 - math.exp(-0.05)])
    np.testing.assert_allclose(AutoThink(stage=3, balance=0.5).score(some).total, [0] * 4, atol=1e-12)


def test_autothink_stages_are_numbers_that_may_move() -> None:
    stages = {
        "type": "autothink",
        "alpha": {"type": "piecewise", "from_steps": [0, 6], "values": [0, 0.05]},
        "balance": {"type": "piecewise", "from_steps": [0, 3], "values": [0.5, 1]},
    }
    moving, rng = build_reward(stages), np.random.default_rng(0)
    some = make([(8, "mixed")] * 5, rng)
    for step, still in ((0, AutoThink(stage=1)), (4, AutoThink(stage=2))):
        np.testing.assert_array_equal(moving.score(some, Progress(step)).total, still.score(some).total)
    np.testing.assert_array_equal(moving.score(some, Progress(9)).total, AutoThink(stage=3, beta=0).score(some).total)


def test_autothink_punishes_loops_of_wrong_answers_without_thinking() -> None:
    reward = AutoThink(stage=2, looping=True)
    assert reward.needs == {"mode", "format_ok", "tokens"} and AutoThink(format=False).needs == {"mode"}
    looping, nine, plain = list(range(4)) + [7, 8] * 10, [7] * 9, list(range(40))
    some = batch(
        [0, 0, 0, 0, 1],
        tokens=[looping, nine, plain, looping, looping],
        mode=["no_think", "no_think", "no_think", "think", "no_think"],
        format_ok=1,
    )
    np.testing.assert_allclose(reward.score(some).total, [-2, -1, -1, 0, 2])


@pytest.mark.parametrize("stage", [1, 2])
def test_autothink_without_format_is_proved_to_be_in_order(stage: Any) -> None:
    assert AutoThink(stage=stage, format=False).bounds(Progress()).ordered


# Adaptive Deep Reasoning


def adr(verdict: list[Any], mode: list[Any], step: int = 0, **settings: Any) -> list[float]:
    some = batch(verdict, mode=mode, max_tokens=1000, problem_id="p7")
    return AdaptiveDeepReasoning(**settings).score(some, Progress(step)).total.tolist()


HALVES = ["short"] * 4 + ["long"] * 4


def test_adaptive_deep_reasoning_by_hand() -> None:
    # short 3 of 4, long 4 of 4: hard, although 0.75 >= theta; short 4 of 4, long 4 of 4: simple
    assert adr([1, 1, 1, 0, 1, 1, 1, 1], HALVES) == [1, 1, 1, -1, 1.5, 1.5, 1.5, 1.5]
    assert adr([1] * 8, HALVES) == [1.5] * 4 + [1] * 4
    assert adr([0] * 8, HALVES) == [-1] * 8
    assert adr([1, 0, 0, 0, 0, 0, 0, 0], HALVES) == [1, *[-1] * 7]  # 0.25 < theta: hard
    assert adr([1, 0, 0, 0, 0, 0, 0, 0], HALVES, theta=0.25) == [1.5, *[-1] * 7]
    assert adr([1] * 8, HALVES, step=4, warmup_steps=5) == [1] * 8
    assert adr([1] * 8, HALVES, step=5, warmup_steps=5) == [1.5] * 4 + [1] * 4


def test_adaptive_deep_reasoning_leaves_out_what_is_of_neither_mode() -> None:
    # without the strays short is 1 of 2, long 0 of 1; with them as short ones it would be 1 of 4
    assert adr([1, 0, 0, 0, 0], ["short", "short", "long", None, "think"]) == [1.5, -1, -1, -1, -1]
    assert adr([1, 1, 1], ["short", "long", None]) == [1.5, 1, 1]
    assert adr([1, 0], ["long", "long"]) == [1, -1]  # nothing to compare with


def test_adaptive_deep_reasoning_takes_from_long_answers_only() -> None:
    lengths = [790, 800, 900, 1000, 1000]
    some = batch([1, 1, 1, 0, 1], lengths, mode=["long"] * 4 + ["short"], max_tokens=1000)
    np.testing.assert_allclose(AdaptiveDeepReasoning().score(some).total, [1, 1, 0.5, -2, 1.5])
    for off in (AdaptiveDeepReasoning(penalty=0), AdaptiveDeepReasoning(overlong=0)):
        np.testing.assert_allclose(off.score(some).total, [1, 1, 1, -1, 1.5])


def test_adaptive_deep_reasoning_refuses_a_plan_without_halves_but_no_unknown_verdict() -> None:
    with pytest.raises(TautError, match=r"problem 'p7' has 4 rollouts, all of mode 'long'; ask for half"):
        adr([1, 1, 0, 0], ["long"] * 4, samples=4)
    with pytest.raises(TautError, match=r"problem 'p7' has 6 rollouts, but `samples` is 4"):
        adr([1] * 6, HALVES[:6], samples=4)
    assert adr([1, 1, None, None], ["long", "long", "short", "short"], samples=4) == [1, 1, 0, 0]
    assert adr([1, 1, None, 1], ["long", "long", "short", "short"], samples=4) == [1, 1, 0, 1.5]
    for odd in (1, 7):
        with pytest.raises(ValueError, match="samples"):
            build_reward({"type": "adaptive_deep_reasoning", "samples": odd})


# Train Long, Think Short


@pytest.mark.parametrize(
    ("length", "paid"), [(0, 0), (43, 43 / 87), (87, 1), (88, 1 - 1 / 87), (130, 1 - 43 / 87), (174, 0), (175, 0)]
)
def test_budget_curriculum_triangle(length: int, paid: float) -> None:
    only: dict[str, Any] = {"correctness": 0, "length": 1, "format": 0}
    some = batch([0], length, budget=87, tags=BOTH)
    assert BudgetCurriculum(**only).score(some).total[0] == pytest.approx(paid)
    band = BudgetCurriculum(**only, shape="band").score(some).total[0]
    assert band == pytest.approx(1 if length <= 87 else paid)


def test_budget_curriculum_by_hand() -> None:
    lengths, verdict = [87, 43, 87, 200, 87], [1, 1, 0, 1, 1]
    some = batch(verdict, lengths, budget=87, tags=[BOTH, BOTH, BOTH, BOTH, frozenset({"think"})])
    np.testing.assert_allclose(BudgetCurriculum().score(some).total, [1, 0.8483, 0.4, 0.7, 0.95], atol=5e-5)
    heavy = BudgetCurriculum(correctness=0.3, length=0.6)
    np.testing.assert_allclose(heavy.score(some).total, [1, 0.6966, 0.7, 0.4, 0.95], atol=5e-5)
    assert not heavy.bounds(Progress()).ordered
    gated = BudgetCurriculum(correctness=0.3, length=0.6, gate_on_correct=True)
    np.testing.assert_allclose(gated.score(some).total, [1, 0.6966, 0, 0.4, 0.95], atol=5e-5)
    assert gated.bounds(Progress()).ordered


def test_budget_curriculum_falls_with_the_step_and_is_rounded_down() -> None:
    drops = {"type": "drops", "start": 256, "factor": 0.7, "every": 150}
    reward = build_reward({"type": "budget_curriculum", "target": drops, "correctness": 0, "length": 1, "format": 0})
    assert reward.needs == {"tags"} and BudgetCurriculum().needs == {"tags", "budget"}
    for step, budget in ((0, 256), (149, 256), (150, 179), (300, 125), (450, 87), (599, 87)):
        some = batch([1, 1], [budget, budget + 1], tags=BOTH)
        paid = reward.score(some, Progress(step, 600)).total
        assert paid[0] == 1 and paid[1] == pytest.approx(1 - 1 / budget)


def test_budget_curriculum_at_a_budget_of_nothing_and_of_thinking_alone() -> None:
    some = batch([1, 1, 1], [0, 1, 2], budget=0, tags=BOTH)
    np.testing.assert_allclose(BudgetCurriculum().score(some).total, [0.7, 1, 0.7])
    thinking = BudgetCurriculum(think_end=5)
    assert "tokens" in thinking.needs
    tokens = [[1, 1, 5, 1, 5], [5, 1, 1, 1, 1], [1] * 5]
    some = batch([1, 1, 1], 5, budget=4, tags=BOTH, tokens=tokens)
    np.testing.assert_allclose(thinking.score(some).total, [0.7 + 0.15, 0.7, 0.7 + 0.225])


# AdaptThink


def test_adaptthink_is_its_own_advantage() -> None:
    some = batch(
        [1, 1, 0, 0, None, 1], mode=["no_think", "think", "no_think", "think", "think", None], reference_accuracy=0.75
    )
    np.testing.assert_allclose(AdaptThink().score(some).total, [0.3, 0.25, -0.7, -0.75, 0, 0.25])
    with pytest.raises(TautError, match="reward adaptthink: needs the column 'reference_accuracy'"):
        AdaptThink().score(batch([1], mode="think"))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"type": "pear", "right": 0}, "right: .*greater than 0"),
        ({"type": "pear", "wrong": 1}, "wrong: .*less than 1"),
        ({"type": "pear", "alhpa": 1}, "did you mean 'alpha'"),
        ({"type": "autothink", "stage": 4}, "stage: .*1, 2 or 3"),
        ({"type": "autothink", "slope": -1}, "slope"),
        ({"type": "autothink", "alpha": "long"}, "alpha"),
        ({"type": "adaptive_deep_reasoning", "theta": 2}, "theta"),
        ({"type": "adaptive_deep_reasoning", "overlong": 1.5}, "overlong"),
        ({"type": "budget_curriculum", "shape": "square"}, "'triangular' or 'band'"),
        ({"type": "budget_curriculum", "target": -5}, "negative"),
        ({"type": "adaptthink", "delta": "much"}, "delta"),
    ],
)
def test_bad_settings_are_named(config: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_reward(config)
