"""Public data sets in the form in which the Hugging Face hub has them, and how each becomes our problems.

No problem text is kept here: `DATASETS` says where a set lies and which of its columns mean what. Ids do not depend on the
order of the rows: the set's own ids where it has them, else a hash of the problem's text.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.errors import TautError
from rewards.verifier import check_golds, last_box
from rollout.rows import FORMATS, as_text, missing, read_rows, short

HUB = "https://huggingface.co"  # another by HF_ENDPOINT, as the hub's own client has it
RAW_FORMATS = (*FORMATS, ".json")
TIMEOUT_S = 60.0
MATH_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus",
)  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """Where a set lies on the hub and how a row of it is read.

    repository, configs, splits: the hub's names; the first split is what is taken unless another is asked for. problem,
    answer, level, id: its columns (level and id may be absent). read: the answer in the answer's column (default: as it
    stands). note: what a user should know.
    """

    repository: str
    splits: tuple[str, ...]
    problem: str
    answer: str
    configs: tuple[str, ...] = ("default",)
    level: str | None = None
    id: str | None = None
    read: Callable[[str, Any], str] | None = None
    note: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are needed."""
        return tuple(c for c in (self.problem, self.answer, self.level, self.id) if c)


def _after_hashes(place: str, text: Any) -> str:
    """GSM8K: the answer is what follows the last ####."""
    before, hashes, answer = str(text).rpartition("####")
    return answer.strip() if hashes and before else ""


def _in_box(place: str, text: Any) -> str:
    """MATH: the answer is the last box of the solution."""
    return (last_box(str(text)) or "").strip()


def _listed(place: str, answers: Any) -> str:
    """OlympiadBench: a list of answers, nearly always of one, each between dollars."""
    parts = answers if isinstance(answers, list | tuple) else [answers]
    return ", ".join(as_text(place, "final_answer", part).strip().strip("$").strip() for part in parts)


DATASETS: dict[str, DataSet] = {
    "gsm8k": DataSet(
        "openai/gsm8k", ("test", "train"), "question", "answer", ("main",), read=_after_hashes,
        note="grade-school word problems",
    ),
    "math": DataSet(
        "EleutherAI/hendrycks_math", ("test", "train"), "problem", "solution", MATH_SUBJECTS, level="level", read=_in_box,
        note="MATH by Hendrycks et al.; its test split holds math500's problems",
    ),
    "math500": DataSet(
        "HuggingFaceH4/MATH-500", ("test",), "problem", "answer", level="level", id="unique_id", note="500 of MATH's test",
    ),
    "aime24": DataSet("HuggingFaceH4/aime_2024", ("train",), "problem", "answer", id="id", note="AIME 2024, I and II"),
    "aime25": DataSet("math-ai/aime25", ("test",), "problem", "answer", id="id", note="AIME 2025, I and II"),
    "amc23": DataSet("math-ai/amc23", ("test",), "question", "answer", id="id", note="AMC 12 2023"),
    "olympiadbench": DataSet(
        "Hothan/OlympiadBench", ("train",), "question", "final_answer", ("OE_TO_maths_en_COMP",), id="id", read=_listed,
        note="its English mathematics without pictures, with open answers",
    ),
    "minerva": DataSet("math-ai/minervamath", ("test",), "question", "answer", note="university science, Minerva's"),
    "deepscaler": DataSet(
        "agentica-org/DeepScaleR-Preview-Dataset", ("train",), "problem", "answer", note="for training"
    ),
    "deepmath": DataSet(
        "zwhe99/DeepMath-103K", ("train",), "question", "final_answer", level="difficulty",
        note="for training; 2 GB to download, as its rows hold long solutions",
    ),
}  # fmt: skip


