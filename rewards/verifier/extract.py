"""Which part of a response is its answer: what was given as the answer after the thinking, and nothing else."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from rewards.errors import TautError
from rewards.verifier.stated import conclusion, last_statement, lone

Mode = Literal["boxed", "answer_tag", "hash", "free"]
Span = tuple[int, int]

OPEN, CLOSE = "<think>", "</think>"
_BOX_OR_BRACE = re.compile(r"\\{1,2}boxed\s*\{|\\.|[{}]", re.DOTALL)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_HASH = re.compile(r"####[ \t]*([^\n]*)")
_JOINED = re.compile(r"(?:[\s$,;]|\\[,;: ]|and|or)*")
_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|im_start)\|>(?!assistant)|</s>")


class Extraction(NamedTuple):
    """The answer's text, or None and the rule that says why there is none. `format_ok`: thinking closed, then an answer in
    the form that the mode asks for."""

    answer: str | None
    reason: str
    format_ok: bool


def extract(
    response: str, finish_reason: str = "stop", thinking_open: bool = False, mode: Mode = "boxed"
) -> Extraction:
    """The one answer that a response gives after its last </think>; several are never merged.

    mode: "boxed", the last balanced \\boxed{...}; "answer_tag", the last <answer>...</answer>, or the box in it; "hash",
    the rest of the last line that holds ####; "free", the last of those and of what is stated as the answer ("the final
    answer is 5", "Answer: 5"), else a response that is nothing but an expression, else what its last sentence ends with
    ("so the length is $5$"): never a number that merely stands last.
    No answer: the response ended by length ("truncated"), an opened <think> (in the response, or by the prompt when
    `thinking_open`) is not closed ("unclosed thinking"), nothing in the mode's form ("no box", "no answer tag", "no hash",
    "no stated answer"), nothing in it ("empty box" and so on), different ones side by side ("several boxes" and so on: a
    list of guesses is not an answer). Raises TautError for another mode.
    """
    if finish_reason == "length":
        return Extraction(None, "truncated", False)
    if not isinstance(response, str):  # whoever calls us from untyped code is told so by a verdict
        return Extraction(None, "not text", False)
    close = response.rfind(CLOSE)
    if (close < 0 and thinking_open) or response.rfind(OPEN) > close:
        return Extraction(None, "unclosed thinking", False)
    text = response[close + len(CLOSE) :] if close >= 0 else response
    if mode == "boxed":
        return _one(text, _boxes(text), "box", "boxes")
    if mode == "answer_tag":
        return _in_tag(text)
    if mode == "hash":
        return _one(text, _hashes(text), "hash", "hashes")
    if mode == "free":
        return _free(text)
    raise TautError(f"extraction: {mode!r} is not a way to find an answer; use one of {', '.join(get_args(Mode))}")


def last_box(text: str) -> str | None:
    """The content of the last \\boxed{...} whose braces balance (the inner one of nested boxes)."""
    boxes = _boxes(text)
    return text[slice(*boxes[-1])] if boxes else None


def all_boxes(text: str) -> list[str]:
    """The contents of all balanced \\boxed{...}, in order and once each: what a gold that holds several means."""
    return list(dict.fromkeys(text[start:end] for start, end in _boxes(text)))


def _one(text: str, spans: list[Span], name: str, names: str) -> Extraction:
    """The text of the last span; none where it is empty or stands in a row with another."""
    if not spans:
        return Extraction(None, f"no {name}", False)
    answer = text[slice(*spans[-1])]
    if not answer.strip():
        return Extraction(None, f"empty {name}", False)
    if len(spans) > 1 and _row(text, spans[-2], spans[-1]):
        return Extraction(None, f"several {names}", False)
    return Extraction(answer, "", True)


def _in_tag(text: str) -> Extraction:
    found = _one(text, _tags(text), "answer tag", "answer tags")
    if found.answer is None or "boxed" not in found.answer:
        return found
    return _one(found.answer, _boxes(found.answer), "box", "boxes")


def _free(text: str) -> Extraction:
    """What stands last of boxes, tags, #### and statements; without any, a lone expression or what the end concludes."""
    turn = _END_OF_TURN.search(text, 1)
    text = text[: turn.start()] if turn else text
    given = (_boxes(text), _tags(text), _hashes(text), last_statement(text))
    boxes, tags, hashes, stated = given
    last = max((spans[-1][1] for spans in given if spans), default=-1)
    if last < 0:
        answer = lone(text) or conclusion(text)
        return Extraction(answer, "" if answer else "no stated answer", bool(answer))
    if stated and stated[-1][1] == last and not any(spans and spans[-1][0] >= stated[-1][0] for spans in given[:3]):
        return _one(text, stated, "stated answer", "stated answers")
    if tags and tags[-1][1] >= max(spans[-1][1] for spans in (boxes, tags, hashes) if spans):
        return _in_tag(text)
    if boxes and (not hashes or boxes[-1][0] >= hashes[-1][0]):
        return _one(text, boxes, "box", "boxes")
    return _one(text, hashes, "hash", "hashes")


def _boxes(text: str) -> list[Span]:
    """(start, end) of the content of each balanced box, by start; one pass over the text from the first box on."""
    boxes: list[Span] = []
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


def _tags(text: str) -> list[Span]:
    """(start, end) of the content of each <answer>...</answer>, from its nearest opening tag."""
    spans: list[Span] = []
    opened = -1
    for tag in _TAG.finditer(text) if "<" in text else ():
        if not tag[1]:
            opened = tag.end()
        elif opened >= 0:
            spans.append((opened, tag.start()))
            opened = -1
    return spans


def _hashes(text: str) -> list[Span]:
    return [match.span(1) for match in _HASH.finditer(text)] if "####" in text else []


def _row(text: str, first: Span, second: Span) -> bool:
    """Whether two different answers stand side by side, so that neither is the one answer."""
    between = text[first[1] : second[0]].removeprefix("}").removesuffix("{").rstrip().removesuffix("boxed").rstrip("\\")
    between = _TAG.sub("", between).replace("####", "")
    return (
        first[1] < second[0] and _JOINED.fullmatch(between) is not None and text[slice(*first)] != text[slice(*second)]
    )
