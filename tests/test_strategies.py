"""Strategies of taut eval: what each call is asked, which it read, and what an answer costs by either budget."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.analyses.length_vote import LengthVote
from benchmarks.evaluate import load_evaluate_config
from benchmarks.evaluation_report import strategy_report, strategy_table
from benchmarks.strategies import LATER, Call, Pdr, Refine, calls, lines
from rewards.errors import TautError
from rollout.paths import locate
from rollout.prompts import PromptTemplate, load_tokenizer
from rollout.sampler import heldout_requests
from rollout.types import Problem, Request, Rollout

PROBLEMS = [Problem("a", "1+1 {previous}", "2"), Problem("b", "2+2", "4")]


@pytest.fixture(scope="module")
def template() -> PromptTemplate:
    return PromptTemplate(load_tokenizer(locate("benchmarks:overthinker/checkpoint")), "{problem}")


def ask(template: PromptTemplate, samples: int, how: Refine | Pdr | None) -> tuple[list[Call], list[list[Request]]]:
    """All calls, answered by their own sample id after some thinking, and the requests of each round."""
    asked: list[list[Request]] = []

    def sample(requests: Any) -> list[Rollout]:
        asked.append(list(requests))
        return [
            Rollout(r, (1,), (2, 3), (0.0, 0.0), "stop", (0, 0), f"<think>hm</think> id{r.sample_id % (1 << LATER)}")
            for r in requests
        ]

    return calls(heldout_requests(PROBLEMS, template, samples, 100), sample, template, how), asked


def test_no_strategy_is_one_round_of_chains_of_one(template: PromptTemplate):
    done, asked = ask(template, 3, None)
    assert len(asked) == 1 and [c.chain for c in done] == [0, 1, 2, 0, 1, 2]
    assert {(c.round, c.parents) for c in done} == {(0, ())}


def test_refine_shows_each_round_the_answer_before(template: PromptTemplate):
    done, asked = ask(template, 2, Refine(rounds=2, prompt="{problem}; it was {previous}"))
    assert [len(part) for part in asked] == [4, 4, 4]
    assert "1+1 {previous}; it was id1" in asked[1][1].prompt, "a problem's own braces stay, thinking is not shown"
    assert "2+2; it was id3" in asked[2][3].prompt
    assert [c.parents for c in done if c.round == 2] == [((1 << LATER) + i,) for i in range(4)]
    assert len({c.rollout.request.sample_id for c in done}) == 12 and all(r.max_tokens == 100 for r in asked[2])
    assert len({(c.rollout.request.group, c.round) for c in done}) == len({c.rollout.request.group for c in done}) == 6


def test_pdr_distils_drafts_into_notes_that_an_answer_sees(template: PromptTemplate):
    how = Pdr(drafts=3, workspace=7, distill="{problem}: {drafts}", prompt="{problem} by {workspace}")
    done, asked = ask(template, 6, how)  # two chains of three drafts a problem
    assert [len(part) for part in asked] == [12, 4, 4] and Counter(c.chain for c in done) == {0: 10, 1: 10}
    assert "2+2: Answer 1:\nid9\n\nAnswer 2:\nid10\n\nAnswer 3:\nid11" in asked[1][3].prompt
    assert [c.parents for c in done if c.round == 1][3] == (9, 10, 11)
    assert {r.max_tokens for r in asked[1]} == {7} and {r.max_tokens for r in asked[2]} == {100}
    assert "2+2 by id9" in asked[2][3].prompt
    done, asked = ask(template, 3, how.model_copy(update={"rounds": 2}))
    assert [len(part) for part in asked] == [6, 2, 6, 2, 2] and len({c.rollout.request.sample_id for c in done}) == 18


def test_what_is_shown_is_cut_to_its_end(template: PromptTemplate):
    _, asked = ask(template, 1, Refine(rounds=1, shown=2, prompt="{problem} was {previous}."))
    assert "2+2 was d1." in asked[1][1].prompt  # of "id1", a token a letter


def columns(*rows: tuple[Any, ...]) -> dict[str, list[Any]]:
    names = ("problem_id", "chain", "round", "length", "verdict", "answer")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def costs(line: Any) -> list[tuple[Any, ...]]:
    s, t = line.sequential, line.total
    assert s.verdict.tolist() == t.verdict.tolist()
    return list(zip(t.problem_id.tolist(), t.verdict.tolist(), s.length.tolist(), t.length.tolist(), strict=True))


def test_votes_cost_the_longest_sample_in_sequence_and_all_in_total():
    rows = columns(
        ("a", 0, 0, 10, 1, "1/2"), ("a", 1, 0, 40, 1, "0.5"), ("a", 2, 0, 30, 0, "7"), ("a", 3, 0, 5, 0, "7"),
        ("a", 4, 0, 9, -1, "?"), ("b", 0, 0, 8, 0, ""), ("b", 1, 0, 2, 0, None), ("c", 0, 0, 3, None, "1"),
    )  # fmt: skip
    single, vote = lines(rows, "majority")
    assert len(single.total) == 8 and single.total is single.sequential
    # of a: two right, however written, against two sevens; the tie goes to the smaller mean length, 17.5 against 25
    assert costs(vote) == [("a", 0, 40, 94), ("b", 0, 8, 10), ("c", -1, 3, 3)]
    rows["length"][2] = 50  # 27.5 against 25
    assert costs(lines(rows, "majority")[1])[0] == ("a", 1, 50, 114)


def test_a_length_filtered_vote_counts_its_bins_only():
    rows = columns(*[("a", i, 0, n, v, t) for i, (n, v, t) in enumerate(
        [(12, 1, "3"), (13, 1, "3"), (52, 0, "4"), (53, 0, "5"), (54, 0, "4"), (55, 0, "4"), (56, 0, "4")]
    )])  # fmt: skip
    found = lines(rows, "filtered_vote", LengthVote(width=20, bins=1))
    assert [line.name for line in found] == ["one sample", "majority", "length-filtered vote"]
    assert [line.total.verdict.tolist() for line in found[1:]] == [[0], [1]]


def test_rounds_add_up_and_calls_side_by_side_count_once_in_sequence():
    rows = columns(
        ("a", 0, 0, 10, 0, "1"), ("a", 0, 0, 30, 1, "2"), ("a", 0, 1, 5, 0, ""), ("a", 0, 2, 7, 1, "2"),
        ("a", 1, 0, 20, 1, "2"), ("a", 1, 0, 20, 1, "2"), ("a", 1, 1, 6, 0, ""), ("a", 1, 2, 8, 0, "9"),
    )  # fmt: skip
    draft, vote, end = lines(rows, "pdr")
    assert [line.name for line in (draft, vote, end)] == [
        "one draft",
        "majority of the drafts",
        "distilled and refined",
    ]
    assert costs(vote) == [("a", 0, 30, 40), ("a", 1, 20, 40)]
    assert costs(end) == [("a", 1, 42, 52), ("a", 0, 34, 54)]
    first, one, two = lines(columns(*[("a", 0, r, 10 + r, r % 2, "x") for r in range(3)]), "refine")
    assert [costs(line) for line in (first, one, two)] == [[("a", 0, 10, 10)], [("a", 1, 21, 21)], [("a", 0, 33, 33)]]
    assert (one.name, two.name) == ("refined 1×", "refined 2×")


def test_the_report_compares_each_way_with_a_single_answer():
    rows = columns(*[(f"p{i}", c, 0, 10 + c, int(c > 0), "1" if c else "2") for i in range(9) for c in range(3)])
    first, vote = strategy_report(lines(rows, "majority"))
    assert first["gain"] is None and vote["gain"][0] == pytest.approx(1 / 3)
    assert (first["answers"], vote["answers"], vote["sequential"][0], vote["total"][0]) == (27, 9, 12, 33)
    assert "majority" in strategy_table([first, vote])


@pytest.mark.parametrize("arguments, message", [
    (["strategy=best"], "strategy: Input should be 'majority', 'filtered_vote', 'refine' or 'pdr'"),
    (["strategy=filtered_vote"], "give vote.width=TOKENS"),
    (["pdr.drafts=3"], "pdr: a setting of a strategy that is not chosen; add strategy=pdr"),
    (["strategy=refine", "refine.round=3"], "refine.round: unknown key"),
    (["strategy=refine", "refine.prompt=again"], "no {problem} in 'again'"),
    (["strategy=majority", "reference=r.jsonl"], "leave strategy=majority out"),
])  # fmt: skip
def test_bad_settings_are_named(arguments: list[str], message: str):
    with pytest.raises(TautError) as error:
        load_evaluate_config(arguments)
    assert message in str(error.value)


def test_plain_is_no_strategy_and_prompts_need_their_places():
    assert load_evaluate_config(["strategy=plain"]).strategy is None
    config = load_evaluate_config(["strategy=pdr", "pdr.drafts=2"])
    assert isinstance(config.rounds, Pdr) and config.rounds.drafts == 2
    for bad in ({"distill": "{problem}"}, {"prompt": "{workspace}"}):
        with pytest.raises(ValidationError, match="put it where that text belongs"):
            Pdr.model_validate(bad)
