"""Inputs that a verifier must survive: one function a kind, each drawn from a random generator of its own.

An input says what its verdict must never be where that follows from how it was made: `wrong` ones have another value than
their gold, `right` ones the same. All others need an answer in time and nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Random = random.Random
Expected = Literal["wrong", "right", ""]
WRAPPED = {"boxed": r"so \boxed{%s}.", "answer_tag": "so <answer>%s</answer>", "hash": "so\n#### %s", "free": "%s"}
BAD = ["\x1b[2J", *"\x00\ud800\udfff\u200b\u202e\ufeff\r\x0b🤖\U0010ffff\u0301½⁄"]
DIGITS = [  # of other scripts and shapes
    "０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "𝟘𝟙𝟚𝟛𝟜𝟝𝟞𝟟𝟠𝟡", "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉", "⓪①②③④⑤⑥⑦⑧⑨",
    "〇一二三四五六七八九",
]  # fmt: skip
TOKENS = [
    *"^_{}()[]$%&#=<,;:!|~\\ie", "^{", "$$", r"\\", r"\%", "!!", "**", "//", "1e9", "nan", "inf", "0/0", "1/0", "mod",
    r"\frac", r"\frac{1}{", r"\sqrt", r"\le", r"\infty", r"\pi", r"\pm", r"\cup", r"\int", r"\sum", r"\lim_{x\to0}",
    r"\binom", r"\log_", r"\sin", r"\boxed{", r"\text{", r"\operatorname{", r"\overline{", r"\left(", r"\right)",
    r"\begin{pmatrix}", r"\end{pmatrix}", "<think>", "</think>", " or ", " and ",
]  # fmt: skip
WORDS = ["ellipse", "monday", "convex", "even", "undefined", "silent", "triangle"]


@dataclass(frozen=True)
class Input:
    """One question to the verifier. `gold` and `response` may be anything at all: callers are not typed."""

    kind: str
    gold: Any
    response: Any
    expected: Expected = ""
    mode: str = "boxed"
    finish_reason: str = "stop"
    thinking_open: bool = False


class Generator:
    """Input number i of a seed, the same in every run. `target`: the file that Python payloads try to make."""

    def __init__(self, seed: int, cases: Path, target: Path) -> None:
        self.seed, self.target = seed, target
        self.cases = [json.loads(line) for line in cases.read_text("utf-8").splitlines() if line.strip()]

    def __call__(self, i: int) -> Input:
        """The i-th input."""
        rng = Random(f"{self.seed}:{i}")
        kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        return KINDS[kind][1](self, rng, kind)


def answered(rng: Random, kind: str, gold: str, answer: str, expected: Expected = "") -> Input:
    """The answer in the form of some extraction, most often in a box."""
    mode = rng.choice(["boxed"] * 7 + ["answer_tag", "hash", "free"])
    return Input(kind, gold, WRAPPED[mode].replace("%s", answer), expected, mode)


def edited(rng: Random, text: str) -> str:
    """The text after one to four edits of a character, a token or a byte."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        end = min(len(text), at + rng.choice([0, 1, 1, 2, 5]))
        if rng.random() < 0.2:  # a byte of its UTF-8, which may leave half a character
            data = bytearray(text.encode("utf-8", "surrogatepass") or b" ")
            data[rng.randrange(len(data))] = rng.randrange(256)
            text = data.decode("utf-8", "surrogateescape")
            continue
        new = rng.choice(["", chr(rng.randint(32, 126)), rng.choice(TOKENS), rng.choice(BAD), text[at : at + 8] * 2])
        text = text[:at] + new + text[end:]
    return text


def mutated(g: Generator, rng: Random, kind: str) -> Input:
    """A labelled case with its prediction, its gold or both edited: the label no longer holds, either way."""
    case = rng.choice(g.cases)
    gold, response = case["gold"], case["prediction"]
    which = rng.random()
    if which < 0.8:
        response = edited(rng, response)
    if which > 0.7:
        gold = edited(rng, gold)
    return Input(kind, gold, response, "", rng.choice(["boxed", "boxed", "boxed", "free"]))


def bad_characters(g: Generator, rng: Random, kind: str) -> Input:
    """NULs, lone surrogates, bidirectional marks and the like, anywhere in a case."""
    case = rng.choice(g.cases)
    text = list(case["prediction"])
    for _ in range(rng.randint(1, 20)):
        text.insert(rng.randint(0, len(text)), rng.choice(BAD))
    gold = case["gold"] if rng.random() < 0.8 else case["gold"] + rng.choice(BAD)
    return Input(kind, gold, "".join(text), "")


