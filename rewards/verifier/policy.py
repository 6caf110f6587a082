"""What counts as the same answer before any algebra, and what is refused: see docs/verifier.md for each choice."""

from __future__ import annotations

import re

from rewards.verifier.extract import all_boxes
from rewards.verifier.fast import apart, compare, normalise, number, tidy
from rewards.verifier.guard import restates, too_heavy
from rewards.verifier.relations import as_union
from rewards.verifier.units import magnitudes, same_numeral, same_percentage, same_unit, split_unit, takes_back

Pair = tuple[str, str]
_PREAMBLE = re.compile(r"^\\text(?:bf|rm)?\{[^{}]*(?:\bis|\bare|[:=])\s*\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_WHOLE_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mbox)\s*\{[^{}]*\}")
_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)
_OTHER_CHOICE = re.compile(r"(?:or|and|[,;/&])(?:\\?[A-Za-z]*\{)?\(?[A-J](?![A-Za-z])|\([A-J]\)")
_SYMBOLIC_GCD = re.compile(r"\\?(?:operatorname\{)?(gcd|lcm)\}?\(([^()]*[A-Za-z][^()]*)\)")
_CHOICE = re.compile(r"(?:\(([A-J])\)|([A-J])(?:[.:)]|$))")
_LITERALS = re.compile(r"(?:[\d\s.,+*/^!(){}-]|\\(?:cdot|times|div|frac)(?![A-Za-z]))*")
_EQUALS = re.compile(r"(?<![<>!\\:])=")
_COMMAND = re.compile(r"\\(?:begin|end)\{\w*\*?\}|\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_QUANTITY = re.compile(r"^\\text\w*\{\s*([+-]?\d[\d.,/]*) ([A-Za-z][A-Za-z /]*)\}$")
_JOINT = re.compile(r"(?:\s*,)?\s*\\text\w*\{\s*(?:or|and)\s*\}\s*")
_RATIO = re.compile(r"(?<=\d)\s*(?:\\text\w*\{\s*to\s*\}|(?<= )to(?= ))\s*(?=\d)")
_VALUE_OF = re.compile(r"([A-Za-z])\((-?\d+)\)=")
_ASSIGNMENT = re.compile(r"([A-Za-z]) ?= ?([^=]+)")
_DECIMAL_COMMA = re.compile(r"-?(?:0,\d{2,}|\d+,(?:\d{2}|\d{4,}))")
_VARIABLE_TERM = re.compile(r"-?\d+(?:\.\d+)?[A-Za-z]")


def decide(gold: str, answer: str, arithmetic: bool = True) -> tuple[bool, str] | list[Pair]:
    """(right, rule) where text or exact arithmetic decides; else the pairs that algebra must all find equal.

    Unless `arithmetic`, an answer of digits and operators that is not a number by itself is wrong.
    """
    if gold == answer:
        return True, "string"
    left, right = _gold(gold), _unwrapped(_PREAMBLE.sub("", tidy(answer)).strip())
    if ":" in left:
        right = _RATIO.sub(":", right)
    decided = _compare(left, right, normalise(left), normalise(right))
    if "\\approx" in left and "\\approx" in right:  # an approximation that both state is a part of the answer
        left, right = left.replace("\\approx", "="), right.replace("\\approx", "=")
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
    return _unwrapped(tidy(", ".join(all_boxes(gold)) if "\\boxed" in gold else gold))


def _unwrapped(text: str) -> str:
    """The text without a \\text around the whole of a number with its unit; equations that "and" or "or" join, as a list."""
    if "\\text" not in text:
        return text
    text = _QUANTITY.sub(r"\1\\text{ \2}", text)
    return _JOINT.sub(", ", text) if "=" in text and not re.search(r"[<>]|\\[lg]e", text) else text


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
    if _brackets_differ(gold, answer, left, right):
        return False, "brackets"
    if _other_argument(left, right):
        return False, "equation"
    if restates(gold, answer):
        return False, "restatement"
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
    if magnitudes(right) != magnitudes(left):
        return False, "units"
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


def _brackets_differ(gold: str, answer: str, left: str, right: str) -> bool:
    """Whether one is a tuple and the other a bare list, or both stand in brackets of other kinds: [1,2) is not (1,2)."""
    if {_bracket(left), _bracket(right)} == {"(", ","}:
        return "=" not in left
    pairs = [text[:1] + text[-1:] for text in (left, right) if _encloses(text.removeprefix("\\").replace("\\}", "}"))]
    return len(pairs) == 2 and pairs[0] != pairs[1]


def _encloses(text: str) -> bool:
    """Whether one pair of brackets holds the whole of a text, with a comma between its entries."""
    return (
        text[:1] in ("(", "[", "{")
        and text[-1:] in (")", "]", "}")
        and len(_top_level(text)) == 1
        and "," in _top_level(text[1:-1])
    )


def _other_argument(left: str, right: str) -> bool:
    """Whether both say what a function is, but at other numbers: f(0)=2 is not f(1)=2."""
    ours, theirs = _VALUE_OF.match(left), _VALUE_OF.match(right)
    return bool(ours and theirs and ours[1] == theirs[1] and number(ours[2]) != number(theirs[2]))


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
    if _encloses(gold) and "=" in answer:
        answer = _as_tuple(answer) or answer
    gold, answer = (as_union(text) or text if "or" in text or "\\vee" in text else text for text in (gold, answer))
    golds, answers = _parts(gold), _parts(answer)
    if len(golds) == 2 and (normalise(golds[0]) == normalise(answers[0]) or (len(answers) == 1 and _is_name(golds[0]))):
        golds, answers = golds[1:], answers[1:] or answers
    if len(golds) > 1 or len(answers) == 1:
        return [("=".join(golds), "=".join(answers))]
    if _has_name(answers[0]):
        answers = answers[1:]
    return [(golds[0], part) for part in answers]


def _as_tuple(text: str) -> str | None:
    """(1,2) for x=1, y=2: the values of different letters in the order of the alphabet; None for anything else."""
    values: dict[str, str] = {}
    for part in _entries(text):
        match = _ASSIGNMENT.fullmatch(part.strip())
        if not match or match[1] in values:
            return None
        values[match[1]] = match[2]
    return f"({','.join(values[name] for name in sorted(values))})" if len(values) > 1 else None


def _entries(text: str) -> list[str]:
    """The parts between the commas that stand outside all brackets."""
    entries, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            entries.append(text[start:i])
            start = i + 1
    return [*entries, text[start:]]


def _is_name(text: str) -> bool:
    return _has_name(text) and not re.search(r"[+*/<>-]|\\(?:frac|sqrt|cdot|times)", text) and not text[:1].isdigit()
