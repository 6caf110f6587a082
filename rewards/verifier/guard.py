"""What is refused before any algebra: answers too large to be worth it, and the question given back as its answer."""

from __future__ import annotations

import math
import re

MAX_DIGITS = 1_000  # in one literal number
MAX_CHARS = 2_000  # longest answer that reaches algebra, or twice the gold's length
MAX_DEPTH = 30
MAX_VALUE_DIGITS = 10_000  # of the value of a power, factorial or binomial of literals

_D = r"(?:d|\\mathrm ?\{ ?d ?\}|\\partial)"
_OPERATORS = re.compile(
    r"\\(?:operatorname\*?\{)?(sum|(?:co)?prod|i*int|oint|lim|limsup|liminf|gcd|lcm|det|[dt]?binom|choose)(?![A-Za-z])"
    rf"|\\frac\s*\{{?\s*{_D}(?![A-Za-z_])[^{{}}]*(?:\{{\w\}})?[^{{}}]*\}}?\s*\{{\s*{_D} ?\\?[A-Za-z]"
    r"|\\begin\{(vmatrix)\}"
    r"|(?<![A-Za-z\\])(gcd|lcm|lim|sum|int)\s*[({_]"
)
_ARITHMETIC = re.compile(
    r"(?:^|(?<=[^\d.]))\((\d+)\)(?=[!^])|(\d+)(?:\^|\*\*)(?:\{([+-]?\d+)\}|([+-]?\d+)(?![\d!^]))|(\d+)!"
    r"|\\[dt]?binom\{(\d+)\}\{(\d+)\}|\{(\d+)\\choose(\d+)\}"
)
_EXPONENT = re.compile(r"(?:\^|\*\*)\{?[+-]?(\d+)")
_MARKS = [
    re.compile(r"\\[a-z]?dots(?![A-Za-z])|\.\.\."),
    re.compile(r"[\d)}] ?(?:'|\^ ?\{? ?\\prime)"),
    re.compile(
        r"\\(?:[hv]?phantom|[bx]?cancel(?:to)?|sout|not|k?ern|mkern|rule|label|tag|[egx]?def|let|(?:re)?newcommand|[hv]skip|smash"
        r"|raisebox|[lr]lap|mathchoice|if[a-z]*|else|fi|footnote|href|url|input|mathop|stackrel|overset|underset|substack)(?![A-Za-z])"
        r"|(?<!\\)% ?[\d\\]"
    ),
]
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")


def restates(gold: str, answer: str) -> bool:
    """Whether an answer holds an unevaluated sum, integral, limit, derivative, gcd or binomial that the gold has not."""
    return bool(_operators(answer) - _operators(gold))


def marked(gold: str, answer: str) -> bool:
    """Whether an answer has, where the gold has not, what algebra would overlook: dots for what is left out, a prime, a struck
    or an invisible part, a definition."""
    return any(kind.search(answer) and not kind.search(gold) for kind in _MARKS)


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
    if _LONG_NUMBER.search(answer):
        return "too many digits"
    return "too large a value" if _explodes(answer) else None


def _operators(text: str) -> set[str]:
    names = (name or plain or matrix for name, matrix, plain in _OPERATORS.findall(text))
    names = ("det" if name == "vmatrix" else name for name in names)
    return {"binom" if name.endswith(("binom", "choose")) else name or "derivative" for name in names}


def _explodes(text: str) -> bool:
    """Whether powers, factorials and binomials of literal integers in the text have more than MAX_VALUE_DIGITS digits.

    Each round puts the values of the innermost ones in their place; a large value stands as 10^6 from then on.
    """
    text = text.replace(" ", "")
    for _ in range(50):
        digits = [0.0]
        before, text = text, _ARITHMETIC.sub(lambda match, digits=digits: _value(match, digits), text)
        if max(digits) > MAX_VALUE_DIGITS:
            return True
        if text == before:
            break
    return any(int(exponent[:10]) > 2 * MAX_VALUE_DIGITS for exponent in _EXPONENT.findall(text))


def _value(match: re.Match[str], digits: list[float]) -> str:
    """The value of a power, factorial or binomial as text; the number of its digits is added to `digits`."""
    bracketed, base, exponent, plain_exponent, factorial, *binomial = match.groups()
    if bracketed:
        return bracketed
    if factorial:
        n = int(factorial[:9])
        digits.append(math.lgamma(n + 1) / math.log(10))
        return str(math.factorial(n)) if n < 10 else "1000000"
    if base:
        power = abs(int((exponent or plain_exponent)[:10]))
        digits.append(power * math.log10(max(int(base[:MAX_DIGITS]), 1)))
        return str(int(base) ** power) if digits[-1] < 6 else "1000000"
    n, k = (int(part[:9]) for part in binomial if part)
    if min(n, k) > MAX_VALUE_DIGITS:  # 10^6 may stand for any large value
        digits.append(math.inf)
        return "1000000"
    digits.append(max(0.0, math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(max(n - k, 0) + 1)) / math.log(10))
    return str(math.comb(n, k)) if digits[-1] < 6 and n < MAX_VALUE_DIGITS else "1000000"
