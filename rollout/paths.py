"""Where a model or a data set lies: a path, or `package:path` for what an installed package carries."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from rewards.errors import TautError


def locate(name: str | Path) -> Path:
    """The path that a config value stands for. `benchmarks:overthinker/checkpoint` lies inside the installed package
    `benchmarks`, wherever that is, so a config that names it can be moved. Raises TautError for an unknown package."""
    package, colon, inside = str(name).partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z_]\w+", package) or Path(name).exists():
        return Path(name)
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TautError(f"{name}: no installed package {package!r}; give a path, or package:path")
    return Path(spec.submodule_search_locations[0]) / inside
