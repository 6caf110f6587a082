"""What stands on a front: configurations gathered from run folders and evaluation files, and where their settings differ."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.statistics import Samples
from rewards.errors import TautError
from rollout.foreign import Foreign
from trainers.run import flat
from trainers.settings import read_yaml

KINDS = {"base": "base model", "plain": "plain GRPO", "shaped": "shaped"}
PLAIN = ("", "grpo", "dr_grpo", "rloo", "batch_std", "raw")
PLAIN_OBJECTIVES = ("", "clipped_token", "gspo")
# Settings that say where and how a run was made, not what was computed.
INCIDENTAL = ("out", "seed", "log.", "checkpoint.", "heldout.", "alarms.", "micro_tokens", "rollout.", "verifier.")
EVALUATION = ("model", "data", "samples", "temperature", "max_tokens", "step")  # of a configuration without config.yaml


@dataclass
class Configuration:
    """What is measured: the evaluations of a configuration's seeds, what their files say of how they were made, the files."""

    name: str
    kind: str
    evaluations: list[Samples] = field(default_factory=list)
    about: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def collect(paths: Sequence[str], foreign: Foreign | None = None) -> list[Configuration]:
    """Configurations from run folders and evaluation files; `NAME=PATH` names one. Paths of one name are its seeds.

    Without a name: the folder's or file's, less a trailing `-s0`. Kind: plain when nothing shapes the run (see `kind_of`),
    base when the name is `base`. A run folder counts by its `eval.parquet`, else by its last held-out evaluation. A file of
    rollouts that others logged is read as `foreign` says: a configuration a model, under the model's name.
    """
    from benchmarks.evaluation_file import read_evaluation
    from benchmarks.foreign_evaluations import foreign_samples, is_foreign

    found: dict[str, Configuration] = {}
    for text in paths:
        given, _, path_text = text.rpartition("=")
        path = Path(path_text)
        if is_foreign(path):
            models = foreign_samples(path, foreign or Foreign())
            if given and len(models) > 1:
                raise TautError(
                    f"{text}: {path.name} has rollouts of {len(models)} models; leave the name out: each has its own"
                )
            for model, (samples, about) in models.items():
                name = given or model or path.name.partition(".")[0]
                c = found.setdefault(name, Configuration(name, kind_of(path, name)))
                c.evaluations.append(samples)
                c.about.append(about)
            continue
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
    read = read_yaml(config)
    return kind_of_pieces(*(_type(read.get(key)) for key in ("reward", "advantage", "objective")))


def kind_of_pieces(reward: str, advantage: str, objective: str) -> str:
    """plain where only correctness is paid, by an advantage and an objective that do not look at length; else shaped."""
    return "plain" if reward == "correct" and advantage in PLAIN and objective in PLAIN_OBJECTIVES else "shaped"


def _type(node: Any) -> str:
    return str(node.get("type", "")) if isinstance(node, dict) else str(node or "")


def _config_file(configuration: Configuration) -> Path | None:
    """The config.yaml of the run that the first evaluation belongs to, None where there is none."""
    if configuration.kind == "base" or not configuration.files:
        return None
    folder = configuration.files[0].parent
    found = [f for f in (folder / "config.yaml", folder.parent / "config.yaml") if f.is_file()]
    return found[0] if found and (folder.name == "heldout" or found[0].parent == folder) else None


def settings_of(configuration: Configuration) -> dict[str, Any]:
    """Dotted settings of the first seed: its run's config.yaml, else what the evaluation says of itself."""
    if file := _config_file(configuration):
        return {k: v for k, v in flat(read_yaml(file)).items() if not k.startswith(INCIDENTAL)}
    about = configuration.about[0] if configuration.about else {}
    return {key: about[key] for key in EVALUATION if about.get(key) is not None}


def differing_settings(configurations: Sequence[Configuration]) -> dict[str, dict[str, str]]:
    """{name: {dotted setting: value}} of the settings that are not the same in all trained configurations.

    A configuration without a config.yaml, such as the base model, is shown with what its evaluation says.
    """
    found = {c.name: settings_of(c) for c in configurations}
    trained = [c.name for c in configurations if "reward.type" in found[c.name] or "reward" in found[c.name]]
    keys = dict.fromkeys(key for name in trained for key in found[name])
    differ = {k for k in keys if len({json.dumps(found[n].get(k), sort_keys=True) for n in trained}) > 1}
    differ |= {key for key in keys if key.startswith("reward.type")}
    return {
        name: {k: _text(v) for k, v in of.items() if name not in trained or k in differ} for name, of in found.items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def method_of(configuration: Configuration) -> str:
    """The reward in short, `sum(correct, linear_length)`, by which points are filtered; the kind where none is known."""
    file = _config_file(configuration)
    reward = (read_yaml(file) if file else {}).get("reward")
    return _shape(reward) or KINDS.get(configuration.kind, configuration.kind)


def _shape(node: Any) -> str:
    """The types of a tree of rewards; a weight is what it weighs."""
    if not isinstance(node, dict):
        return str(node or "")
    inside = [
        t
        for key in ("term", "terms", "then", "otherwise")
        for t in _listed(node.get(key))
        if isinstance(t, (dict, str))
    ]
    parts = [_shape(t) for t in inside]
    kind = str(node.get("type", ""))
    return parts[0] if kind == "weight" and parts else f"{kind}({', '.join(parts)})" if parts else kind


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
