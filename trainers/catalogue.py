"""The catalogue of methods: what is registered, read off the classes and the recipes themselves.

taut methods                                         # one line each
taut methods NAME                                    # one in full: formula, edge cases, settings, recipes
python -m trainers.catalogue --write docs/methods.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from inspect import cleandoc, getmodule
from pathlib import Path
from textwrap import shorten
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rewards.base import REWARDS, Reward
from rewards.conditions import CONDITIONS, Condition
from rewards.errors import TautError
from rewards.registry import Node, Registry, nearest
from rewards.schedule import SCHEDULES, Schedule, Tokens
from rollout.sampling import PLANS, SamplingPlan
from trainers.advantages.base import ADVANTAGES, Advantage
from trainers.config import TrainConfig
from trainers.objectives.base import OBJECTIVES, Objective
from trainers.settings import merge, recipes, resolve, to_mapping
from trainers.settings import recipe as read_recipe

REGISTRIES: tuple[Registry, ...] = (REWARDS, CONDITIONS, SCHEDULES, ADVANTAGES, OBJECTIVES, PLANS)
BASES = (Reward, Condition, Schedule, Advantage, Objective, SamplingPlan)
LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least", "max_length": "at most"}
_TOKENS = get_args(Tokens)[-1]  # what tells tokens from any other number
HIDDEN = ("type", "name")  # of every node, of every reward


@dataclass(frozen=True)
class Entry:
    """One registered piece. needs: optional inputs that it reads itself; scope: how much it must see at once; recipes: the
    shipped ones whose resolved configuration holds it, by default or by name."""

    kind: str
    name: str
    cls: type[Node]
    paper: str
    state: bool
    scope: str
    needs: tuple[str, ...]
    recipes: tuple[str, ...]

    @property
    def path(self) -> str:
        """module:Class."""
        return f"{self.cls.__module__}:{self.cls.__qualname__}"

    @property
    def text(self) -> str:
        """Its documentation: what the module says of the method, formula and edge cases, then what it inherits."""
        module = cleandoc(getmodule(self.cls).__doc__ or "").split("\n\n")[0] if self.paper else ""
        inherited = [
            f"{base.__name__}: {cleandoc(base.__dict__['__doc__'])}"
            for base in self.cls.__mro__[1:]
            if issubclass(base, Node) and base not in (Node, *BASES) and base.__dict__.get("__doc__")
        ]
        return "\n\n".join(part for part in (module, cleandoc(self.cls.__doc__ or ""), *inherited) if part)


def entries(installed: bool = False) -> list[Entry]:
    """Every piece of Taut's own registries in their order; with `installed` also those that other packages add."""
    found = []
    for registry in REGISTRIES:
        names = [*registry.table, *(registry.installed() if installed else ())]
        for name in names:
            try:
                found.append(entry(registry, name))
            except ValueError as error:
                if name in registry.table:
                    raise
                print(f"warning: {error}", file=sys.stderr)  # another package's fault must not hide all the others
    return found


def entry(registry: Registry, name: str) -> Entry:
    """The entry of one name. Raises ValueError for an unknown one."""
    cls = registry.get(name)
    state = bool(getattr(cls, "state_version", 0)) or (
        issubclass(cls, SamplingPlan) and cls.state_dict is not SamplingPlan.state_dict
    )
    scope, needs = "", frozenset[str]()
    if issubclass(cls, Reward):
        scope, needs = cls.own_scope, cls.example().own_needs
    elif issubclass(cls, Condition):
        scope, needs = cls.own_scope, cls.reads
    elif issubclass(cls, Advantage):
        scope, needs = "group" if cls.grouped else "rollout", cls.example().needs
    elif issubclass(cls, Objective):
        scope, needs = "group" if cls.whole_groups else "rollout", frozenset(map(str, cls.example().needs))
    used = tuple(recipe for recipe in recipes() if (registry.kind, name) in _pieces(recipe))
    return Entry(registry.kind, name, cls, cls.paper, state, scope, tuple(sorted(needs)), used)


