"""Symbolic comparison by math-verify. Imports nothing of ours and is imported in worker processes only: it may run for ever."""

from __future__ import annotations

import functools
import re
from typing import Any

TEXT = r"\\(?:text(?:rm|bf|it)?|mbox|mathrm|mathbf|mathit)\s*\{[^{}]*\}"
WORDS = r"(?<=[\d}]) (?!.*\b(?:or|and|plus|minus|times|not)\b)[A-Za-z]{3,}(?: [A-Za-z]+)*"
UNIT_TAIL = re.compile(rf"(?:\s*{TEXT}(?:{TEXT}|[\s/]|\^\{{?-?\d\}}?|\\cdot)*|{WORDS})$")

FIRST = [  # one of each common kind: the parser learns each form of expression when it first meets it
    ("x", "2x+y"), ("3", r"\sqrt{2}+1"), (r"5\text{ cm}", "3:00"), ("(1,x)", "(x,1)"), ("7", r"2\sqrt{3}-\frac{\sqrt{5}}{2}"),
    (r"\frac{2\pi}{3}", r"\frac{x+1}{x^2-4}"), (r"\{1,2\}", r"\{2,3\}"), (r"(-\infty,2]\cup[3,\infty)", r"x\le 2"),
    ("2^{10}x", r"e^{2x}\sin(x)"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"), ("3+2i", r"\pm 4"),
    (r"\frac{5}{\sqrt{7}}", r"\log_2 5"), (r"4:30 \text{ p.m.}", "1,2,3"),
]  # fmt: skip


def warm_up() -> None:
    """Does the slow imports and fills the tables of the parser and of sympy: a first question costs twenty later ones."""
    for gold, answer in FIRST:
        equal(gold, answer)


def equal(gold: str, answer: str) -> tuple[str, str]:
    """("correct" | "wrong" | "unknown", reason) of two tidied LaTeX texts, by math-verify and `exactly_equal`.

    Units are left out; then, since what looks like a unit can be a variable, the texts are compared as they are.
    """
    from math_verify.grader import should_treat_as_complex

    real = None if should_treat_as_complex(gold) or should_treat_as_complex(answer) else True
    tails = {text: unit(text) for text in (gold, answer)}
    clash = all(tails.values()) and tails[gold][0].casefold() != tails[answer][0].casefold()
    reason = "gold unparseable"
    for plain in [without_unit, str] if any(tails.values()) and not clash else [str]:
        left = parse_gold(plain(gold), real)
        if left is None:
            continue
        right = parse(plain(answer), real)
        if right is not None and same(left, right):
            return "correct", "symbolic"
        reason = "answer unparseable" if right is None else "symbolic"
    return ("unknown" if reason == "gold unparseable" else "wrong"), reason


def same(left: Any, right: Any) -> bool:
    """Whether two sympy objects are equal; objects that do not go together are not."""
    from math_verify import verify
    from sympy import Expr, Symbol, simplify

    try:
        if not exactly_equal(left, right):  # first, as math-verify tries for long to prove two different numbers equal
            return False
        found = verify(left, right, allow_set_relation_comp=True, timeout_seconds=None)
        if not found and isinstance(left, Expr) and isinstance(right, Expr) and Symbol in (type(left), type(right)):
            found = simplify(left - right) == 0  # math-verify compares a lone symbol by name only
        return found
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy raises whatever it likes
        return False


@functools.lru_cache(maxsize=4096)
def without_unit(text: str) -> str:
    """The text without the unit at its end, in words or in \\text; unchanged where there is none."""
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    bare = UNIT_TAIL.sub("", text).rstrip()
    if re.search(r"\\(?:text|mbox|math[a-z]+)(?![A-Za-z])", bare):  # words inside: cutting there would change the value
        return text
    return normalize_latex(bare or text, NormalizationConfig(units=True, boxed="none"))


@functools.lru_cache(maxsize=4096)
def unit(text: str) -> str:
    """The last word of a text that ends with a unit, else ""."""
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    if without_unit(text) in (text, normalize_latex(text, NormalizationConfig(boxed="none"))):
        return ""
    return (re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", "", text)) or [""])[-1]


@functools.cache
def _complete_grammar() -> None:
    """latex2sympy2_extended asks every atom for a rule that its grammar for antlr 4.9.3 lacks: no percentage could be read."""
    from latex2sympy2_extended.antlr_parser import PSParser

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None  # type: ignore[attr-defined]


def parse(text: str, real: bool | None = True) -> Any:
    """The sympy object of one LaTeX text, None where it cannot be read. Nothing is ever evaluated as Python.

    The grammar is math-verify's; unlike there, letters keep their case, `i` is imaginary and decimals are exact.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    _complete_grammar()
    text = re.sub(r"(?<![A-Za-z\\])E(?=_)", r"\\mathrm{E}", text)  # the grammar knows E only as Euler's number
    try:
        read = latex2sympy(
            normalize_latex(text, NormalizationConfig(malformed_operators=True, nits=True, boxed="none")),
            is_real=real,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        return None if read is None else exact(read)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the grammar raises bare Exceptions, and sympy whatever it likes
        return None


parse_gold = functools.lru_cache(maxsize=4096)(parse)  # one gold has many answers, most of them not its own spelling


def exact(value: Any) -> Any:
    """The object with decimals as rationals and a free `i` as the imaginary unit; sets and chains keep their order."""
    import sympy
    from sympy.core.relational import Relational

    parts = getattr(value, "_unsorted_args", None)
    if parts is not None or isinstance(value, sympy.Tuple):
        return type(value)(*map(exact, value.args if parts is None else parts))
    if isinstance(value, Relational):
        return type(value)(exact(value.lhs), exact(value.rhs), evaluate=False)
    swap = {number: sympy.Rational(str(number)) for number in value.atoms(sympy.Float)}
    swap |= {symbol: sympy.I for symbol in getattr(value, "free_symbols", ()) if symbol.name == "i"}
    return value.xreplace(swap) if swap else value


def exactly_equal(left: Any, right: Any) -> bool:
    """False where two plain numbers that math-verify rounded to the same differ within 30 digits; True for all else."""
    import sympy

    if not all(isinstance(x, sympy.Expr) for x in (left, right)):
        return True
    left, right = left.doit(), right.doit()  # letters that cancel are gone now
    if left.free_symbols or right.free_symbols:
        return True
    a, b = (sympy.N(x, 40) for x in (left, right))
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return True
    percent = {sympy.Integer(1), sympy.Integer(100), sympy.Rational(1, 100)}
    return any(abs(sympy.N(a * p - b, 40)) <= sympy.Float("1e-30") * max(abs(a * p), abs(b)) for p in percent)


def decide_all(pairs: list[tuple[str, str]]) -> tuple[str, str]:
    """`equal` of each pair up to the first that is not "correct"; all must be for the verdict to be."""
    verdict, reason = "unknown", "no answer"
    for gold, answer in pairs:
        verdict, reason = equal(gold, answer)
        if verdict != "correct":
            break
    return verdict, reason


def readable(gold: str) -> tuple[str, str]:
    """("correct", "") where a tidied gold can be parsed, with its unit or without, else ("unknown", "gold unparseable")."""
    found = parse(without_unit(gold)) is not None or parse(gold) is not None
    return ("correct", "") if found else ("unknown", "gold unparseable")
