"""taut data: each set's rows as the hub has them (columns and forms; the problems are made up), from a file and over HTTP."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.data import main
from rewards.errors import TautError
from rollout.datasets import DATASETS, addresses, convert
from rollout.problems import load_problems

SUM = "Ann has 2 pears and finds 3. How many has she?"
ROWS: dict[str, tuple[dict[str, Any], str, str]] = {  # a row of the hub's form, our answer, our level
    "gsm8k": ({"question": SUM, "answer": "She has 2+3=<<2+3=5>>5 pears.\n#### 5"}, "5", ""),
    "math": (
        {"problem": SUM, "level": "Level 4", "type": "Algebra", "solution": r"So \boxed{4}, no, $\boxed{\frac{5}{1}}$."},
        r"\frac{5}{1}", "4",
    ),
    "math500": (
        {"problem": SUM, "solution": "s", "answer": "5", "subject": "Algebra", "level": 2, "unique_id": "test/a/1.json"},
        "5", "2",
    ),
    "aime24": ({"id": 60, "problem": SUM, "solution": "s", "answer": "005", "url": "u", "year": "2024"}, "005", ""),
    "aime25": ({"problem": SUM, "answer": "5", "id": "0"}, "5", ""),
    "amc23": ({"id": 0, "question": SUM, "answer": 5.0, "url": "u"}, "5", ""),
    "olympiadbench": (
        {"id": 1606, "question": SUM, "final_answer": ["$5$"], "context": None, "is_multiple_answer": False, "unit": None},
        "5", "",
    ),
    "minerva": ({"question": SUM, "answer": "5e-1"}, "5e-1", ""),
    "deepscaler": ({"problem": SUM, "answer": "5", "solution": "s"}, "5", ""),
    "deepmath": ({"question": SUM, "final_answer": "5", "difficulty": 6.5, "topic": "t", "r1_solution_1": "s"}, "5", "6.5"),
}  # fmt: skip


def test_every_set_has_a_row_here():
    assert set(ROWS) == set(DATASETS)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_the_hubs_form_becomes_problems(tmp_path: Path, name: str, suffix: str, capsys: Any):
    row, answer, level = ROWS[name]
    raw, out = tmp_path / f"raw{suffix}", tmp_path / "out.jsonl"
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist([row]), raw)
    else:
        raw.write_text(json.dumps([row] if suffix == ".json" else row))
    assert main([name, "--from", str(raw), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 1 problem\n"
    (problem,) = load_problems(out)
    assert (problem.problem, problem.answer, problem.level, problem.source) == (SUM, answer, level, name)
    own = DATASETS[name].id
    assert problem.id == f"{name}/{row[own] if own else '98bf17fd9d02'}"


def gsm8k(*rows: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"f:{i}", {"question": q, "answer": f"so\n#### {a}"}) for i, (q, a) in enumerate(rows, 1))


def test_ids_do_not_depend_on_the_order_and_what_is_left_out_is_told():
    rows, told = convert("gsm8k", gsm8k(("a", "1"), ("b", "2"), ("a", "1"), ("c", "3"), ("c", "4"), ("d", "")))
    again, _ = convert("gsm8k", gsm8k(("b", "2"), ("a", "1")))
    assert [r["problem"] for r in rows] == ["a", "b"] and {r["id"] for r in rows} == {r["id"] for r in again}
    assert told[0] == "f:3: repeats f:1"
    assert told[1].startswith("f:5: gsm8k/") and "stands at f:4 too" in told[1]
    assert told[2] == "f:6: answer '' cannot be verified: it is empty"


def test_rows_that_cannot_be_used_are_refused_or_dropped(tmp_path: Path, capsys: Any):
    raw, out = tmp_path / "raw.jsonl", tmp_path / "out.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for _, row in gsm8k(("a", "1"), ("b", ""), ("a", "1"))))
    with pytest.raises(TautError, match=r"(?s)raw\.jsonl:2: answer '' .*1 rows of gsm8k.*--unverifiable drop"):
        main(["gsm8k", "--from", str(raw), "--out", str(out)])
    assert not out.exists()
    assert main(["gsm8k", "--from", str(raw), "--out", str(out), "--unverifiable", "drop"]) == 0
    told = capsys.readouterr().out
    assert "raw.jsonl:2: answer" in told and "1 problem; left out: 1 that cannot be used, 1 repeated" in told
    with pytest.raises(TautError, match="exists already"):
        main(["gsm8k", "--from", str(raw), "--out", str(out)])


@pytest.mark.parametrize("text, message", [
    ('{"problem": "p", "answer": "1"}', r"raw.jsonl:1: no 'question' among its columns \(problem, answer\).*openai/gsm8k"),
    ('{"question": " ", "answer": "1"}', "raw.jsonl:1: question is empty"),
    ('{"question": ', "raw.jsonl:1: not JSON"),
    ("", "hold no row"),
])  # fmt: skip
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "raw.jsonl").write_text(text)
    with pytest.raises(TautError, match=f"(?s){message}"):
        main(["gsm8k", "--from", str(tmp_path / "raw.jsonl"), "--out", str(tmp_path / "o.jsonl")])


@pytest.mark.parametrize("name, text, message", [
    ("raw.json", '{"a": 1}', "not a list of objects"),
    ("raw.json", "[", "cannot be read as JSON"),
    ("raw.parquet", "no parquet", "cannot be read after row 0.*download it again"),
])  # fmt: skip
def test_a_torn_file_is_named(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(TautError, match=message):
        main(["gsm8k", "--from", str(tmp_path / name), "--out", str(tmp_path / "o.jsonl")])


def test_names_and_splits_are_listed(capsys: Any):
    assert main([]) == 0
    assert all(name in capsys.readouterr().out for name in [*DATASETS][:1])
    with pytest.raises(TautError, match=r"no such set.*gsm8k, math"):
        main(["gsm9k"])
    with pytest.raises(TautError, match="aime24 has train"):
        main(["aime24", "--split", "test"])


def test_without_a_network_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(TautError) as error:
        main(["math", "--out", str(tmp_path / "m.jsonl")])
    said = str(error.value)
    assert "test split of the data set EleutherAI/hendrycks_math" in said and "taut data math --from FILE" in said
    assert all(address in said for address in addresses("math", "test")) and len(addresses("math", "test")) == 7


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server that answers as the hub's parquet interface does; the paths that were asked for."""
    asked: list[str] = []
    for part, rows in enumerate([[("a", "1"), ("b", "")], [("c", "3")]]):
        parquet.write_table(pa.Table.from_pylist([row for _, row in gsm8k(*rows)]), tmp_path / f"{part}.parquet")

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name = self.path.rpartition("/")[2]
            if self.path == "/api/datasets/openai/gsm8k/parquet/main/test":
                data = json.dumps([f"http://{self.headers['Host']}{self.path}/{i}.parquet" for i in (0, 1)]).encode()
            elif name.endswith(".parquet"):
                data = (tmp_path / name).read_bytes()
            else:
                self.send_error(404, "no such data set")
                return
            broken = name == "1.parquet" and asked.count(self.path) == 1  # the first time, half of it
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if broken else data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield asked
    server.shutdown()
    server.server_close()


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path, hub: list[str], capsys: Any):
    out = tmp_path / "gsm8k.jsonl"
    with pytest.raises(TautError, match=r"broke off after .* bytes"):
        main(["gsm8k", "--out", str(out)])
    with pytest.raises(TautError, match="--unverifiable drop"):
        main(["gsm8k", "--out", str(out)])
    assert main(["gsm8k", "--out", str(out), "--unverifiable", "drop"]) == 0
    assert [p.problem for p in load_problems(out)] == ["a", "c"]
    fetched = [path.rpartition("/")[2] for path in hub if path.endswith(".parquet")]
    assert fetched == ["0.parquet", "1.parquet", "1.parquet"] and not out.with_name("gsm8k.jsonl.raw").exists()


def test_an_answer_of_the_hub_that_is_none_is_told(tmp_path: Path, hub: list[str]):
    with pytest.raises(TautError, match=r"HTTP 404 no such data set.*math-ai/aime25"):
        main(["aime25", "--out", str(tmp_path / "a.jsonl")])
