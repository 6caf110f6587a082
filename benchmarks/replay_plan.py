"""What `taut replay` is asked: logs, settings, and the configurations of a what-if, each resolved before a log is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewards.base import AnyReward
from rewards.errors import TautError
from rewards.registry import nearest
from rewards.verifier.extract import Mode
from trainers.advantages.base import AnyAdvantage
from trainers.settings import merge, parse_override, read_yaml, recipe, resolve, set_dotted

PIECES = ("reward", "advantage", "drop_zero_signal")
AS_LOGGED = "as logged"


class Settings(BaseModel):
    """What `taut replay` takes as key=value, besides recipe=NAME (several), reward, advantage and what is inside them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    configs: str | None = Field(None, description="YAML file, NAME: {recipe, reward, advantage, grid: {key: [values]}}")
    kl: float = Field(0.02, gt=0, description="nats a response, of the arrows and the reweighted estimates")
    least_ess: float = Field(
        0.5, gt=0, le=1, description="effective share of a group below which reweighting is refused"
    )
    resamples: int = Field(2000, ge=2, description="of the bootstrap over problems")
    columns: dict[str, str] = Field({}, description="our column names and the file's: {correct: acc}")
    where: dict[str, Any] = Field({}, description="only the rows with these values: where.model=NAME")
    tokenizer: str | None = Field(None, description="model folder whose tokenizer counts logged text without token ids")
    cap: int | None = Field(None, ge=1, description="token limit of logs that do not tell it")
    extraction: Mode | None = Field(
        None, description="judge others' responses ourselves: where answers stand, such as boxed"
    )
    steps: int | None = Field(None, ge=1, description="rehearse so many training steps on the log, too")
    prompts: int = Field(10, ge=1, description="problems of a rehearsed step")
    samples: int = Field(8, ge=2, description="rollouts of each")
    out: str = Field("replay", description="folder of report.md, replay.csv, arrows.png and, with steps, rehearsed.png")


class Configuration(BaseModel):
    """One what-if: a reward, an advantage, and whether groups without raw signal are dropped."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str
    reward: AnyReward = Field(default_factory=lambda: {"type": "correct"}, validate_default=True)
    advantage: AnyAdvantage = Field(default_factory=lambda: {"type": "grpo"}, validate_default=True)
    drop_zero_signal: bool = False
    objective: str = Field("clipped_token", description="of the recipe; the arrow is of the advantages alone")

    @model_validator(mode="before")
    @classmethod
    def _objective(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("objective"), dict):
            values = values | {"objective": values["objective"].get("type", "clipped_token")}
        return values


def configurations(entries: dict[str, Any], over: Sequence[tuple[list[str], Any]] = ()) -> list[Configuration]:
    """The configurations of a mapping NAME -> {recipe, reward, advantage, grid}, `over` laid on each. Raises TautError naming
    the entry."""
    return [_configuration(" ".join(words), settings, over) for words, settings in expand(entries, "configuration")]


def expand(entries: dict[str, Any], what: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """(words of the name, settings) of each point of a mapping NAME -> {settings, grid: {key: [values]}}, the grids multiplied
    out; `grid` alone as a name is a grid without a name.

    Raises TautError naming the entry, as `what` calls it.
    """
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise TautError(f"{what} {name!r}: is {entry!r}; write {name}: {{reward: ..., advantage: ...}}")
        first, entry = ([], {"grid": entry}) if name == "grid" else ([name], entry)
        grid = entry.get("grid", {})
        if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
            raise TautError(f"{what} {name!r}: grid is {grid!r}; write grid: {{key: [values]}}")
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            words = [f"{key.removeprefix('reward.')}={_word(value)}" for key, value in point.items()]
            yield first + words, {k: v for k, v in entry.items() if k != "grid"} | point


def _word(value: Any) -> str:
    return str(value.get("type", value)) if isinstance(value, dict) else str(value)


def _configuration(name: str, entry: dict[str, Any], over: Sequence[tuple[list[str], Any]]) -> Configuration:
    values: dict[str, Any] = {"reward": {"type": "correct"}, "advantage": {"type": "grpo"}}
    chosen = entry.get("recipe") or []
    for one in [chosen] if isinstance(chosen, str) else chosen:
        found = recipe(one)
        values = merge(values, {key: found[key] for key in (*PIECES, "objective") if key in found})
    for keys, value in [*((k.split("."), v) for k, v in entry.items() if k != "recipe"), *over]:
        if keys[0] not in PIECES:
            raise TautError(
                f"configuration {name!r}: {'.'.join(keys)}: unknown; {nearest(keys[0], [*PIECES, 'recipe', 'grid'])}"
            )
        if len(keys) == 1 and keys[0] != "drop_zero_signal":
            value = {"type": value} if isinstance(value, str) else value
            values = merge(values, {keys[0]: deepcopy(value)})
        else:
            set_dotted(values, keys, deepcopy(value))
    return resolve(Configuration, {"name": name, **values}, f"configuration {name!r}")


@dataclass(frozen=True)
class Asked:
    """A command line: the logs, the settings, and the configurations (none: those of the logs alone)."""

    logs: list[Path]
    settings: Settings
    configurations: list[Configuration]


def parse(arguments: Sequence[str]) -> Asked:
    """`LOG... [key=value ...] [--out DIR]`. Each recipe= is a configuration, reward= and advantage= lie on all of them; without
    recipes and a file of configurations they are one. Raises TautError."""
    rest, logs, pairs = list(arguments), [], []
    while rest:
        argument = rest.pop(0)
        if argument == "--out":
            if not rest:
                raise TautError("--out: a folder is missing; write --out DIR")
            pairs.append((["out"], rest.pop(0)))
        elif argument.startswith("--"):
            raise TautError(f"{argument}: unknown; taut replay LOG... [key=value ...] [--out DIR]")
        elif Path(argument).exists() or "=" not in argument:
            logs.append(Path(argument))
        else:
            pairs.append(parse_override(argument))
    if not logs:
        raise TautError("no LOG; give a run folder, a parquet of `taut eval`, or a file of logged rollouts")
    over = [(keys, value) for keys, value in pairs if keys[0] in PIECES]
    entries: dict[str, Any] = {str(value): {"recipe": str(value)} for keys, value in pairs if keys == ["recipe"]}
    values: dict[str, Any] = {}
    for keys, value in pairs:
        if keys[0] not in (*PIECES, "recipe"):
            set_dotted(values, keys, value)
    settings: Settings = resolve(Settings, values, "taut replay")
    if settings.steps and len(logs) > 1:
        raise TautError(
            f"steps={settings.steps}: a rehearsal takes one log, these are {len(logs)}; join them, or leave steps out"
        )
    if settings.configs:
        entries |= read_yaml(Path(settings.configs))
    elif over and not entries:
        entries = {"what if": {}}
    found = configurations(entries, over)
    names = [c.name for c in found]
    if twice := [name for name in names if names.count(name) > 1 or name == AS_LOGGED]:
        raise TautError(f"configuration {twice[0]!r}: the name is taken; give each configuration a name of its own")
    return Asked(logs, settings, found)
