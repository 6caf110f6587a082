"""The verifier: what it pays for, what it refuses, and that nothing in a response can make it hang, crash or leak."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rewards.batch import Verdict
from rewards.errors import TautError
from rewards.verifier import Judgement, Verifier, check_gold, check_golds, extract, last_box
from rewards.verifier.fast import number, tidy
from rewards.verifier.process import Worker

ROOT = Path(__file__).resolve().parents[1]
CASES = Path(__file__).with_name("data") / "verifier_cases.jsonl"
HANG = "(1+9)^{(10+1)^{10}}"  # gets past the guards; its value has 10^10 digits
RIGHT, WRONG, UNKNOWN = Verdict.CORRECT, Verdict.WRONG, Verdict.UNKNOWN


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as shared:
        yield shared


def gone(pid: int, within: float) -> bool:
    """Whether the process ends (a zombie that nobody reaps counts as ended) within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def child_pids(verifier: Verifier) -> list[int]:
    return verifier.pids()[1:]


@pytest.mark.parametrize(
    ("response", "answer", "reason", "format_ok"),
    [
        (r"so \boxed{42}.", "42", "", True),
        (r"\boxed{3}. Wait, no: it is \boxed{5}", "5", "", True),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "", True),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "", True),
        (r"\boxed {7}", "7", "", True),
        (r"\boxed{x = \boxed{5}}", "5", "", True),
        (r"\boxed{4} and then \boxed{6", "4", "", True),
        (r"<think>\boxed{1}</think> \boxed{2}", "2", "", True),
        (r"hm \boxed{1}</think>\boxed{2}", "2", "", True),
        (r"<think>a</think>b<think>\boxed{1}", None, "unclosed thinking", False),
        (r"<think>\boxed{1}", None, "unclosed thinking", False),
        (r"<think>\boxed{1}</think> it is 1", None, "no box", False),
        ("The answer is 5", None, "no box", False),
        (r"\boxed{}", None, "empty box", False),
        (r"\boxed{ }", None, "empty box", False),
        (r"\boxed{1}\boxed{2}", None, "several boxes", False),
        (r"$\boxed{1}$, $\boxed{2}$ or $\boxed{3}$", None, "several boxes", False),
        (r"\boxed{5} \boxed{5}", "5", "", True),
        ("", None, "no box", False),
    ],
)
def test_extraction(response: str, answer: str | None, reason: str, format_ok: bool) -> None:
    assert extract(response) == (answer, reason, format_ok)


def test_no_answer_without_an_end(verifier: Verifier) -> None:
    assert extract(r"\boxed{1}", "length").reason == "truncated"
    assert extract(r"\boxed{1}", thinking_open=True).reason == "unclosed thinking"
    assert extract(r"\boxed{1}</think>\boxed{2}", thinking_open=True).answer == "2"
    judgement = verifier.verify("1", r"\boxed{1}", "length")
    assert (judgement.verdict, judgement.reason, judgement.answer, judgement.format_ok) == (
        WRONG,
        "truncated",
        "",
        False,
    )


@given(st.text(alphabet="{}\\boxed 12$", max_size=60))
def test_a_box_is_found_where_its_braces_balance(text: str) -> None:
    assert last_box(text + r"\boxed{7}") == "7"
    box = last_box(text)
    assert box is None or f"{{{box}}}" in text


@pytest.mark.parametrize(
    ("text", "value"),
    [("42", "42"), ("-3", "-3"), ("+7", "7"), ("1,234,567", "1234567"), ("1{,}000", "1000"), (r"1\,000", "1000"),
     ("0.50", "1/2"), (".5", "1/2"), ("5.", "5"), (r"\frac{3}{4}", "3/4"), (r"\frac34", "3/4"), (r"\dfrac{-3}{4}", "-3/4"),
     (r"-\frac{6}{8}", "-3/4"), ("6/8", "3/4"), (r"3\frac{1}{2}", "7/2"), ("3 1/2", "7/2"), (r"45^\circ", "45"),
     ("½", "1/2"), ("1e-5", "1/100000"), ("1.5e+3", "1500"),
     (r"12,\!345", "12345"), ("−5", "-5"), ("٣", "3"), ("1,23", None), ("1 2", None), ("5x", None), ("1/0", None), ("", None)],
)  # fmt: skip
def test_numbers_are_exact(text: str, value: str | None) -> None:
    from fractions import Fraction

    assert number(tidy(text)) == (None if value is None else Fraction(value))


