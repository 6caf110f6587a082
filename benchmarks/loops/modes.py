"""Plain loops: modes. LOOPS maps a name to (the method as configured, its loop)."""

from __future__ import annotations

from typing import Any

from benchmarks.loops import Loop

LOOPS: dict[str, tuple[Any, Loop]] = {}