def _digits(rng: Random, most: int = 12) -> str:
    return str(rng.randint(1, 10 ** rng.randint(1, most)))


def _other_digit(rng: Random, number: str) -> str:
    """The number with one digit changed; the first stays other than 0."""
    at = rng.randrange(len(number))
    new = rng.choice([d for d in "123456789" if d != number[at]])
    return number[:at] + new + number[at + 1 :]


def _pair(rng: Random) -> tuple[str, str]:
    """(a text, one of another value) where the difference follows from the form."""
    n = _digits(rng)
    m = _other_digit(rng, n)
    few = str(rng.randint(2, 99))
    letter = rng.choice("abcdfghkmnpqrstuvwxyz")
    a, b = rng.sample(range(1, 1000), 2)
    (word, other), (choice, wrong) = rng.sample(WORDS, 2), rng.sample("ABCDE", 2)
    return rng.choice([
        (n, m), (n, f"-{n}"), (f"-{n}", n), (f"{n}.{few}1", f"{m}.{few}1"), (f"0.{n}1", f"0.{m}1"),
        (rf"\frac{{{n}}}{{{few}}}", rf"\frac{{{m}}}{{{few}}}"), (f"{n}/{few}", rf"-\frac{{{n}}}{{{few}}}"),
        (rf"\sqrt{{{n}}}", rf"\sqrt{{{m}}}"), (rf"{n}\pi", rf"{m}\pi"), (rf"\log {a}", rf"\log {b}"),
        (f"{few}^{{{n[:3]}}}", f"{few}^{{{n[:3]}1}}"), (f"{a}+{b}i", f"{a}-{b}i"),
        (f"({a}, {b})", f"({b}, {a})"), (f"({a},{b},{n})", f"({a},{b},{m})"), (f"[{a},{a + b}]", f"({a},{a + b}]"),
        (rf"\{{{a},{b}\}}", rf"\{{{a},{a + b}\}}"), (f"{a},{b}", f"{a},{b + 1}"),
        (rf"\begin{{pmatrix}}{a}\\{b}\end{{pmatrix}}", rf"\begin{{pmatrix}}{b}\\{a}\end{{pmatrix}}"),
        (f"{n}{letter}", f"{m}{letter}"), (letter, letter.upper()), (f"{few}{letter}+{a}", f"{few}{letter.upper()}+{a}"),
        (f"{letter}^2+{few}{letter}", f"{letter}^2-{few}{letter}"), (rf"\sin({few}x)", rf"\cos({few}x)"),
        (rf"x \le {a}", rf"x \ge {a}"), (f"x={a}", f"x={b}"), (n, f"{n} = {m}"), (n, f"{n} or {m}"), (n, f"{n},{m}"),
        (n, rf"\pm {n}"), (n, rf"{m}\text{{ (not {n})}}"), (word, other), (choice, wrong),
    ])  # fmt: skip


def near_miss(g: Generator, rng: Random, kind: str) -> Input:
    """A digit, sign, order, letter's case or bracket changed: never right."""
    gold, answer = _pair(rng)
    if rng.random() < 0.2:
        answer = f"{{{answer}}}" if "," not in answer else answer
    elif rng.random() < 0.2:
        answer = f" {answer} "
    return answered(rng, kind, gold, answer, "wrong")


def control(g: Generator, rng: Random, kind: str) -> Input:
    """The same value in another spelling: always right, so that refusing all is no way to pass."""
    n, few = _digits(rng), rng.randint(2, 50)
    k = rng.randint(2, 9)
    a, b = rng.sample(range(1, 1000), 2)
    gold, answer = rng.choice([
        (n, n), (n, f"{int(n):,}"), (n, f"{n}.0"), (n, f"${n}$"),
        (f"{n}/{few}", rf"\dfrac{{{int(n) * k}}}{{{few * k}}}"), (rf"\sqrt{{{few * k * k}}}", rf"{k}\sqrt{{{few}}}"),
        (f"({a},{b})", rf"\left( {a}, {b} \right)"), (rf"\{{{a},{b}\}}", rf"\{{{b},{a}\}}"),
        ("x", f"{k + 1}x-{k}x"), (f"{few}x+{a}", f"{a}+{few}x"), (f"x^2-{k * k}", f"(x-{k})(x+{k})"),
    ])  # fmt: skip
    return Input(kind, gold, rf"so $\boxed{{{answer}}}$.", "right")


