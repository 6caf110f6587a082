"""One self-contained HTML file from a body, data and scripts: no network, no second file, opens from disk."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rollout.log import write_atomically

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """A cell of a table. value: what it is sorted by (NaN: absent, stays at the end), None: its text. note: a second line."""

    text: str
    value: float | None = None
    note: str = ""
    words: bool = False  # left-aligned


@dataclass(frozen=True)
class Head:
    """A column's head. first: which way its first click sorts, `up` or `down`. hint: what the column holds."""

    text: str
    first: str = "up"
    hint: str = ""
    words: bool = False


def write_page(path: Path, title: str, body: str, data: Any, script: str) -> None:
    """Write the page with `common.js` and `script`; `body` is HTML, `title` text, `data` what `DATA` is in the scripts.

    Raises TautError when the file cannot be written.
    """
    parts = {
        "title": escape(title),
        "style": _asset("style.css"),
        "body": body,
        "data": as_json(data),
        "script": _asset("common.js") + _asset(script),
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def as_json(data: Any) -> str:
    """JSON that may stand inside `<script>`: nothing in it can end the element; what is not finite is null."""
    text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def table(
    identity: str, caption: str, heads: Sequence[Head], rows: Sequence[tuple[str, Sequence[Cell]]], sortable: bool = True
) -> str:  # fmt: skip
    """An HTML table with a caption; rows: (name, cells), the first cell heads its row. A click on a head sorts."""
    head = "".join(_head(h, sortable) for h in heads)
    body = "".join(f'<tr data-name="{escape(name)}">{_cells(cells)}</tr>\n' for name, cells in rows)
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table id="{identity}"{kind}><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _head(head: Head, sortable: bool) -> str:
    text = f'<button type="button">{escape(head.text)}</button>' if sortable else escape(head.text)
    order = f' aria-sort="none" data-first="{head.first}"' if sortable else ""
    hint = f' title="{escape(head.hint)}"' if head.hint else ""
    return f'<th scope="col"{" class=text" if head.words else ""}{order}{hint}>{text}</th>'


def _cells(cells: Sequence[Cell]) -> str:
    out = []
    for i, cell in enumerate(cells):
        text = escape(cell.text) + (f"<small>{escape(cell.note)}</small>" if cell.note else "")
        value = "" if cell.value is None else f' data-value="{"" if math.isnan(cell.value) else f"{cell.value:.10g}"}"'
        style = ' class="text"' if cell.words else ""
        out.append(f'<th scope="row"{value}>{text}</th>' if i == 0 else f"<td{style}{value}>{text}</td>")
    return "".join(out)


def warning_list(warnings: Sequence[str]) -> str:
    """The warnings as a marked list; nothing where there are none."""
    items = "".join(f"<li>{escape(w)}</li>" for w in warnings)
    return f'<div class="warnings" role="note"><ul>{items}</ul></div>' if items else ""
