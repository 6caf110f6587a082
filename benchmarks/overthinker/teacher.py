"""The teacher: traces that solve a problem line by line, check again and again, and end with the right boxed answer.

A trace is `<think>` passes `</think>\\boxed{answer}<eos>`. A pass works on a running total, one line a step
("234+100=334"); its style says how much of an operand a line takes. Coarse lines are short and hard, fine ones long and
easy: that is the benchmark's front. Later passes ("Wait, ...") restate the problem and solve it another way: its
redundancy.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from benchmarks.overthinker.problems import below, operands
from benchmarks.overthinker.tokenizer import EOS, encode, prompt

# Token kinds. A result's kind is the number of parts (non-zero digits) of the operand its line takes.
MASKED, PLAIN, DIRECT = -1, 0, 4  # kinds 1, 2, 3 are results; DIRECT is an answer without any line

STYLES = ("direct", "whole", "rest", "digits", "mixed")
SINGLE_PASS = (0.04, 0.36, 0.14, 0.28, 0.18)
MANY_PASSES = (0.04, 0.34, 0.12, 0.30, 0.20)
PASSES: dict[int, tuple[float, ...]] = {
    1: (0.10, 0.25, 0.30, 0.20, 0.15),
    2: (0.12, 0.30, 0.33, 0.20, 0.05),
    3: (0.15, 0.40, 0.35, 0.10),
    4: (0.22, 0.48, 0.30),
    5: (0.30, 0.58, 0.12),
    6: (0.40, 0.60),
}
RECHECK_FINEST = 0.75  # how often a re-check after a coarse pass is in the finest style
FIRST_WRONG, SECOND_WRONG = 0.15, 0.05  # how often a coarse line of the first (second) pass is made wrong
MAX_NEW = 320  # longest trace, in tokens after the prompt: the benchmark's generation cap

OPENINGS = (
    "Wait, let me check: ",
    "Wait, is that right? ",
    "Wait, try another way: ",
    "Wait, once more by parts: ",
    "Wait, again: ",
    "Wait, let me check it again: ",
    "Wait, sure? ",
)
AGREE = ("Yes, {}\n", "OK, {}\n", "Still {}\n")
DISAGREE = ("No, {}\n", "Hmm, {}\n")


@dataclass
class Trace:
    """Token ids with a kind each (see MASKED, PLAIN, DIRECT), the prompt's tokens MASKED."""

    ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def add(self, text: str, kind: int = PLAIN) -> None:
        """Append the text's tokens, all of one kind."""
        ids = encode(text)
        self.ids += ids
        self.kinds += [kind] * len(ids)


def choose(rng: random.Random, weights: tuple[float, ...]) -> int:
    """An index drawn with the given probabilities."""
    point = rng.random()
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return len(weights) - 1


