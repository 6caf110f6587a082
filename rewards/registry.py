"""Names to classes: a module that registers is imported only when its name is used. One line adds a method."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError


def nearest(name: str, known: Any) -> str:
    """A hint that ends an error message: the nearest known name, or all of them."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def describe(error: ValidationError) -> str:
    """A pydantic error on one line: each place, what is wrong there, and the value that was given."""
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(
            str(part) for part in item["loc"] if not (isinstance(part, str) and part.startswith("function-"))
        )
        message = item["msg"].removeprefix("Value error, ")
        given = "" if item["type"] in ("value_error", "missing") else f", got {item['input']!r}"
        lines.append(f"{place}: {message}{given}" if place else f"{message}{given}")
    return "; ".join(lines)


class Node(BaseModel):
    """A piece that is its own configuration: its fields are the YAML keys, `type` names it in its registry."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    type: str = ""
    registry: ClassVar[Registry]
    paper: ClassVar[str] = ""  # arXiv number of where the method is from; "" for general pieces

    @classmethod
    def label(cls) -> str:
        """The registered name, as YAML spells it."""
        return str(cls.model_fields["type"].default)

    @classmethod
    def example(cls, **settings: Any) -> Self:
        """One of these for tests and catalogues: required settings take the first of their field's `examples`.

        Raises ValueError naming the class and the field that has none.
        """
        for key, field in cls.model_fields.items():
            if field.is_required() and key not in settings:
                if not field.examples:
                    raise ValueError(f"{cls.__name__}.{key}: a required setting wants Field(examples=[...])")
                settings[key] = field.examples[0]
        return cls(**settings)


class Registry:
    """The known pieces of one kind. `table` maps a name to "module:Class"; "module:Class" itself also works as a name,
    so a user's own class needs no entry. Installed packages add names by entry points of the group `taut.KIND`
    (`taut.reward`, `taut.sampling_plan`); a name of the table is never theirs. Raises ValueError naming the kind, the
    value and the nearest known name."""

    def __init__(self, kind: str, table: dict[str, str]) -> None:
        self.kind, self.table = kind, table

    def installed(self) -> dict[str, str]:
        """The names that installed packages add, as in `table`; read anew at each call."""
        group = entry_points(group=f"taut.{self.kind.replace(' ', '_')}")
        return {entry.name: f"{entry.module}:{entry.attr}" for entry in group if entry.name not in self.table}

    def get(self, name: str) -> type[Node]:
        """The class that `name` stands for."""
        path = self.table.get(name, name)
        if ":" not in path:
            added = self.installed()
            path = added.get(name, "")
            if not path:
                raise ValueError(f"unknown {self.kind} {name!r}; {nearest(name, [*self.table, *added])}")
        module, _, attribute = path.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{self.kind} {name!r} cannot be imported: {error}; give an installed 'module:Class'"
            ) from error

    def build(self, value: Any) -> Any:
        """A piece from its configuration: a Node as it is, a name, or a mapping with `type`."""
        if isinstance(value, Node):
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, dict) or "type" not in value:
            raise ValueError(
                f"a {self.kind} is a name or a mapping with `type`, got {value!r}; "
                f"{nearest('', [*self.table, *self.installed()])}"
            )
        cls = self.get(str(value["type"]))
        rest = {k: v for k, v in value.items() if k != "type"}
        for key in rest:
            if key not in cls.model_fields:
                raise ValueError(
                    f"{self.kind} {value['type']!r} has no setting {key!r}; {nearest(key, cls.model_fields)}"
                )
        try:
            piece = cls(**rest)
        except ValidationError as error:
            raise ValueError(f"{self.kind} {value['type']!r}: {describe(error)}") from error
        if cls.label() != value["type"]:  # imported by path: remember the path, so that YAML finds it again
            object.__setattr__(piece, "type", value["type"])
        return piece


def dump(node: BaseModel) -> dict[str, Any]:
    """The node as a plain mapping with nothing but what differs from the defaults; `build` gives the same tree back."""
    out: dict[str, Any] = {"type": node.type} if isinstance(node, Node) else {}
    for key, setting in type(node).model_fields.items():
        if key != "type" and (value := getattr(node, key)) != setting.default:
            out[key] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return dump(value)
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
