"""Equations and chains of them as text: which sides must be compared with which."""

from __future__ import annotations

import re

from rewards.verifier.fast import normalise, number
from rewards.verifier.lists import as_tuple, encloses, in_order_of, top_level
from rewards.verifier.relations import as_union

Pair = tuple[str, str]
_EQUALS = re.compile(r"(?<![<>!\\:])=")
_VALUE_OF = re.compile(r"([A-Za-z])\((-?\d+)\)=")
_TUPLE_NAME = re.compile(r"^\([A-Za-z](?:, ?[A-Za-z])*\) ?= ?(?=\()")
_UNSOLVED = re.compile(  # one letter with something done to it: 2x=8 says that x is 4
    r"(?![a-z]$)"
    r"-?\d*(?:[a-z]|\\sqrt\{?[a-z]\}?|\\frac\{[a-z]\}\{\d+\})(?:\^(?:\d|\{\d+\}))?(?:/\d+)?(?:[+-]\d+)?"
)


def sides(gold: str, answer: str) -> list[Pair]:
    """The pairs to compare: equations with the same left side by their right sides, a chain by each of its parts."""
    if encloses(gold) and "=" in answer:
        answer = as_tuple(answer) or answer
    elif "=" in gold and "," in gold and (tuples := in_order_of(gold, _TUPLE_NAME.sub("", answer))):
        return [tuples]
    gold, answer = (as_union(text) or text if "or" in text or "\\vee" in text else text for text in (gold, answer))
    golds, answers = _parts(gold), _parts(answer)
    if len(golds) == 2 and (normalise(golds[0]) == normalise(answers[0]) or (len(answers) == 1 and is_name(golds[0]))):
        golds, answers = golds[1:], answers[1:] or answers
    if len(golds) > 1 or len(answers) == 1:
        return [("=".join(golds), "=".join(answers))]
    if is_name(answers[-1]) and not _has_name(answers[0]):  # 5=x
        answers = answers[:-1]
    if _has_name(answers[0]) and not _UNSOLVED.fullmatch(normalise(answers[0])):
        answers = answers[1:]
    return [(golds[0], part) for part in answers]


def without_approximation(gold: str, answer: str) -> str | None:
    """The exact value of an answer such as 1/3 \\approx 0.33; None where what follows is no approximation of it, or where there
    is no exact value (x \\approx 5) unless the gold is a decimal, which may itself be rounded."""
    exact, *rounded = (part.strip() for part in answer.split("\\approx"))
    if not exact or is_name(exact):
        decimal = re.search(r"\d\.\d|\d ?(?:\\times|\\cdot) ?10\^", gold)
        return "=".join([exact or "x", *rounded]) if decimal else None
    value = number(normalise(_parts(exact)[-1]))
    near = [number(normalise(part)) for part in rounded]
    return exact if value is None or all(x is None or abs(x - value) * 10 <= abs(value) for x in near) else None


def other_argument(left: str, right: str) -> bool:
    """Whether both say what a function is, but at other numbers: f(0)=2 is not f(1)=2."""
    ours, theirs = _VALUE_OF.match(left), _VALUE_OF.match(right)
    return bool(ours and theirs and ours[1] == theirs[1] and number(ours[2]) != number(theirs[2]))


def is_name(text: str) -> bool:
    """Whether the text is what an equation defines: a name, as x or f(x), without arithmetic."""
    return _has_name(text) and not re.search(r"[+*/<>-]|\\(?:frac|sqrt|cdot|times)", text) and not text[:1].isdigit()


def _parts(text: str) -> list[str]:
    """The sides of an equation or of a chain of them; the text alone where it is a list or has no top-level `=`."""
    if "=" not in text or "," in (flat := top_level(text)) or not _EQUALS.search(flat):
        return [text]
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[(\[{)\]}]|(?<![<>!\\:])=", text):
        if match[0] == "=":
            if depth == 0:
                parts.append(text[start : match.start()].strip())
                start = match.end()
        else:
            depth += 1 if match[0] in "([{" else -1
    return [*parts, text[start:].strip()]


def _has_name(text: str) -> bool:
    """Whether letters stand in the text that are not part of a LaTeX command."""
    return bool(
        re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)) or re.search(r"\\(?:text|math|[a-zD]+a\b)", text)
    )
