"""Oracle cases and how to judge them (tests/oracles/README.md)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "oracles"


def folder() -> Path:
    """TAUT_ORACLES, by default tests/oracles."""
    return Path(os.environ.get("TAUT_ORACLES") or FOLDER)


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of `name`.json: mappings with inputs, params and expected."""
    return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))["cases"]


def close(got: Any, want: Any, rel: float = 5e-6) -> bool:
    """|got - want| <= rel * max|want| + 1e-9 over the whole (nested) array; where want is None, got must be finite."""
    mine, theirs = _flat(got), _flat(want)
    if want is None:
        return all(map(math.isfinite, mine))
    if len(mine) != len(theirs):
        return False
    bound = rel * max((abs(w) for w in theirs if w is not None), default=0.0) + 1e-9
    return all(math.isfinite(g) and (w is None or abs(g - w) <= bound) for g, w in zip(mine, theirs, strict=True))


def _flat(value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [x for item in value for x in _flat(item)]
    return [None if value is None else float(value)]
