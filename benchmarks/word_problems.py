"""GSM8K-like problems of one step, for language models that are too small for GSM8K.

python -m benchmarks.word_problems --out DIR [--train N] [--heldout N] [--seed S]

Writes DIR/train.jsonl and DIR/heldout.jsonl: people, things and numbers from 2 to 9, an operation each. A question is in one of the
two files, decided by a hash of its text; the operations come in turn, so every file has as many of each. The same on every machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.overthinker.problems import PATIENCE, Split, below, split_of
from rewards.errors import TautError

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Ivy", "Jack", "Kate", "Leo", "Mia", "Noah", "Olga", "Paul",
)  # fmt: skip
THINGS = ("apples", "books", "coins", "stickers", "pens", "cards", "shells", "marbles", "eggs", "stamps")
TEXTS = {
    "add": (
        "{a} has {x} {things}. {b} gives {a} {y} more. How many {things} does {a} have now?",
        "{a} has {x} {things} and {b} has {y}. How many {things} do they have together?",
    ),
    "take": (
        "{a} has {x} {things} and gives {y} of them to {b}. How many {things} does {a} have left?",
        "{a} has {x} {things}. {b} has {y} fewer. How many {things} does {b} have?",
    ),
    "times": (
        "{a} has {x} boxes with {y} {things} in each box. How many {things} does {a} have?",
        "{a} buys {x} {things} a day for {y} days. How many {things} does {a} buy?",
    ),
    "share": (
        "{a} and some friends share {x} {things} equally. They are {y} people. How many {things} does each get?",
        "{a} puts {x} {things} into bags of {y}. How many bags does {a} fill?",
    ),
}


def draw(operation: str, rng: random.Random) -> tuple[str, int]:
    """One question of the operation and its answer."""
    first, second = below(rng, len(NAMES)), below(rng, len(NAMES) - 1)
    a, b = NAMES[first], NAMES[second + (second >= first)]
    things, text = THINGS[below(rng, len(THINGS))], TEXTS[operation][below(rng, 2)]
    x, y = 2 + below(rng, 8), 2 + below(rng, 8)
    x, answer = {"add": (x, x + y), "take": (x + y, x), "times": (x, x * y), "share": (x * y, x)}[operation]
    return text.format(a=a, b=b, things=things, x=x, y=y), answer


def make(count: int, split: Split, seed: int = 0) -> list[dict[str, str]]:
    """`count` problems (id, problem, answer, level: the operation) of the split. Raises TautError where so many do not exist."""
    rng = random.Random(f"{split} {seed}")
    rows: dict[str, dict[str, str]] = {}
    idle = 0
    while len(rows) < count:
        operation = list(TEXTS)[len(rows) % len(TEXTS)]
        text, answer = draw(operation, rng)
        idle += 1
        if idle > PATIENCE:
            raise TautError(f"{split}: {count} different problems do not exist; ask for {len(rows)} at most")
        if text in rows or split_of(text) != split:
            continue
        rows[text] = {"id": f"{split}/{len(rows)}", "problem": text, "answer": str(answer), "level": operation}
        idle = 0
    return list(rows.values())


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.word_problems", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--heldout", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    try:
        splits = {
            "train": make(given.train, "train", given.seed),
            "heldout": make(given.heldout, "heldout", given.seed),
        }
    except TautError as error:
        print(f"benchmarks.word_problems: {error}", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (given.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    print(f"{given.out}: {len(splits['train'])} problems to train on, {len(splits['heldout'])} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
