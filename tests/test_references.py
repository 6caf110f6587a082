"""Reference statistics by problem: written by an evaluation, read by a training run, filtered by difficulty."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evaluate import load_evaluate_config, write_reference
from benchmarks.statistics import Samples
from rewards.errors import TautError
from rollout.problems import Reference, add_reference, between, load_reference
from rollout.types import Problem
from trainers.assemble import assemble, digest, load_training
from trainers.settings import load_config, resolve, to_mapping

PROBLEMS = [Problem(name, "1+1", "2", extra={"topic": "sum"}) for name in "abc"]
ENTRY = {"id": "a", "accuracy": 0.5, "length": 15.0, "samples": 2, "correct": 1}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_an_evaluation_becomes_a_reference(tmp_path: Path) -> None:
    samples = Samples(np.array([*"aaab", "c", "c"]), np.array([10, 20, 99, 5, 8, 9]), np.array([1, 0, -1, -1, 1, 1]))
    write_reference(tmp_path / "r.jsonl", PROBLEMS, samples, {"model": "m", "temperature": 0.6})
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert rows[0] == {"_meta": {"model": "m", "temperature": 0.6}} and rows[1] == ENTRY
    assert rows[2] == {"id": "b", "accuracy": None, "length": None, "samples": 0, "correct": 0}
    found, meta = load_reference(tmp_path / "r.jsonl")
    assert meta["model"] == "m" and found["c"] == Reference("c", 1.0, 8.5, 2, 2)
    merged = add_reference([PROBLEMS[2], PROBLEMS[0]], tmp_path / "r.jsonl")  # b's entry is not asked for
    assert merged[1].extra == {"topic": "sum", "reference_accuracy": 0.5, "reference_length": 15.0}
    assert PROBLEMS[0].extra == {"topic": "sum"}
    with pytest.raises(TautError, match="'b' has no sample with a known verdict"):
        add_reference(PROBLEMS, tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([ENTRY, {**ENTRY, "accuracy": 1}], ":2: problem 'a' already stands at .*:1; remove one"),
        ([ENTRY, {**ENTRY, "id": "b", "accuracy": 1.5}], ":2: accuracy is 1.5; give a number from 0 to 1"),
        ([{**ENTRY, "length": -1}], ":1: length is -1; give a number from 0 on"),
        ([{**ENTRY, "length": "long"}], ":1: length is 'long'"),
        ([{**ENTRY, "accuracy": True}], ":1: accuracy is True"),
        ([{"id": "a", "accuracy": 1}], ":1: no 'length' among its keys \\(id, accuracy\\)"),
        ([{"accuracy": 1, "length": 3}], ":1: id is None; each line is"),
        ([ENTRY, "{"], ":2: not JSON"),
        ([ENTRY, "[1]"], ":2: a list, not an object"),
        ([ENTRY, {"_meta": {}}], ":2: _meta stands in the first line only"),
        ([{"_meta": {"model": "m"}}], "holds no reference; write it with: taut eval"),
        ([ENTRY], "2 of 3 problems have no entry, such as 'b'; measure it: taut eval"),
    ],
)
def test_a_bad_reference_is_told_with_its_line(tmp_path: Path, rows: list[Any], says: str) -> None:
    path = write(tmp_path / "r.jsonl", *rows)
    with pytest.raises(TautError, match=f"r\\.jsonl:? ?.*{says}"):
        add_reference(PROBLEMS, path)


def test_a_missing_reference_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(TautError, match=r"no such file.*taut eval model="):
        load_reference(tmp_path / "r.jsonl")


def with_accuracy(*accuracies: float) -> list[Problem]:
    return [Problem(str(i), "q", "1", extra={"reference_accuracy": a}) for i, a in enumerate(accuracies)]


def test_difficulty_keeps_its_ends() -> None:
    problems = with_accuracy(*(k / 8 for k in range(9)))
    assert [p.id for p in between(problems, 0.25, 0.75)] == ["2", "3", "4", "5", "6"]
    assert [p.id for p in between(with_accuracy(1 / 3, 0.1 + 0.2), 0.3, 0.3)] == ["1"]
    with pytest.raises(TautError, match=r"no problem .* in \[0\.4, 0\.45\] \(they run from 0 to 1\); widen"):
        between(problems, 0.4, 0.45)


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_difficulty_keeps_the_order(accuracies: list[float], a: float, b: float) -> None:
    problems = with_accuracy(*accuracies, (a + b) / 2)
    kept = between(problems, min(a, b), max(a, b))
    assert kept == [p for p in problems if p in kept] and problems[-1] in kept
    assert all(min(a, b) - 1e-9 <= p.extra["reference_accuracy"] <= max(a, b) + 1e-9 for p in kept)


def test_a_run_trains_on_what_is_neither_hopeless_nor_solved(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", *({"uid": i, "question": f"{i}+1", "answer": i + 1} for i in range(5)))
    rows = [{"id": str(i), "accuracy": i / 4, "length": 10 * i} for i in range(7)]  # two of problems that are not here
    reference = write(tmp_path / "r.jsonl", *rows)
    arguments = ["model=m", f"data={data}", "columns={id: uid, problem: question}"]
    problems, loaded = load_training(load_config(arguments))
    assert len(problems) == loaded == 5 and problems[0].extra == {}
    with pytest.raises(TautError, match=r"r\.jsonl:6: accuracy is 1\.25"):
        load_training(load_config([*arguments, f"reference={reference}"]))
    write(reference, *reversed(rows[:5]), {"id": "else", "accuracy": 1, "length": 3})
    config = load_config([*arguments, f"reference={reference}", "difficulty.low=0.25"])
    problems, loaded = load_training(config)
    assert ([p.id for p in problems], loaded) == (["1", "2", "3"], 5)
    assert problems[0].extra == {"reference_accuracy": 0.25, "reference_length": 10}
    assert resolve(type(config), to_mapping(config), "again") == config


@pytest.mark.parametrize(("value", "shown"), [(None, "None"), ("high", "'high'"), (50, "50"), (True, "True")])
def test_references_in_the_data_itself_are_looked_at_before_training(tmp_path: Path, value: Any, shown: str) -> None:
    row = {"id": "a", "problem": "1+1", "answer": 2, "reference_accuracy": 1}
    data = write(tmp_path / "d.jsonl", row, row | {"id": "b", "reference_accuracy": value})
    modes = "sampling={type: modes, modes: [{name: think, share: 0.5}, {name: no_think, share: 0.5}]}"
    with pytest.raises(
        TautError, match=rf"d\.jsonl: problem 'b' has reference_accuracy {shown}; .* from 0 to 1, or reference="
    ):
        load_training(load_config(["model=m", f"data={data}", "reward=adaptthink", "advantage=raw", modes]))
    assert len(load_training(load_config(["model=m", f"data={data}"]))[0]) == 2  # nothing reads it


def test_a_resumed_run_wants_the_problems_it_was_made_with(tmp_path: Path) -> None:
    data = write(
        tmp_path / "d.jsonl", {"id": "a", "problem": "1+1", "answer": 2}, {"id": "b", "problem": "2", "answer": 2}
    )
    reference = write(tmp_path / "r.jsonl", ENTRY, {**ENTRY, "id": "b"})
    config = load_config(["model=m", f"data={data}", f"reference={reference}"])
    before = digest(load_training(config)[0])
    write(reference, {**ENTRY, "id": "b"}, ENTRY)
    assert digest(load_training(config)[0]) == before
    write(reference, ENTRY, {**ENTRY, "id": "b", "length": 16})
    source = tmp_path / "step-000002"
    run: Any = SimpleNamespace(config=config, source=source, state={"problems": before}, new_problems=False)
    with pytest.raises(
        TautError, match=r"step-000002: was made with other problems or references than data=.*d\.jsonl"
    ):
        assemble(run)


def test_difficulty_without_a_reference_is_refused() -> None:
    with pytest.raises(TautError, match=r"difficulty: needs the accuracy by problem; give reference=FILE"):
        load_config(["difficulty={low: 0.25, high: 0.75}"])
    with pytest.raises(TautError, match=r"low=0\.8 is more than high=0\.75; exchange"):
        load_config(["difficulty.low=0.8", "reference=r.jsonl"])


def test_an_evaluation_reads_the_columns_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "config.yaml").write_text("columns: {problem: question}\nheldout: {data: held.jsonl}\n")
    assert load_evaluate_config([f"model={run}"]).columns == {"problem": "question"}
    (run / "config.yaml").write_text("columns: {problem: question}\nheldout: {data: held.jsonl, columns: {id: uid}}\n")
    assert load_evaluate_config([f"model={run}"]).columns == {"id": "uid"}
    assert load_evaluate_config([f"model={run}", "columns={id: key}"]).columns == {"id": "key"}
