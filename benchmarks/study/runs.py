"""The gathered runs as arrays, and their names taken apart into method and strength."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from benchmarks.study.gather import ANSWERS, LOGGED, STEPS
from rewards.errors import TautError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """One configuration on P problems. accuracy, tokens (S, P): a problem's mean over its samples in each seed, NaN unknown."""

    name: str
    kind: str
    seeds: tuple[int, ...]
    accuracy: Floats
    tokens: Floats

    @property
    def method(self) -> str:
        """`laser` of `laser-60`."""
        return re.sub(r"-\d+(\.\d+)?$", "", self.name)

    @property
    def strength(self) -> float:
        """60 of `laser-60`; NaN of a name without a number."""
        found = re.search(r"-(\d+(\.\d+)?)$", self.name)
        return float(found[1]) if found else float("nan")


@dataclass(frozen=True, eq=False)
class Study:
    """All configurations on the same problems, in the sweep's order; level (P,) of each problem; steps: {(name, seed): {quantity:
    (T,)}}; about: what made them."""

    problems: NDArray[Any]
    level: NDArray[Any]
    configurations: dict[str, Measured]
    steps: dict[tuple[str, int], dict[str, Floats]]
    alarms: dict[tuple[str, int], list[str]]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> list[Measured]:
        return [c for c in self.configurations.values() if c.kind != "base"]

    @property
    def base(self) -> Measured:
        """The untrained model. Raises TautError where the sweep did not evaluate it."""
        for c in self.configurations.values():
            if c.kind == "base":
                return c
        raise TautError("the gathered runs have no base model; let the sweep evaluate it")

    def of(self, method: str) -> list[Measured]:
        """The strengths of a method, weakest name first as the sweep lists them."""
        return [c for c in self.trained if c.method == method]


def load(folder: Path) -> Study:
    """Read what `gather` wrote. Raises TautError naming the file where it is not there, or runs differ in their problems."""
    for name in (ANSWERS, STEPS):
        if not (folder / name).is_file():
            raise TautError(f"{folder / name}: not there; make it with `python -m benchmarks.study.gather`")
    answers = parquet.read_table(folder / ANSWERS)
    about = json.loads((answers.schema.metadata or {}).get(b"taut", b"{}"))
    names = np.asarray(answers["configuration"].cast("string").to_pylist())
    problems: NDArray[Any] | None = None
    level: NDArray[Any] = np.array([])
    found: dict[str, Measured] = {}
    for name in dict.fromkeys(names.tolist()):
        rows = answers.filter(names == name)
        seed = rows["seed"].to_numpy()
        ids = np.asarray(rows["problem_id"].cast("string").to_pylist())
        correct = np.asarray([np.nan if v is None else float(v) for v in rows["correct"].to_pylist()])
        length = rows["length"].to_numpy().astype(np.float64)
        if problems is None:
            problems, first = np.unique(ids, return_index=True)
            level = np.asarray(rows["level"].cast("string").to_pylist())[first]
        per_seed = []
        for one in np.unique(seed):
            mine = seed == one
            if not np.array_equal(np.unique(ids[mine]), problems):
                raise TautError(
                    f"{folder / ANSWERS}: {name}, seed {one} was not evaluated on the problems of the others"
                )
            per_seed.append(_means(np.searchsorted(problems, ids[mine]), correct[mine], length[mine], len(problems)))
        values = np.array(per_seed)  # (S, 2, P)
        seeds = tuple(int(s) for s in np.unique(seed))
        found[name] = Measured(name, rows["kind"][0].as_py(), seeds, values[:, 0], values[:, 1])
    assert problems is not None
    steps, alarms = _steps(folder / STEPS)
    return Study(problems, level, found, steps, alarms, about)


def trailing(values: Floats, window: int) -> Floats:
    """Means over `window` steps, from the window-th step on."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid").astype(np.float64)


def first_down(values: Floats, window: int, goal: float) -> int | None:
    """The step (from 1) at which the mean of `window` steps is first at `goal` or below; None where it never is."""
    below = np.flatnonzero(trailing(values, window) <= goal)
    return int(below[0]) + window if len(below) else None


def _means(index: NDArray[Any], correct: Floats, length: Floats, problems: int) -> Floats:
    """(2, P): mean correctness and length of each problem's samples with a verdict."""
    known = ~np.isnan(correct)
    count = np.bincount(index[known], minlength=problems).astype(np.float64)
    sums = [np.bincount(index[known], values[known], problems) for values in (correct, length)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(sums) / count


def _steps(file: Path) -> tuple[dict[tuple[str, int], dict[str, Floats]], dict[tuple[str, int], list[str]]]:
    table = parquet.read_table(file)
    names, seeds = table["configuration"].cast("string").to_pylist(), table["seed"].to_pylist()
    columns = {key: table[key].to_numpy(zero_copy_only=False).astype(np.float64) for key in LOGGED}
    told = table["alarms"].to_pylist()
    rows: dict[tuple[str, int], list[int]] = {}
    for i, key in enumerate(zip(names, seeds, strict=True)):
        rows.setdefault(key, []).append(i)
    steps = {key: {name: column[at] for name, column in columns.items()} for key, at in rows.items()}
    return steps, {key: [told[i] for i in at] for key, at in rows.items()}
