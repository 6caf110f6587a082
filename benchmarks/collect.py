"""What stands on a front: configurations gathered from run folders and evaluation files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.statistics import Samples
from rewards.errors import TautError


@dataclass
class Configuration:
    """What is measured: the evaluations of a configuration's seeds, what their files say of how they were made, the files."""

    name: str
    kind: str
    evaluations: list[Samples] = field(default_factory=list)
    about: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def collect(paths: Sequence[str]) -> list[Configuration]:
    """Configurations from run folders and evaluation files; `NAME=PATH` names one. Paths of one name are its seeds.

    Without a name: the folder's or file's, less a trailing `-s0`. Kind: plain when the run's reward is `correct` alone,
    base when the name is `base`. A run folder counts by its `eval.parquet`, else by its last held-out evaluation.
    """
    from benchmarks.evaluate import read_evaluation

    found: dict[str, Configuration] = {}
    for text in paths:
        given, _, path_text = text.rpartition("=")
        path = Path(path_text)
        file = evaluation_of(path)
        name = given or re.sub(r"-s\d+$", "", path.name if path.is_dir() else path.stem)
        samples, about = read_evaluation(file)
        c = found.setdefault(name, Configuration(name, kind_of(path, name)))
        c.evaluations.append(samples)
        c.about.append(about)
        c.files.append(file)
    return list(found.values())


def evaluation_of(path: Path) -> Path:
    """The evaluation file of a run folder (or the file itself). Raises TautError saying what is missing."""
    if path.is_file():
        return path
    if not path.exists():
        raise TautError(f"{path}: no such run folder or evaluation file; check the path")
    if (path / "eval.parquet").is_file():
        return path / "eval.parquet"
    held_out = sorted((path / "heldout").glob("step-*.parquet"))
    if not held_out:
        raise TautError(f"{path}: no evaluation in this folder; run `taut eval model={path / 'model'} ...` first")
    return held_out[-1]


def kind_of(path: Path, name: str) -> str:
    """base | plain | shaped, from the name and the run's resolved config."""
    if name == "base":
        return "base"
    config = path / "config.yaml"
    if not config.is_file():
        return "plain" if name == "plain" else "shaped"
    import yaml

    reward = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("reward")
    kind = reward.get("type") if isinstance(reward, dict) else reward
    return "plain" if kind == "correct" else "shaped"
