"""The teacher: traces that solve a problem line by line, check again and again, and end with the right boxed answer.

A trace is `<think>` passes `</think>\\boxed{answer}<eos>`. A pass carries a running total through the operands, one operand a
line ("234+178=412", then "-50=362"); its style says into how many parts an operand is cut ("234+100=334+70=404+8=412").
Coarse parts are short and hard, fine ones long and easy: that is the benchmark's front. Later passes ("Wait, ...") restate
the problem and solve it again: its redundancy. They are built to do no harm, or training would soon drop them: a fine pass
is repeated as it was, a coarse one mostly checked by a fine one, and a mismatch is decided in the finest style.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from benchmarks.overthinker.problems import below, operands
from benchmarks.overthinker.tokenizer import EOS, encode, prompt

NEWLINE = "\n"

# Token kinds. A result's kind is the number of parts (non-zero digits) of what is added.
MASKED, PLAIN, DIRECT = -1, 0, 4  # kinds 1, 2, 3 are results; DIRECT is an answer without any line

STYLES = ("direct", "whole", "rest", "digits", "mixed")
SINGLE_PASS = (0.04, 0.36, 0.14, 0.28, 0.18)
MANY_PASSES = (0.04, 0.34, 0.12, 0.30, 0.20)
PASSES: dict[int, tuple[float, ...]] = {
    1: (0.10, 0.25, 0.30, 0.20, 0.15),
    2: (0.20, 0.40, 0.30, 0.10),
    3: (0.22, 0.48, 0.30),
    4: (0.28, 0.52, 0.20),
    5: (0.34, 0.60, 0.06),
    6: (0.42, 0.58),
}
RECHECK_FINEST = 0.8  # how often a re-check after a coarse pass is in the finest style; else it repeats the pass
# How often a result is made wrong: (coarse, one-part) in the first pass and in the second.
FIRST_WRONG, SECOND_WRONG, NEVER_WRONG = (0.15, 0.01), (0.05, 0.01), (0.0, 0.0)
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
    """The parts an operand is cut into in the given style."""
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


def solve(
    trace: Trace, values: list[int], cuts: list[list[int]], wrong: tuple[float, float], rng: random.Random
) -> int:
    """Append one pass over the operands, each but the first cut into its parts, and return its result.

    `wrong` is the probability that a coarse and that a one-part result is made wrong.
    """
    total = values[0]
    trace.add(f"{total}")
    for index, (value, steps) in enumerate(zip(values[1:], cuts, strict=True), start=2):
        sign, mark = (1, "+") if value > 0 else (-1, "-")
        trace.add(mark)
        for number, step in enumerate(steps, start=1):
            size = len(digits(step))
            right = total + sign * step
            total = right
            if rng.random() < wrong[size == 1]:
                total = wrong_result(right, [*(sign * later for later in steps[number:]), *values[index:]], rng)
            trace.add(f"{step}=")
            # A wrong result is never learned; what follows from it is. The next token ends the number: part of the result.
            trace.add(f"{total}{mark if number < len(steps) else NEWLINE}", size if total == right else MASKED)
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
    wrong = FIRST_WRONG if passes > 1 else NEVER_WRONG
    finest = [digits(abs(value)) for value in values[1:]]
    if style == "direct":
        cuts: list[list[int]] = []
        claim = wrong_result(answer, [], rng) if rng.random() < wrong[0] else answer
    else:
        cuts = [parts(abs(value), style, rng) for value in values[1:]]
        claim = solve(trace, values, cuts, wrong, rng)
    kind = PLAIN if cuts else DIRECT if claim == answer else MASKED
    conclude(trace, "So {}\n", claim, kind)
    number, must_be_finest = 1, False
    while number < passes:
        number += 1
        before = cuts
        if must_be_finest or not cuts or rng.random() < RECHECK_FINEST:
            cuts = finest
        trace.add(OPENINGS[below(rng, len(OPENINGS))])
        trace.add(f"{problem}\n")
        # Two wrong passes in a row could agree, and a wrong finest pass would outvote a right coarser one.
        may_be_wrong = number == 2 and claim == answer and (cuts != finest or before == finest)
        wrong = SECOND_WRONG if may_be_wrong else NEVER_WRONG
        result = solve(trace, values, cuts, wrong, rng)
        if result == claim:
            conclude(trace, AGREE[below(rng, len(AGREE))], result, PLAIN)
            must_be_finest = False
        else:
            conclude(trace, DISAGREE[below(rng, len(DISAGREE))], result, PLAIN)
            # A finest pass outvotes a coarser one; any other mismatch calls for one more pass.
            must_be_finest = cuts != finest or before == finest
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


def make_drill(rng: random.Random, lines: int = 10) -> Trace:
    """A chain of one-part lines without a problem; what is added is random, so only results and copies are trained.

    Half of the drills repeat the total at each line's start: copying it is what teaches the model where to look.
    """
    places, top = ((2, 99), (3, 999), (3, 999))[below(rng, 3)]
    repeat = below(rng, 2) == 1
    total = below(rng, top + 1)
    trace = Trace()
    trace.add(f"<think>{total}", MASKED)
    for line in range(lines):
        while True:
            step = (1 + below(rng, 9)) * 10 ** below(rng, places) * (1 if below(rng, 2) else -1)
            if 0 <= total + step <= top:
                break
        if repeat and line:
            trace.add(str(total))
        total += step
        trace.add(f"{step:+d}=", MASKED)
        trace.add(f"{total}\n", 1)
    return trace