def digits(value: int) -> list[int]:
    """The parts of a number, largest first: 408 -> [400, 8]."""
    return [part for part in (value // 100 * 100, value // 10 % 10 * 10, value % 10) if part]


def parts(value: int, style: str, rng: random.Random) -> list[int]:
    """What each line takes of an operand in the given style."""
    if style == "mixed":
        style = STYLES[1 + below(rng, 3)]
    if style == "digits":
        return digits(value)
    if style == "rest":
        return [part for part in (value // 100 * 100, value % 100) if part]
    return [value]


def wrong_result(right: int, rest: list[int], rng: random.Random) -> int:
    """A near miss (one digit off by one), or `right` itself where a later total would leave 0..999."""
    shift = (1, 10, 100)[below(rng, len(str(right)))] * (1 if below(rng, 2) else -1)
    total = right + shift
    ok = 0 <= total <= 999
    for value in rest:
        total += value
        ok = ok and 0 <= total <= 999
    return right + shift if ok else right


def solve(trace: Trace, values: list[int], style: str, wrong: float, rng: random.Random) -> int:
    """Append one pass over the operands and return its result; coarse results go wrong with probability `wrong`."""
    total = values[0]
    if style == "direct":
        return wrong_result(sum(values), [], rng) if rng.random() < wrong else sum(values)
    for index, value in enumerate(values[1:], start=2):
        sign = 1 if value > 0 else -1
        steps = parts(abs(value), style, rng)
        for number, step in enumerate(steps):
            size = len(digits(step))
            right = total + sign * step
            result = right
            if size > 1 and rng.random() < wrong:
                result = wrong_result(right, [*(sign * later for later in steps[number + 1 :]), *values[index:]], rng)
            trace.add(f"{total}{'+' if sign > 0 else '-'}{step}=")
            # A wrong result is never learned; what follows from it is.
            trace.add(f"{result}\n", size if result == right else MASKED)
            total = result
    return total


def conclude(trace: Trace, template: str, result: int, kind: int) -> None:
    """Append a pass's last line; the number's tokens get the kind."""
    before, after = template.split("{}")
    trace.add(before)
    trace.add(str(result), kind)
    trace.add(after)


def attempt(problem: str, level: int, rng: random.Random, single: bool) -> Trace:
    """One trace, of any length."""
    values = operands(problem)
    answer = sum(values)
    trace = Trace()
    trace.add(prompt(problem), MASKED)
    trace.add("<think>")
    passes = 1 if single else 1 + choose(rng, PASSES[level])
    style = STYLES[choose(rng, SINGLE_PASS if single else MANY_PASSES)]
    claim = solve(trace, values, style, FIRST_WRONG if passes > 1 else 0.0, rng)
    kind = PLAIN if style != "direct" else DIRECT if claim == answer else MASKED
    conclude(trace, "So {}\n", claim, kind)
    number, must_be_finest = 1, False
    while number < passes:
        number += 1
        coarse = style != "digits"
        if must_be_finest or (coarse and rng.random() < RECHECK_FINEST):
            style = "digits"
        else:
            style = STYLES[1 + below(rng, 4)]
        trace.add(OPENINGS[below(rng, len(OPENINGS))])
        trace.add(f"{problem}\n")
        # Two wrong passes in a row could agree, and the trace would end wrong.
        wrong = SECOND_WRONG if number == 2 and claim == answer else 0.0
        result = solve(trace, values, style, wrong, rng)
        if result == claim:
            conclude(trace, AGREE[below(rng, len(AGREE))], result, PLAIN)
            must_be_finest = False
        else:
            conclude(trace, DISAGREE[below(rng, len(DISAGREE))], result, PLAIN)
            # The finest style decides a mismatch; any other calls for one more pass.
            must_be_finest = style != "digits"
            passes = max(passes, number + must_be_finest)
        claim = result
    trace.add(f"</think>\\boxed{{{claim}}}{EOS}")
    return trace


def make_trace(problem: str, level: int, rng: random.Random, single: bool = False) -> Trace:
    """A trace for the problem with at most MAX_NEW tokens after the prompt, ending with the right answer.

    `single` gives one pass and no wrong results: the first half of the curriculum.
    """
    limit = MAX_NEW + len(encode(prompt(problem)))
    while True:
        trace = attempt(problem, level, rng, single)
        if len(trace.ids) <= limit:
            return trace


def make_drill(rng: random.Random, lines: int = 8) -> Trace:
    """A chain of one-part lines without a problem; what is added is random, so only results and copies are trained."""
    places, top = ((2, 99), (3, 999), (3, 999))[below(rng, 3)]
    total = below(rng, top + 1)
    trace = Trace()
    trace.add("<think>", MASKED)
    trace.add(str(total), MASKED)
    for line in range(lines):
        while True:
            step = (1 + below(rng, 9)) * 10 ** below(rng, places) * (1 if below(rng, 2) else -1)
            if 0 <= total + step <= top:
                break
        if line:
            trace.add(str(total))
        trace.add(f"{step:+d}=", MASKED)
        total += step
        trace.add(f"{total}\n", 1)
    return trace