def nested(g: Generator, rng: Random, kind: str) -> Input:
    """Brackets, fractions, roots, exponents, boxes, ten to fifty thousand deep; some do not close."""
    depth = rng.choice([10, 29, 31, 100, 1000, 20_000, 50_000])
    opening, closing = rng.choice([
        ("(", ")"), ("{", "}"), ("[", "]"), (r"\{", r"\}"), ("|", "|"), ("-", ""), ("x^{", "}"), (r"\sqrt{", "}"),
        (r"\frac{1}{1+", "}"), (r"\left(", r"\right)"), (r"\text{", "}"), (r"\boxed{", "}"), ("<think>", "</think>"),
        (r"\begin{pmatrix}", r"\end{pmatrix}"),
    ])  # fmt: skip
    text = opening * depth + "7" + closing * (depth - rng.choice([0, 0, 0, 1, depth]))
    return answered(rng, kind, "5", text, "wrong")


def tower(g: Generator, rng: Random, kind: str) -> Input:
    """Powers of powers and factorials of factorials, in LaTeX and in Python's spelling, in the answer or in both."""
    base = [rng.choice(["9", "10", "2", "(1+9)", "(5!)", "0.5", "e", "x", "99999"]) for _ in range(rng.randint(2, 6))]
    braces = "^{".join(base) + "}" * (len(base) - 1)
    text = rng.choice([
        braces, "**".join(base), "^".join(base), f"{braces}-{braces}", rf"\frac{{{braces}}}{{3}}", rf"{braces} \bmod 7",
        rf"\sqrt{{{braces}}}", rf"\log({braces})", rf"\sin({braces})", "(1+9)^{(10+1)^{10}}",
        f"2^{{{rng.randint(10, 10**6)}}}", f"1e{rng.randint(3, 10**9)}", f"{rng.randint(7, 10**9)}!",
        rng.choice("3579") + "!" * rng.randint(1, 30), f"(({rng.randint(4, 9)}!)!)!",
    ])  # fmt: skip
    gold = rng.choice(["5", "5", "5", r"\sqrt{5}", text, braces])
    return answered(rng, kind, gold, text)


def flood(g: Generator, rng: Random, kind: str) -> Input:
    """A number of very many digits against another."""
    size = rng.choice([100, 999, 1001, 5000, 100_000, 1_000_000])
    digit = rng.choice("123456789")
    number = digit * size
    text = rng.choice([
        number, f"-{number}", f"{number}x", f"0.{number}", f"{number}.{number}", f"{number}/{digit}", f"1e{digit * 9}",
        f"{digit}{',000' * (size // 4)}",
    ])  # fmt: skip
    gold = rng.choice(["5", digit * (size - 1), "0.5", "x"])
    return answered(rng, kind, gold, text, "wrong")


def operation(g: Generator, rng: Random, kind: str) -> Input:
    """Sums, products, integrals, limits, binomials and the like of any size: a restatement is not the value."""
    n = rng.choice([10, 100, 10**6, 10**9, 10**12])
    k = n // 2
    text = rng.choice([
        rf"\sum_{{k=1}}^{{{n}}} k", rf"\sum_{{i=1}}^{{{n}}}\sum_{{j=1}}^{{{n}}} \frac{{1}}{{i+j}}",
        rf"\prod_{{k=1}}^{{{n}}} \frac{{k}}{{k+1}}", rf"\int_0^{{{n}}} x^{{x}} \, dx",
        rf"\int \frac{{\sin(x^{{{n}}})}}{{x}} dx", rf"\frac{{d}}{{dx}} x^{{{n}}}",
        rf"\lim_{{x\to\infty}} \frac{{x^{{{n}}}}}{{e^x}}", rf"\binom{{{n}}}{{{k}}}", rf"\dbinom{{{n}}}{{{k}}}",
        rf"{n} \choose {k}", rf"\gcd({n}, {k})", rf"\operatorname{{lcm}}(1,2,{n})", rf"\zeta({n})", rf"\phi({n}7)",
        rf"{n}7 \bmod 3", rf"\det \begin{{pmatrix}} {n} & 1 \\ 1 & {n} \end{{pmatrix}}",
    ])  # fmt: skip
    return answered(rng, kind, rng.choice(["5050", "1", "-2", r"\frac{1}{3}", text]), text)


