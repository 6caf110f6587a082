"""The measure of the verifier and `taut verify`: what is counted, what is written, what is refused."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import taut
from benchmarks import verifier as benchmark
from benchmarks import verify_file
from benchmarks.verifier import Case, Outcome, by_category, misses, read_cases, summary
from benchmarks.verifier_peers import GRADERS, Peer
from benchmarks.verify_file import load_verify_config, rows_of
from rewards.errors import TautError

KEYS = ["cases", "agreement", "false_accepts", "false_rejects", "verdicts_per_second", "p50_ms", "p99_ms", "max_ms"]


def write(path: Path, rows: list[Any]) -> Path:
    """JSON lines; a text is written as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def case(gold: str = "5", prediction: str = r"\boxed{5}", expected: bool = True, **more: Any) -> dict[str, Any]:
    return {"gold": gold, "prediction": prediction, "expected": expected, **more}


def outcome(expected: bool, right: bool | None, seconds: float = 0.001, category: str = "a") -> Outcome:
    return Outcome(Case("5", "x", expected, "boxed", category, "id", False, "f:1"), right, "rule", seconds)


# ---- the measure ---------------------------------------------------------------------------------------------------


def test_an_unknown_verdict_is_a_miss_and_a_reject_only_where_correct_was_expected() -> None:
    kinds = [outcome(*pair).kind for pair in [(True, True), (False, False), (False, True), (True, False)]]
    assert kinds == ["agreed", "agreed", "false accept", "false reject"]
    assert [outcome(True, None).kind, outcome(False, None).kind] == ["false reject", "unknown"]


def test_a_summary_by_hand() -> None:
    outcomes = [outcome(True, True, 0.001)] * 97 + [outcome(False, True, 0.002), outcome(True, None, 0.5)]
    row = summary([*outcomes, outcome(False, None, 0.001)])
    assert list(row) == KEYS
    assert (row["cases"], row["agreement"], row["false_accepts"], row["false_rejects"]) == (100, 0.97, 1, 1)
    assert row["p50_ms"] == pytest.approx(1) and row["max_ms"] == pytest.approx(500)
    assert row["verdicts_per_second"] == pytest.approx(100 / 0.6)


def test_misses_are_listed_with_their_case_and_categories_with_most_misses_first() -> None:
    outcomes = [outcome(True, True), outcome(False, True, category="b"), outcome(True, False, category="b")]
    assert [line.split()[1] for line in by_category(outcomes).splitlines()[2:]] == ["b", "a"]
    (accept, reject) = misses(outcomes)
    assert accept == "false accept: b id: gold '5', prediction 'x': correct (rule)"
    assert reject.startswith("false reject: b id")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"gold": "5", "expected": True}, r"cases.jsonl:2: no 'prediction' among its keys \(gold, expected\)"),
        (case() | {"expected": "yes"}, "cases.jsonl:2: expected is 'yes'; write true or false"),
        (case() | {"gold": ["5"]}, r"cases.jsonl:2: gold is \['5'\]"),
        ("{", "cases.jsonl:2: not JSON"),
        ("[1]", "cases.jsonl:2: a list, not an object"),
        (case(mode="last_number"), "cases.jsonl:2: mode: verifier: extraction='last_number': use one of boxed"),
    ],
)
def test_a_bad_case_is_named_by_its_line(
    row: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "cases.jsonl", ["", row])
    assert benchmark.main([str(path)]) == 2
    with pytest.raises(TautError, match=message):
        benchmark.measure(read_cases(path), lambda line: None)
    assert "benchmarks.verifier: " in capsys.readouterr().err


def test_no_case_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TautError, match="holds no case"):
        read_cases(write(tmp_path / "cases.jsonl", []))


