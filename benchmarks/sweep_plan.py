"""What a sweep file says: its runs, each resolved and checked before the first is started."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmarks.collect import kind_of_pieces
from benchmarks.evaluate import EvaluateConfig
from benchmarks.ray_jobs import RayConfig, Resources
from benchmarks.replay_plan import expand
from benchmarks.sweep_predict import First
from benchmarks.sweep_space import SearchConfig
from rewards.errors import TautError
from rewards.registry import nearest
from trainers.config import TrainConfig
from trainers.settings import load_config, merge, parse_override, read_yaml, resolve, set_dotted

Overrides = Sequence[tuple[list[str], Any]]
SWEEPS = Path(__file__).parent / "sweeps"


class SweepConfig(BaseModel):
    """A sweep file; see the module."""

    model_config = ConfigDict(extra="forbid")

    title: str = "Accuracy against tokens"
    base: dict[str, Any] = {}
    runs: dict[str, dict[str, Any]] = {}
    search: SearchConfig | None = None
    first: First | None = None
    seeds: list[int] = Field([0], min_length=1)
    evaluation: dict[str, Any] | None = None
    labels: dict[str, str] = {}
    resources: Resources = Field(default_factory=Resources)
    ray: RayConfig = Field(default_factory=RayConfig)
    reference: str | None = Field(None, description="run that differences are taken to; None: the plain one")

    @field_validator("runs")
    @classmethod
    def _expanded(cls, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """One entry a run, grids multiplied out: `laser-target=40`."""
        expanded: dict[str, dict[str, Any]] = {}
        try:
            points = list(expand(runs, "run"))
        except TautError as error:
            raise ValueError(str(error)) from None
        for words, settings in points:
            name = "-".join(word if word in runs else re.sub(r"[^\w.+=-]+", "_", word) for word in words)
            if name in expanded:
                raise ValueError(f"run {name!r}: stands there twice; give each run a name of its own")
            if not re.fullmatch(r"[\w.+=-]+", name) or re.search(r"-s\d+$|^(base(-\d+)?|trial-\d+|replaced)$", name):
                raise ValueError(
                    f"run {name!r}: a name is letters, digits and _.+=-, not `base`, and not ending in -s0"
                )
            expanded[name] = settings
        return expanded

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"{seeds}: give each seed once, 0 or more")
        return seeds

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.runs and self.search is None:
            raise ValueError("runs: missing; give runs, or a search")
        if self.search is not None and self.evaluation is None:
            raise ValueError("search: is told accuracy and tokens of each trial; give an evaluation")
        return self


@dataclass(frozen=True)
class Planned:
    """One run: where it goes and what it is. `arguments` and `evaluation` are those of `taut train` and `taut eval`."""

    name: str
    configuration: str
    kind: str
    folder: Path
    config: TrainConfig | None  # None: the base model, which is evaluated only
    requested: dict[str, Any]
    evaluation: EvaluateConfig | None


def load_sweep(file: str, overrides: Sequence[str] = ()) -> tuple[SweepConfig, list[tuple[list[str], Any]]]:
    """(the sweep file, the overrides that concern every run). `seeds=`, `evaluation.`, `resources.` and such change the sweep."""
    path = Path(file) if file.endswith((".yaml", ".yml")) else SWEEPS / f"{file}.yaml"
    if not path.exists() and path.parent == SWEEPS:
        raise TautError(
            f"sweep {file!r}: unknown; {nearest(file, [p.stem for p in SWEEPS.glob('*.yaml')])}, or give a .yaml file"
        )
    values = read_yaml(path)
    common = []
    for keys, value in map(parse_override, overrides):
        if keys[0] in SweepConfig.model_fields and keys[0] not in ("runs", "base"):
            set_dotted(values, keys, value)
        else:
            common.append((keys, value))
    return resolve(SweepConfig, values, str(path)), common


def plan(sweep: SweepConfig, out: Path, overrides: Overrides = (), only: Sequence[str] = ()) -> list[Planned]:
    """Every run of the sweep, checked: a misspelt key in any of them is found before the first is started."""
    for name in only:
        if name not in ("base", *sweep.runs):
            raise TautError(f"--runs {name}: no such run; {nearest(name, ['base', *sweep.runs])}")
    planned: list[Planned] = []
    bases: dict[str, Planned] = {}
    for seed in sweep.seeds:
        for name, settings in sweep.runs.items():
            requested: dict[str, Any] = {}
            for layer in (sweep.base, settings, {".".join(k): v for k, v in overrides}, {"seed": seed}):
                requested = _lay(requested, layer)
            folder = out / f"{name}-s{seed}"
            config = _resolved(requested, folder, name)
            evaluation = _evaluation(sweep, config, str(folder / "model"), folder)
            if evaluation is not None and config.model not in bases:
                base = "base" if not bases else f"base-{len(bases) + 1}"
                measured = _evaluation(sweep, config, config.model, out / base)
                bases[config.model] = Planned(base, base, "base", out / base, None, {}, measured)
            if not only or name in only:
                kind = kind_of_pieces(config.reward.type, config.advantage.type, config.objective.type)
                planned.append(Planned(folder.name, name, kind, folder, config, requested, evaluation))
    return [*(b for b in bases.values() if not only or "base" in only), *planned]


def _lay(below: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` (keys nested or dotted) laid on `below`."""
    for key, value in settings.items():
        if "." in key:
            set_dotted(below, key.split("."), deepcopy(value))
        else:
            below = merge(below, {key: deepcopy(value)})
    return below


def _resolved(requested: dict[str, Any], folder: Path, name: str) -> TrainConfig:
    with tempfile.TemporaryDirectory() as temporary:
        try:
            return load_config(train_arguments(requested, Path(temporary) / "sweep.yaml", folder))
        except TautError as error:
            raise TautError(f"run {name!r}: {error}") from None


def train_arguments(requested: dict[str, Any], file: Path, folder: Path) -> list[str]:
    """Arguments of `taut train`; writes the settings to `file`, which they name."""
    settings = {k: v for k, v in requested.items() if k not in ("recipe", "model")}
    file.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    model = [f"model={requested['model']}"] if "model" in requested else []
    recipes = requested.get("recipe") or []
    recipes = [recipes] if isinstance(recipes, str) else recipes
    return [*model, *(f"recipe={r}" for r in recipes), f"recipe={file}", f"out={folder}"]


def _evaluation(sweep: SweepConfig, config: TrainConfig, model: str, folder: Path) -> EvaluateConfig | None:
    """How a model of this run is evaluated: as it was trained, but for what the sweep's `evaluation` says."""
    if sweep.evaluation is None:
        return None
    cap = config.sampling.max_tokens
    values = {
        "data": config.heldout.data,
        "max_tokens": cap if isinstance(cap, int) else None,
        "temperature": config.rollout.temperature,
        "prompt": config.prompt.model_dump(),
        "rollout": config.rollout.model_dump(),
        "verifier": config.verifier.model_dump(),
        "columns": config.columns if config.heldout.columns is None else config.heldout.columns,
    }
    values = _lay({k: v for k, v in values.items() if v is not None}, sweep.evaluation)
    return resolve(EvaluateConfig, {**values, "model": model, "out": str(folder / "eval.parquet")}, "evaluation")
