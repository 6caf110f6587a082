"""Aligned tables in Markdown: readable on a console, and a table in a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MARK = "<!-- measured -->"


def table(rows: Sequence[Sequence[str]]) -> str:
    """The rows, the first of them the head, as an aligned Markdown table; cells after the first are right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(rows[0]), rule, *[line(row) for row in rows[1:]]])


def publish(text: str, out: Path | None) -> None:
    """Print what was measured and, where a file is named, put it there, below the text that it has before MARK."""
    print(text)
    if out is not None:
        head = out.read_text(encoding="utf-8").partition(MARK)[0] if out.exists() else ""
        out.write_text(f"{head}{MARK}\n\n{text}", encoding="utf-8")
