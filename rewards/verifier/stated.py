"""Answers given in words, for responses without boxes: "the final answer is 5", a lone expression, a closing sentence."""

from __future__ import annotations

import re

MAX_STATED = 2_000  # characters of a statement that are read
MAX_TAIL = 20_000  # characters at the end of a response that are searched for a statement
MAX_LONE = 500
MAX_WORDS = 4  # of prose in what can pass for an expression: a name, a number with its unit

_MATH = r"\$\$.{1,1000}?\$\$|\$[^$]{1,1000}\$|\\\(.{1,1000}?\\\)|\\\[.{1,1000}?\\\]"
_CUE = re.compile(
    r"\banswers?\b(?:\*\*|[^.:=\n$\\*]{0,80}?\b(?:is|are)\b|[^.:=\n$\\]{0,80}?[:=](?!=))(?!\w)"
    r"|\banswers?\b\s*(?=\$|\\[(\[])"
    r"|(?:\A|\n)[ \t]*A:(?=[^\n]*\s*\Z)",
    re.IGNORECASE,
)
_SENTENCE = re.compile(rf"(?:[\s*:]|(?!\n)\.(?=\.))*((?:{_MATH}|[^\n.!?]|[.!?](?=[^\s*$\"')]|!+\s*\S))+)", re.DOTALL)
_LAST_SENTENCE = re.compile(r"(?:[.!?](?=[\s*])|\n)(?![^$]*[^\s\\]\$\s*[.*]*\s*\Z)")
_VERB = re.compile(
    r"(?:\b(?:is|are|equals|(?:it|that)'s|be)\b|\b(?:increase|decrease|change|rise|fall|drop|grow)[sd]? by\b)"
    r"(?:\s+(?:equal to|therefore|thus|exactly|simply|just))?\s*:?\s*",
    re.IGNORECASE,
)
_VALUE = re.compile(rf"{_MATH}|-?\$?\d+(?:[.,/]\d+)*(?:\s?\\?%)?", re.DOTALL)
_DENIES = re.compile(r"\b(?:not|never|wrong|incorrect|no|at least|at most|than|about)\b|n't\b", re.IGNORECASE)
_LEADS = r"(?:\b(?:is|are|be|equals|get|obtain|gives?|yields?|have|conclude|thus|therefore|hence|so)|:|=)[\s,*]*"
_END_MATH = re.compile(rf"(?:\A|{_LEADS})({_MATH})[\s.*]*\Z", re.DOTALL | re.IGNORECASE)
_THE_ANSWER = re.compile(rf"({_MATH})\s+is the (?:final |correct |only )?(?:answer|solution|result)\b", re.DOTALL)
_CLAUSE = re.compile(r"[,;]?\s+(?:since|because|which|where|as|so|when|for)\b.*", re.DOTALL | re.IGNORECASE)
_REASON = re.compile(r"[,;]?\s+(?:since|because)\b.*", re.DOTALL | re.IGNORECASE)
_HEDGE = re.compile(r"\b(?:or|maybe|perhaps|either|if|might|unless|guess|suppose|assume)\b|\?", re.IGNORECASE)
_SAYS = re.compile(r"\b(?:is|are|was|not|it's|that's|isn't|equals|\w+[sd] by)\b", re.IGNORECASE)
_DELIMITED = re.compile(_MATH, re.DOTALL)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?:'[a-z]+)?")
_GROUP = re.compile(r"\\(?:text\w*|mbox|math[a-z]+|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")


def last_statement(text: str) -> list[tuple[int, int]]:
    """The (start, end) of what follows the last "answer is", "Answer:" and the like, up to the end of its sentence."""
    for cue in reversed(list(_CUE.finditer(text, max(0, len(text) - MAX_TAIL)))):
        match = _SENTENCE.match(text, cue.end(), cue.end() + MAX_STATED)
        if match and match[1].strip(" *"):
            return [_core(text, *match.span(1))]
    return []


def lone(text: str) -> str | None:
    """The whole text where it is nothing but one expression: a few lines of LaTeX or a few words; else None."""
    text = text.strip().strip("*").strip()
    return text if text and _is_expression(text) else None


def conclusion(text: str) -> str | None:
    """What the last sentence ends with: an expression after "is", "are" or "equals", or one between dollars; else None.

    A sentence that weighs several ("3 or 5", "if", "maybe") concludes nothing.
    """
    text = text.rstrip(" \n*")[-MAX_STATED:]
    breaks = [match.end() for match in _LAST_SENTENCE.finditer(text[:-1])]
    last = text[breaks[-1] if breaks else 0 :]
    if _HEDGE.search(last):
        return None
    if said := _THE_ANSWER.search(last):
        return said[1]
    verbs = list(_VERB.finditer(last))
    if verbs and not (len(verbs) > 1 and re.search(r"\band\b", last[verbs[-2].end() : verbs[-1].start()])):
        said = _trimmed(last[verbs[-1].end() :])
        if said and _is_expression(said) and any(char.isdigit() or char in "$\\" for char in said):
            return said
    end = _END_MATH.search(last)
    return end[1] if end and not re.search(r"\bnot\b", last[: end.start()]) else None


def _core(text: str, start: int, end: int) -> tuple[int, int]:
    """A statement without what explains it ("since ...") or leads to it ("the volume is")."""
    said = _REASON.sub("", text[start:end])
    end = start + len(said)
    clause = _CLAUSE.search(said)
    if clause and not _is_expression(said):
        end = start + clause.start()
        said = text[start:end]
    if not _is_expression(said) and (verbs := list(_VERB.finditer(said))) and _is_expression(said[verbs[-1].end() :]):
        start += verbs[-1].end()
    elif not _is_expression(said) and not _HEDGE.search(said) and not _DENIES.search(said):
        values = list(_VALUE.finditer(said))
        if len(values) == 1:  # a sentence with one value in it
            start, end = start + values[0].start(), start + values[0].end()
    return start, start + len(text[start:end].rstrip(" *"))


def _trimmed(text: str) -> str:
    return text.strip(" *\n").removesuffix(".").strip()


def _is_expression(text: str) -> bool:
    """Whether a text has at most a few words outside its LaTeX and no sentence in it."""
    text = text.strip()
    if not text or len(text) > MAX_LONE or re.search(r"[A-Za-z)$]\.\s+\S|[!?:]\s+[A-Za-z]", text):
        return False
    prose = _GROUP.sub(" ", _DELIMITED.sub(" ", text))
    if _SAYS.search(prose) or (prose[:1] != " " and _DELIMITED.search(text)):  # words that lead to the math
        return False
    return len(_WORD.findall(_GROUP.sub(" ", text))) <= MAX_WORDS
