"""Sampling plans beside plain groups: budgets by problem, modes, and a cap that moves with what is observed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.conformance.modes import length_controller
from rewards import Batch, Linear, Progress, TautError
from rollout.length_controller import LengthController
from rollout.paths import locate
from rollout.plans import ModesPlan, RandomBudgetPlan
from rollout.prompts import PromptTemplate, load_tokenizer
from rollout.sampler import Sampler, to_batch
from rollout.sampling import PLANS, GroupPlan, SamplingPlan
from rollout.seeds import generator
from rollout.types import Completion, Problem, Request, Rollout
from tests.oracle import cases, close
from trainers.assemble import progress_at
from trainers.settings import load_config, resolve, to_mapping

PROBLEMS = [Problem(f"p{i}", f"{i}+1", str(i + 1)) for i in range(5)]
HALVES = [{"name": "no_think", "share": 0.5, "prefix": "</think>", "cap": 40}, {"name": "think", "share": 0.5}]


def render(problem: Problem, budget: int | None) -> str:
    return problem.problem if budget is None else f"{problem.problem} in {budget}"


def ask(plan: SamplingPlan, step: int = 0, seed: int = 0, problems: list[Problem] = PROBLEMS) -> list[Request]:
    return plan.requests(problems, render, Progress(step, 10, 1, seed), generator(seed, "plan", step))


# ---- every plan ----------------------------------------------------------------------------------------------------

EVERY: list[SamplingPlan] = [
    GroupPlan(samples=4, max_tokens=64),
    RandomBudgetPlan(samples=4, low=10, high=60, max_tokens=64),
    RandomBudgetPlan(samples=4, low=10, high=60, max_tokens=64, redraw="never"),
    ModesPlan(samples=4, max_tokens=64, modes=HALVES),  # type: ignore[arg-type]
    ModesPlan(samples=4, read={"no_think": "empty_thinking"}),
    LengthController(samples=4, max_tokens=64, min_tokens=32, reduction=8, strategy="interval_reduction", interval=1),
]


@pytest.mark.parametrize("plan", EVERY, ids=lambda p: p.type)
def test_requests_are_whole_groups_and_a_function_of_the_place(plan: SamplingPlan) -> None:
    seen: list[int] = []
    for step in range(4):
        asked = ask(plan, step)
        assert [r.group for r in asked] == [g for g in range(5) for _ in range(4)]
        assert asked == ask(plan, step)
        assert max(r.max_tokens for r in asked) == plan.cap(Progress(step, 10))
        assert ("budget" in plan.provides) == (asked[0].budget is not None)
        assert ("mode" in plan.provides) or asked[0].mode is None
        seen += [r.sample_id for r in asked]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("name", PLANS.table)
def test_every_plan_survives_its_configuration(name: str) -> None:
    example = PLANS.get(name).example()
    config = load_config([f"sampling={ {'type': name, **example.model_dump(exclude={'type'}, exclude_unset=True)} }"])
    assert config.sampling == example and resolve(type(config), to_mapping(config), "again") == config


# ---- budgets -------------------------------------------------------------------------------------------------------


def test_a_problem_is_told_one_budget_and_all_are_drawn() -> None:
    plan = RandomBudgetPlan(samples=3, low=5, high=8, max_tokens=64)
    asked = [r for step in range(800) for r in ask(plan, step)]
    for group in range(0, len(asked), 3):
        assert len({r.budget for r in asked[group : group + 3]}) == 1
    counts = Counter(r.budget for r in asked)
    assert set(counts) == {5, 6, 7, 8} and min(counts.values()) > 0.8 * max(counts.values())
    assert asked[0].prompt == f"0+1 in {asked[0].budget}"
    assert [r.budget for r in ask(plan, 1, seed=0)] != [r.budget for r in ask(plan, 1, seed=1)]


def test_a_budget_may_stay_with_its_problem() -> None:
    plan = RandomBudgetPlan(samples=1, low=1, high=1000, max_tokens=1000, redraw="never")
    first, later = ask(plan, 0), ask(plan, 7, problems=PROBLEMS[::-1])
    assert [r.budget for r in first] == [r.budget for r in later][::-1] and len({r.budget for r in first}) == 5
    assert [r.budget for r in first] != [r.budget for r in ask(plan, 0, seed=1)]


def test_tests_are_told_the_middle() -> None:
    assert RandomBudgetPlan().told_budget(Progress()) == 2050
    assert RandomBudgetPlan(test_budget=512).told_budget(Progress()) == 512
    moving = RandomBudgetPlan(high=Linear(start=4000, end=100))
    assert moving.told_budget(Progress(5, 10)) == (100 + 2050) // 2
    with pytest.raises(TautError, match="low=100, high=50 at step 10"):
        RandomBudgetPlan(high=Linear(start=4000, end=50)).told_budget(Progress(10, 10))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"low": 0}, "low=0: a budget is 1 token or more"),
        ({"low": 300, "high": 200}, "low=300 is more than high=200"),
        ({"max_tokens": 1024}, "high=4000 is more than max_tokens=1024"),
        ({"high": -1}, "-1 tokens is negative"),
        ({"redraw": "epoch"}, "redraw"),
    ],
)
def test_bad_budgets_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RandomBudgetPlan(**settings)


# ---- modes ---------------------------------------------------------------------------------------------------------


def test_a_group_is_divided_exactly() -> None:
    plan = ModesPlan(samples=4, max_tokens=64, modes=HALVES)  # type: ignore[arg-type]
    asked = ask(plan)[4:8]
    assert [(r.mode, r.prefix, r.max_tokens) for r in asked] == [("no_think", "</think>", 40)] * 2 + [
        ("think", "", 64)
    ] * 2
    assert {r.prompt for r in asked} == {"1+1"} and {r.train_prompt for r in asked} == {None}
    assert plan.cap(Progress()) == 64 and plan.provides == {"mode"}
    short = ModesPlan(samples=4, modes=[{**HALVES[0], "share": 1}])  # type: ignore[list-item]
    assert short.cap(Progress()) == 40


def test_an_instruction_is_sampled_with_and_the_plain_prompt_trained_on() -> None:
    modes: Any = [
        {"name": "long", "count": 1, "instruction": "Think long. {problem}"},
        {"name": "short", "count": 3, "instruction": "{problem} Be brief."},
    ]
    asked = ask(ModesPlan(samples=4, modes=modes))[:4]
    assert [r.prompt for r in asked] == ["Think long. 0+1"] + ["0+1 Be brief."] * 3
    assert {r.train_prompt for r in asked} == {"0+1"} and {r.problem.problem for r in asked} == {"0+1"}
    asked = ask(ModesPlan(samples=4, modes=modes, train_plain=False))[:4]
    assert {r.train_prompt for r in asked} == {None}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"samples": 7, "modes": HALVES}, "mode 'no_think': share 0.5 of samples=7 is 3.5 responses"),
        (
            {"samples": 8, "modes": [{"name": "a", "count": 3}, {"name": "b", "count": 4}]},
            "3 a \\+ 4 b = 7 .*samples=8",
        ),
        ({"modes": [{"name": "a"}]}, "mode 'a': give either share or count"),
        ({"modes": [{"name": "a", "share": 1, "count": 8}]}, "give either share or count"),
        ({"modes": [{"name": "a", "share": 1, "instruction": "Be brief."}]}, "no {problem} in 'Be brief.'"),
        ({"modes": [{"name": "a", "share": 1, "prefx": "x"}]}, "prefx"),
        ({"read": {"a": "("}}, "a: '\\(' is not a regular expression"),
        ({"otherwise": "think"}, "of use with `read` only"),
    ],
)
def test_modes_that_cannot_be_are_refused_with_the_numbers(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ModesPlan(**settings)


def test_a_cap_that_a_schedule_takes_to_nothing_is_named() -> None:
    plan = ModesPlan(samples=1, modes=[{"name": "a", "count": 1, "cap": Linear(start=8, end=0)}])  # type: ignore[list-item]
    with pytest.raises(TautError, match="cap of mode 'a' is 0 at step 10"):
        ask(plan, 10)


def test_modes_are_read_from_the_response() -> None:
    texts = ["</think>\\boxed{1}", "\n\n</think>1", "<think>\n\n</think>1", "<think>\n...\n</think>1"]
    texts += ["<think>so</think>1", "so</think>1", "<answer>1", "1"]
    rollouts = [
        Rollout(Request(PROBLEMS[0], 0, i, "", 9), (), (), (), "stop", (), t, mode="asked") for i, t in enumerate(texts)
    ]
    ModesPlan(read={"no_think": "empty_thinking", "direct": "<answer>", "think": ".*</think>"}).read_modes(rollouts)
    assert [r.mode for r in rollouts] == ["no_think"] * 4 + ["think"] * 2 + ["direct", None]
    ModesPlan(read={"no_think": "empty_thinking"}, otherwise="think").read_modes(rollouts)
    assert Counter(r.mode for r in rollouts) == {"no_think": 4, "think": 4}
    ModesPlan(samples=4, modes=HALVES).read_modes(rollouts)  # type: ignore[arg-type]
    assert Counter(r.mode for r in rollouts) == {"no_think": 4, "think": 4}


class Echo:
    """An engine that answers every prompt with the same tokens."""

    version = 3

    def __init__(self, ids: tuple[int, ...]) -> None:
        self.ids, self.prompts = ids, []

    def generate(self, prompts: Any, temperature: float | None = None) -> list[Completion]:
        self.prompts = prompts
        return [Completion(self.ids, (-0.5,) * len(self.ids), "stop", (3,) * len(self.ids)) for _ in prompts]


def test_a_forced_beginning_is_part_of_the_response_and_its_mode_is_a_column() -> None:
    tokenizer = load_tokenizer(locate("benchmarks:overthinker/checkpoint"))
    template = PromptTemplate(tokenizer, "{problem}")
    modes: Any = [
        {"name": "no_think", "count": 1, "prefix": "</think>", "cap": 40},
        {"name": "think", "count": 1, "instruction": "{problem}+0"},
    ]
    plan = ModesPlan(samples=2, max_tokens=64, modes=modes, read={"no_think": "empty_thinking"}, otherwise="think")
    end, answer = (
        tokenizer.convert_tokens_to_ids("</think>"),
        (*template.encode("<think>12")[1:-1], tokenizer.eos_token_id),
    )
    engine = Echo(answer)
    sampler = Sampler(engine, template, None, [tokenizer.eos_token_id], 0)  # type: ignore[arg-type]
    asked = plan.requests(PROBLEMS[:1], template.render, Progress(), generator(0, "plan", 0))
    rollouts = sampler.sample(asked)
    plan.read_modes(rollouts)
    assert [p.max_tokens for p in engine.prompts] == [39, 64] and engine.prompts[0].ids[-1] == end
    assert rollouts[0].token_ids == (end, *answer) and rollouts[0].forced == 1 and rollouts[1].forced == 0
    plain = template.encode(template.render(PROBLEMS[0]))
    assert rollouts[0].prompt_ids == rollouts[1].prompt_ids == plain != engine.prompts[1].ids
    batch = to_batch(rollouts)
    assert list(batch.column("mode")) == ["no_think", "think"] and list(batch.max_tokens) == [40, 64]
    with pytest.raises(
        TautError, match=r"mode 'no_think' begins with '</think>', 1 tokens, but its cap is 1; raise the cap"
    ):
        sampler.sample([replace(asked[0], max_tokens=1)])


# ---- the moving cap ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("laser_length_controller"), ids=lambda c: c["params"]["length_strategy"])
def test_the_cap_moves_as_in_the_official_code(case: dict[str, Any]) -> None:
    assert all(close(got, want) for got, want in length_controller(case))


def step_of(lengths: list[int], verdicts: list[int], cap: int, groups: int = 1, **columns: Any) -> Batch:
    group = np.arange(len(lengths)) * groups // len(lengths)
    return Batch(group, lengths, verdicts, truncated=[n >= cap for n in lengths], **columns)


def test_the_cap_falls_after_steps_that_hardly_truncate() -> None:
    plan = LengthController(
        max_tokens=100,
        min_tokens=70,
        reduction=20,
        strategy="monitor_clip_ratio",
        target_acc_times=2,
        target_clip_ratio=0.25,
    )
    good, bad = step_of([100, 9, 9, 9], [0, 1, 1, 0], 100), step_of([100, 100, 9, 9], [0, 0, 1, 1], 100)
    caps = []
    for step, batch in enumerate([good, bad, good, good, good, good, good, good]):
        caps.append(plan.cap(Progress(step, 10)))
        plan.observe(batch, Progress(step, 10))
    assert caps == [100, 100, 100, 100, 80, 80, 70, 70]
    before = plan.state_dict()
    plan.observe(step_of([9, 9], [1, 1], 100, origin=["validation"] * 2), Progress(8, 10))
    plan.observe(step_of([9, 9], [-1, -1], 100), Progress(8, 10))
    assert plan.state_dict() == before


def test_the_cap_falls_where_the_shorter_cut_loses_few_problems() -> None:
    plan = LengthController(
        samples=2,
        max_tokens=100,
        min_tokens=10,
        reduction=20,
        strategy="monitor_passk_distribution",
        target_comparison_num=0.5,
    )
    both_lost = step_of([90, 9, 90, 9], [1, 0, 1, 0], 100, groups=2)  # both problems' right answers are longer than 80
    plan.observe(both_lost, Progress(0, 10))
    assert plan.cap(Progress(1, 10)) == 100
    plan.observe(step_of([90, 9, 80, 9], [1, 0, 1, 0], 100, groups=2), Progress(1, 10))
    assert plan.cap(Progress(2, 10)) == 80
    plan.observe(step_of([9, 9], [0, 0], 100), Progress(2, 10))  # nothing to lose
    assert plan.cap(Progress(3, 10)) == 60


@given(st.data())
def test_a_resumed_cap_goes_on_and_order_does_not_matter(data: st.DataObject) -> None:
    strategy = data.draw(st.sampled_from(["monitor_clip_ratio", "monitor_passk_distribution"]))
    settings = {
        "samples": 2,
        "max_tokens": 64,
        "min_tokens": 8,
        "reduction": 8,
        "target_acc_times": 2,
        "strategy": strategy,
    }
    whole, resumed = LengthController(**settings), LengthController(**settings)
    for step in range(6):
        cap = whole.cap(Progress(step, 6))
        lengths = data.draw(st.lists(st.integers(1, cap), min_size=4, max_size=4))
        verdicts = data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=4))
        batch = step_of(lengths, verdicts, cap, groups=2)
        whole.observe(batch, Progress(step, 6))
        fresh = LengthController(**settings)
        fresh.load_state_dict(resumed.state_dict())
        fresh.observe(batch.take(np.array([2, 1, 3, 0])), Progress(step, 6))
        resumed = fresh
        assert resumed.state_dict() == whole.state_dict() and 8 <= whole.cap(Progress(step + 1, 6)) <= cap


def test_a_foreign_state_and_bad_settings_are_refused() -> None:
    with pytest.raises(TautError, match=r"needs its state \{cap, good\}, but the checkpoint holds none"):
        LengthController(min_tokens=10, strategy="monitor_clip_ratio").load_state_dict({})
    with pytest.raises(TautError, match="has no state"):
        LengthController(min_tokens=10).load_state_dict({"cap": 3, "good": 0})
    for settings, says in [
        ({"max_tokens": 8, "min_tokens": 9}, "max_tokens=8 is below min_tokens=9"),
        ({"max_tokens": Linear(start=9, end=8), "min_tokens": 8}, "give a whole number"),
        (
            {"min_tokens": 8, "target_passk_k": 9, "strategy": "monitor_passk_distribution"},
            "of samples=8: give at most 8",
        ),
    ]:
        with pytest.raises(ValidationError, match=says):
            LengthController(**settings)


def test_the_largest_cap_is_what_the_reward_is_told() -> None:
    config = load_config([f"sampling={ {'type': 'modes', 'samples': 4, 'max_tokens': 64, 'modes': HALVES} }"])
    assert progress_at(0, config).max_length == 64
    sampling = {
        "type": "length_controller",
        "max_tokens": 64,
        "min_tokens": 8,
        "reduction": 8,
        "strategy": "interval_reduction",
    }
    assert progress_at(10, load_config([f"sampling={sampling}"])).max_length == 48
