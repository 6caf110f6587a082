"""The fuzzer of the verifier: its inputs are what they say, it sees what is wrong, and a short run finds nothing."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz_verifier import KINDS, Generator, Input, run
from benchmarks.fuzz_verifier.__main__ import main, report
from benchmarks.fuzz_verifier.run import CASES, Found, fuzz
from rewards.batch import Verdict
from rewards.verifier import Judgement, Verifier
from rewards.verifier.fast import number

RIGHT = Judgement(Verdict.CORRECT, "string", "5", 0.0, True)


def test_inputs_are_the_same_in_every_run_and_of_every_kind(tmp_path: Path) -> None:
    first, again = (Generator(3, CASES, tmp_path / "x") for _ in range(2))
    inputs = [first(i) for i in range(400)]
    kinds = [item.kind for item in inputs]
    assert [again(i) for i in range(400) if kinds[i] != "not text"] == [x for x in inputs if x.kind != "not text"]
    assert set(kinds) == set(KINDS)
    assert Generator(4, CASES, tmp_path / "x")(0) != inputs[0]


def test_near_misses_of_plain_numbers_have_another_value(tmp_path: Path) -> None:
    make, generator = KINDS["near miss"][1], Generator(0, CASES, tmp_path / "x")
    values = 0
    for i in range(500):
        item = make(generator, random.Random(i), "near miss")
        assert item.expected == "wrong"
        gold, answer = number(item.gold), number(item.response.removeprefix(r"so \boxed{").removesuffix("}."))
        if isinstance(gold, Fraction) and isinstance(answer, Fraction):
            values += 1
            assert gold != answer, item
    assert values > 50


def test_what_must_not_be_is_seen() -> None:
    found = Found()
    item = Input("near miss", "6", r"\boxed{5}", "wrong")
    found.add(7, item, RIGHT, 0.1, 3.0)
    found.add(8, item, RIGHT._replace(verdict=Verdict.UNKNOWN), 3.5, 3.0)
    found.add(9, Input("control", "5", r"\boxed{5}", "right"), RIGHT._replace(verdict=Verdict.WRONG), 0.1, 3.0)
    assert [line.split(":")[0] for line in found.violations] == [
        "input 7 (near miss, boxed)", "input 8 (near miss, boxed)", "input 9 (control, boxed)",
    ]  # fmt: skip
    assert "took 3.5 s" in found.violations[1]
    assert found.verdicts["near miss"] == Counter(correct=1, unknown=1)
    assert report(found).count("must be") == 2


def test_what_stays_behind_is_seen() -> None:
    found = Found()
    before = {"MiB here": 50.0, "MiB largest worker": 60.0, "threads": 1.0, "open files": 1.0}
    run._leaks(found, before, before | {"MiB largest worker": 500.0}, {})
    assert "MiB largest worker: 60 before, 500 after" in found.violations
    assert len(found.memory) == 4


def test_one_input_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    i = next(i for i in range(100) if Generator(0, CASES, Path("executed"))(i).kind == "thinking")
    assert main(["--only", str(i)]) == 0
    assert "kind='thinking'" in capsys.readouterr().out


@pytest.mark.slow
def test_a_short_run_finds_nothing() -> None:
    found = fuzz(200, seed=1, deadline_s=2.0)
    assert not found.violations, report(found)


@pytest.mark.parametrize(
    ("gold", "verdict"),
    [
        ({"5": 5}, Verdict.UNKNOWN),
        (None, Verdict.UNKNOWN),
        ("1" * 30_000, Verdict.UNKNOWN),
        ("7" * 30_000, Verdict.CORRECT),
    ],
)
def test_golds_that_are_no_answers_cost_nothing(gold: Any, verdict: Verdict) -> None:
    with Verifier() as verifier:
        judgement = verifier.verify(gold, rf"\boxed{{{'7' * 30_000}}}")
        assert (judgement.verdict, verifier.pids()) == (verdict, [])