@given(st.integers(), st.integers())
def test_integers_are_right_when_equal(gold: int, answer: int) -> None:
    with Verifier() as verifier:
        assert verifier.verify(str(gold), f"\\boxed{{{answer}}}").verdict == (RIGHT if gold == answer else WRONG)
        assert not child_pids(verifier), "plain numbers need no process"


@given(st.fractions(max_denominator=10**6), st.integers(1, 50))
def test_fractions_in_any_spelling(value, scale: int) -> None:
    with Verifier() as verifier:
        n, d = value.numerator * scale, value.denominator * scale
        for text in (f"{n}/{d}", f"\\frac{{{n}}}{{{d}}}", f"\\tfrac{{{n}}}{{{d}}}"):
            assert verifier.verify(str(value), f"\\boxed{{{text}}}").verdict is RIGHT
        assert verifier.verify(str(value), f"\\boxed{{{n + 1}/{d}}}").verdict is WRONG


@given(st.text(st.characters(exclude_characters="<"), max_size=40))
@example("\x00\ud800{")
def test_any_text_equals_itself_and_is_not_another(text: str) -> None:
    with Verifier() as verifier:
        answer = text.replace("{", "").replace("}", "").replace("\\", "")
        if tidy(answer):
            assert verifier.verify(answer, f"\\boxed{{{answer}}}").verdict is RIGHT


def test_labelled_cases(verifier: Verifier) -> None:
    path = Path(os.environ.get("TAUT_VERIFIER_CASES", CASES))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row.get("mode", "boxed") == "boxed" and not row.get("ambiguous")]
    misses = []
    for row in rows:
        judgement = verifier.verify(row["gold"], row["prediction"])
        if judgement.verdict is UNKNOWN or (judgement.verdict is RIGHT) != row["expected"]:
            misses.append((row["id"], row["gold"], judgement.answer, row["expected"], judgement.reason))
    assert len(misses) <= 0.005 * len(rows), f"{len(misses)} of {len(rows)}: {misses}"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("r", "R"), ("0.0000001", "0.0000002"), ("1/3", "0.333333"), (r"\sqrt2", "1.41421356"), ("(1,2)", "1,2"),
     (r"\frac{1}{2004!}", r"\frac{1}{2006!}"), ("1/2^{99}", "1/2^{98}"), ("listen", "silent"), ("7", "8=7"),
     ("7", "x=3=7"), ("5050", r"\sum_{k=1}^{100} k"), (r"\frac13", r"\int_0^1 x^2 dx"), ("6", r"\gcd(12,18)"),
     ("2x", r"\frac{d}{dx}x^2"), ("10", r"\binom{5}{2}"), ("5", "6 or 7"), ("7", r"\pm 7"), ("5", "0,1,2,3,4,5"),
     ("5", r"5\text{ million}"), ("B", "(A) or (B)"), ("x", "x+0.0000001"), ("0", "10^{-40}"), ("11", "1 1"),
     ("5", "__import__('os').system('true')"), ("5", r"43 \text{ (not 5)}"), ("5", "?"),
     ("5", "5^2"), ("x^2", "x"), ("5m", "5t"), ("5", "5 or six"),
     ("5", r"5\text{ and }\frac{1}{2}"), ("x", "x+1")],
)  # fmt: skip
def test_known_false_accepts_are_refused(verifier: Verifier, gold: str, answer: str) -> None:
    judgement = verifier.verify(gold, f"\\boxed{{{answer}}}")
    assert judgement.verdict is WRONG, judgement


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("x+1", "1+x"), ("17", "34/2=17"), ("440", "437+3"), ("5", "x+y=5"), (r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt3}"),
     ("C", r"\text{(C) }42"), ("y=2x+3", "3+2x"), (r"(-\infty,3]", r"x\le 3"), ("1,2,3", "3,2,1"), ("i^2", "-1"),
     ("2^{2^{10}}", "2^{1024}"), (r"\text{ellipse}", "an Ellipse"), ("5", r"5\text{ cm}"), (r"\sqrt2", "√2"),
     (r"12\text{ cm}^2", "12"), ("18", "18 dollars"), (r"\frac{1}{\sqrt2}c", r"\frac{c}{\sqrt2}"), ("E_{1},E_{2}", "E_2,E_1"),
     (r"\boxed{1} and \boxed{2}", "2,1"), ("10^{10^{10}}", "10^{10^{10}}"), (r"\mathbb{Z}_8", r"\mathbb{Z}_8")],
)  # fmt: skip
def test_other_spellings_are_right(verifier: Verifier, gold: str, answer: str) -> None:
    judgement = verifier.verify(gold, f"\\boxed{{{answer}}}")
    assert judgement.verdict is RIGHT, judgement


