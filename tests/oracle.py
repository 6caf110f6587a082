"""Oracle cases and how to judge them (tests/oracles/README.md)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.conformance.judge import TOLERANCE, error

FOLDER = Path(__file__).parent / "oracles"


def folder() -> Path:
    """TAUT_ORACLES, by default tests/oracles."""
    return Path(os.environ.get("TAUT_ORACLES") or FOLDER)


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of `name`.json: mappings with inputs, params and expected."""
    return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))["cases"]


def close(got: Any, want: Any, tolerance: float = TOLERANCE) -> bool:
    """Judged as `benchmarks.conformance` judges."""
    return error(got, want, tolerance) <= tolerance
