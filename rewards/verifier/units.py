"""What stands beside a value: units, magnitudes, percent signs, the base of a numeral, words that take the value back."""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.verifier.fast import number

_GROUP = r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mathrm|mathbf|mathit|mbox)\s*\{[^{}]*\}"
_POWER = r"(?:\s*\^\s*(?:-?\d|\{\s*-?\d\s*\}|\\circ|\{\\circ\}))?"
_LENGTH = r"(?:[kcmdnμ]?m|in|ft|yd|mi)\s*\^\s*(?:[23]|\{\s*[23]\s*\})"
_TAIL = re.compile(
    rf"\s*(?P<unit>{_GROUP}{_POWER}(?:(?:[\s/~]|\\cdot|\\times)*{_GROUP}{_POWER})*|\\frac\{{{_GROUP}\}}\{{{_GROUP}{_POWER}\}}"
    rf"|(?<=[\d}}. )])(?:{_LENGTH}|(?<= )[A-Za-z]{{3,}}(?: [A-Za-z]+)*))$"
)
_NAME = re.compile(r"\\(?:text\w*|math\w+|mbox)\s*\{([^{}]*)\}")
_MAGNITUDE = re.compile(
    r"\b(dozen|hundred|thousand|million|billion|trillion|hal(?:f|ve)|third|fifth|sixth|eighth|(?:ten|hundred|thousand)th)(?=s?\b)"
    r"|(?:^|[\d{)}])\s*(squared|cubed)\b",
    re.IGNORECASE,
)
_MAGNITUDE_WORD = re.compile(rf"{_MAGNITUDE.pattern.partition('|(?:^')[0]}s?", re.IGNORECASE)
_EMPTY_GROUP = re.compile(r"\\(?:text\w*|mathrm|mbox)\s*\{\s*\}")
_CENTS = re.compile(r"\b(?:cents?|euros?|pounds?|yen|yuan|rupees?)\b|¢|€|£|¥", re.IGNORECASE)
_OR_AND = re.compile(r"\b(?:or|and)\b", re.IGNORECASE)
_RELATION = re.compile(r"[<>]|\\[lg](?:e|t)")
_TAKES_BACK = re.compile(
    r"(?:n't|\b(?:not|never|wrong|incorrect|false|except|without|between|about|approximately|roughly|nearly|almost|around"
    r"|maybe|perhaps|possibly|unless|if|at (?:least|most)|(?:up to|no)|(?:less|more|fewer|greater|other|rather) than"
    r"|or (?:more|less|fewer)))\b",
    re.IGNORECASE,
)
_CONJUNCTION = re.compile(r"\b(?:or|and|plus|minus|times)\b", re.IGNORECASE)
_WORDS = re.compile(rf"{_GROUP}|(?<![A-Za-z\\])[A-Za-z]{{2,}}(?:['’ ][A-Za-z]+)*")
_NUMERAL = r"(-?\d[0-9A-F]*(?:\.[0-9A-F]+)?)"
_BASED = re.compile(rf"{_NUMERAL}_(?:\{{\s*(\d+|[a-z]{{3,}})\s*\}}|(\d{{1,2}}))")
_TIME = re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE)
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3"}
_SYMBOLS = {
    name: symbol
    for symbol, names in {
        "m": "meter metre", "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre",
        "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile", "g": "gram gm", "kg": "kilogram", "mg": "milligram",
        "lb": "pound", "oz": "ounce", "s": "second sec", "min": "minute", "h": "hour hr", "l": "liter litre",
        "ml": "milliliter millilitre", "n": "newton", "j": "joule", "w": "watt", "v": "volt", "a": "ampere amp", "k": "kelvin",
        "hz": "hertz", "pa": "pascal", "deg": "degree", "rad": "radian", "mol": "mole", "person": "people", "dollar": "usd",
        "cent": "¢", "euro": "eur €",
    }.items()
    for name in names.split()
}  # fmt: skip
_MEASURES = set(_SYMBOLS.values())
_FILLERS = {"in", "a", "an", "of", "the", "s"}  # no measures amid words: people in line
_OVER = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SPEEDS = {"mph": "mi", "kph": "km", "kmh": "km"}
_SPEED = re.compile(r"\b(?:mph|kph|kmh)\b", re.IGNORECASE)
_PERCENT = re.compile(r"\\?%$")


