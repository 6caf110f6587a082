"""What an input of the fuzzer is, and input number I of a seed: drawn by one function a kind, by the kind's weight.

An input says what its verdict must never be where that follows from how it was made: `wrong` ones have another value than
their gold, `right` ones the same. All others need an answer in time and nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Random = random.Random
Expected = Literal["wrong", "right", ""]
WRAPPED = {"boxed": r"so \boxed{%s}.", "answer_tag": "so <answer>%s</answer>", "hash": "so\n#### %s", "free": "%s"}


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
        name = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        return KINDS[name][1](self, rng, name)


Make = Callable[[Generator, Random, str], Input]
KINDS: dict[str, tuple[float, Make]] = {}  # name: (weight, what makes one)


def kind(weight: float) -> Callable[[Make], Make]:
    """Enters a function under its name; of 100 inputs about `weight` are its."""

    def enter(make: Make) -> Make:
        KINDS[make.__name__.replace("_", " ")] = weight, make
        return make

    return enter


def answered(rng: Random, name: str, gold: str, answer: str, expected: Expected = "") -> Input:
    """The answer in the form of some extraction, most often in a box."""
    mode = rng.choice(["boxed"] * 7 + ["answer_tag", "hash", "free"])
    return Input(name, gold, WRAPPED[mode].replace("%s", answer), expected, mode)
