"""Problems of the embedded benchmark: sums and differences whose number and size of operands rise with the level."""

from __future__ import annotations

import hashlib
import random
import re
from typing import Any, Literal, NamedTuple

Split = Literal["train", "heldout"]


class Level(NamedTuple):
    """What a level draws from: operations per problem, operand range (inclusive), highest running total."""

    operations: int
    low: int
    high: int
    top: int


LEVELS: dict[int, Level] = {
    1: Level(1, 1, 9, 99),
    2: Level(2, 1, 19, 99),
    3: Level(2, 10, 99, 199),
    4: Level(3, 10, 199, 999),
    5: Level(3, 50, 499, 999),
    6: Level(4, 50, 499, 999),
}

# A level is taken as exhausted after this many draws in a row without a new problem. Level 1 has 126 problems in all;
# the chance to miss one of them this way is below 1e-6.
PATIENCE = 3000


def operands(problem: str) -> list[int]:
    """The signed operands of a problem: "123+45-67" -> [123, 45, -67]."""
    return [int(piece) for piece in re.findall(r"[+-]?\d+", problem)]


def split_of(problem: str) -> Split:
    """The split a problem belongs to, from a hash of its text: one third is held out, whatever the level or seed."""
    digest = hashlib.sha256(problem.encode("ascii")).digest()
    return "heldout" if digest[0] % 3 == 0 else "train"


def below(rng: random.Random, count: int) -> int:
    """A uniform integer in [0, count). Built on random(), the one method Python keeps stable across versions."""
    return int(rng.random() * count)


def draw(level: int, rng: random.Random) -> str:
    """One random problem of the level, of either split; no running total is negative or above the level's highest."""
    rule = LEVELS[level]
    while True:
        total = rule.low + below(rng, rule.high - rule.low + 1)
        text = str(total)
        for _ in range(rule.operations):
            value = rule.low + below(rng, rule.high - rule.low + 1)
            sign = 1 if below(rng, 2) else -1
            total += sign * value
            text += f"{'+' if sign > 0 else '-'}{value}"
            if not 0 <= total <= rule.top:
                break
        else:
            return text


def row(problem: str, level: int) -> dict[str, Any]:
    """The data row of a problem: id (level and text), problem, answer (text), level."""
    return {
        "id": f"L{level}:{problem}",
        "problem": problem,
        "answer": str(sum(operands(problem))),
        "level": level,
    }


def generate(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` distinct rows of the split, the levels taking turns, the same for the same seed.

    A shorter list is a prefix of a longer one. A level whose distinct problems are used up (level 1 has about 80 in
    train, 40 held out) drops out of the turn. Raises ValueError for an unknown split or a negative count.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected 'train' or 'heldout'")
    if count < 0:
        raise ValueError(f"count={count}: expected 0 or more")
    rng = random.Random(f"{split}:{seed}")
    seen: set[str] = set()
    rows: list[dict[str, Any]] = []
    open_levels = list(LEVELS)
    while len(rows) < count:
        if not open_levels:
            raise ValueError(f"count={count}: the {split} split has only {len(rows)} distinct problems")
        for level in list(open_levels):
            if len(rows) == count:
                break
            for _ in range(PATIENCE):
                problem = draw(level, rng)
                # The text is what must be new: levels overlap (10+12-11 fits levels 2 and 3).
                if problem not in seen and split_of(problem) == split:
                    seen.add(problem)
                    rows.append(row(problem, level))
                    break
            else:
                open_levels.remove(level)
    return rows
