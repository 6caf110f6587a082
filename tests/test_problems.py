"""Problem files: what is read, and that every fault is told with its place, its value and the remedy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rewards.errors import TautError
from rollout.problems import load_problem_sets, load_problems
from rollout.types import Problem

ROW = {"id": "a", "problem": "1+1?", "answer": "2"}


def write(path: Path, *rows: Any) -> Path:
    """A JSONL file of these rows; bytes and strings are written as they are."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(TautError) as error:
        load_problems(path, **options)
    return str(error.value)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_jsonl_with_every_kind_of_column(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name,
        b"\xef\xbb\xbf" + json.dumps({**ROW, "level": 3, "source": "mine", "solution": "so", "n": 4}).encode(),
        {"id": 7, "problem": "É?", "answer": -12},
        "",
        {"id": "c", "problem": "half", "answer": 0.5},
        {"id": "d", "problem": "two", "answer": 2.0},
    )
    problems = load_problems(path)
    assert problems[0] == Problem("a", "1+1?", "2", "3", "mine", {"solution": "so", "n": 4})
    assert problems[1] == Problem("7", "É?", "-12")
    assert [p.answer for p in problems[2:]] == ["0.5", "2"]
    assert load_problems(path, limit=2) == problems[:2]


def test_parquet_is_read_like_jsonl(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"id": str(i), "problem": f"{i}+1?", "answer": i + 1, "level": None} for i in range(5)]
    path = tmp_path / "p.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    assert load_problems(path) == [Problem(str(i), f"{i}+1?", str(i + 1)) for i in range(5)]
    parquet.write_table(pa.Table.from_pylist([*rows, {**rows[2], "problem": "again"}]), path)
    assert f"{path}:6: id '2' already stands at {path}:3" in refusal(path)
    path.write_bytes(b"PAR1 no")
    assert "parquet" in refusal(path)


def test_columns_of_another_name(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"uid": 1, "question": "q", "gold": "3", "level": "hard"})
    columns = {"id": "uid", "problem": "question", "answer": "gold"}
    assert load_problems(path, columns=columns) == [Problem("1", "q", "3", "hard")]
    assert "did you mean problem" in refusal(path, columns={"problme": "question"})
    message = refusal(path)
    assert f"{path}:1: no 'id'" in message
    assert "uid, question, gold, level" in message
    assert "columns: {id: NAME}" in message


def test_latex_answers_are_accepted(tmp_path: Path) -> None:
    answers = [
        r"\frac{1}{2}",
        r"\left( 3, \frac{\pi}{2} \right)",
        r"\text{Evelyn}",
        "x+1",
        "(C)",
        r"\$5.50",
        "10\\%",
        "x=5",
    ]
    path = write(tmp_path / "p.jsonl", *({"id": i, "problem": "?", "answer": a} for i, a in enumerate(answers)))
    assert [p.answer for p in load_problems(path)] == answers


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_train.jsonl", ROW)
    assert "gsm8k_train.jsonl" in refusal(tmp_path / "gsm8k_trian.jsonl")
    assert "no folder" in refusal(tmp_path / "nowhere" / "p.jsonl")
    assert "gsm8k_train.jsonl" in refusal(tmp_path)


def test_an_unsupported_or_empty_file(tmp_path: Path) -> None:
    other = write(tmp_path / "p.csv", "id,problem,answer")
    assert "'.csv'" in refusal(other)
    assert ".parquet" in refusal(other)
    assert "holds no problem" in refusal(write(tmp_path / "p.jsonl"))
    assert "holds no problem" in refusal(write(tmp_path / "p.jsonl", "", " "))
    assert "limit=0" in refusal(write(tmp_path / "p.jsonl", ROW), limit=0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "b", "problem": "q"}, ["no 'answer'", "id, problem", "columns: {answer: NAME}"]),
        ({"id": "b", "answer": "1"}, ["no 'problem'"]),
        ({"problem": "q", "answer": "1"}, ["no 'id'"]),
        ({"id": "b", "problem": "q", "answer": ""}, ["answer is empty", "take it out"]),
        ({"id": "b", "problem": "q", "answer": None}, ["answer is empty (None)"]),
        ({"id": "b", "problem": "q", "answer": ["1", "2"]}, ["['1', '2']", "a list", "as text"]),
        ({"id": "b", "problem": "q", "answer": True}, ["True", "a bool"]),
        ({"id": "a", "problem": "q", "answer": "1"}, ["'a' already stands at", ":1"]),
        ({"id": "b", "problem": "q", "answer": r"\frac{1}{"}, ["'\\\\frac{1}{'", "cannot be verified", "1 of 2 rows"]),
        ({"id": "b", "problem": "q", "answer": "10^{10^{10}}+1"}, ["too large"]),
        ('{"id": "b", ', ["not JSON", "one JSON object"]),
        ("[1]", ["a list, not an object"]),
        (b'{"id": "b", "problem": "caf\xe9", "answer": "1"}', ["byte 28", "e9", "UTF-8"]),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path: Path, row: Any, words: list[str]) -> None:
    path = write(tmp_path / "p.jsonl", ROW, row)
    message = refusal(path)
    assert message.startswith(f"{path}:2: ")
    for word in words:
        assert word in message


def test_unverifiable_rows_are_dropped_by_choice(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", ROW, {"id": "b", "problem": "q", "answer": r"\frac{1}{"}, {**ROW, "id": "c"})
    with pytest.warns(UserWarning, match="1 of 3 rows dropped"):
        assert [p.id for p in load_problems(path, unverifiable="drop")] == ["a", "c"]
    assert "1 of 1 rows" in refusal(write(path, {**ROW, "answer": r"\frac{1}{"}), unverifiable="drop")


def test_a_cut_off_gzip_file(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl.gz", *({**ROW, "id": i, "problem": f"{i * 7919}?"} for i in range(2000)))
    path.write_bytes(path.read_bytes()[:-200])
    assert "is the file complete" in refusal(path)
    path.write_bytes(b"no gzip")
    assert f"{path}:1: cannot be read" in refusal(path)


def test_several_files_are_one_set_with_sources(tmp_path: Path) -> None:
    a = write(tmp_path / "first.jsonl", ROW, {**ROW, "id": "b", "source": "own"})
    b = write(tmp_path / "second.jsonl.gz", {**ROW, "id": "c"}, {**ROW, "id": "d"})
    found = load_problem_sets(f"{a}, {b}", limit=1)
    assert [(p.id, p.source) for p in found] == [("a", "first"), ("c", "second")]
    assert [p.source for p in load_problem_sets(f"{a},{b}")] == ["first", "own", "second", "second"]
    assert [p.source for p in load_problem_sets(str(a))] == ["", "own"]
    with pytest.raises(TautError, match=r"second\.jsonl\.gz: problem 'c' stands in .*second\.jsonl\.gz too"):
        load_problem_sets(f"{b},{b}")


def test_a_comma_in_a_name_is_part_of_it(tmp_path: Path) -> None:
    assert len(load_problem_sets(str(write(tmp_path / "a,b.jsonl", ROW)))) == 1
