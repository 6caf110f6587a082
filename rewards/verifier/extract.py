"""Which part of a response is its answer: the last box after the thinking, and nothing else."""

from __future__ import annotations

import re
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX_OR_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\boxed\s*\{")


class Extraction(NamedTuple):
    """The answer's text, or None and the rule that says why there is none. `format_ok`: thinking closed, then a box."""

    answer: str | None
    reason: str
    format_ok: bool


def extract(response: str, finish_reason: str = "stop", thinking_open: bool = False) -> Extraction:
    """The text in the last balanced \\boxed{...} after the last </think>; several boxes are never merged.

    No answer: the response ended by length ("truncated"), an opened <think> (in the response, or by the prompt when
    `thinking_open`) is not closed ("unclosed thinking"), no balanced box ("no box"), nothing in it ("empty box").
    """
    if finish_reason == "length":
        return Extraction(None, "truncated", False)
    close = response.rfind(CLOSE)
    if (close < 0 and thinking_open) or response.rfind(OPEN) > close:
        return Extraction(None, "unclosed thinking", False)
    text = response[close + len(CLOSE) :] if close >= 0 else response
    box = last_box(text)
    if box is None:
        return Extraction(None, "no box", False)
    if not box.strip():
        return Extraction(None, "empty box", False)
    return Extraction(box, "", True)


def last_box(text: str) -> str | None:
    """The content of the last \\boxed{...} whose braces balance (the inner one of nested boxes); linear in the text."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    match = _BOX.match(text, start)
    if match:
        depth = 1
        for brace in _BRACE.finditer(text, match.end()):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                return text[match.end() : brace.start()]
    return _last_balanced(text)


def _last_balanced(text: str) -> str | None:
    best: tuple[int, int] | None = None
    opened: list[int] = []  # where the content of each open brace starts; -1 for a brace that opens no box
    for token in _BOX_OR_BRACE.finditer(text):
        if token[0] == "}":
            start = opened.pop() if opened else -1
            if start >= 0 and (best is None or start > best[0]):
                best = (start, token.start())
        elif token[0] == "{":
            opened.append(-1)
        elif token[0].startswith("\\boxed"):
            opened.append(token.end())
    return None if best is None else text[best[0] : best[1]]