@pytest.mark.parametrize(
    "answer",
    ["10^{10^{10}}", "10^{10^{10^{10}}}", "2^{10^9}", "9**9**9", "9!!!!!!", "((5!)!)!", "10^{7!}", "1000000000!",
     r"\frac{10^{10^{10}}}{2}", r"\binom{10^9}{5\cdot 10^8}", r"\sum_{k=1}^{10^7} \frac{1}{k}", "(" * 200 + "1" + ")" * 200,
     "{" * 2000 + "1" + "}" * 2000, "9" * 10_000, "1+" * 50_000 + "1", "x" * 1_000_000],
)  # fmt: skip
def test_bombs_are_wrong_at_once(verifier: Verifier, answer: str) -> None:
    judgement = verifier.verify("5", f"\\boxed{{{answer}}}")
    assert judgement.verdict is WRONG, judgement
    assert judgement.seconds < 0.5


def test_a_hang_is_killed_and_costs_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.verifier.process.STARVED", 0.0)  # this machine may be a busy one
    with Verifier(timeout_s=1.5) as mine:
        assert mine.verify("x", r"\boxed{2x-x}").verdict is RIGHT
        (first,) = child_pids(mine)
        start = time.monotonic()
        judgement = mine.verify("5", f"\\boxed{{{HANG}}}")
        assert time.monotonic() - start < 2.5
        assert (judgement.verdict, judgement.reason) == (UNKNOWN, "timeout")
        assert gone(first, 1)
        assert mine.verify("x", r"\boxed{3x-2x}").verdict is RIGHT


def test_a_process_without_a_core_is_given_time() -> None:
    with Verifier(timeout_s=0.5) as mine:
        mine.verify("x", r"\boxed{2x-x}")
        (pid,) = child_pids(mine)
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(1.5, os.kill, (pid, signal.SIGCONT)).start()
        judgement = mine.verify("x", r"\boxed{3x-2x}")
        assert judgement.verdict is RIGHT
        assert judgement.seconds > 1


def test_from_a_thread_and_from_an_event_loop() -> None:
    seen: list[Judgement] = []
    with Verifier(timeout_s=1.5) as mine:
        items = [("x", r"\boxed{2x-x}"), ("5", f"\\boxed{{{HANG}}}"), ("y", r"\boxed{y+0}")]
        threads = [threading.Thread(target=lambda item=item: seen.append(mine.verify(*item))) for item in items]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        async def judge() -> Judgement:
            return await asyncio.to_thread(mine.verify, "z", r"\boxed{2z-z}")

        seen.append(asyncio.run(judge()))
    assert sorted(j.verdict for j in seen) == [UNKNOWN, RIGHT, RIGHT, RIGHT]


def test_many_keep_their_order_and_nothing_is_left_after_close() -> None:
    items = [(str(i), f"\\boxed{{{i}}}", "stop", False) for i in range(50)]
    items[7] = ("x", r"\boxed{2x-x}", "stop", False)
    items[8] = ("5", f"\\boxed{{{HANG}}}", "stop", False)
    items[9] = ("x", r"\boxed{2x-y}", "stop", False)
    items[10] = ("1", r"\boxed{1}", "length", False)
    with Verifier(workers=2, timeout_s=1.5) as mine:
        verdicts = [j.verdict for j in mine.verify_many(items)]
        pids = child_pids(mine)
        assert pids
    assert all(gone(pid, 10) for pid in pids)
    assert not child_pids(mine)
    assert verdicts == [RIGHT] * 8 + [UNKNOWN, WRONG, WRONG] + [RIGHT] * 39


def test_a_dead_process_is_replaced_and_its_question_asked_again() -> None:
    with Verifier() as mine:
        assert mine.verify("x", r"\boxed{2x-x}").verdict is RIGHT
        (pid,) = child_pids(mine)
        os.kill(pid, signal.SIGKILL)
        assert mine.verify("x", r"\boxed{4x-3x}").verdict is RIGHT
        assert child_pids(mine) != [pid]


