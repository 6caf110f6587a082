"""Adapters: laser."""

from __future__ import annotations

from benchmarks.conformance.judge import Adapter

ADAPTERS: dict[str, Adapter] = {}