def split_unit(text: str) -> tuple[str, str]:
    """(the text before the unit at its end, the unit or ""): words, \\text, a power of a length."""
    tail = _TAIL.search(text)
    if not tail or not tail.start() or _CONJUNCTION.search(tail["unit"]) or _MAGNITUDE.search(tail["unit"]):
        return text, ""
    unit = re.sub(r"[~\s]+|\\(?:cdot|times)", " ", _NAME.sub(r" \1", tail["unit"])).strip(" .")
    return (text[: tail.start()].rstrip(" ~"), unit) if unit else (text, "")


def same_unit(left: str, right: str) -> bool:
    """Whether two units can be one: one missing, equal in any spelling (cm, centimeters), or one part of the other where that
    leaves no measure over: apples and red apples, not m and m/s."""
    words, others = _words(left), _words(right)
    measures = [{word for word in found if word.partition("^")[0] in _MEASURES} for found in (words, others)]
    return measures[0] == measures[1] if all(measures) else words <= others or others <= words


def _words(unit: str) -> set[str]:
    """The words of a unit as symbols, with their powers: square centimeters are {"cm^2"}, m/s is {"m", "s^-1"}; bare "units"
    say nothing."""
    unit = _SPEED.sub(lambda speed: f"{_SPEEDS[speed[0].casefold()]}/h", _TIME.sub(r"\1m", _OVER.sub(r"\1/\2", unit)))
    power, found, below, joined = "", set(), False, True
    for word, exponent in re.findall(
        r"([^\W\d_]+|[/°])\.?(?:\^(-?\d|\\circ))?", re.sub(r"[{}\s]+(?=\^)|[{}]", "", unit)
    ):
        word = word.casefold()
        if word in ("/", "per"):
            below = joined = True
            continue
        if word in _POWERS and (joined or not found):
            power = _POWERS[word]
            continue
        if word in _FILLERS and not joined and not exponent:
            continue
        if word not in _MEASURES:
            word = _SYMBOLS.get(word) or _SYMBOLS.get(word.removesuffix("s")) or word.removesuffix("s")
        if word != "unit" or power or exponent:
            power = (exponent and f"^{exponent}") or power
            if below:
                power = "^-" + (power.removeprefix("^") or "1")
            found.add(word + ("" if power == "^1" else power).replace("--", ""))
        power, below, joined = "", False, False
    return found


def magnitudes(text: str) -> set[str]:
    """The "million" and the like that stand beside a value: not a unit, but a part of it."""
    return {(word or power).casefold() for word, power in _MAGNITUDE.findall(text)}


def without_magnitudes(text: str) -> str:
    """The text without those words, for two texts that have the same."""
    return _EMPTY_GROUP.sub("", _MAGNITUDE_WORD.sub("", text)).strip()


def other_currency(gold: str, answer: str) -> bool:
    """Whether one is in dollars, by its sign, and the other in cents or another money."""
    return any(
        "\\$" in text and "\\$" not in other and _CENTS.search(other)
        for text, other in ((gold, answer), (answer, gold))
    )


def takes_back(gold: str, answer: str) -> bool:
    """Whether words of the answer deny or loosen its value ("not 5", "5 or more", "about 5") and the gold has none such."""
    said, asked = (" ".join(_WORDS.findall(text)) for text in (answer, gold))
    if _TAKES_BACK.search(said) and not _TAKES_BACK.search(asked):
        return True
    return bool(_OR_AND.search(said)) and not _OR_AND.search(asked) and not _RELATION.search(answer)


def same_numeral(gold: str, answer: str) -> bool | None:
    """Whether two numerals, of which one at least names its base (11_2), are the same; None where none does.

    The base is notation, as a unit is: where one side leaves it out, the digits decide; where both give it, it counts.
    """
    left, right = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if left and right:
        return left[1] == right[1] and (left[2] or left[3]) == (right[2] or right[3])
    if not left and not right:
        return None
    based, plain = (left, answer) if left else (right, gold)
    return based[1] == plain if based and re.fullmatch(_NUMERAL, plain) else None


def same_percentage(gold: str, answer: str) -> bool | None:
    """Whether two plain numbers, of which one at least has a percent sign, are the same; None where that cannot be said.

    Where one side leaves the sign out, 50 % is 50 and 0.5.
    """
    if not (_PERCENT.search(gold) or _PERCENT.search(answer)):
        return None
    left, right = number(_PERCENT.sub("", gold)), number(_PERCENT.sub("", answer))
    if left is None or right is None:
        return None
    if _PERCENT.search(gold) and _PERCENT.search(answer):
        return left == right
    percent, plain = (left, right) if _PERCENT.search(gold) else (right, left)
    return plain in (percent, percent / Fraction(100))