def test_each_mode_is_measured_apart_and_ambiguous_cases_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        case(mode="boxed"), case(prediction="the answer is 5", expected=False, mode="boxed"), case(category="c", expected=False),
        case(prediction="The answer is $5$.", mode="free"), case(gold="6", ambiguous=True), case() | {"gold": 5},
    ]  # fmt: skip
    out = tmp_path / "out.json"
    assert benchmark.main([str(write(tmp_path / "cases.jsonl.gz", rows)), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found) == ["boxed", "free"]
    assert all(list(row) == KEYS for row in found.values())
    boxed = found["boxed"]
    assert (boxed["cases"], boxed["agreement"], boxed["false_accepts"], boxed["false_rejects"]) == (4, 0.75, 1, 0)
    assert (found["free"]["cases"], found["free"]["agreement"]) == (1, 1.0)
    said = capsys.readouterr().out
    assert "mode boxed: 4 cases (1 ambiguous ones left out)" in said
    assert "false accept: c " in said


# ---- peers ---------------------------------------------------------------------------------------------------------


def test_a_grader_that_is_not_installed_is_named_with_the_command() -> None:
    for name, (package, install, _) in GRADERS.items():
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            with Peer(name) as peer:
                assert "No module named" in peer.absent
                assert f"pip install {install}" in peer.absent
            return
    pytest.skip("all of them are installed")


def test_an_interpreter_that_is_none_is_named() -> None:
    with Peer("math-verify", "/nowhere/python") as peer:
        assert peer.absent.startswith("/nowhere/python: ")


def test_math_verify_grades_and_a_slow_case_is_killed() -> None:
    with Peer("math-verify") as peer:
        assert not peer.absent
        assert peer.grade(r"\frac{1}{2}", r"so \boxed{0.5}")[:2] == (True, "")
        assert peer.grade("5", r"so \boxed{6}")[:2] == (False, "")
        peer.limit_s = 0.5
        assert peer.grade("5", r"so \boxed{10^{10^{10^{10}}}}")[:2] == (None, "killed")
        peer.limit_s = 15.0
        assert peer.grade("5", r"so \boxed{5}")[:2] == (True, "")


@pytest.mark.slow
def test_peers_stand_beside_ours_in_the_same_file(tmp_path: Path) -> None:
    cases = write(tmp_path / "cases.jsonl", [case(), case(prediction="5", mode="free")])
    out = tmp_path / "out.json"
    assert benchmark.main([str(cases), "--peers", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found) == ["boxed", "free", "peers"]
    assert list(found["peers"]["math-verify"]["boxed"]) == KEYS


def test_throughput_against_math_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"answer": str(i), "response": f"so \\boxed{{{i}}}", "source": "s"} for i in range(20)]
    path = write(tmp_path / "rollouts.jsonl.gz", rows)
    out = tmp_path / "out.json"
    assert benchmark.main(["--throughput", str(path), "--rounds", "1", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text()).values()
    assert row["responses"] == 20 and row["times_math_verify"]["no memo"] > 1
    assert benchmark.main(["--throughput", str(path), "--source", "t"]) == 2
    assert "no row of source t; it has s" in capsys.readouterr().err


# ---- taut verify ---------------------------------------------------------------------------------------------------


def test_verdicts_of_a_file_are_compared_with_its_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "a", "answer": 5, "response": r"\boxed{5}", "correct": True},
        {"id": "b", "answer": "x", "response": r"\boxed{2x-x}", "correct": False},
        {"id": "c", "answer": "5", "response": r"\boxed{6}", "correct": None},
        {"id": "d", "answer": "5", "response": r"\boxed{5}", "correct": 1, "finish_reason": "length"},
        {"id": "e", "answer": "5", "response": None, "correct": "wrong"},
        {"id": "f", "answer": r"\frac{1}{", "response": r"\boxed{7}", "correct": 0},
    ]
    out = tmp_path / "verdicts.jsonl"
    assert taut.main(["verify", str(write(tmp_path / "r.jsonl", rows)), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "accuracy 0.4000 (2 correct of 5 with a known verdict), 1 unknown" in said
    assert "labels: 5; agreement 0.5000 of 4 with a known verdict; 2 disagree, 1 unknown" in said
    assert "r.jsonl:4: labelled correct, wrong (truncated): gold '5', answer ''" in said
    assert r"r.jsonl:6: gold '\\frac{1}{': gold unparseable" in said
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in found] == list("abcdef")
    assert [row["verdict"] for row in found] == ["correct", "correct", "wrong", "wrong", "wrong", "unknown"]
    assert [row["label"] for row in found] == [True, False, None, True, False, False]
    assert found[4]["reason"] == "no box"


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"target": "5", "gold": "6", "completion": "#### 5", "reward": 1.0}])
    (row,) = rows_of(load_verify_config([str(path), "gold=target", "label=reward"]))
    assert (row.gold, row.response, row.label, row.finish_reason) == ("5", "#### 5", True, "stop")
    (row,) = rows_of(load_verify_config([str(path)]))
    assert (row.gold, row.label) == ("6", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gold=truth"], "r.jsonl:1: no 'truth' among its columns"),
        (["label=truth"], "r.jsonl:1: no 'truth' among its columns"),
        (["label=note"], "r.jsonl:1: note is 'so', not a label"),
        (["out=x.parquet"], r"out=x.parquet: it is written as JSON lines; name it .jsonl"),
        (["extraction=last"], "extraction: Input should be 'boxed'"),
        (["golds=x"], "golds: unknown key"),
        (["other.jsonl"], "one file at a time"),
    ],
)
def test_what_cannot_be_judged_is_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"gold": "5", "text": "so", "note": "so"}])
    with pytest.raises(TautError, match=message):
        verify_file.main([str(path), *arguments])


def test_no_file_no_row_no_column(tmp_path: Path) -> None:
    for arguments, message in [
        ([], "which file"),
        ([str(tmp_path / "none.jsonl")], "no such file"),
        ([str(tmp_path)], "holds no step-N.parquet"),
        ([str(write(tmp_path / "empty.jsonl", []))], "holds no row"),
        ([str(write(tmp_path / "other.jsonl", [{"a": 1}]))], "none of gold, answer"),
    ]:
        with pytest.raises(TautError, match=message):
            verify_file.main(arguments)
    assert taut.main(["verify"]) == 2


def test_a_run_is_judged_with_its_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "rollouts").mkdir()
    (tmp_path / "config.yaml").write_text("verifier: {extraction: hash}\n")
    for step in (1, 2, 10):
        columns = {"gold": ["5"], "text": [f"#### {step}"], "answer": ["5"], "verdict": [int(step == 5)]}
        parquet.write_table(pa.table(columns), tmp_path / "rollouts" / f"step-{step}.parquet")
    assert verify_file.main([str(tmp_path)]) == 0
    assert "3 responses, extraction hash" in capsys.readouterr().out
    rows = list(rows_of(load_verify_config([str(tmp_path), "extraction=boxed"])))
    assert [row.response for row in rows] == ["#### 1", "#### 2", "#### 10"]
    assert verify_file.main([str(tmp_path / "rollouts"), "--extraction", "boxed"]) == 0
    assert "no box" in capsys.readouterr().out


def test_ctrl_c_shows_what_was_judged_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = verify_file.rows_of

    def broken_off(config: Any) -> Any:
        yield from real(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_file, "rows_of", broken_off)
    path = write(tmp_path / "r.jsonl", [{"gold": "5", "text": r"\boxed{5}"}])
    assert verify_file.main([str(path), f"out={tmp_path / 'v.jsonl'}"]) == 130
    assert "1 responses" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]
