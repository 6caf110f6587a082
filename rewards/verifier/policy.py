"""What counts as the same answer before any algebra, and what is refused: one short rule each.

| matter                  | choice                                                                                     |
|-------------------------|--------------------------------------------------------------------------------------------|
| decimals                | exact: 0.333 is not 1/3; 0.50 is 1/2                                                       |
| letters                 | case matters in symbols (R is not r), not in words                                         |
| words                   | compared as words, leading articles dropped, never as products of letters                  |
| choices                 | gold C: `C`, `(C)` and `\\text{(C) }42` are right                                          |
| equations               | a name on the left is dropped (`x=5` is 5); each part of a chain must be right             |
| brackets                | (1,2), [1,2] and a bare list 1,2 differ; {1,2} and 1,2 do not                              |
| restatements            | an unevaluated sum, product, integral, limit, derivative, gcd, lcm or binomial is refused, |
|                         | unless the gold has the same operator; finite arithmetic such as 437+3 is an answer,       |
|                         | but not for a verifier made with arithmetic=False                                          |
| units, percent          | a unit on one side only is ignored; 50\\% is 50 and 0.5 (math-verify's reading)            |
| size                    | values of more than 10,000 digits, very long or deep texts are refused                     |
"""

from __future__ import annotations

import math
import re

from rewards.verifier.extract import all_boxes
from rewards.verifier.fast import MAX_DIGITS, compare, normalise, tidy

MAX_CHARS = 2_000  # longest answer that reaches algebra, or twice the gold's length
MAX_DEPTH = 30
MAX_VALUE_DIGITS = 10_000  # of the value of a power or factorial of literals

Pair = tuple[str, str]
_OPERATORS = re.compile(
    r"\\(?:operatorname\{)?(sum|prod|i*int|oint|lim|limsup|liminf|gcd|lcm|[dt]?binom|choose)(?![A-Za-z])"
    r"|\\frac\s*\{\s*(?:d|\\mathrm\{d\}|\\partial)\b"
)
_PREAMBLE = re.compile(r"^\\text(?:bf|rm)?\{[^{}]*(?:\bis|\bare|[:=])\s*\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_WHOLE_TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox)\s*\{[^{}]*\}")
_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)
_CHOICE = re.compile(r"(?:\(([A-J])\)|([A-J])(?:[.:)]|$))")
_LITERALS = re.compile(r"(?:[\d\s.,+*/^!(){}-]|\\(?:cdot|times|div|frac)(?![A-Za-z]))*")
_MAGNITUDE = re.compile(r"\b(dozen|hundred|thousand|million|billion|trillion)(?=s?\b)", re.IGNORECASE)
_EQUALS = re.compile(r"(?<![<>!\\:])=")
_ARITHMETIC = re.compile(
    r"(?:^|(?<=[^\d.]))\((\d+)\)(?=[!^])|(\d+)(?:\^|\*\*)(?:\{([+-]?\d+)\}|([+-]?\d+)(?![\d!^]))|(\d+)!"
)


def decide(gold: str, answer: str, arithmetic: bool = True) -> tuple[bool, str] | list[Pair]:
    """(right, rule) where text or exact arithmetic decides; else the pairs that algebra must all find equal.

    Unless `arithmetic`, an answer of digits and operators that is not a number by itself is wrong.
    """
    left, right = _gold(gold), _PREAMBLE.sub("", tidy(answer)).strip()
    decided = compare(normalise(left), normalise(right))
    questions: list[Pair] = []
    for pair in [] if decided else _sides(left, right):
        decided = _decide_pair(*pair)
        if decided is None and not arithmetic and _LITERALS.fullmatch(pair[1]):
            decided = False, "arithmetic"
        if decided is None:
            questions.append(pair)
        elif not decided[0]:
            return decided
    return questions or decided or (False, "no answer")


def gold_text(gold: str) -> tuple[str | None, str]:
    """(what algebra must be able to read of this gold, None if nothing; why it can never be verified, or "")."""
    text = _gold(gold)
    if not text:
        return None, "it is empty"
    if compare(normalise(text), "0") or _is_text(text) or _CHOICE.fullmatch(normalise(text)):
        return None, ""
    if why := too_heavy(text, text):
        return None, f"it is {why}"
    return _sides(text, "0")[0][0], ""


def _gold(gold: str) -> str:
    """The tidied gold; one that was written with boxes is the list of what they hold."""
    return tidy(", ".join(all_boxes(gold)) if "\\boxed" in gold else gold)


