"""One spelling for a LaTeX answer, and exact comparison of texts and plain numbers."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from rewards.verifier.guard import MAX_DIGITS

_ROOT = re.compile(r"√\s*(?:(\d+|[A-Za-z])|\(([^()]*)\))")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SYMBOLS = {
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "⁄": "/", "π": "\\pi ", "∞": "\\infty ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "°": "^\\circ ", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ",
    "θ": "\\theta ", "√": "\\sqrt ", "∈": "\\in ", "≈": "\\approx ", "′": "'", "’": "'",
    "∕": "/", "€": "", "£": "", "¥": "", "\x00": "",
}  # fmt: skip
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|nolimits|[bB]ig[lr]?)(?![A-Za-z])|(?<!\\)\\[!()\[\]]|\$|(?<=\d)\\,(?=\d)"
)
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\s+")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!) ?(?=\d{3}(?!\d))")
_SPACED_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_PERCENT = re.compile(
    r"\\(?:text|mbox|mathrm)\{\s*(?:percent(?:age)?|per cent|pct)\.?\s*\}|(?<=\d) ?(?:percent(?:age)?|per cent|pct)\b"
)
_APART = re.compile(r"(?=.* )[+-]?\d{1,3}(?: ?, *\d{3})+(?:\.\d+)?")
_INFIX = re.compile(r"\\(?:choose|over|atop)(?![a-z])")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")  # an escape too many; in a matrix it would be a new row
_SIDE = re.compile(r"\^([+-])(?=[^0-9A-Za-z(\\{.])")  # 3^- in a limit
_AREA = re.compile(r"\\operatorname\{a((?:sin|cos|tan)h)\}|\\ar((?:sin|cos|tan)h)(?![A-Za-z])")
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_SINGLE = re.compile(r"([_^])\{([0-9A-Za-z])\}")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")

_ROMAN = re.compile(r"\{\\(?:rm|bf|it|sf|tt) ([A-Za-z ]+)\}")
_FRAME = re.compile(
    r"\\(?:color|textcolor|colorbox)\s*\{[^{}]*\}\s*|\\(?:boldsymbol|bm|pmb|underline|fbox|ensuremath)\s*(?=\{)"
    r"|\\(?:bf|it|rm|large|Large|LARGE|huge|Huge|small|normalsize|bfseries|boldmath|scriptstyle)(?![A-Za-z])\s*"
)
_BLANK = re.compile(r"\\(?:[hv]space\*?|[hv]?phantom)\s*\{[^{}]*\}")
_BREAK = re.compile(r"(?:\s*\\\\|(?<!\\)\\)\s*$")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,50})\.(\d{0,50})\\(?:overline|bar) ?\{ ?(\d{1,50}) ?\}(?! ?[\d_])")
_TIMES = re.compile(  # a function without brackets ends where a product sign follows
    r"(\\(?:sin|cos|tan|cot|sec|csc|ln)(?:\^(?:\d|\{\d\}))?) ?(\d*(?:[A-Za-z]|\\[a-z]+)) ?(\\(?:cdot|times)(?![A-Za-z]))"
)

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:"
    r"(?P<decimal>(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?P<power>[eE][+-]?\d{1,3})?"
    r"|(?P<whole>\d+(?= |\\))? ?\\frac(?:\{(?P<sign2>-?)(?P<num>\d+)\}|(?P<num1>\d))"
    r"(?: ?\{(?P<den>-?\d+)\}| ?(?P<den1>\d))"
    r"|(?:(?P<whole2>\d+) )?(?P<num2>\d+)/(?P<den2>\d+)"
    r")(?:\^\{?\\circ\}?)?"
)
_BRACKETS = [("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\{", r"\}")]
_MAYBE_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)(?:\\(?:times|cdot) ?|\*)10\^(?:\{([+-]?\d{1,3})\}|(\d))")
_LETTER = re.compile(r"\\(math(?:bb|cal|frak|scr)) ([A-Za-z])(?![A-Za-z])")
_LN = re.compile(r"\\log ?_ ?(?:\{ ?e ?\}|e(?![A-Za-z]))")
_TRIG = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?) ?\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]))")


def tidy(text: str) -> str:
    """The text for algebra: ASCII where LaTeX has a spelling; layout commands, dollars and a final full stop gone."""
    if not text.isascii():
        text = _ascii(text)
    text = text.strip()
    if text.isalnum():
        return text
    if "\\" in text:
        text = _plain(text)
    text = _THOUSANDS.sub("", text.replace("\\$", "")).replace("{,}", ",")
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _FRAC.sub(r"\\frac", _AREA.sub(r"\\arc\1\2", _SIDE.sub(r"^{\1}", _LAYOUT.sub("", text))))
    if "p" in text:
        text = _PERCENT.sub(r"\%", text)
    if "\\" in text:
        text = _same_commands(text)
    text = _SPACE.sub(" ", text).strip().removesuffix(".").strip()
    for _ in range(3):
        if text[:1] == "{" and _closes(text) == len(text) - 1 and not _INFIX.search(text):  # braces that only group
            text = text[1:-1].strip()
    return text.replace(" ", "") if " " in text and _SPACED_THOUSANDS.fullmatch(text) else text


def _plain(text: str) -> str:
    """The text without what only changes its looks: colours, fonts, sizes, frames, blanks, a break at the end."""
    text = _BREAK.sub("", _BLANK.sub(" ", _FRAME.sub("", _ROMAN.sub(r"\\text{\1}", text))))
    return text.replace("\\textdegree", "^\\circ").replace("\\degree", "^\\circ")


def _same_commands(text: str) -> str:
    """One command where LaTeX has several for the same thing; degrees in radians where a function is taken of them."""
    if "\\math" in text:
        text = _LETTER.sub(r"\\\1{\2}", text)
    if "\\log" in text:
        text = _LN.sub(r"\\ln ", text)
    if "\\circ" in text and _TRIG.search(text):
        text = _DEGREES.sub(r"{\\frac{\1\\pi}{180}}", text)
    if "\\cdot" in text or "\\times" in text:
        text = _TIMES.sub(r"\1(\2)\3", text)
    if "\\overline" in text or "\\bar" in text:
        text = _REPEATING.sub(_as_fraction, text)
    return text.replace("\\varnothing", "\\emptyset")


def _as_fraction(decimal: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, start, again = decimal.groups()
    bottom = (10 ** len(again) - 1) * 10 ** len(start)
    top = int((whole or "0") + start + again) - int((whole or "0") + start)
    return f"\\frac{{{top}}}{{{bottom}}}"


def _closes(text: str) -> int:
    """Where the brace that the text begins with is closed; -1 where it is not."""
    depth = 0
    for token in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    return -1


def apart(text: str) -> bool:
    """Whether a tidied text has a space after the comma in what would else be thousands: 1, 234 is a list."""
    return _APART.fullmatch(text) is not None


def normalise(text: str) -> str:
    """A tidied text for comparison as text: \\text and the like unwrapped, spaces only between letters and digits."""
    if text.isalnum():
        return text
    text = _LOOSE_SPACE.sub("", " ".join(_TEXT.sub(r" \1 ", text).split()))
    return _SINGLE.sub(r"\1\2", text) if "{" in text else text


def _ascii(text: str) -> str:
    text = _ROOT.sub(lambda root: f"\\sqrt{{{root[1] or root[2]}}}", text)
    text = _SUBSCRIPT.sub(lambda run: "_{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = _SUPERSCRIPT.sub(lambda run: "^{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    out: list[str] = []
    for char in text:
        if char in _SYMBOLS:
            out.append(_SYMBOLS[char])
        elif unicodedata.category(char) == "Cf":  # joiners and marks of direction that nobody sees
            continue
        elif char.isdecimal():
            out.append(str(unicodedata.decimal(char)))
        else:
            plain = unicodedata.normalize("NFKC", char)
            out.append(f" {plain.replace('⁄', '/')}" if "⁄" in plain else plain)
    return "".join(out).encode("utf-8", "replace").decode("utf-8")


def number(text: str) -> Fraction | None:
    """The exact value of a normalised integer, decimal, simple fraction or mixed number; None for anything else."""
    if len(text) > MAX_DIGITS:
        return None
    if text.isdecimal():
        return Fraction(int(text))
    match = _NUMBER.fullmatch(text)
    if not match:
        scientific = _SCIENTIFIC.fullmatch(text) if "10^" in text else None
        return Fraction(scientific[1]) * Fraction(10) ** int(scientific[2] or scientific[3]) if scientific else None
    part = match.groupdict()
    if part["decimal"]:
        value = Fraction(part["decimal"].replace(",", "").rstrip(".") + (part["power"] or ""))
    else:
        den = int(part["den"] or part["den1"] or part["den2"])
        if den == 0:
            return None
        value = Fraction(int(part["num"] or part["num1"] or part["num2"]), den)
        value = (-value if part["sign2"] else value) + int(part["whole"] or part["whole2"] or 0)
    return -value if part["sign"] == "-" else value


def numbers(text: str) -> tuple[str, list[Fraction]] | None:
    """The brackets and the values of a normalised tuple, interval or set of plain numbers; None for anything else.

    None too where a comma may as well part thousands: (1,234,5).
    """
    brackets = next((a + b for a, b in _BRACKETS if text.startswith(a) and text.endswith(b)), None)
    if brackets is None or "," not in text or _MAYBE_THOUSANDS.search(text):
        return None
    size = len(brackets) // 2
    values = [number(part) for part in text[size:-size].split(",")]
    return None if None in values else (brackets, [value for value in values if value is not None])


def compare(gold: str, answer: str) -> tuple[bool, str] | None:
    """(equal, rule) for two normalised texts where text or exact arithmetic decides; None where algebra is needed."""
    if gold == answer:
        return True, "string"
    if (left := number(gold)) is not None:
        right = number(answer)
        return None if right is None else (left == right, "number")
    if gold[:1] not in "([\\" or (ours := numbers(gold)) is None or (theirs := numbers(answer)) is None:
        return None
    if ours[0] != theirs[0]:
        return None
    unordered = ours[0] == r"\{\}"
    return (set(ours[1]) == set(theirs[1]) if unordered else ours[1] == theirs[1]), "numbers"
