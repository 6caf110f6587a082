"""Inequalities in one variable, joined by "or", as the union of intervals that they mean."""

from __future__ import annotations

import re

_OR = re.compile(r"\s*,?\s*(?:\\text\w*\{\s*or\s*\}|\\(?:lor|vee)(?![A-Za-z])|(?<![A-Za-z\\])or(?![A-Za-z]))\s*")
_RELATION = re.compile(r"\s*(<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z]))\s*")
_VARIABLE = re.compile(r"[a-z]|\\(?:theta|alpha|beta|lambda|mu|phi)")
_MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def as_union(text: str) -> str | None:
    r"""(-\infty,2)\cup(3,\infty) for x<2 or x>3: the intervals of inequalities in one variable; None for anything else."""
    parts = _OR.split(text)
    found = [_interval(part) for part in parts]
    if len(parts) < 2 or None in found or len({pair[0] for pair in found if pair}) != 1:
        return None
    return "\\cup ".join(pair[1] for pair in found if pair)


def _interval(text: str) -> tuple[str, str] | None:
    """(variable, interval) of x<2, 2>x or 1<x<2."""
    sides = _RELATION.split(text.strip())
    signs = [_sign(command) for command in sides[1::2]]
    names = [i for i, side in enumerate(sides[::2]) if _VARIABLE.fullmatch(side)]
    if len(signs) not in (1, 2) or len(names) != 1:
        return None
    if len(signs) == 2:
        if names != [1] or signs[0][0] != signs[1][0]:
            return None
        low, high = (sides[0], signs[0]), (sides[4], signs[1])
        if signs[0][0] == ">":
            low, high = (sides[4], signs[1]), (sides[0], signs[0])
        return sides[2], _brackets(low, high)
    name, value = (sides[0], sides[2]) if names == [0] else (sides[2], sides[0])
    sign = signs[0] if names == [0] else _MIRROR[signs[0]]
    below, above = ("-\\infty", "<"), ("\\infty", "<")
    return name, _brackets(below, (value, sign)) if sign[0] == "<" else _brackets((value, sign), above)


def _brackets(low: tuple[str, str], high: tuple[str, str]) -> str:
    left, right = "[" if low[1].endswith("=") else "(", "]" if high[1].endswith("=") else ")"
    return f"{left}{low[0]},{high[0]}{right}"


def _sign(command: str) -> str:
    name = command.lstrip("\\")
    if name in ("<", "lt", ">", "gt"):
        return "<" if name in ("<", "lt") else ">"
    return "<=" if name.startswith("l") else ">="
