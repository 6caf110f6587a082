"""The inversion check: what is proved is so, what is shown is reproducible and small, and nothing found is never called a proof."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import PrivateAttr

from rewards import REWARDS, Batch, Laser, Progress, Reward, Scores, TautError, build_reward, dump
from rewards.base import Monitor, Scope
from rewards.batch import OPTIONAL
from rewards.bounds import Bounds
from rewards.inversion import Finding, NoneFound, Proved, Witness, check
from rewards.inversion_search import Search, Space, enumerate_all
from taut import main


def gated(weight: Any) -> dict[str, Any]:
    """Correctness and a weighted length, for correct rollouts alone."""
    term = {"type": "rollout_gate", "when": "is_correct", "then": {"type": "linear_length"}}
    return {"type": "sum", "terms": ["correct", {"type": "weight", "weight": weight, "term": term}]}


def find(config: Any, max_length: int = 8000, total_steps: int = 40, **options: Any) -> Finding:
    return check(config if isinstance(config, Reward) else build_reward(config), max_length, total_steps, **options)


def score_again(reward: Reward, found: Witness) -> Scores:
    """The witness by the public way: a new reward observes what is told, then scores the group."""
    again = build_reward(dump(reward))
    again.load_state_dict(reward.state_dict())
    for batch, progress in found.before:
        again.observe(batch, progress)
    return again.score(found.batch, found.progress)


# ---- what is known of the methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        "correct", {"type": "arora_zanette", "alpha": 0.9}, {"type": "laser", "target": 60, "format": False}, gated(-1), gated(0.3),
        {"type": "group_gate", "when": "top_correct_ratio", "then": "arora_zanette", "otherwise": "correct"},
        gated({"type": "linear", "start": 0, "end": -1}), "hapo", "budget_curriculum", "l1_max",
    ],
    ids=str,
)  # fmt: skip
def test_proved_by_bounds(config: Any) -> None:
    found = find(config, total_steps=100)
    assert isinstance(found, Proved) and str(found).startswith("proved: ") and "all 100 steps" in str(found)


@pytest.mark.parametrize(
    ("config", "reads"),
    [
        ({"type": "laser", "target": 60}, ("format_ok",)),
        (gated(-1.5), ()),
        (gated({"type": "linear", "start": 0, "end": -3}), ()),
        ("pear", ("untempered_entropy_think", "untempered_entropy_answer")),
        ({"type": "l1_exact", "target": 2000}, ()),
        ("l1_exact", ("budget",)),
        ("shorter_better", ()),
        ("cosine_length", ()),
        ({"type": "budget_curriculum", "correctness": 0.3, "length": 0.6}, ("tags", "budget")),
        ({"type": "hapo", "w": 1.5, "allow_above_one": True}, ()),
        ("o1_pruner", ("reference_accuracy", "reference_length")),
        ("repetition", ("tokens",)),
        ({"type": "laser_de", "target": 60}, ("format_ok",)),
        ("autothink", ("format_ok", "mode")),
    ],
    ids=str,
)
def test_a_witness_is_small_and_scores_the_same_again(config: Any, reads: tuple[str, ...]) -> None:
    reward = build_reward(config)
    found = find(reward)
    assert isinstance(found, Witness) and found.reads == reads and len(found.batch) <= 3
    scores = score_again(reward, found)
    np.testing.assert_array_equal(scores.total, found.rewards)
    assert scores.keep.all() and found.rewards[found.wrong] > found.rewards[found.correct]
    assert found.batch.correct[found.correct] and not found.batch.correct[found.wrong]
    assert found.batch.group[found.correct] == found.batch.group[found.wrong]
    assert not (found.batch.truncated & found.batch.correct).any() and found.batch.length.max() <= 8000
    for column in reads:
        assert column in str(found)
    assert str(find(reward)) == str(found) and reward.state_dict() == build_reward(config).state_dict()


def test_witnesses_stand_at_the_edge_that_the_papers_have() -> None:
    found = find("shorter_better")  # alpha / beta: 2000 tokens beyond the shortest
    assert isinstance(found, Witness) and sorted(found.batch.length) == [1, 1, 2002]
    found = find({"type": "l1_exact", "target": 2000})  # 1 / alpha: 3333 tokens off
    assert isinstance(found, Witness) and np.ptp(np.abs(found.batch.length - 2000)) == 3334
    assert isinstance(find("shorter_better", 2000), Proved) and isinstance(find("shorter_better", 2100), Witness)


def test_the_witness_is_told() -> None:
    found = find({"type": "laser", "target": 60, "malformed": -2})
    head, columns, *rows = str(found).splitlines()
    assert (
        head
        == "witness: a wrong rollout earns -0.5 and a correct one of its group -2, at step 0 of 40 (longest response 8000)"
    )
    assert columns.split() == ["problem", "verdict", "length", "format_ok", "reward"]
    assert [r.split()[1:4:2] for r in rows] == [["correct", "no"], ["wrong", "yes"]] and rows[1].endswith(
        "-0.5  <- more"
    )


def test_steps_and_schedules() -> None:
    found = find(gated({"type": "piecewise", "from_steps": [0, 30], "values": [-1, -1.01]}))
    assert isinstance(found, Witness) and found.progress.step >= 30
    assert isinstance(find(gated({"type": "piecewise", "from_steps": [0, 40], "values": [-1, -9]})), Proved)


# ---- enumeration -----------------------------------------------------------------------------------------------------

WIDE = {  # the bounds of the sum know nothing of its terms' common length
    "type": "sum",
    "terms": [
        "correct",
        {"type": "weight", "weight": 0.8, "term": "linear_length"},
        {"type": "weight", "weight": -0.8, "term": "linear_length"},
    ],
}


def test_enumeration_proves_what_bounds_cannot() -> None:
    reward = build_reward(WIDE)
    bounds = reward.bounds(Progress(max_length=320))
    assert bounds is not None and not bounds.ordered
    assert str(find(WIDE, 320)) == "proved: every rollout that there is was scored at all 40 steps, 25680 in all"
    assert isinstance(find(WIDE, 320, 40, modes=lambda place: [("long", 320), ("short", 40)]), Proved)


def test_enumeration_knows_its_limits() -> None:
    group = {"type": "sum", "terms": [{"type": "arora_zanette"}, *WIDE["terms"][1:]]}
    assert isinstance(find(group, 320), NoneFound)  # compares rollouts
    assert isinstance(find(WIDE, 320, effort=1e-5), NoneFound)  # too many
    assert isinstance(find({"type": "sum", "terms": [WIDE, "tests.test_inversion:Lying"]}, 320), Witness)


def test_a_needle_is_found_where_all_is_enumerated() -> None:
    """A wrong rollout of one length out of 16384 is ahead, and only when it is badly formed."""
    edge = [
        {"type": "rollout_gate", "when": {"type": "shorter_than", "target": t}, "then": "correct"} for t in (7777, 7778)
    ]
    inner = {"type": "sum", "allow_wholes": True, "terms": [edge[0], {"type": "weight", "weight": -1, "term": edge[1]}]}
    reward = {
        "type": "sum",
        "allow_wholes": True,
        "terms": ["correct", {"type": "weight", "weight": 1.5, "term": inner}],
    }
    found = find(reward, 16384, 1)
    assert isinstance(found, Witness) and found.batch.length[found.correct] == 7778


class Lying(Reward):
    """A user's reward that reads what it does not say: the problem's name."""

    type: str = "tests.test_inversion:Lying"

    def compute(self, batch: Batch, progress: Progress) -> np.ndarray:
        return -2.0 * ((batch.problem_id != "p0") & batch.correct)


def random_tree(rng: np.random.Generator, longest: int) -> dict[str, Any]:
    """Correctness and one to three weighted terms that score each rollout by itself."""

    def term() -> dict[str, Any]:
        target, share = int(rng.integers(1, longest)), round(float(rng.random()), 3)
        short = {"type": "rollout_gate", "when": {"type": "shorter_than", "target": target}, "then": "linear_length"}
        kinds = [
            short,
            {"type": "l1_exact", "target": target, "alpha": 2 * share / longest},
            {"type": "budget_curriculum", "target": target, "length": share},
            {"type": "laser", "target": target, "wrong": share},
        ]
        weight = round(0.6 * float(rng.normal()), 3)
        return {"type": "weight", "weight": weight, "term": kinds[int(rng.integers(len(kinds)))]}

    return {"type": "sum", "allow_wholes": True, "terms": ["correct", *(term() for _ in range(rng.integers(1, 4)))]}


@pytest.mark.parametrize("seed", range(30))
def test_bounds_enumeration_and_search_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    longest = int(rng.choice([320, 8000]))
    reward = build_reward(random_tree(rng, longest))
    space = Space(reward, [Progress(0, 1, longest)], range(2, 9), None, None)
    all_of_it, bounds = enumerate_all(space, 1e9), reward.bounds(space.places[0])
    searched = Search(space, np.random.default_rng(0)).run(0.5, None)
    assert all_of_it is not None and bounds is not None
    if isinstance(all_of_it, int):
        assert searched is None
    else:
        assert not bounds.ordered and searched is not None


@pytest.mark.parametrize("name", sorted(REWARDS.table))
def test_what_bounds_prove_no_search_finds(name: str) -> None:
    cls = REWARDS.get(name)
    assert issubclass(cls, Reward)
    reward, places = cls.example(), [Progress(step, 4, 400) for step in range(4)]
    found = check(reward, 400, 4, effort=0.1)
    if isinstance(found, Proved):
        search = Search(Space(reward, places, range(2, 9), None, None), np.random.default_rng(1))
        assert search.run(0.2, None) is None and search.seen > 0
    elif isinstance(found, Witness):
        np.testing.assert_array_equal(score_again(reward, found).total, found.rewards)
    else:
        assert found.groups > 0 and not found.refused


# ---- states, steps, and rewards of one's own -------------------------------------------------------------------------


class Grudge(Reward):
    """Correct rollouts of a problem lose 2 once three responses to it of 100 tokens or more were seen."""

    type: str = "tests.test_inversion:Grudge"
    state_version: ClassVar[int] = 1
    watches: bool = False
    _seen: dict[str, int] = PrivateAttr(default_factory=dict)

    def monitor(self) -> Monitor | None:
        return Monitor(4, 8, 10) if self.watches else None

    def bounds(self, progress: Progress) -> Bounds | None:
        return None

    def compute(self, batch: Batch, progress: Progress) -> np.ndarray:
        held = np.array([self._seen.get(p, 0) >= 3 for p in batch.problem_id])
        return np.where(batch.correct, np.where(held, -1.0, 1.0), 0.0)

    def _observe(self, batch: Batch, progress: Progress) -> None:
        for problem in batch.problem_id[(batch.length >= 100) & ((batch.origin == "monitor") == self.watches)]:
            self._seen[problem] = self._seen.get(problem, 0) + 1

    def _state(self) -> dict[str, Any]:
        return {"seen": dict(self._seen)}

    def _load_state(self, state: dict[str, Any]) -> None:
        self._seen = dict(state["seen"])


def test_states_are_reached_by_observing() -> None:
    found = find(Grudge())
    assert isinstance(found, Witness) and len(found.batch) == 2
    assert sum(len(batch) for batch, _ in found.before) == 3  # no rollout too many
    assert all(progress.step < found.progress.step for _, progress in found.before)
    assert "after the reward observed a batch at step" in str(found)
    assert isinstance(find(Grudge(), total_steps=1), NoneFound)  # nothing comes before the first step
    assert isinstance(find(Grudge(), max_length=99), NoneFound)
    seen = Grudge()
    seen._seen["p0"] = 3
    found = find(seen, total_steps=1)  # from the state that the reward is in
    assert isinstance(found, Witness) and found.before == () and seen._seen == {"p0": 3}


def test_monitor_batches_come_before_the_first_step() -> None:
    found = find(Grudge(watches=True), total_steps=1)
    assert isinstance(found, Witness) and [b.origin[0] for b, _ in found.before] == ["monitor"]
    assert len(found.before[0][0]) == 3 and "a monitor batch at step 0" in str(found)


class Fastidious(Reward):
    """Takes groups with as many of mode long as of mode short only; short wrong ones are ahead where nobody is right in long."""

    type: str = "tests.test_inversion:Fastidious"
    reads: ClassVar[frozenset[str]] = frozenset({"mode"})
    own_scope: ClassVar[Scope] = "group"
    never: bool = False

    def compute(self, batch: Batch, progress: Progress) -> np.ndarray:
        long = batch.group_count(batch.column("mode") == "long")
        if self.never or (2 * long != batch.group_size).any():
            raise TautError("give half of each mode")
        right = batch.group_count(batch.correct & (batch.column("mode") == "long"))[batch.group_index]
        return np.where(batch.correct, np.where(right > 0, 1.0, -1.0), 0.0)


def test_batches_that_a_reward_refuses_are_passed_over() -> None:
    found = find(Fastidious())
    assert isinstance(found, Witness) and len(found.batch) <= 4 and set(found.batch.column("mode")) == {"long", "short"}
    assert str(find(Fastidious(never=True))) == "none found in 0 groups: give half of each mode"


class Relative(Reward):
    """What the rest of the step has decides: a correct rollout loses once other groups are right."""

    type: str = "tests.test_inversion:Relative"
    own_scope: ClassVar[Scope] = "step"

    def compute(self, batch: Batch, progress: Progress) -> np.ndarray:
        return batch.correct * (1.5 - len(np.unique(batch.group[batch.correct])))


def test_step_scope_keeps_the_groups_that_matter() -> None:
    found = find(Relative())
    assert isinstance(found, Witness) and len(found.batch) == 3 and found.batch.num_groups == 2


def test_filtered_rollouts_are_not_compared() -> None:
    inverted = {"type": "sum", "terms": [{"type": "correct", "right": 0, "wrong": 0}]}
    assert isinstance(find(inverted), Proved)
    worse = {"type": "rollout_gate", "when": {"type": "shorter_than", "target": 50}, "then": "correct",
             "otherwise": {"type": "correct", "right": -1}}  # fmt: skip
    assert isinstance(find(worse), Witness)
    assert str(find({"type": "keep", "when": {"type": "shorter_than", "target": 50}, "term": worse})).startswith(
        "proved"
    )


def test_none_found_always_says_in_how_many() -> None:
    found = find("adaptthink", 320, 4)
    assert isinstance(found, NoneFound) and found.groups > 100_000
    assert str(found) == f"none found in {found.groups} groups"
    small = find("adaptthink", 320, 4, effort=0.1)
    assert isinstance(small, NoneFound) and 0 < small.groups < found.groups / 5
    assert str(find("correct", group_sizes=[1])) == "proved: groups of one have nothing to compare"


def test_seconds_end_the_search() -> None:
    found = find("adaptthink", effort=1e6, seconds=0.2)
    assert isinstance(found, NoneFound) and found.groups > 0


def test_budgets_and_modes_of_the_run_are_kept_to() -> None:
    assert isinstance(find("l1_exact", 4000, budgets=lambda place: (2000, 2000)), Proved)  # by enumeration
    assert isinstance(find("l1_exact", 3400, budgets=lambda place: (1, 3300)), Witness)
    space = Space(Fastidious(), [Progress(0, 1, 500)], [4], lambda place: [("long", 500), ("short", 30)], None)
    batch = Search(space, np.random.default_rng(0)).batch(space.places[0], 200, "train", 4)
    short = batch.column("mode") == "short"
    assert set(batch.max_tokens[short]) == {30} and batch.length[short].max() <= 30 < batch.length.max()


def test_drawn_batches_are_what_the_verifier_can_give() -> None:
    reads = frozenset(OPTIONAL)

    class Everything(Fastidious):
        type: str = "tests.test_inversion:Everything"
        reads: ClassVar[frozenset[str]] = frozenset()

        @property
        def own_needs(self) -> frozenset[str]:
            return reads

    space = Space(Everything(), [Progress(0, 1, 300)], [2, 5], None, None)
    batch = Search(space, np.random.default_rng(3)).batch(space.places[0], 500, "train", 5)
    assert not (batch.truncated & batch.correct).any() and (batch.length[batch.truncated] == 300).all()
    assert batch.truncated.any() and batch.length[batch.correct].min() == 1 and batch.length.max() == 300
    right = batch.group_count(batch.correct)
    assert set(right) == {1, 2, 3, 4} and set(batch.group_size) == {5}
    for column in ("budget", "reference_accuracy", "reference_length"):
        values = batch.column(column)
        np.testing.assert_array_equal(batch.group_min(values), batch.group_max(values))
    assert [len(t) for t in batch.column("tokens")] == batch.length.tolist()
    assert {0.0, 1.0} <= set(batch.column("reference_accuracy")) and len(set(batch.column("tags"))) == 4


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "recipe=grpo_lambda"]) == 0
    assert capsys.readouterr().out.startswith("proved: a correct rollout earns at least 0.8")
    assert main(["check", "reward=laser", "reward.target=60"]) == 1
    assert capsys.readouterr().out.startswith("witness: a wrong rollout earns -0.5")
    assert main(["check", "reward=adaptthink", "sampling={type: modes, modes: [{name: think, share: 0.5}, "
                 "{name: no_think, share: 0.5}]}", "--effort", "0.05"]) == 0  # fmt: skip
    shown = capsys.readouterr()
    assert shown.out.startswith("none found in ") and "reference_accuracy" in shown.err
    assert main(["check", "--effort", "lots"]) == 2
    assert "--effort" in capsys.readouterr().err


def test_the_public_example_of_a_repair() -> None:
    """What the witness shows can be mended by what it points at: the format's malus no longer undercuts wrong answers."""
    assert isinstance(find(Laser(target=60)), Witness)
    assert isinstance(find(Laser(target=60, malformed=-0.5)), Proved)
