"""Decides what needs no algebra: equal texts, exact numbers, and answers that are too large to look at."""

from __future__ import annotations

import math
import re
import unicodedata
from fractions import Fraction

MAX_CHARS = 2_000  # longest answer that reaches algebra, or twice the gold's length
MAX_DEPTH = 30
MAX_DIGITS = 1_000  # in one literal number
MAX_VALUE_DIGITS = 10_000  # of the value of a power or factorial of literals

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SYMBOLS = {
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "⁄": "/", "π": "\\pi ", "∞": "\\infty ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "°": "^\\circ ", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ",
    "θ": "\\theta ", "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": "", "\x00": "",
}  # fmt: skip
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|nolimits|[bB]ig[lr]?)(?![A-Za-z])|\\[!()\[\]]|\$|(?<=\d)\\,(?=\d)"
)
_SPACE = re.compile(r"\\[,;: ]|~|\s+")
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:"
    r"(?P<decimal>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
    r"|(?P<whole>\d+(?= |\\))? ?\\frac(?:\{(?P<sign2>-?)(?P<num>\d+)\}|(?P<num1>\d))"
    r"(?: ?\{(?P<den>\d+)\}| ?(?P<den1>\d))"
    r"|(?:(?P<whole2>\d+) )?(?P<num2>\d+)/(?P<den2>\d+)"
    r")(?:\^\{?\\circ\}?)?"
)
_ARITHMETIC = re.compile(
    r"(?:^|(?<=[^\d.]))\((\d+)\)(?=[!^])|(\d+)(?:\^|\*\*)(?:\{([+-]?\d+)\}|([+-]?\d+)(?![\d!^]))|(\d+)!"
)


def tidy(text: str) -> str:
    """The text for algebra: ASCII where LaTeX has a spelling; layout commands, dollars and a final full stop gone."""
    if not text.isascii():
        text = _ascii(text)
    text = text.strip()
    if text.isalnum():
        return text
    text = text.replace("\\$", "").replace("{,}", ",")
    text = _FRAC.sub(r"\\frac", _LAYOUT.sub("", text))
    return _SPACE.sub(" ", text).strip().removesuffix(".").strip()


def normalise(text: str) -> str:
    """A tidied text for comparison as text: \\text and the like unwrapped, spaces only between letters and digits."""
    if text.isalnum():
        return text
    return _LOOSE_SPACE.sub("", " ".join(_TEXT.sub(r" \1 ", text).split()))


def _ascii(text: str) -> str:
    out: list[str] = []
    for char in text:
        if char in _SYMBOLS:
            out.append(_SYMBOLS[char])
        elif char.translate(_SUPERSCRIPTS) != char:
            out.append("^{" + char.translate(_SUPERSCRIPTS) + "}")
        elif char.isdecimal():
            out.append(str(unicodedata.decimal(char)))
        else:
            plain = unicodedata.normalize("NFKC", char)
            out.append(f" {plain.replace('⁄', '/')}" if "⁄" in plain else plain)
    return "".join(out).replace("}^{", "").encode("utf-8", "replace").decode("utf-8")


def number(text: str) -> Fraction | None:
    """The exact value of a normalised integer, decimal, simple fraction or mixed number; None for anything else."""
    if len(text) > MAX_DIGITS:
        return None
    if text.isdecimal():
        return Fraction(int(text))
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    part = match.groupdict()
    if part["decimal"]:
        value = Fraction(part["decimal"].replace(",", "").rstrip(".") or "0")
    else:
        den = int(part["den"] or part["den1"] or part["den2"])
        if den == 0:
            return None
        value = Fraction(int(part["num"] or part["num1"] or part["num2"]), den)
        value = (-value if part["sign2"] else value) + int(part["whole"] or part["whole2"] or 0)
    return -value if part["sign"] == "-" else value


def compare(gold: str, answer: str) -> tuple[bool, str] | None:
    """(equal, rule) for two normalised texts where text or exact arithmetic decides; None where algebra is needed."""
    if gold == answer:
        return True, "string"
    left = number(gold)
    right = number(answer) if left is not None else None
    if right is None:
        return None
    return left == right, "number"


def too_heavy(answer: str, gold: str) -> str | None:
    """Why a normalised answer is not worth algebra (its value or size is out of all proportion), None where it is.

    Such an answer is wrong: a right one would have been equal as text or as a number.
    """
    if len(answer) > max(MAX_CHARS, 2 * len(gold)):
        return f"too long ({len(answer)} characters)"
    depth = deepest = 0
    for char in answer:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    if deepest > MAX_DEPTH:
        return f"too deep ({deepest} brackets)"
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", answer):
        return "too many digits"
    return "too large a value" if _explodes(answer) else None


def _explodes(text: str) -> bool:
    """Whether powers and factorials of literal integers in the text have more than MAX_VALUE_DIGITS digits."""
    text = text.replace(" ", "")
    for _ in range(50):  # each round evaluates the innermost ones; large values stand for themselves as 10^6
        large = False

        def value(match: re.Match[str]) -> str:
            nonlocal large
            if match[1]:
                return match[1]
            if match[5]:
                n = int(match[5][:9])
                large |= math.lgamma(n + 1) / math.log(10) > MAX_VALUE_DIGITS
                return str(math.factorial(n)) if n < 10 else "1000000"
            base, exponent = int(match[2]), abs(int((match[3] or match[4])[:10]))
            size = exponent * math.log10(max(base, 1))
            large |= size > MAX_VALUE_DIGITS
            return str(base**exponent) if size < 6 else "1000000"

        text, before = _ARITHMETIC.sub(value, text), text
        if large:
            return True
        if text == before:
            break
    return any(int(e[:10]) > 2 * MAX_VALUE_DIGITS for e in re.findall(r"(?:\^|\*\*)\{?[+-]?(\d+)", text))