def _decide_pair(gold: str, answer: str) -> tuple[bool, str] | None:
    left, right = normalise(gold), normalise(answer)
    if decided := compare(left, right):
        return decided
    if choice := _CHOICE.fullmatch(left):
        given = _CHOICE.match(right)
        return bool(given and set(filter(None, choice.groups())) == set(filter(None, given.groups()))), "choice"
    if _is_text(gold) or (_is_text(answer) and _WORDS.fullmatch(left)):
        return _fold(left) == _fold(right), "text"
    if not right:
        return False, "no answer"
    if {_bracket(left), _bracket(right)} == {"(", ","} and "=" not in left:
        return False, "brackets"
    if _operators(answer) - _operators(gold):
        return False, "restatement"
    if set(_MAGNITUDE.findall(right)) != set(_MAGNITUDE.findall(left)):
        return False, "units"
    if why := too_heavy(answer, gold):
        return False, why
    return None


def _is_text(text: str) -> bool:
    """Whether a tidied text is words: wrapped in \\text, or letters too many for a product of variables."""
    if _WHOLE_TEXT.fullmatch(text):
        return not normalise(text).replace(" ", "").isdigit()
    return bool(_WORDS.fullmatch(text)) and len(text) > 4


def _fold(text: str) -> str:
    return _ARTICLE.sub("", " ".join(text.split()).strip("()")).casefold()


def _operators(text: str) -> set[str]:
    return {"binom" if name.endswith(("binom", "choose")) else name for name in _OPERATORS.findall(text)}


def _bracket(text: str) -> str:
    """The kind of a list: "(" for one tuple, "," for a list without brackets, "" for anything else."""
    flat = _top_level(text)
    if flat == "(" and text.endswith(")"):
        return "("
    return "," if "," in flat else ""


def _top_level(text: str) -> str:
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


def _parts(text: str) -> list[str]:
    """The sides of an equation or of a chain of them; the text alone where it is a list or has no top-level `=`."""
    if "=" not in text or "," in (flat := _top_level(text)) or not _EQUALS.search(flat):
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


def _sides(gold: str, answer: str) -> list[Pair]:
    """The pairs to compare: equations with the same left side by their right sides, a chain by each of its parts."""
    golds, answers = _parts(gold), _parts(answer)
    if len(golds) == 2 and (normalise(golds[0]) == normalise(answers[0]) or (len(answers) == 1 and _is_name(golds[0]))):
        golds, answers = golds[1:], answers[1:] or answers
    if len(golds) > 1 or len(answers) == 1:
        return [("=".join(golds), "=".join(answers))]
    if _has_name(answers[0]):
        answers = answers[1:]
    return [(golds[0], part) for part in answers]


def _is_name(text: str) -> bool:
    return _has_name(text) and not re.search(r"[+*/<>-]|\\(?:frac|sqrt|cdot|times)", text) and not text[:1].isdigit()


def too_heavy(answer: str, gold: str) -> str | None:
    """Why a tidied answer is not worth algebra (its value or size is out of all proportion), None where it is.

    Such an answer is wrong: a right one would have been equal as text or as a number.
    """
    if len(answer) > max(MAX_CHARS, 2 * len(gold)):
        return "too long"
    depth = deepest = 0
    for char in answer:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    if deepest > MAX_DEPTH:
        return "too deep"
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", answer):
        return "too many digits"
    return "too large a value" if _explodes(answer) else None


def _explodes(text: str) -> bool:
    """Whether powers and factorials of literal integers in the text have more than MAX_VALUE_DIGITS digits."""
    text = text.replace(" ", "")
    for _ in range(50):  # each round evaluates the innermost ones; a large value stands as 10^6 from then on
        large = False

        def value(match: re.Match[str]) -> str:
            nonlocal large
            if match[1]:
                return match[1]
            if match[5]:
                n = int(match[5][:9])
                large |= math.lgamma(n + 1) / math.log(10) > MAX_VALUE_DIGITS
                return str(math.factorial(n)) if n < 10 else "1000000"
            base, exponent = int(match[2][:MAX_DIGITS]), abs(int((match[3] or match[4])[:10]))
            size = exponent * math.log10(max(base, 1))
            large |= size > MAX_VALUE_DIGITS
            return str(base**exponent) if size < 6 else "1000000"

        text, before = _ARITHMETIC.sub(value, text), text
        if large:
            return True
        if text == before:
            break
    return any(int(e[:10]) > 2 * MAX_VALUE_DIGITS for e in re.findall(r"(?:\^|\*\*)\{?[+-]?(\d+)", text))
