"""Batches for property tests: every kind of group that training can meet, with every column that a method may read."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rewards.batch import Batch, Verdict
from rewards.registry import Node, Registry

CAP = 400
SEEN: set[str] = set()  # what the strategy has made so far; a test asserts that nothing is missing
KINDS = ("mixed", "all right", "all wrong", "one right", "one wrong", "unknown")
MODES = ("think", "no_think", "long", "short")


@st.composite
def batches(draw: st.DrawFn, unknown: bool = True, origin: str = "train") -> Batch:
    """1 to 6 groups of 1 to 16 rollouts in mixed order. Truncated rollouts are wrong or unknown, as the verifier has it."""
    kinds = KINDS if unknown else KINDS[:-1]
    groups = draw(st.lists(st.tuples(st.integers(1, 16), st.sampled_from(kinds)), min_size=1, max_size=6))
    ties, shuffled = draw(st.booleans()), draw(st.booleans())
    batch = make(groups, np.random.default_rng(draw(st.integers(0, 2**31))), ties, origin)
    _note(batch, groups, ties)
    return batch.take(np.random.default_rng(0).permutation(len(batch))) if shuffled else batch


def make(
    groups: Sequence[tuple[int, str]], rng: np.random.Generator, ties: bool = False, origin: str = "train"
) -> Batch:
    """A batch with every optional column; group g belongs to problem p{g}."""
    sizes = [size for size, _ in groups]
    n, group = sum(sizes), np.repeat(np.arange(len(sizes)), sizes)
    length = rng.choice([0, 7, 50, 51, CAP], n) if ties else rng.integers(0, CAP + 1, n)
    truncated = (length >= CAP) & (rng.random(n) < 0.7)
    verdict = np.concatenate([_verdicts(kind, size, rng) for size, kind in groups])
    verdict = np.where(truncated & (verdict == Verdict.CORRECT), Verdict.WRONG, verdict)
    shared = {name: rng.random(len(sizes))[group] for name in ("budget", "reference_accuracy", "reference_length")}
    place = np.concatenate([np.arange(size) for size in sizes])
    pair = rng.integers(0, 2, len(sizes))[group] * 2  # think with no_think, or long with short
    tags = [frozenset(), frozenset({"think"}), frozenset({"answer"}), frozenset({"think", "answer"})]
    return Batch(
        group=group,
        problem_id=np.array([f"p{g}" for g in group], dtype=object),
        length=length,
        verdict=verdict,
        sample_id=np.arange(n),
        truncated=truncated,
        max_tokens=np.full(n, CAP),
        origin=[origin] * n,
        format_ok=rng.random(n) < 0.8,
        tags=[tags[i] for i in rng.integers(0, 4, n)],
        mode=[MODES[i] for i in pair + place % 2],
        budget=np.floor(1 + shared["budget"] * CAP),
        tokens=[rng.integers(0, 3 if i % 2 else 50, k) for i, k in enumerate(length)],
        reference_accuracy=shared["reference_accuracy"],
        reference_length=np.floor(1 + shared["reference_length"] * CAP),
        mean_log_prob=-3 * rng.random(n),
        entropy_temperature=np.ones(n),
        **{f"{p}entropy_{q}": 3 * rng.random(n) for p in ("", "untempered_") for q in ("all", "think", "answer")},
    )


def _verdicts(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "mixed":
        return rng.integers(0, 2, size)
    if kind == "unknown":
        return rng.integers(-1, 2, size)
    out = np.full(size, int(kind in ("all right", "one wrong")))
    if kind.startswith("one"):
        out[rng.integers(size)] = int(kind == "one right")
    return out


def _note(batch: Batch, groups: Sequence[tuple[int, str]], ties: bool) -> None:
    right, known = batch.group_count(batch.correct), batch.group_count(batch.known)
    SEEN.update(kind for _, kind in groups)
    SEEN.update(f"group of {size}" for size, _ in groups)
    facts = {
        "uneven": len({size for size, _ in groups}) > 1,
        "ties": bool(((batch.group_max(batch.length) == batch.group_min(batch.length)) & (batch.group_size > 1)).any()),
        "unknown verdict": not batch.known.all(),
        "truncated": bool(batch.truncated.any()),
        "empty": bool((batch.length == 0).any()),
        "really all right": bool(((right == known) & (known > 1)).any()),
        "really all wrong": bool(((right == 0) & (known > 1)).any()),
        "nothing known": bool((known == 0).any()),
    }
    SEEN.update(name for name, is_so in facts.items() if is_so)


def joined(a: Batch, b: Batch) -> Batch:
    """Both batches' rollouts in one, a's first."""
    columns = {f.name: np.concatenate([getattr(a, f.name), getattr(b, f.name)]) for f in fields(a)}
    return Batch(**columns)


def variants(registry: Registry) -> Iterator[Any]:
    """(label, node) for every entry: its example, and one for each other value of its Literal and bool settings."""
    for name in registry.table:
        cls = registry.get(name)
        yield name, cls.example()
        for key, field in cls.model_fields.items():
            for value in _choices(field.annotation):
                if key not in ("type", "name") and value != field.default:
                    try:
                        node = cls.example(**{key: value})
                    except ValueError:  # not without another setting; the method's own test has that pair
                        continue
                    yield f"{name}({key}={value})", node


def _choices(annotation: Any) -> list[Any]:
    if annotation is bool:
        return [True, False]
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [c for part in typing.get_args(annotation) for c in _choices(part) if not isinstance(part, type(Node))]
