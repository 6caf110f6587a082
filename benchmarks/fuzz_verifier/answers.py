"""Answers and their relatives: labelled cases edited, near misses, other spellings, answers that were not given."""

from __future__ import annotations

from benchmarks.fuzz_verifier.inputs import WRAPPED, Generator, Input, Random, answered, kind

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


@kind(32)
def mutated(g: Generator, rng: Random, name: str) -> Input:
    """A labelled case with its prediction, its gold or both edited: the label no longer holds, either way."""
    case = rng.choice(g.cases)
    gold, response = case["gold"], case["prediction"]
    which = rng.random()
    if which < 0.8:
        response = edited(rng, response)
    if which > 0.7:
        gold = edited(rng, gold)
    return Input(name, gold, response, "", rng.choice(["boxed", "boxed", "boxed", "free"]))


@kind(20)
def near_miss(g: Generator, rng: Random, name: str) -> Input:
    """A digit, sign, order, letter's case or bracket changed: never right."""
    gold, answer = _pair(rng)
    if rng.random() < 0.2:
        answer = f"{{{answer}}}" if "," not in answer else answer
    elif rng.random() < 0.2:
        answer = f" {answer} "
    return answered(rng, name, gold, answer, "wrong")


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


@kind(5)
def control(g: Generator, rng: Random, name: str) -> Input:
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
    return Input(name, gold, rf"so $\boxed{{{answer}}}$.", "right")


@kind(6)
def bad_characters(g: Generator, rng: Random, name: str) -> Input:
    """NULs, lone surrogates, bidirectional marks and the like, anywhere in a case."""
    case = rng.choice(g.cases)
    text = list(case["prediction"])
    for _ in range(rng.randint(1, 20)):
        text.insert(rng.randint(0, len(text)), rng.choice(BAD))
    gold = case["gold"] if rng.random() < 0.8 else case["gold"] + rng.choice(BAD)
    return Input(name, gold, "".join(text), "")


@kind(3)
def unicode_digits(g: Generator, rng: Random, name: str) -> Input:
    """Digits of other scripts, of another number than the gold's."""
    n = _digits(rng, 6)
    m = _other_digit(rng, n)
    script = rng.choice(DIGITS)
    text = "".join(script[int(d)] if rng.random() < 0.8 else d for d in m)
    powers = any(c in "⁰¹²³⁴⁵⁶⁷⁸⁹" for c in text)  # 2³ may well be 8
    return answered(rng, name, n, text, "" if powers else "wrong")


@kind(5)
def unbalanced(g: Generator, rng: Random, name: str) -> Input:
    """Braces, brackets, dollars and commands in any order."""
    text = "".join(rng.choice([*TOKENS, "1", "x", " "]) for _ in range(rng.randint(0, rng.choice([5, 40, 400]))))
    gold = rng.choice(["5", "", "x", "".join(rng.choice(TOKENS) for _ in range(6))])
    return Input(name, gold, rng.choice(["", r"\boxed{"]) + text + rng.choice(["", "}"]), "", rng.choice(list(WRAPPED)))


@kind(2)
def thinking(g: Generator, rng: Random, name: str) -> Input:
    """The right answer inside thinking that does not close, or cut off: it was not given."""
    n = _digits(rng, 4)
    box = rf"\boxed{{{n}}}"
    text, opened, reason = rng.choice([
        (f"so {box}", False, "length"), (f"</think> {box}", False, "length"), (f"so {box}", True, "stop"),
        (f"{box}</think> it is clear", True, "stop"), (f"<think> {box}", False, "stop"),
        (f"hm </think> ok <think> so {box}", False, "stop"), (f"<think>{box}</think>", False, "stop"),
        (f"<think>{box}</think> \\boxed{{{n}1}}", False, "stop"),
    ])  # fmt: skip
    return Input(name, n, text, "wrong", "boxed", reason, opened)
