"""What a verifier must survive: depth, size, work without end, code, and things that are no text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.fuzz_verifier.inputs import WRAPPED, Generator, Input, Random, answered, kind


@kind(5)
def nested(g: Generator, rng: Random, name: str) -> Input:
    """Brackets, fractions, roots, exponents, boxes, ten to fifty thousand deep; some do not close."""
    depth = rng.choice([10, 29, 31, 100, 1000, 20_000, 50_000])
    opening, closing = rng.choice([
        ("(", ")"), ("{", "}"), ("[", "]"), (r"\{", r"\}"), ("|", "|"), ("-", ""), ("x^{", "}"), (r"\sqrt{", "}"),
        (r"\frac{1}{1+", "}"), (r"\left(", r"\right)"), (r"\text{", "}"), (r"\boxed{", "}"), ("<think>", "</think>"),
        (r"\begin{pmatrix}", r"\end{pmatrix}"),
    ])  # fmt: skip
    text = opening * depth + "7" + closing * (depth - rng.choice([0, 0, 0, 1, depth]))
    return answered(rng, name, "5", text, "wrong")


@kind(6)
def tower(g: Generator, rng: Random, name: str) -> Input:
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
    return answered(rng, name, gold, text)


@kind(3)
def flood(g: Generator, rng: Random, name: str) -> Input:
    """A number of very many digits against another."""
    size = rng.choice([100, 999, 1001, 5000, 100_000, 1_000_000])
    digit = rng.choice("123456789")
    number = digit * size
    text = rng.choice([
        number, f"-{number}", f"{number}x", f"0.{number}", f"{number}.{number}", f"{number}/{digit}", f"1e{digit * 9}",
        f"{digit}{',000' * (size // 4)}",
    ])  # fmt: skip
    gold = rng.choice(["5", digit * (size - 1), "0.5", "x"])
    return answered(rng, name, gold, text, "wrong")


@kind(5)
def operation(g: Generator, rng: Random, name: str) -> Input:
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
    return answered(rng, name, rng.choice(["5050", "1", "-2", r"\frac{1}{3}", text]), text)


@kind(5)
def payload(g: Generator, rng: Random, name: str) -> Input:
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
        return Input(name, wrapped, r"\boxed{5}")
    expected = "" if wrapped.endswith("=5") else "wrong"  # what equals 5 is answered by 5
    return answered(rng, name, "5", wrapped, expected)


@kind(2)
def not_text(g: Generator, rng: Random, name: str) -> Input:
    """What untyped callers hand over: None, numbers, bytes, lists; empty texts."""
    things: Sequence[Any] = [
        None, 5, 5.0, float("nan"), b"\\boxed{5}", ["5"], {"5": 5}, True, object(), "", " ", "\\boxed{5}", "5",
    ]  # fmt: skip
    gold, response = rng.choice(things), rng.choice(things)
    both = isinstance(gold, str) and isinstance(response, str)
    return Input(name, gold, response, "" if both else "wrong")


@kind(1)
def megabyte(g: Generator, rng: Random, name: str) -> Input:
    """A megabyte in one box, or of boxes, spaces, words, braces, thinking."""
    size = 1 << 20
    unit = rng.choice([
        "x", "1+", "7,", "=", "%", "^", "_", "$", " ", "\n", "\\", "{}", "()", "٣", "½", "word ", "answer: ", "####", "<think>",
        "<answer>", r"\boxed{", r"\boxed{7}", r"\frac{1}{2}+", r"\text{ m}", "The answer is 7. ",
    ])  # fmt: skip
    text = unit * (size // len(unit))
    form = rng.choice([r"\boxed{%s}", "%s", r"\boxed{7} %s", r"%s\boxed{7}", r"\boxed{%s", "<answer>%s</answer>"])
    return Input(name, "5", form.replace("%s", text), "wrong", rng.choice(list(WRAPPED)))