def convert(name: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[list[dict[str, str]], list[str]]:
    """(our rows, what is wrong with the others) of a set's (place, row) as the hub has them.

    Our rows hold id, problem, answer, source and, where the set has one, level. Left out and told, each with its place: rows whose
    answer the verifier cannot parse, and problems that stand there with different answers. A row that only repeats another
    is told as well. Raises TautError for a row that lacks a column or its problem's text.
    """
    of = DATASETS[name]
    found: dict[str, dict[str, str]] = {}
    places: dict[str, str] = {}
    torn: set[str] = set()
    told: list[str] = []
    for place, row in rows:
        ours = _row(name, of, place, row)
        id = ours["id"]
        if id not in found:
            found[id], places[id] = ours, place
        elif found[id] == ours:
            told.append(f"{place}: repeats {places[id]}")
        else:
            torn.add(id)
            told.append(f"{place}: {id} stands at {places[id]} too, with another answer or text: neither is taken")
    kept = [row for id, row in found.items() if id not in torn]
    doubts = check_golds([row["answer"] for row in kept])
    told += [
        f"{places[row['id']]}: answer {short(row['answer'])} cannot be verified: {doubt}"
        for row, doubt in zip(kept, doubts, strict=True)
        if doubt
    ]
    return [row for row, doubt in zip(kept, doubts, strict=True) if not doubt], told


def _row(name: str, of: DataSet, place: str, row: Mapping[str, Any]) -> dict[str, str]:
    for column in of.columns:
        if column not in row:
            raise TautError(
                f"{place}: no {column!r} among its columns ({', '.join(map(str, row)) or 'none'}); {name} is read from rows as "
                f"{of.repository} has them, with {', '.join(of.columns)}"
            )
    problem = as_text(place, of.problem, row[of.problem]).strip()
    if not problem:
        raise TautError(f"{place}: {of.problem} is empty; download the file again, or take the row out")
    value = row[of.answer]
    answer = of.read(place, value) if of.read else as_text(place, of.answer, value).strip()
    own = as_text(place, of.id, row[of.id]).strip() if of.id else ""
    id = own or hashlib.sha256(problem.encode()).hexdigest()[:12]
    ours = {"id": f"{name}/{id}", "problem": problem, "answer": answer, "source": name}
    if of.level:
        level = as_text(place, of.level, row[of.level]).strip()
        ours["level"] = level.removeprefix("Level ")
    return ours


def read_raw(files: Sequence[Path], columns: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of files as the hub has them: parquet (of which only `columns` are read), JSON lines, or one JSON list.

    Raises TautError naming the file, or its row, and the remedy.
    """
    for path in files:
        if path.suffix == ".json":
            yield from _json_list(path)
        elif path.suffix == ".parquet" and path.is_file():
            yield from _parquet(path, columns)
        else:
            yield from read_rows(path)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `read_rows`, without the columns that nobody asked for: those with solutions are far longer than the rest."""
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            held = file.schema_arrow.names
            for batch in file.iter_batches(columns=[c for c in held if c in columns] or held):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pa.ArrowException, OSError) as error:
        raise TautError(f"{path}: cannot be read after row {number} ({error}); download it again") from error


def _json_list(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise TautError(missing(path))
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TautError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TautError(f"{path}: not a list of objects; for an object a line, name it .jsonl")
    yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, 1))


def addresses(name: str, split: str) -> list[str]:
    """Where the hub lists the parquet files of this split, an address a config."""
    of = DATASETS[name]
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    return [f"{hub}/api/datasets/{of.repository}/parquet/{config}/{split}" for config in of.configs]


def download(name: str, split: str, folder: Path) -> list[Path]:
    """The split's parquet files, fetched into `folder`; those that lie there whole from an earlier call are not fetched again.

    Raises TautError that says what is needed from where, and how to go on with files that were fetched elsewhere.
    """
    files = []
    for config, listing in zip(DATASETS[name].configs, addresses(name, split), strict=True):
        try:
            with urllib.request.urlopen(listing, timeout=TIMEOUT_S) as answer:
                found = json.load(answer)
            if not isinstance(found, list) or not found or not all(isinstance(u, str) for u in found):
                raise ValueError(f"not a list of addresses: {short(found)}")
            for number, address in enumerate(found):
                path = folder / f"{config}-{split}-{number:04}.parquet"
                if not path.exists():
                    _fetch(address, path)
                files.append(path)
        except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
            raise TautError(_unreachable(name, split, listing, error)) from error
    return files


def _fetch(address: str, path: Path) -> None:
    """The file at `address`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, temporary.open("wb") as file:
        shutil.copyfileobj(answer, file)
        expected = answer.headers.get("Content-Length")
    if expected is not None and int(expected) != (got := temporary.stat().st_size):
        raise ValueError(f"{address} broke off after {got:,} of {int(expected):,} bytes")
    os.replace(temporary, path)


def _unreachable(name: str, split: str, listing: str, error: Exception) -> str:
    of = DATASETS[name]
    why = f"HTTP {error.code} {error.reason}" if isinstance(error, urllib.error.HTTPError) else error
    why = why.reason if isinstance(why, urllib.error.URLError) else why
    configs = f", configs {', '.join(of.configs)}" if of.configs != ("default",) else ""
    return (
        f"{name}: cannot be downloaded ({why}): {listing}\n"
        f"It needs the {split} split of the data set {of.repository} of the Hugging Face hub{configs}. "
        f"Where there is a network, fetch the files that these addresses list ({', '.join(RAW_FORMATS)} are read):\n"
        + "\n".join(f"  {a}" for a in addresses(name, split))
        + "\n"
        f"then: taut data {name} --from FILE ...   (a mirror of the hub: HF_ENDPOINT=https://...)"
    )
