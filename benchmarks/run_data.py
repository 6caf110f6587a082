"""A run folder as data: its steps, what does not read, how it stands, its alarms, and rollouts of its first and last step."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.html.rollouts import Texts, problem_texts
from rewards.errors import TautError
from trainers.settings import read_yaml

MATCHES = 3  # problems (or levels) that are shown side by side


@dataclass(frozen=True)
class Alarm:
    """An alarm of one kind: the steps that raised it, ascending, and its words at the last of them."""

    kind: str
    steps: list[int]
    last: str


@dataclass(frozen=True)
class RunData:
    """A run folder that was read. `rows`: the steps, ascending, each with an int `step`; never empty."""

    path: Path
    rows: list[dict[str, Any]]
    state: str  # running | finished | interrupted | failed | killed | unknown
    error: str  # what status.json says of a run that failed
    config: dict[str, Any]  # {} where there is no config.yaml
    versions: dict[str, Any]  # {} where there is no versions.json
    warnings: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """The steps that are in metrics.jsonl, ascending."""
        return [row["step"] for row in self.rows]

    def series(self, key: str) -> list[float | None]:
        """The number under `key` at every step; None where it is absent, not a number or not finite."""
        return [_number(row.get(key)) for row in self.rows]

    def keys(self) -> list[str]:
        """The keys that hold a number at some step, in the order in which they first appear."""
        found = dict.fromkeys(k for row in self.rows for k, v in row.items() if k != "step" and _number(v) is not None)
        return list(found)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        return None
    return float(value)


def read_run(path: Path) -> RunData:
    """Read a run folder, one that is still being written included.

    A line of metrics.jsonl that does not read is left out with a warning; no line that reads, no file or no folder: TautError.
    """
    file = path / "metrics.jsonl"
    if not path.is_dir():
        raise TautError(f"{path}: no such run folder; give the `out` of a `taut train`")
    if not file.is_file():
        raise TautError(
            f"{path}: no metrics.jsonl in this folder, so no run to report; give the `out` of a `taut train`, "
            "or for evaluations and whole sweeps: taut pareto"
        )
    rows, warnings = _read_metrics(file)
    if not rows:
        raise TautError(f"{file}: holds no step yet; wait for the first, or start again: taut train resume={path}")
    status = _json_object(path / "status.json", warnings)
    config = read_yaml(path / "config.yaml") if (path / "config.yaml").is_file() else {}
    state = str(status.get("state", "unknown"))
    if state == "running" and not _held(path / ".lock"):
        state = "killed"
    if state == "running":
        warnings.insert(0, f"This run is still going: what is here is its first {len(rows)} steps.")
    elif state == "killed":
        warnings.insert(0, f"The process of this run died; to go on: taut train resume={path}")
    versions = _json_object(path / "versions.json", warnings)
    return RunData(path, rows, state, str(status.get("error", "")), config, versions, warnings)


def _read_metrics(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    rows: dict[int, dict[str, Any]] = {}
    warnings: list[str] = []
    lines = file.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError:  # UnicodeDecodeError is one
            torn = "torn, as by a process that died or is just writing it" if number == len(lines) else "not JSON"
            warnings.append(f"{file.name}:{number}: {torn}; this line is left out.")
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, int) or isinstance(step, bool):
            warnings.append(f"{file.name}:{number}: not a step's row (no whole number `step`); this line is left out.")
            continue
        if step in rows:
            warnings.append(f"{file.name}:{number}: step {step} stands there twice; the later line counts.")
        rows[step] = row
    return [rows[step] for step in sorted(rows)], warnings


def _json_object(file: Path, warnings: list[str]) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    warnings.append(f"{file.name}: not a JSON object; what it says is left out.")
    return {}


def _held(lock: Path) -> bool:
    """Whether a process holds the run. Asked with a shared lock that is given back at once: nothing is written."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or none that this machine can ask: nobody is seen to hold it
        return False
    return False


def alarms_of(rows: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """The alarms by kind (their words before the colon), in the order in which they were first raised."""
    steps: dict[str, list[int]] = {}
    words: dict[str, str] = {}
    for row in rows:
        for text in row.get("alarms") or []:
            kind = str(text).partition(":")[0]
            steps.setdefault(kind, []).append(row["step"])
            words[kind] = str(text)
    return [Alarm(kind, list(dict.fromkeys(at)), words[kind]) for kind, at in steps.items()]


def spans(steps: Sequence[int]) -> str:
    """Ascending steps in short: `3, 7-9`."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass(frozen=True)
class Match:
    """What two files have in common: a problem, or else a level; rows of each, the shortest first."""

    title: str
    first: list[int]
    last: list[int]


def matches(first: Texts, last: Texts) -> list[Match]:
    """Up to MATCHES pairs, from easy to hard: problems that both files hold, from those answered shortest (in `first`) to those
    answered longest; where there are too few, levels that both hold. Of each the shortest and the longest rollout."""
    mean = {p: float(first.length[first.problem == p].mean()) for p in np.unique(first.problem).tolist()}
    common = sorted(mean.keys() & set(last.problem.tolist()), key=lambda p: (mean[p], p))
    found = [
        Match(f"The same problem, {p}", _extremes(first, first.problem == p), _extremes(last, last.problem == p))
        for p in _spread(common, MATCHES)
    ]
    shown = {str(level) for p in common for level in first.level[first.problem == p]}
    levels = [v for v in np.unique(first.level).tolist() if v in set(last.level.tolist()) and v not in shown]
    levels.sort(key=lambda v: (len(v), v))  # "10" after "9"
    for level in _spread(levels, MATCHES - len(found)):
        title = f"Level {level}, different problems" if level else "Different problems"
        found.append(Match(title, _extremes(first, first.level == level), _extremes(last, last.level == level)))
    return found


def _spread(items: list[str], most: int) -> list[str]:
    """At most so many of the items, evenly, the first and the last among them."""
    if len(items) <= most or most < 1:
        return items[: max(most, 0)]
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int)).tolist()]


def _extremes(texts: Texts, chosen: np.ndarray) -> list[int]:
    rows = np.flatnonzero(chosen)
    order = rows[np.lexsort((rows, texts.length[rows]))].tolist()
    return [order[0], order[-1]] if len(order) > 1 else order


def compare_files(
    first: Path, last: Path, data: Any, columns: Any, warnings: list[str]
) -> list[dict[str, Any]]:  # fmt: skip
    """[{title, first, last}] as the page shows it; `last` is empty where both are one file. data, columns: of the problems.

    A file that does not read is left out with a warning.
    """
    try:
        left, right = Texts(first), Texts(last)
    except TautError as error:
        warnings.append(f"{error}; its rollouts are left out.")
        return []
    if not len(left.problem) or not len(right.problem):
        return []
    found = matches(left, right)
    wanted = {str(t.problem[i]) for m in found for t, rows in ((left, m.first), (right, m.last)) for i in rows}
    said = problem_texts(data, columns, wanted)
    alone = first == last
    return [
        {"title": m.title, "first": left.rows(m.first, said), "last": [] if alone else right.rows(m.last, said)}
        for m in found
    ]


def logged(folder: Path, until: int) -> dict[int, Path]:
    """{step: file} of step-N.parquet in a folder, ascending, without those beyond the last step of the metrics."""
    found = {int(f.stem[5:]): f for f in folder.glob("step-*.parquet") if f.stem[5:].isdigit()}
    return {step: found[step] for step in sorted(found) if step <= until}
