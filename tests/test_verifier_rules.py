"""What counts as an answer and what as the same one: extraction by mode, each strictness choice, rewrites and near misses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.verifier import Verifier, extract
from rewards.verifier.extract import Mode
from rewards.verifier.guard import too_heavy
from rewards.verifier.policy import decide

CASES = Path(__file__).with_name("data") / "verifier_cases.jsonl"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "verifier.md"
RIGHT, WRONG = Verdict.CORRECT, Verdict.WRONG
MODES: tuple[Mode, ...] = get_args(Mode)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout_s=30) as shared:
        yield shared


def verdict(verifier: Verifier, gold: str, answer: str) -> Verdict:
    return verifier.verify(gold, f"\\boxed{{{answer}}}").verdict


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given_as", [r"\boxed{7}", "<answer>7</answer>", "#### 7", "The final answer is 7."])
def test_no_mode_takes_an_answer_out_of_a_response_that_did_not_end(mode: Mode, given_as: str) -> None:
    assert extract(given_as, "length", mode=mode).reason == "truncated"
    assert extract(given_as, thinking_open=True, mode=mode).reason == "unclosed thinking"
    assert extract(f"<think>{given_as}", mode=mode).reason == "unclosed thinking"
    assert extract(f"<think>{given_as}</think> so", mode=mode).answer in (None, "so")
    assert extract("", mode=mode).answer is None
    assert extract(None, mode=mode).reason == "not text"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "response", "answer", "reason"),
    [
        ("boxed", "<answer>7</answer>", None, "no box"),
        ("boxed", "#### 7", None, "no box"),
        ("answer_tag", r"\boxed{7}", None, "no answer tag"),
        ("answer_tag", "<answer>7</answer>", "7", ""),
        ("answer_tag", "<ANSWER>7</ANSWER>", "7", ""),
        ("answer_tag", "<answer>6</answer> no, <answer>7</answer>", "7", ""),
        ("answer_tag", "<answer>6</answer> <answer>7</answer>", None, "several answer tags"),
        ("answer_tag", "<answer>7</answer> and <answer>8", "7", ""),
        ("answer_tag", "<answer> <answer>7</answer>", "7", ""),
        ("answer_tag", r"<answer>so \boxed{7}</answer> \boxed{8}", "7", ""),
        ("answer_tag", r"<answer>\boxed{6} \boxed{7}</answer>", None, "several boxes"),
        ("answer_tag", "<answer> </answer>", None, "empty answer tag"),
        ("answer_tag", "<answer>7", None, "no answer tag"),
        ("hash", "3+4=7\n#### 7", "7", ""),
        ("hash", "#### 6\nno\n#### 1,007 ", "1,007 ", ""),
        ("hash", "#### 6\n#### 7", None, "several hashes"),
        ("hash", "####\n7", None, "empty hash"),
        ("hash", r"\boxed{7}", None, "no hash"),
    ],
)
def test_each_mode_takes_its_own_form_only(mode: Mode, response: str, answer: str | None, reason: str) -> None:
    found = extract(response, mode=mode)
    assert (found.answer, found.reason, found.format_ok) == (answer, reason, answer is not None)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The final answer is 7.", "7"),
        ("Answer: 7", "7"),
        ("**Final Answer:** $7$", "$7$"),
        ("The answer is 6. Wait, the answer is 7.", "7"),
        (r"\boxed{6} no. The answer is 7.", "7"),
        (r"The answer is 6, or so I thought: \boxed{7}", "7"),
        (r"The answer is $\boxed{7}$. I hope it is correct.", "7"),
        ("The answer is 3.14.", "3.14"),
        ("The answer is 7, since 3+4=7.", "7"),
        ("Final answer: the area of $ABC$ is 7", "7"),
        ("7", "7"),
        (r"$\frac{1}{2}$", r"$\frac{1}{2}$"),
        ("So the length of the side is 7.", "7"),
        (r"We find that $x=7$ is the answer.", "$x=7$"),
        ("1, 2, 3", "1, 2, 3"),
        ("Question? The answer is 7.<|im_end|><|im_start|>user The answer is 8.", "7"),
        ("the last of the numbers 5, 6, then 7 was used and so we stop here now", None),
        ("We get 5, then 6.\nThen we got 7", None),
        ("Perhaps it is 6 or it is 7.", None),
        ("He is 6 and she is 7.", None),
        ("Is it 7?", None),
    ],
)
def test_a_stated_answer_is_found_and_a_mere_last_number_is_not(response: str, answer: str | None) -> None:
    assert extract(response, mode="free").answer == answer


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6, unique=True))
def test_numbers_in_prose_are_never_an_answer(numbers: list[int]) -> None:
    prose = " We had ".join(f"{n} of them before we went on with the work." for n in numbers)
    for mode in MODES:
        assert extract(prose, mode=mode).answer is None


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(TautError, match=r"'box' is not a way.*boxed, answer_tag, hash, free"):
        extract("7", mode="box")  # type: ignore[arg-type]


def test_labelled_cases_of_the_free_mode() -> None:
    rows = [json.loads(line) for line in CASES.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["mode"] == "free"]
    with Verifier(extraction="free") as free:
        got = {row["id"]: free.verify(row["gold"], row["prediction"]).verdict is RIGHT for row in rows}
    assert rows
    assert not [row for row in rows if got[row["id"]] != row["expected"]]


@pytest.mark.parametrize(
    "flood",
    ["answer is ", "$", r"\[ ", "<answer>", "#### ", "is ", ". ", r"\boxed{", "answer: $", "!", "*", "\n", "A: "],
)
def test_floods_are_read_in_linear_time(flood: str) -> None:
    import time

    start = time.perf_counter()
    for mode in MODES:
        extract(flood * (400_000 // len(flood)) + "x", mode=mode)
    assert time.perf_counter() - start < 5


# What is the same, by kind. Each line: a gold and other ways to write it.
SAME: dict[str, list[tuple[str, ...]]] = {
    "fractions": [(r"\frac{3}{8}", "3/8", r"\dfrac{3}{8}", r"\tfrac38", r"\frac{6}{16}", "0.375", r"\frac{-3}{-8}", "⅜")],
    "mixed numbers": [(r"\frac{17}{5}", r"3\frac{2}{5}", "3 2/5", r"3\tfrac25", "3.4")],
    "signs": [(r"-\frac{2}{7}", r"\frac{-2}{7}", r"\frac{2}{-7}", "-2/7", "−2/7")],
    "thousands": [("46200", "46,200", "46{,}200", r"46\,200", r"46,\!200", "46 200", "46200.00", r"\$46,200")],
    "e-notation": [(r"4.7\times 10^{5}", "4.7e5", "470000", r"4.7\cdot10^5", "4.7E+5"), (r"10^{-4}", "0.0001")],
    "decimal comma": [("3,75", "3.75", "3,75")],
    "units": [("14", r"14\text{ cm}", r"14~\mathrm{kg}", "14 apples",
               r"14\ \text{m}/\text{s}", r"14\frac{\text{m}}{\text{s}}", "14m²"),
              (r"14\text{ cm}^2", "14", r"14\text{ square centimeters}", r"14\,\mathrm{cm}^{2}"), (r"70^\circ", "70", "70°")],
    "percent": [(r"35\%", "35", "0.35", r"35\text{ percent}", "35 percent", r"\frac{7}{20}")],
    "radicals": [(r"3\sqrt{2}", r"\sqrt{18}", r"3\sqrt2", r"3\cdot2^{1/2}", "3√2"), (r"\frac{\sqrt{5}}{5}", r"\frac{1}{\sqrt5}")],
    "pi": [(r"\frac{5\pi}{6}", r"\frac{5}{6}\pi", r"5\pi/6", "5π/6")],
    "logarithms": [(r"\ln 3", r"\log_e 3"), (r"\log_2 5", r"\frac{\ln 5}{\ln 2}"), (r"\tan 45^\circ", "1")],
    "complex": [("2-5i", "-5i+2"), ("i^2", "-1"), (r"e^{i\pi}", "-1")],
    "intervals": [(r"(-\infty,4]", r"x\le 4", r"4 \ge x", r"x\in(-\infty,4]", r"\left(-\infty,4\right]"), ("[1,6)", "1\\le x<6")],
    "unions": [(r"(0,1)\cup(3,5)", r"(3,5)\cup(0,1)", r"x\in(0,1)∪(3,5)", r"0<x<1\text{ or }3<x<5"),
               (r"(-\infty,1]\cup(2,\infty)", r"x\le 1 \text{ or } x>2", r"x>2\text{ or }1\ge x")],
    "ratios and times": [("3:7", r"3\text{ to }7", "3 : 7", r"\frac37"), (r"9:30\text{ a.m.}", r"9:30\text{ AM}", "9:30")],
    "tuples": [("(4,-7)", r"\left( 4, -7 \right)", "(x,y)=(4,-7)", "x=4,y=-7", r"y=-7 \text{ and } x=4")],
    "sets and lists": [("2,9", "9,2", r"\{2,9\}", r"2\text{ and }9", r"x=2\text{ or }x=9", "x=9, x=2"), (r"\pm 6", "6,-6")],
    "matrices": [(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1 & 2\\ 3 & 4\end{bmatrix}")],
    "equations": [("x=8", "8", "8.0"), ("y=3x-2", "3x-2", "y=-2+3x", "3x-y=2"), ("8", "n=8", "f(3)=8", r"4\cdot2=8")],
    "polynomials": [("x^2-9", "(x-3)(x+3)", "-9+x^{2}")],
    "arithmetic": [("53", "50+3", r"\frac{106}{2}", r"6\cdot 8+5")],
    "text": [(r"\text{Tuesday}", "Tuesday", "tuesday", r"\textbf{Tuesday}", r"\text{Tuesday.}", r"\text{ the Tuesday}")],
    "choices": [("D", "(D)", r"\text{D}", r"\textbf{(D)}", r"\text{(D) }19", "D.", r"\mathrm{(D)}\ 19")],
    "bases": [("312_5", "312_{5}", "312"), ("312", "312_5")],
    "grouping": [("17", "{17}", "(17)", r"\text{The answer is }17", "17.", "$17$", r"\displaystyle 17", "１７", "١٧")],
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_other_spellings_are_right(verifier: Verifier, kind: str) -> None:
    for gold, *others in SAME[kind]:
        for answer in (gold, *others):
            assert verdict(verifier, gold, answer) is RIGHT, (gold, answer)


# What is not the same, by kind.
OTHER: dict[str, list[tuple[str, ...]]] = {
    "rounded": [(r"\frac{2}{7}", "0.285714", "0.29"), (r"\sqrt{3}", "1.7320508"), (r"\pi", "3.14159265358979", r"\frac{355}{113}"),
                ("0.0000003", "0.0000004"), ("0", "10^{-30}"), (r"\lfloor x-x\rfloor", r"\frac{1}{2^{99}}"),
                ("1", "0." + "9" * 25)],
    "large": [("3^{80}", "3^{79}"), (r"\frac{1}{1999!}", r"\frac{1}{1997!}"), ("10^{60}", "10^{60}+1"), ("9" * 30, "9" * 29 + "8")],
    "case": [("Q", "q"), (r"3\pi T", r"3\pi t"), ("V_4", "v_4"), ("p - q", "p - Q"), (r"\mathbb{F}_2", r"\mathbb{f}_2")],
    "letters of a word": [("stressed", "desserts"), (r"\text{below}", "elbow")],
    "brackets": [("(3,8)", "3,8", "[3,8]", "(3,8]", r"\{3,8\}", "(8,3)"), ("(8,3)", "[8,3]"), ("[3,8)", r"3\le x\le 8", "3<x<8")],
    "function values": [("f(0)=2", "f(1)=2", "f(0)=3")],
    "chains": [("9", "10=9", "x=4=9", "9=8")],
    "restatements": [("9", r"\sum_{k=1}^{9} 1", r"\prod_{k=9}^{9} k", r"\int_0^9 dx", r"\lim_{x\to9} x", r"\frac{d}{dx}9x",
                      r"\gcd(18,27)",
                      r"\operatorname{lcm}(3,9)", r"\binom{9}{1}", r"{9 \choose 1}", "gcd(18,27)")],
    "several": [("9", "8,9", r"9\text{ or }10", r"\pm 9", r"\{8,9\}", "(9,9)", r"9\pm1"), ("2,9", "2", "2,9,11"), (r"\pm 2", "2")],
    "choices": [("D", "E", "(D) or (E)", "(E) or (D)", "D, E", r"\text{(D) and (E)}", "not D")],
    "taken back": [("9", r"\text{not }9", r"9\text{ is wrong}", r"9\text{ or more}", r"\text{at least }9", r"\text{about }9",
                    "9?")],
    "relations": [("9", "x>9", r"x\ge 9", r"x\ne 9"), ("x>9", r"x\ge 9", "x<9")],
    "magnitudes": [("9", r"9\text{ million}", "9 thousand", "9 dozen")],
    "units": [(r"9\text{ cm}", r"9\text{ m}", r"9\text{ cm}^2"), (r"9\text{ miles}", r"9\text{ meters}"), ("9m", "9", "9n")],
    "percent": [(r"9\%", r"8\%", "900")],
    "bases": [("43_5", "43_6", "44_5", "23")],
    "thousands": [("1234", "1, 234", "1.234"), ("1.5", "1,5"), ("12", "1 2")],
    "near": [("(x+1)^2", "x^2+2x+2"), (r"\frac{3}{4}", r"\frac{4}{3}"), ("4+5i", "4-5i"), (r"(0,1)\cup(1,2)", "(0,2)")],
    "unions": [(r"(-\infty,1]\cup(2,\infty)", r"x<1\text{ or }x>2", r"x\le1\text{ or }x>3", r"x\le 1\text{ and }x>2")],
    "ratios and times": [("3:7", "7:3", r"7\text{ to }3"), (r"9:30\text{ a.m.}", r"9:30\text{ p.m.}", "9:35")],
    "symbolic gcd": [(r"\gcd(n,p-1)", r"\gcd(n,p-2)")],
    "code": [("9", "__import__('os').getpid()", "9;import os", "eval(9)", "lambda: 9")],
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER)
def test_other_answers_are_wrong(verifier: Verifier, kind: str) -> None:
    for gold, *others in OTHER[kind]:
        assert verdict(verifier, gold, gold) is RIGHT, gold
        for answer in others:
            assert verdict(verifier, gold, answer) is WRONG, (gold, answer)


def documented() -> list[tuple[str, str, bool]]:
    """(gold, answer, right) of every example in the table of docs/verifier.md."""
    table = DOCS.read_text("utf-8").partition("## What is the same")[2].partition("## ")[0]
    found = []
    for row in table.splitlines():
        cells = row.split(" | ")[2:] if row.startswith("|") else []
        for cell, right in zip(cells, (True, False), strict=False):
            for gold, answers in re.findall(r"`([^`]+)`: ((?:`[^`]+`(?:, )?)+)", cell):
                found += [(gold, answer, right) for answer in re.findall(r"`([^`]+)`", answers)]
    return found


def test_the_documented_examples_are_true(verifier: Verifier) -> None:
    examples = documented()
    assert len(examples) > 70
    wrong = [e for e in examples if (verdict(verifier, *e[:2]) is RIGHT) != e[2]]
    assert not wrong


def test_the_golds_operator_may_be_used(verifier: Verifier) -> None:
    assert verdict(verifier, r"\sum_{k=1}^{4} k", "10") is RIGHT
    assert verdict(verifier, r"\binom{6}{2}", r"\binom{6}{4}") is RIGHT
    assert verdict(verifier, r"\gcd(a,b)", r"\gcd(b,a)") is RIGHT


def spellings(value: Fraction) -> list[str]:
    """Ways to write a rational that is not an integer; all exact."""
    n, d, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    whole = [f"{sign}{n // d}\\frac{{{n % d}}}{{{d}}}", f"{sign}{n // d} {n % d}/{d}"] if n > d else []
    fractions = [f"{sign}{n}/{d}", f"{sign}\\frac{{{n}}}{{{d}}}", f"\\dfrac{{{sign}{3 * n}}}{{{3 * d}}}"]
    return [*fractions, f"$\\tfrac{{{sign}{n}}}{{{d}}}$", *whole]


@given(st.fractions(max_denominator=999).filter(lambda f: f.denominator > 1))
def test_rationals_are_decided_exactly_without_algebra(value: Fraction) -> None:
    golds = spellings(value)
    other = value + Fraction(1, value.denominator * 10**6)
    nearby = [*spellings(other), str(-value), str(1 / value)]
    for gold in golds:
        for answer in golds:
            assert decide(gold, answer) in ((True, "string"), (True, "number")), (gold, answer)
        for answer in nearby:
            assert decide(gold, answer) == (False, "number"), (gold, answer)


@settings(max_examples=20)  # each needs algebra
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True))
def test_order_matters_in_tuples_only(verifier: Verifier, entries: list[int]) -> None:
    mixed = [*entries[1:], entries[0]]
    text, other = (", ".join(map(str, values)) for values in (entries, mixed))
    assert verdict(verifier, f"({text})", f"({text})") is RIGHT
    assert verdict(verifier, f"({text})", f"({other})") is WRONG
    assert verdict(verifier, f"({text})", text) is WRONG


@pytest.mark.parametrize(
    "answer",
    ["2^{40000}", "9^{9^{9}}", "10^{10^6}", "5000!", "(20!)!", r"\binom{100000}{50000}", r"{10^9 \choose 10^8}",
     r"\sum_{k=1}^{10^8} k",     "1" * 1001, "(" * 31 + "1" + ")" * 31, "x+" * 1001 + "x", "2^{2^{2^{2^{2}}}}", "7!!!!!"],
)  # fmt: skip
def test_guards_go_by_the_size_of_the_value(answer: str) -> None:
    assert too_heavy(answer, "5")


@pytest.mark.parametrize(
    "answer", ["2^{2^{10}}", "3^{2000}", "1000!", r"\binom{1000}{500}", "10^{9999}", "x^{100}", "2^{2^{2^2}}"]
)
def test_ordinary_large_numbers_pass_the_guards(answer: str) -> None:
    assert too_heavy(answer, "5") is None


def test_golds_with_several_boxes_are_lists_and_responses_are_not(verifier: Verifier) -> None:
    gold = r"The roots are $\boxed{2}$ and $\boxed{5}$."
    assert verdict(verifier, gold, "5, 2") is RIGHT
    assert verifier.verify(gold, r"$\boxed{2}$ and $\boxed{5}$").reason == "several boxes"
    assert verifier.verify("5", r"first $\boxed{2}$, later on $\boxed{5}$").verdict is RIGHT
    assert verdict(verifier, r"\boxed{840}. Again: \boxed{840}", "840") is RIGHT