@cache
def _pieces(recipe: str) -> frozenset[tuple[str, str]]:
    """(kind, name) of every piece in a shipped recipe's resolved configuration."""

    def walk(value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Node):
            yield value.registry.kind, value.type
        if isinstance(value, BaseModel):
            value = [getattr(value, key) for key in type(value).model_fields]
        elif isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list | tuple):
            for item in value:
                yield from walk(item)

    defaults = {key: f.get_default(call_default_factory=True) for key, f in TrainConfig.model_fields.items()}
    pieces = {key: value for key, value in defaults.items() if isinstance(value, dict)}
    values = merge({**pieces, "model": "MODEL", "data": "DATA"}, read_recipe(recipe))
    return frozenset(walk(resolve(TrainConfig, values, f"recipe={recipe}")))


# ---- settings ------------------------------------------------------------------------------------------------------


def settings(cls: type[Node]) -> list[tuple[str, str, str, str]]:
    """(setting, values, default, meaning) of each, the class's own beside those that it inherits."""
    return [
        (key, _values(field), _default(field), field.description or "")
        for key, field in cls.model_fields.items()
        if key not in HIDDEN
    ]


def _values(field: FieldInfo) -> str:
    kind = "tokens or schedule" if _TOKENS in field.metadata else _kind(field.annotation)
    limits = [
        f"{sign} {value:g}"
        for m in field.metadata
        for key, sign in LIMITS.items()
        if (value := getattr(m, key, None)) is not None
    ]
    return ", ".join([kind, *limits])


def _kind(annotation: Any) -> str:
    """A type in the words of a configuration."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return "tokens or schedule" if _TOKENS in parts else _kind(parts[0])
    if origin is Literal:
        return ", ".join(json.dumps(part) if isinstance(part, str) else str(part) for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(part) for part in parts))
    if origin in (list, tuple, Sequence):
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"mapping to {_kind(parts[1])}"
    for base in BASES:
        if isinstance(annotation, type) and issubclass(annotation, base):
            return base.registry.kind
    names = {float: "number", int: "integer", bool: "true or false", str: "text", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return f"required, such as {_yaml(field.examples[0])}" if field.examples else "required"
    return _yaml(field.get_default(call_default_factory=True))


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(to_mapping(value), default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


# ---- on a console --------------------------------------------------------------------------------------------------


def table(found: Sequence[Entry]) -> str:
    """One line a piece, by kind, and the recipes."""
    rows = [("name", "paper", "scope", "state", "reads", "recipes")]
    for e in found:
        rows.append((e.name, e.paper, e.scope, "yes" if e.state else "", _some(e.needs, 1), _some(e.recipes, 2)))
    lines = _columns(rows)
    out, kind = [f"  {lines[0]}"], ""
    for e, line in zip(found, lines[1:], strict=True):
        if e.kind != kind:
            out.append(f"{e.kind}s")
            kind = e.kind
        out.append(f"  {line}")
    heads = [(name, shorten(comment(name), 110, placeholder=" ...")) for name in recipes()]
    return "\n".join([*out, "recipes", *(f"  {line}" for line in _columns(heads))])


def _some(names: Sequence[str], most: int) -> str:
    return " ".join([*names[:most], *([f"+{len(names) - most}"] if len(names) > most else [])])


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def full(name: str) -> str:
    """Everything about `name`: pieces of any kind that bear it, a class by its module:Class, a recipe's file.

    Raises TautError naming the nearest known name.
    """
    parts, known = [], {*recipes()}
    for registry in REGISTRIES:
        added = registry.installed()
        known |= {*registry.table, *added}
        if name in registry.table or name in added:
            parts.append(_in_full(entry(registry, name)))
    if ":" in name and not parts:
        try:
            cls = REWARDS.get(name)  # any registry imports it; the class says which is its own
            parts.append(_in_full(entry(cls.registry, name)))
        except (ValueError, AttributeError) as error:
            raise TautError(f"{name}: {error}") from error
    if name in recipes():
        parts.append(f"recipe {name}\n\n{source(name)}")
    if not parts:
        raise TautError(f"unknown method {name!r}; {nearest(name, known)}")
    return "\n\n".join(parts)


def _in_full(e: Entry) -> str:
    rows = [("setting", "values", "default", "meaning"), *settings(e.cls)]
    parts = [f"{e.kind} {e.name}: {facts(e)}", e.text]
    if len(rows) > 1:
        parts.append("\n".join(_columns(rows)))
    others = [name for name in e.recipes if name != e.name]  # that one follows in full
    if 0 < len(others) <= 5:
        parts.append("\n".join(["recipes", *(f"  {name}: {' '.join(comment(name).split())}" for name in others)]))
    elif others:
        parts.append(f"recipes: {', '.join(e.recipes)}")
    return "\n\n".join(parts)


def facts(e: Entry, link: bool = False) -> str:
    """Paper, scope, state, inputs and class on one line."""
    paper = f"[{e.paper}](https://arxiv.org/abs/{e.paper})" if link else e.paper
    quote = "`" if link else ""
    said = [f"arXiv {paper}"] if e.paper else []
    said += [f"scope {e.scope}"] if e.scope else []
    said += ["has state"] if e.state else []
    said += [f"reads {', '.join(f'{quote}{need}{quote}' for need in e.needs)}"] if e.needs else []
    return ", ".join([*said, f"{quote}{e.path}{quote}"])


def source(name: str) -> str:
    """A shipped recipe's file as it is written."""
    return (Path(str(resources.files("trainers"))) / "recipes" / f"{name}.yaml").read_text(encoding="utf-8").strip()


