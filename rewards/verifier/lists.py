"""Lists, tuples, sets and intervals as text: their brackets, their entries, the names that their values are given by."""

from __future__ import annotations

import re

_ASSIGNMENT = re.compile(r"([^=,()\[\]]+?) ?= ?([^=]+)")
_NAME = re.compile(r"[A-Za-z]+(?:_\{?\w+\}?)?|\\[a-zA-Z]+")
_RELATION = re.compile(r"[<>]|\\in ?[(\[]|\\(?:l|g)(?:e|eq|t|eqslant)(?![A-Za-z])")
_LETTER = re.compile(r"[A-Za-z]")


def brackets_differ(gold: str, answer: str, left: str, right: str) -> bool:
    """Whether one is a tuple and the other a bare list, both stand in brackets of other kinds ([1,2) is not (1,2)), or one
    lists values and the other bounds them: 1,3 is not 1<x<3. `left` and `right` are the two texts normalised."""
    kinds = {_bracket(left), _bracket(right)}
    if kinds == {"(", ","}:
        return True
    for values, other in ((left, right), (right, left)):
        if (
            (_bracket(values) == "," or values.startswith("\\{"))
            and not _RELATION.search(values)
            and _RELATION.search(other)
        ):
            return True
    pairs = [text[:1] + text[-1:] for text in (left, right) if encloses(text.removeprefix("\\").replace("\\}", "}"))]
    return len(pairs) == 2 and pairs[0] != pairs[1]


def encloses(text: str) -> bool:
    """Whether one pair of brackets holds the whole of a text, with a comma between its entries."""
    return (
        text[:1] in ("(", "[", "{")
        and text[-1:] in (")", "]", "}")
        and len(top_level(text)) == 1
        and "," in top_level(text[1:-1])
    )


def as_tuple(text: str) -> str | None:
    """(1,2) for x=1, y=2: the values of different letters in the order of the alphabet; None for anything else."""
    values = _named(text)
    if values is None or not all(map(_LETTER.fullmatch, values)):
        return None
    return f"({','.join(values[name] for name in sorted(values))})"


def in_order_of(gold: str, answer: str) -> tuple[str, str] | None:
    """Two tuples for a gold that names its values (x=1, y=2) and an answer that lists as many without names, in brackets or
    bare; None for anything else. A tuple goes by the alphabet, a bare list by the gold's order."""
    values = _named(gold)
    if values is None or "=" in answer:
        return None
    inside = answer[1:-1] if answer.startswith("(") and encloses(answer) else answer
    if "," not in top_level(inside) or len(entries(inside)) != len(values):
        return None
    ordered = as_tuple(gold) if inside is not answer else None
    return ordered or f"({','.join(values.values())})", f"({inside})"


def entries(text: str) -> list[str]:
    """The parts between the commas that stand outside all brackets."""
    found, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            found.append(text[start:i])
            start = i + 1
    return [*found, text[start:]]


def top_level(text: str) -> str:
    """The text without what stands inside brackets (the opening brackets stay)."""
    out: list[str] = []
    depth = 0
    for char in text:
        if char in ")]}":
            depth = max(depth - 1, 0)
        elif depth == 0:
            out.append(char)
        if char in "([{":
            depth += 1
    return "".join(out)


def _named(text: str) -> dict[str, str] | None:
    """The values of two or more different names (x=1, AB=4); None for anything else."""
    values: dict[str, str] = {}
    for part in entries(text) if "=" in text else ():
        match = _ASSIGNMENT.fullmatch(part.strip())
        if not match or not _NAME.fullmatch(match[1]) or match[1] in values:
            return None
        values[match[1]] = match[2]
    return values if len(values) > 1 else None


def _bracket(text: str) -> str:
    """The kind of a list: "(" for one tuple or interval, "," for a list without brackets, "" for anything else."""
    flat = top_level(text)
    if flat in ("(", "[") and text[-1:] in (")", "]") and "," in top_level(text[1:-1]):
        return "("
    return "," if "," in flat else ""
