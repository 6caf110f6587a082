"""Which part of a response is its answer: the last box after the thinking, and nothing else."""

from __future__ import annotations

import re
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"
_BOX_OR_BRACE = re.compile(r"\\{1,2}boxed\s*\{|\\.|[{}]", re.DOTALL)
_JOINED = re.compile(r"(?:[\s$,;]|\\[,;: ]|and|or)*")


class Extraction(NamedTuple):
    """The answer's text, or None and the rule that says why there is none. `format_ok`: thinking closed, then a box."""

    answer: str | None
    reason: str
    format_ok: bool


def extract(response: str, finish_reason: str = "stop", thinking_open: bool = False) -> Extraction:
    """The text in the last balanced \\boxed{...} after the last </think>; several boxes are never merged.

    No answer: the response ended by length ("truncated"), an opened <think> (in the response, or by the prompt when
    `thinking_open`) is not closed ("unclosed thinking"), no balanced box ("no box"), nothing in it ("empty box"), or
    different boxes side by side ("several boxes": a list of guesses is not an answer).
    """
    if finish_reason == "length":
        return Extraction(None, "truncated", False)
    close = response.rfind(CLOSE)
    if (close < 0 and thinking_open) or response.rfind(OPEN) > close:
        return Extraction(None, "unclosed thinking", False)
    text = response[close + len(CLOSE) :] if close >= 0 else response
    boxes = _boxes(text)
    if not boxes:
        return Extraction(None, "no box", False)
    start, end = boxes[-1]
    answer = text[start:end]
    if not answer.strip():
        return Extraction(None, "empty box", False)
    if len(boxes) > 1 and _row(text, boxes[-2], boxes[-1]):
        return Extraction(None, "several boxes", False)
    return Extraction(answer, "", True)


def last_box(text: str) -> str | None:
    """The content of the last \\boxed{...} whose braces balance (the inner one of nested boxes)."""
    boxes = _boxes(text)
    return text[slice(*boxes[-1])] if boxes else None


def all_boxes(text: str) -> list[str]:
    """The contents of all balanced \\boxed{...}, in order: what a gold answer that holds several means."""
    return [text[start:end] for start, end in _boxes(text)]


def _boxes(text: str) -> list[tuple[int, int]]:
    """(start, end) of the content of each balanced box, by start; one pass over the text from the first box on."""
    boxes: list[tuple[int, int]] = []
    opened: list[int] = []  # where the content of each open brace starts; -1 for a brace that opens no box
    first = text.find("\\boxed")
    for token in _BOX_OR_BRACE.finditer(text, first) if first >= 0 else ():
        if token[0] == "}":
            start = opened.pop() if opened else -1
            if start >= 0:
                boxes.append((start, token.start()))
        elif token[0] == "{":
            opened.append(-1)
        elif len(token[0]) > 2:
            opened.append(token.end())
    return sorted(boxes)


def _row(text: str, first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two different boxes stand side by side, so that neither is the one answer."""
    between = text[first[1] + 1 : second[0]].removesuffix("{").rstrip().removesuffix("boxed").rstrip("\\")
    return (
        first[1] < second[0] and _JOINED.fullmatch(between) is not None and text[slice(*first)] != text[slice(*second)]
    )
