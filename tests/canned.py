"""Hand-made responses to the embedded problems for the tests of other trainers, and the same as a batch of Taut's own."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewards.batch import Batch, Verdict

HOME = Path(__file__).parent.parent / "benchmarks" / "overthinker"
CAP = 40  # tokens


def problems(count: int) -> list[dict[str, Any]]:
    """The first problems of the embedded benchmark, with every column that a recipe may want of the data."""
    more = {"budget": 20, "reference_accuracy": 0.5, "reference_length": 30.0}
    lines = (HOME / "data" / "train.jsonl").read_text().splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    return [r | more | {"level": str(r["level"]), "prompt": [{"role": "user", "content": r["problem"]}]} for r in rows]


@dataclass(frozen=True)
class Canned:
    """Responses of one step: token ids, verdicts and whether they were cut."""

    ids: list[list[int]]
    verdict: list[Verdict]
    truncated: list[bool]

    def batch(self, rows: Sequence[dict[str, Any]], size: int, step: int, **columns: Any) -> Batch:
        """As Taut's trainer would have them; `size` rows a group."""
        n = len(rows)
        usual = {
            "problem_id": [r.get("id", "?") for r in rows], "sample_id": step * n + np.arange(n), "truncated": self.truncated,
            "max_tokens": np.full(n, CAP), "format_ok": ~np.array(self.truncated), "tags": [frozenset()] * n,
            "mode": [None] * n, "tokens": [np.array(t) for t in self.ids], "budget": [r["budget"] for r in rows],
            "reference_accuracy": [r["reference_accuracy"] for r in rows],
            "reference_length": [r["reference_length"] for r in rows],
        }  # fmt: skip
        return Batch(np.arange(n) // size, [len(t) for t in self.ids], self.verdict, **(usual | columns))


def respond(rows: Sequence[dict[str, Any]], tokenizer: Any, draw: random.Random) -> Canned:
    """Right, wrong and cut responses of many lengths."""
    ids, verdict, truncated = [], [], []
    for i, row in enumerate(rows):
        kind = draw.choice(["right", "right", "wrong", "cut"]) if i % 3 else "right"
        text = "1" * draw.randrange(0, 12) + f"\\boxed{{{row['answer'] if kind == 'right' else '12345'}}}"
        tokens = tokenizer.encode(text if kind != "cut" else "1" * 200, add_special_tokens=False)[:CAP]
        assert len(tokens) == CAP if kind == "cut" else len(tokens) < CAP
        ids.append(tokens if kind == "cut" else [*tokens, tokenizer.eos_token_id])
        verdict.append(Verdict.CORRECT if kind == "right" else Verdict.WRONG)
        truncated.append(kind == "cut")
    return Canned(ids, verdict, truncated)