def comment(name: str) -> str:
    """The comment block at the head of a shipped recipe."""
    lines = source(name).splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").strip() for line in lines[:end])


# ---- as a page -----------------------------------------------------------------------------------------------------


def page() -> str:
    """docs/methods.md: Taut's own pieces by kind, then the recipes."""
    found = entries()
    out = [
        "# Methods",
        "Generated from the classes and recipes by `python -m trainers.catalogue --write docs/methods.md`; a test holds the "
        "two together. `taut methods NAME` prints one entry, those of other installed packages too.",
    ]
    for registry in REGISTRIES:
        mine = [e for e in found if e.kind == registry.kind]
        rows = [
            (f"[{e.name}](#{_anchor(e)})", e.paper, e.scope, "yes" if e.state else "", ", ".join(e.needs)) for e in mine
        ]
        out += [f"## {registry.kind.capitalize()}s", _markdown([("name", "paper", "scope", "state", "reads"), *rows])]
        for e in mine:
            out += [f'<a id="{_anchor(e)}"></a>\n\n### {e.name}', facts(e, link=True), f"```text\n{e.text}\n```"]
            if rows := settings(e.cls):
                cells = [(f"`{key}`", values, _code(default), meaning) for key, values, default, meaning in rows]
                out.append(_markdown([("setting", "values", "default", "meaning"), *cells]))
            if e.recipes:
                out.append("Recipes: " + ", ".join(f"[{name}](#recipe-{name})" for name in e.recipes))
    out.append("## Recipes")
    for name in recipes():
        out.append(f'<a id="recipe-{name}"></a>\n\n### recipe={name}\n\n```yaml\n{source(name)}\n```')
    return "\n\n".join(out) + "\n"


def _code(default: str) -> str:
    words, comma, value = default.partition(", such as ") if default.startswith("required") else ("", "", default)
    return f"{words}{comma}`{value}`" if value else words


def _anchor(e: Entry) -> str:
    return f"{e.kind.replace(' ', '-')}-{e.name}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--write"] and len(arguments) == 2:
        path = Path(arguments[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(), encoding="utf-8")
        print(path)
    elif any(a.startswith("-") for a in arguments):
        print(__doc__)
        return 0 if arguments[0] in ("-h", "--help") else 2
    else:
        print("\n\n\n".join(map(full, arguments)) if arguments else table(entries(installed=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
