"""Rows of data files: JSON lines (plain or gzipped) and parquet, each with its place, so that an error can name its line."""

from __future__ import annotations

import difflib
import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewards.errors import TautError

FORMATS = (".jsonl", ".jsonl.gz", ".parquet")


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every row; the format is taken from the file's name.

    Raises TautError (file:line, value, remedy) for a file that is missing, of another format or not UTF-8, and for a line
    that is not a JSON object.
    """
    if not path.exists():
        raise TautError(missing(path))
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.name.endswith(FORMATS))
        hint = f"it holds {', '.join(inside[:8])}: name one of them" if inside else "name a file"
        raise TautError(f"{path}: this is a folder, not a file of rows; {hint}")
    if path.name.endswith(".parquet"):
        yield from _parquet_rows(path)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from read_json_lines(path)
    else:
        raise TautError(
            f"{path}: cannot read {path.suffix or 'a file without extension'!r}; use one of {', '.join(FORMATS)}"
        )


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line that is not blank, whatever the file's name; gzipped when it ends in .gz."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                place = f"{path}:{number}"
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield place, _json_row(place, line)
    except (OSError, EOFError, zlib.error) as error:
        raise TautError(f"{path}:{number + 1}: cannot be read ({error}); is the file complete and readable?") from error


def _json_row(place: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        bad = line[error.start : error.start + 4].hex(" ")
        raise TautError(
            f"{place}: byte {error.start + 1} of the line is not UTF-8 ({bad}); save the file as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        shown = short(line.decode("utf-8").strip())
        raise TautError(f"{place}: not JSON ({error}): {shown}; each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise TautError(
            f"{place}: a {type(row).__name__}, not an object: {short(row)}; each line must be one JSON object"
        )
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pa.ArrowException, OSError) as error:
        raise TautError(
            f"{path}: cannot be read as parquet after row {number} ({error}); is the file complete?"
        ) from error


def as_text(place: str, column: str, value: Any) -> str:
    """The column's value as text: integers and integral floats without a decimal point, a missing one as ''."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TautError(
            f"{place}: {column} is {short(value)}, a {type(value).__name__}; write it as text or as a number"
        )
    return repr(value)


def missing(path: Path) -> str:
    """What to say of a path where nothing is: the nearest names beside it."""
    if not path.parent.is_dir():
        return f"{path}: no such file, and no folder {path.parent}; check the path"
    names = sorted(p.name for p in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, 3, 0.5) or [n for n in names if n.endswith(FORMATS)][:5]
    return f"{path}: no such file; " + (f"nearest in {path.parent}: {', '.join(near)}" if near else "check the path")


def short(value: Any) -> str:
    """The value as an error message shows it: 80 characters at most."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
