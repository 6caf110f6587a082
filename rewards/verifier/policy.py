"""What counts as the same answer before any algebra, and what is refused: see docs/verifier.md for each choice."""

from __future__ import annotations

import re

from rewards.verifier.equations import other_argument, sides, without_approximation
from rewards.verifier.extract import all_boxes
from rewards.verifier.fast import apart, compare, normalise, number, tidy
from rewards.verifier.guard import marked, restates, too_heavy
from rewards.verifier.lists import brackets_differ
from rewards.verifier.units import (
    magnitudes,
    other_currency,
    same_numeral,
    same_percentage,
    same_unit,
    split_unit,
    takes_back,
    without_magnitudes,
)

Pair = tuple[str, str]
_PREAMBLE = re.compile(r"^\\text(?:bf|rm)?\{[^{}]*(?:\bis|\bare|[:=])\s*\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_WHOLE_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mbox)\s*\{[^{}]*\}")
_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)
_OTHER_CHOICE = re.compile(r"(?:or|and|[,;/&])(?:\\?[A-Za-z]*\{)?\(?[A-J](?![A-Za-z])|\([A-J]\)")
_SYMBOLIC_GCD = re.compile(r"\\?(?:operatorname\{)?(gcd|lcm)\}?\(([^()]*[A-Za-z][^()]*)\)")
_CHOICE = re.compile(r"(?:\(([A-J])\)|([A-J])(?:[.:)]|$))")
_LITERALS = re.compile(r"(?:[\d\s.,+*/^!(){}-]|\\(?:cdot|times|div|frac)(?![A-Za-z]))*")
_COMMAND = re.compile(r"\\(?:begin|end)\{\w*\*?\}|\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_QUANTITY = re.compile(r"^\\text\w*\{\s*([+-]?\d[\d.,/]*) ([A-Za-z][A-Za-z /]*)\}$")
_JOINT = re.compile(r"(?:\s*,)?\s*\\text\w*\{\s*(?:or|and)\s*\}\s*|(?<=[\d)}]) (?:or|and) (?=[-\d(\\])")
_RATIO = re.compile(r"(?<=\d)\s*(?:\\text\w*\{\s*to\s*\}|(?<= )to(?= ))\s*(?=\d)")
_DECIMAL_COMMA = re.compile(r"-?(?:0,\d{2,}|\d+,(?:\d{2}|\d{4,}))")
_VARIABLE_TERM = re.compile(r"-?\d+(?:\.\d+)?[A-Za-z]")


def decide(gold: str, answer: str, arithmetic: bool = True) -> tuple[bool, str] | list[Pair]:
    """(right, rule) where text or exact arithmetic decides; else the pairs that algebra must all find equal.

    Unless `arithmetic`, an answer of digits and operators that is not a number by itself is wrong.
    """
    if gold == answer:
        return True, "string"
    if other_currency(gold, answer):
        return False, "units"
    left, right = _gold(gold), _unwrapped(_PREAMBLE.sub("", tidy(answer)).strip())
    if ":" in left:
        right = _RATIO.sub(":", right)
    decided = _compare(left, right, normalise(left), normalise(right))
    if "\\approx" in left and "\\approx" in right:  # an approximation that both state is a part of the answer
        left, right = left.replace("\\approx", "="), right.replace("\\approx", "=")
    elif "\\approx" in right and not decided:
        if (exact := without_approximation(left, right)) is None:
            return False, "approximation"
        right = exact
    questions: list[Pair] = []
    for pair in [] if decided else sides(left, right):
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
    return sides(text, "0")[0][0], ""


def _gold(gold: str) -> str:
    """The tidied gold; one that was written with boxes is the list of what they hold."""
    return _unwrapped(tidy(", ".join(all_boxes(gold)) if "\\boxed" in gold else gold))


def _unwrapped(text: str) -> str:
    """The text without a \\text around the whole of a number with its unit; what "and" or "or" join, as a list."""
    if "\\text" not in text and " and " not in text and " or " not in text:
        return text
    text = _QUANTITY.sub(r"\1\\text{ \2}", text)
    return text if re.search(r"[<>]|\\[lg](?:e|t|or)", text) else _JOINT.sub(", ", text)


def _decide_pair(gold: str, answer: str) -> tuple[bool, str] | None:
    left, right = normalise(gold), normalise(answer)
    decided = _compare(gold, answer, left, right) or _in_words(gold, answer, left, right)
    if decided:
        return decided
    if not right:
        return False, "no answer"
    if why := too_heavy(answer, gold):
        return False, why
    if (same := same_numeral(left, right)) is not None:
        return same, "base"
    if brackets_differ(gold, answer, left, right):
        return False, "brackets"
    if other_argument(left, right):
        return False, "equation"
    if restates(gold, answer):
        return False, "restatement"
    if marked(gold, answer):
        return False, "marks"
    if (same := _same_gcd(left, right)) is not None:
        return same, "string"
    if takes_back(gold, answer):
        return False, "words"
    if decided := _by_unit(gold, answer, left, right):
        return decided
    if _other_case(left, right):
        return False, "case"
    return None


def _compare(gold: str, answer: str, left: str, right: str) -> tuple[bool, str] | None:
    """Equal text, or exact numbers. A list whose commas look like thousands (1, 234) is no number; a gold such as 2,74 may be
    a decimal as well as a list."""
    if left != right and apart(gold) != apart(answer):
        return (False, "brackets") if number(left if apart(answer) else right) is not None else None
    if _DECIMAL_COMMA.fullmatch(left) and left.replace(",", ".") == right:
        return True, "number"
    return compare(left, right)


def _in_words(gold: str, answer: str, left: str, right: str) -> tuple[bool, str] | None:
    """A choice of several by its letter, a text by its words; None for what is neither."""
    if choice := _CHOICE.fullmatch(left):
        given = _CHOICE.match(right)
        same = given and set(filter(None, choice.groups())) == set(filter(None, given.groups()))
        return bool(same and given and not _OTHER_CHOICE.search(right, given.end())), "choice"
    if _is_text(gold) or (_is_text(answer) and _WORDS.fullmatch(left)):
        return _fold(left) == _fold(right), "text"
    return None


def _by_unit(gold: str, answer: str, left: str, right: str) -> tuple[bool, str] | None:
    """A unit on one side only is left out; other magnitudes and other units are other values; None where algebra is needed."""
    if (sizes := magnitudes(left)) != magnitudes(right):
        return False, "units"
    if sizes:
        gold, answer = without_magnitudes(gold), without_magnitudes(answer)
    if (same := same_percentage(left, right)) is not None:
        return same, "percent"
    (bare, unit), (given, other) = split_unit(gold), split_unit(answer)
    if unit and other and not same_unit(unit, other):
        return False, "units"
    if unit or other:
        return compare(normalise(bare), normalise(given))
    if _VARIABLE_TERM.fullmatch(left) and number(right) is not None:
        return False, "number"
    return None


def _is_text(text: str) -> bool:
    """Whether a tidied text is words: wrapped in \\text, or letters too many for a product of variables."""
    if _WHOLE_TEXT.fullmatch(text):
        return not normalise(text).replace(" ", "").isdigit()
    return len(text) > 4 and bool(_WORDS.fullmatch(text)) and bool(re.search("[A-Za-z]{3}", text))


def _fold(text: str) -> str:
    return _ARTICLE.sub("", " ".join(text.split()).strip("().")).casefold()


def _same_gcd(left: str, right: str) -> bool | None:
    """Whether two texts with a gcd or lcm of symbols are the same but for the order in it; None where one has none.

    Algebra would take the symbols for polynomials, whose gcd is 1 as a rule.
    """
    if not (_SYMBOLIC_GCD.search(left) and _SYMBOLIC_GCD.search(right)):
        return None
    ours, theirs = (
        _SYMBOLIC_GCD.sub(lambda gcd: f"{gcd[1]}({','.join(sorted(gcd[2].split(',')))})", text)
        for text in (left, right)
    )
    return ours == theirs


def _other_case(left: str, right: str) -> bool:
    """Whether a symbol of the answer is one of the gold's in the other case: R is not r."""
    if "=" in left + right:
        return False
    ours, theirs = (set(re.findall(r"[A-Za-z]", _COMMAND.sub(" ", text))) for text in (left, right))
    return any(letter.swapcase() in ours - theirs for letter in theirs - ours)