def test_a_question_that_kills_a_fresh_process_is_unknown() -> None:
    def kill_when_there(mine: Verifier) -> None:
        while not child_pids(mine):
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(child_pids(mine)[0], signal.SIGKILL)

    with Verifier(timeout_s=30) as mine:
        threading.Thread(target=kill_when_there, args=(mine,)).start()
        judgement = mine.verify("5", f"\\boxed{{{HANG}}}")
    assert (judgement.verdict, judgement.reason) == (UNKNOWN, "killed")


def test_a_question_that_always_kills_is_asked_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def die(worker: Worker, seconds: float) -> dict[str, Any]:
        assert worker.pid
        asked.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        raise EOFError

    with Verifier() as mine:
        assert mine.verify("x", r"\boxed{2x-x}").verdict is RIGHT
        monkeypatch.setattr(Worker, "_reply", die)
        judgement = mine.verify("x", r"\boxed{3x-2x}")
        assert (judgement.verdict, judgement.reason) == (UNKNOWN, "killed")
        assert len(set(asked)) == 2


@pytest.mark.parametrize("answer", ["12+30", "(12+30)", r"6\cdot 7", "6*7", r"\frac{84}{1+1}", "42-", "5!-78", "+-42"])
def test_arithmetic_that_is_left_to_the_reader_can_be_refused(answer: str) -> None:
    with Verifier(arithmetic=False) as strict:
        judgement = strict.verify("42", f"\\boxed{{{answer}}}")
        assert (judgement.verdict, judgement.reason) == (WRONG, "arithmetic")
        for right in ("42", "42.0", r"\frac{84}{2}", "x=42"):
            assert strict.verify("42", f"\\boxed{{{right}}}").verdict is RIGHT
        assert not child_pids(strict)


@pytest.mark.parametrize("busy", [False, True])
def test_no_orphan_when_the_parent_is_killed(busy: bool) -> None:
    code = (
        "import sys, threading; from rewards.verifier import Verifier\n"
        "v = Verifier(timeout_s=2); v.verify('x', r'\\boxed{2x-x}')\n"
        "print(*v.pids(), flush=True)\n"
        f"{'v.verify(sys.argv[1], sys.argv[2])' if busy else 'threading.Event().wait()'}"
    )
    command = [sys.executable, "-c", code, "5", f"\\boxed{{{HANG}}}"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert all(gone(pid, 20) for pid in pids)  # seconds of a busy machine


def test_golds_that_cannot_be_verified() -> None:
    *good, bad = check_golds(["42", "x+1", r"\text{yes}", "(1,2)", "C", r"m_{\max}=n^2", r"\frac{1}{"])
    assert good == [None] * 6
    assert bad
    assert "cannot parse" in bad
    assert "empty" in (check_gold(" $$ ") or "")
    assert "too large" in (check_gold("2+10^{10^{10}}") or "")


def test_an_unparseable_gold_is_unknown_not_wrong(verifier: Verifier) -> None:
    judgement = verifier.verify(r"\frac{1}{", r"\boxed{x+1}")
    assert (judgement.verdict, judgement.reason) == (UNKNOWN, "gold unparseable")


def test_settings_travel_and_nonsense_is_refused() -> None:
    copy = pickle.loads(pickle.dumps(Verifier(2, 3.0, 1.5, arithmetic=False)))
    assert (copy.workers, copy.timeout_s, copy.memory_gib, copy.arithmetic) == (2, 3.0, 1.5, False)
    with pytest.raises(TautError, match="timeout_s=0"):
        Verifier(timeout_s=0)


def test_a_process_that_cannot_start_says_why() -> None:
    with Verifier(memory_gib=0.01) as mine, pytest.raises(TautError, match="does not start"):
        mine.verify("x", r"\boxed{2x-x}")


def test_the_main_process_never_imports_math_verify() -> None:
    code = (
        "import sys; from rewards.verifier import Verifier\n"
        "with Verifier() as v: assert v.verify('x', r'\\boxed{2x-x}').verdict == 1\n"
        "assert not {'math_verify', 'sympy', 'torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_plain_answers_need_no_process() -> None:
    """Numbers and equal texts are judged where they are; how many a second, `python -m benchmarks.verifier` measures."""
    items = [(str(i % 900), "12+30=42\n" * 12 + f"</think>\\boxed{{{i % 1000}}}", "stop", True) for i in range(2_000)]
    before = psutil.Process().children(recursive=True)
    with Verifier() as mine:
        mine.verify_many(items)
        assert psutil.Process().children(recursive=True) == before
        assert mine.take_counts().reasons == {"number": 1_100, "string": 900}
