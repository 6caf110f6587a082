"""Settings read from YAML files, recipes and dotted overrides, and written again: `load_config` of `taut train`'s arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from rewards.errors import TautError
from rewards.registry import Node, dump, nearest
from trainers.checks import refuse
from trainers.config import PIECES, TrainConfig


def to_mapping(value: Any) -> Any:
    """A config as plain mappings: every setting of plain models, only what differs from the defaults of reward nodes."""
    if isinstance(value, Node):
        return dump(value)
    if isinstance(value, BaseModel):
        return {key: to_mapping(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, dict):
        return {key: to_mapping(v) for key, v in value.items()}
    return [to_mapping(v) for v in value] if isinstance(value, list | tuple) else value


def to_yaml(config: BaseModel) -> str:
    """The resolved config as YAML; `load_config` of it gives an equal config."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises TautError naming the file and the line."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TautError(f"{path}: no such file; give a YAML file or a recipe name") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TautError(f"{path}: not valid YAML ({error}); mend the file") from error
    if not isinstance(value, dict):
        raise TautError(f"{path}: holds {type(value).__name__}, expected `key: value` lines")
    return value


def recipe(name: str) -> dict[str, Any]:
    """A recipe by name (trainers/recipes) or by path."""
    folder = Path(str(resources.files("trainers"))) / "recipes"
    if name.endswith((".yaml", ".yml")):
        return read_yaml(Path(name))
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise TautError(f"recipe={name}: unknown; {nearest(name, recipes())}, or give a .yaml file")
    return read_yaml(path)


def recipes() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(p.stem for p in (Path(str(resources.files("trainers"))) / "recipes").glob("*.yaml"))


def parse_override(argument: str) -> tuple[list[str], Any]:
    """`a.b=1` -> (["a", "b"], 1); the value is read as YAML."""
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise TautError(f"{argument!r}: expected key=value, such as steps=100 or reward.target=4096")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise TautError(f"{argument!r}: the value is not valid YAML ({error})") from error
    return key.split("."), value


def merge(base: Any, over: Any) -> Any:
    """`over` laid on `base`: mappings are merged key by key, but one with another `type` replaces the whole."""
    if (
        not isinstance(base, dict)
        or not isinstance(over, dict)
        or over.get("type", base.get("type")) != base.get("type")
    ):
        return over
    return base | {key: merge(base[key], value) if key in base else value for key, value in over.items()}


def set_dotted(config: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set config[k1][k2]... = value; list elements by number; a name given for a piece stands for {type: name}."""
    at: Any = config
    for i, key in enumerate(keys[:-1]):
        place = ".".join(keys[: i + 1])
        if isinstance(at, list):
            at = at[_index(at, key, place)]
            continue
        if isinstance(at.get(key), str):
            at[key] = {"type": at[key]}
        at = at.setdefault(key, {})
        if not isinstance(at, dict | list):
            raise TautError(f"{place}: is {at!r}, so it has no {keys[i + 1]!r} inside")
    if isinstance(at, list):
        at[_index(at, keys[-1], ".".join(keys))] = value
    else:
        at[keys[-1]] = value


def _index(items: list[Any], key: str, place: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise TautError(f"{place}: {key!r} is no position in a list of {len(items)}; use 0 to {len(items) - 1}")
    return int(key)


def resolve(model: type[BaseModel], values: dict[str, Any], source: str) -> Any:
    """Validate. Raises TautError with one line an error: place, what is wrong, value, nearest right key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            place = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                lines.append(f"{place}: unknown key; {nearest(str(item['loc'][-1]), _keys(model, item['loc'][:-1]))}")
            elif item["type"] == "missing":
                lines.append(f"{place}: missing; give {place}=...")
            else:
                given = "" if item["type"] == "value_error" else f", got {json.dumps(item['input'], default=str)}"
                message = item["msg"].removeprefix("Value error, ") + given
                lines.append(f"{place}: {message}" if place else message)
        raise TautError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _keys(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """The keys of the section at `loc`, where pydantic also puts list positions, keys of mappings and members of unions."""
    kinds: list[Any] = [model]
    for part in loc:
        members = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        inside = [k.model_fields[part].annotation for k in members if part in k.model_fields]
        if not inside:
            inside = [k for k in members if k.__name__ == part] or [a for k in kinds for a in get_args(k)[-1:]]
        kinds = [each for k in inside for each in _members(k)]
    sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    return list(dict.fromkeys(key for section in sections for key in section.model_fields))


def _members(annotation: Any) -> list[Any]:
    """The types of a union, or the type itself, without annotations."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    return [annotation]


def load_config(arguments: Sequence[str], default_recipe: str = "overthinker", *, refused: bool = True) -> TrainConfig:
    """The config of `taut train ARGUMENTS`: class defaults, then the recipe, then the overrides from left to right.

    Without `model=` the embedded benchmark's recipe is the base. `recipe=NAME|FILE` may be given several times: later lie
    on earlier. Raises TautError, also for settings that do not go together (`trainers.checks`; not with refused=False).
    """
    pairs = [parse_override(a) for a in arguments]
    values: dict[str, Any] = deepcopy(PIECES)
    if not any(keys == ["model"] for keys, _ in pairs):
        values = merge(values, recipe(default_recipe))
    for keys, value in pairs:
        if keys == ["recipe"]:
            values = merge(values, recipe(str(value)))
    for keys, value in pairs:
        if keys != ["recipe"]:
            set_dotted(values, keys, value)
    config = resolve(TrainConfig, values, "configuration")
    if refused:
        refuse(config)
    return config