def payload(g: Generator, rng: Random, kind: str) -> Input:
    """Python that would make a file if anything evaluated it."""
    command = f"touch {g.target}"
    call = f"__import__('os').system('{command}')"
    code = rng.choice([
        call, f"(lambda: {call})()", f"x={call}", f"1 if {call} else 5", f'exec("{call}")', f'sympify("{call}")',
        f"eval('__import__(\"os\").system(\"{command}\")')", f"open('{g.target}','w').write('x')",
        f"__import__('subprocess').run(['touch','{g.target}'])", f"[].__class__.__base__.__subclasses__() or {call}",
        f"\\operatorname{{{call}}}", f"{{{{{call}}}}}", f"$({command})", f"`{command}`", f"; {command} ;",
        f"\\input{{|{command}}}", f"\\write18{{{command}}}", f"!!python/object/apply:os.system ['{command}']",
    ])  # fmt: skip
    wrapped = rng.choice(["%s", "$%s$", r"\text{%s}", "(%s)", "5+%s", "%s=5", r"\frac{1}{%s}"]).replace("%s", code)
    if rng.random() < 0.15:
        return Input(kind, wrapped, r"\boxed{5}")
    return answered(
        rng, kind, "5", wrapped, "" if wrapped.endswith("=5") else "wrong"
    )  # what equals 5 is answered by 5


def unicode_digits(g: Generator, rng: Random, kind: str) -> Input:
    """Digits of other scripts, of another number than the gold's."""
    n = _digits(rng, 6)
    m = _other_digit(rng, n)
    script = rng.choice(DIGITS)
    text = "".join(script[int(d)] if rng.random() < 0.8 else d for d in m)
    powers = any(c in "⁰¹²³⁴⁵⁶⁷⁸⁹" for c in text)  # 2³ may well be 8
    return answered(rng, kind, n, text, "" if powers else "wrong")


def unbalanced(g: Generator, rng: Random, kind: str) -> Input:
    """Braces, brackets, dollars and commands in any order."""
    text = "".join(rng.choice([*TOKENS, "1", "x", " "]) for _ in range(rng.randint(0, rng.choice([5, 40, 400]))))
    gold = rng.choice(["5", "", "x", "".join(rng.choice(TOKENS) for _ in range(6))])
    return Input(kind, gold, rng.choice(["", r"\boxed{"]) + text + rng.choice(["", "}"]), "", rng.choice(list(WRAPPED)))


def not_text(g: Generator, rng: Random, kind: str) -> Input:
    """What untyped callers hand over: None, numbers, bytes, lists; empty texts."""
    things: Sequence[Any] = [
        None,
        5,
        5.0,
        float("nan"),
        b"\\boxed{5}",
        ["5"],
        {"5": 5},
        True,
        object(),
        "",
        " ",
        "\\boxed{5}",
        "5",
    ]
    gold, response = rng.choice(things), rng.choice(things)
    both = isinstance(gold, str) and isinstance(response, str)
    return Input(kind, gold, response, "" if both else "wrong")


def megabyte(g: Generator, rng: Random, kind: str) -> Input:
    """A megabyte in one box, or of boxes, spaces, words, braces, thinking."""
    size = 1 << 20
    unit = rng.choice([
        "x", "1+", "7,", "=", "%", "^", "_", "$", " ", "\n", "\\", "{}", "()", "٣", "½", "word ", "answer: ", "####", "<think>",
        "<answer>", r"\boxed{", r"\boxed{7}", r"\frac{1}{2}+", r"\text{ m}", "The answer is 7. ",
    ])  # fmt: skip
    text = unit * (size // len(unit))
    form = rng.choice([r"\boxed{%s}", "%s", r"\boxed{7} %s", r"%s\boxed{7}", r"\boxed{%s", "<answer>%s</answer>"])
    return Input(kind, "5", form.replace("%s", text), "wrong", rng.choice(list(WRAPPED)))


def thinking(g: Generator, rng: Random, kind: str) -> Input:
    """The right answer inside thinking that does not close, or cut off: it was not given."""
    n = _digits(rng, 4)
    box = rf"\boxed{{{n}}}"
    text, opened, reason = rng.choice([
        (f"so {box}", False, "length"), (f"</think> {box}", False, "length"), (f"so {box}", True, "stop"),
        (f"{box}</think> it is clear", True, "stop"), (f"<think> {box}", False, "stop"),
        (f"hm </think> ok <think> so {box}", False, "stop"), (f"<think>{box}</think>", False, "stop"),
        (f"<think>{box}</think> \\boxed{{{n}1}}", False, "stop"),
    ])  # fmt: skip
    return Input(kind, n, text, "wrong", "boxed", reason, opened)


Make = Callable[[Generator, Random, str], Input]
KINDS: dict[str, tuple[float, Make]] = {  # name: (weight, what makes one)
    "mutated": (32, mutated), "near miss": (20, near_miss), "control": (5, control),
    "bad characters": (6, bad_characters),
    "nested": (5, nested), "tower": (6, tower), "flood": (3, flood), "operation": (5, operation),
    "payload": (5, payload),
    "unicode digits": (3, unicode_digits), "unbalanced": (5, unbalanced), "not text": (2, not_text),
    "megabyte": (1, megabyte),
    "thinking": (2, thinking),
}  # fmt: skip
