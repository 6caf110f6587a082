"""The page of one run: what is read of a run folder, what is escaped, and how it behaves in a browser."""

import fcntl
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.html.rollouts import Texts
from benchmarks.run_data import Alarm, alarms_of, compare_files, logged, matches, read_run, spans
from benchmarks.run_report import main, panels_of
from rewards.errors import TautError
from tests.browser import assert_self_contained, open_page
from tests.test_html_report import EVIL, data_of

ALARM = "no signal: in 100% of the groups all verdicts are equal <b>bold</b>"
CONFIG = "out: x\nmodel: m<1>\nsteps: 9\ndata: gone.jsonl\nreward: {type: laser, target: 60}\nprompt: {template: '<i>{problem}'}\n"


def row(step: int, **more):
    """A row of metrics.jsonl, with what a run may leave without a number."""
    return {
        "step": step, "accuracy": 0.5 + 0.05 * step, "tokens": 100.0 - step, "tokens_correct": 90.0, "tokens_wrong": None,
        "truncated": 0.0, "empty": 0.0, "unknown": 0.0, "zero_signal": 0.5, "rollouts": 8, "reward/sum": 0.4,
        "reward/sum/correct": 0.6, "approx_kl": 0.0, "entropy": 0.1, "grad_norm": math.nan if step == 2 else 0.3,
        "max_tokens": 320, "events": [], "alarms": [ALARM] if step in (2, 3) else [], "time/sample": 2.0, "time/update": 1.0,
        "time/step": 3.1, "time/tokens_per_second": 400.0, **more,
    }  # fmt: skip


def write_rollouts(file, problems, lengths, levels):
    file.parent.mkdir(exist_ok=True)
    n = len(problems)
    columns = {
        "problem_id": problems, "length": lengths, "level": levels, "verdict": pa.array([1, 0, None] * n, pa.int8())[:n],
        "truncated": [False] * n, "gold": ["<1>"] * n, "answer": ["&2"] * n, "text": [f"{EVIL} {i}" for i in range(n)],
    }  # fmt: skip
    pq.write_table(pa.table(columns), file)
    return file


@pytest.fixture
def run(tmp_path):
    """A run of four steps with a held-out test at two of them, finished."""
    folder = tmp_path / "run<1>"
    folder.mkdir()
    rows = [row(1), row(2, **{"heldout/accuracy": 0.7, "heldout/tokens": 80.0}), row(3)]
    rows.append(row(4, **{"heldout/accuracy": 0.8, "heldout/tokens": 70.0}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "status.json").write_text('{"state": "finished", "pid": 1, "step": 4}')
    (folder / "versions.json").write_text('{"python": "3.11", "command": ["<x>"]}')
    write_rollouts(folder / "rollouts/step-000001.parquet", ["a", "a", "a", "b"], [9, 5, 7, 2], ["1", "1", "1", "2"])
    write_rollouts(folder / "rollouts/step-000004.parquet", ["a", "a", "c", "c"], [4, 6, 1, 8], ["1", "1", "2", "2"])
    write_rollouts(folder / "rollouts/step-000005.parquet", ["z"], [1], ["1"])  # killed before its row was written
    return folder


def test_the_page_is_one_well_formed_file_in_which_no_text_becomes_markup(run, capsys):
    assert main([str(run)]) == 0
    text = assert_self_contained(run / "report.html")
    assert "<script>alert" not in text and "<b>bold" not in text and "<i>{problem}" not in text and "m<1>" not in text
    data = data_of(text)
    assert data["steps"] == [1, 2, 3, 4] and data["numbers"]["grad_norm"] == [0.3, None, 0.3, 0.3]
    assert data["numbers"]["heldout/accuracy"] == [None, 0.7, None, 0.8]
    assert [len(a) for a in data["alarms"]] == [0, 1, 1, 0]
    said = capsys.readouterr().out
    assert "finished, step 4 of 9" in said and "accuracy  0.550 → 0.700; held out 0.700 → 0.800" in said
    assert "tokens    99.0 → 96.0; held out 80.0 → 70.0" in said and "no signal: step 2-3" in said
    assert said.splitlines()[-1] == str(run / "report.html")


def test_panels_hold_what_was_logged_and_nothing_else():
    panels = {p.title: [key for _, key in p.curves] for p in panels_of(list(row(1, **{"heldout/tokens": 1.0})))}
    assert panels["Accuracy"] == ["accuracy"] and panels["Tokens per response"][-1] == "heldout/tokens"
    assert panels["Reward, each term"] == ["reward/sum", "reward/sum/correct"]
    assert panels["Time by phase"] == ["time/sample", "time/update"]
    assert panels_of(["lr"]) == []


def test_a_torn_last_line_is_left_out_and_said(run, capsys):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "accu')
    found = read_run(run)
    assert found.steps == [1, 2, 3, 4]
    assert found.warnings == [
        "metrics.jsonl:5: torn, as by a process that died or is just writing it; this line is left out."
    ]
    assert main([str(run), "--out", str(run / "other.html")]) == 0
    assert "note: metrics.jsonl:5: torn" in capsys.readouterr().out
    assert "metrics.jsonl:5: torn" in (run / "other.html").read_text()


def test_lines_that_are_no_step_and_steps_that_stand_twice_are_named(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1:1] = ["not json", '{"accuracy": 1}', json.dumps(row(1, tokens=7.0))]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    found = read_run(run)
    assert found.steps == [1, 2, 3, 4] and found.series("tokens")[0] == 7
    assert [w.split(":")[1] for w in found.warnings] == ["2", "3", "4"]


def test_a_run_that_is_going_and_one_that_was_killed_are_told_apart_by_the_lock(run):
    (run / "status.json").write_text('{"state": "running", "pid": 1}')
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        going = read_run(run)
        assert going.state == "running" and "first 4 steps" in going.warnings[0]
    killed = read_run(run)
    assert killed.state == "killed" and f"taut train resume={run}" in killed.warnings[0]


def test_a_folder_without_steps_is_an_error_with_the_remedy(run, tmp_path):
    with pytest.raises(TautError, match=r"no such run folder; give the `out`"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(TautError, match=r"no metrics\.jsonl in this folder"):
        read_run(tmp_path)
    (run / "metrics.jsonl").write_text('{"step": 1, "ac')
    with pytest.raises(TautError, match=r"holds no step yet; wait for the first, or start again"):
        read_run(run)
    with pytest.raises(TautError, match=r"ends in \.html"):
        (run / "metrics.jsonl").write_text(json.dumps(row(1)))
        main([str(run), "--out", str(run / "page")])


def test_one_step_without_settings_or_rollouts_is_a_page_too(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(1)) + "\n")
    assert main([str(tmp_path)]) == 0
    text = assert_self_contained(tmp_path / "report.html")
    assert data_of(text)["steps"] == [1] and "No config.yaml" in text and "None to show" in text
    assert "unknown, step 1\n" in capsys.readouterr().out


def test_alarms_are_listed_by_kind_with_their_steps():
    rows = [{"step": s, "alarms": ["a: 1", "b: x"] if s < 4 else ["a: 2"]} for s in (1, 2, 3, 5)]
    assert alarms_of(rows) == [Alarm("a", [1, 2, 3, 5], "a: 2"), Alarm("b", [1, 2, 3], "b: x")]
    assert spans([1, 2, 3, 5]) == "1-3, 5" and spans([]) == ""


def test_rollouts_are_matched_by_problem_and_else_by_level(run):
    files = logged(run / "rollouts", 4)
    assert list(files) == [1, 4]  # not the one beyond the metrics
    found = matches(Texts(files[1]), Texts(files[4]))
    assert [(m.title, m.first, m.last) for m in found] == [
        ("The same problem, a", [1, 0], [0, 1]), ("Level 2, different problems", [3], [2, 3]),
    ]  # fmt: skip
    shown = compare_files(files[1], files[4], "gone.jsonl", {}, [])
    assert [[r["tokens"] for r in shown[0][side]] for side in ("first", "last")] == [[5, 9], [4, 6]]
    assert all(not m["last"] for m in compare_files(files[1], files[1], None, None, []))


def test_a_log_that_does_not_read_is_a_warning(run):
    (run / "rollouts/step-000001.parquet").write_bytes(b"PAR1torn")
    assert main([str(run)]) == 0
    text = (run / "report.html").read_text()
    assert "cannot be read as parquet" in text and data_of(text)["comparisons"] == []


@pytest.mark.slow
def test_the_page_in_a_browser(run):
    assert main([str(run)]) == 0
    with open_page(run / "report.html") as (browser, complaints):
        panels = browser.locator(".panel")
        titles = [t.split("\n")[0] for t in browser.locator(".panel h3").all_inner_texts()]
        assert titles[0] == "Accuracy" and titles[-1].startswith("Any other number")
        assert browser.locator(".panel svg .alarm-mark").count() == 2 * panels.count()
        box = panels.nth(0).locator("svg").bounding_box()
        assert box
        x = box["x"] + box["width"] * (58 + (550 - 58) / 3) / 560  # step 2 of 1 to 4
        browser.mouse.move(x, box["y"] + box["height"] / 2)
        tip = browser.inner_text("#tip")
        assert all(part in tip for part in ("step 2", "training", "0.6", "held out", "0.7", "no signal"))

        time = panels.nth(titles.index(next(t for t in titles if t.startswith("Time"))))
        time.locator("svg").focus()
        browser.keyboard.press("ArrowRight")
        assert "step 1" in browser.inner_text("#tip") and "sum" in browser.inner_text("#tip")
        browser.select_option("#other", "max_tokens")
        assert "max_tokens" in panels.last.locator(".legend").inner_text()
        browser.fill("#smooth", "3")
        assert browser.locator(".panel svg .faint").count() > 5

        assert browser.locator("#comparisons article").count() == 4 + 3
        assert EVIL[:20] in browser.inner_text("#comparisons")
        browser.click("summary >> text=settings")
        browser.fill("#find", "target")
        assert browser.locator("#settings tbody tr:visible").all_inner_texts() == ["reward.target\t60"]
        drawn = browser.eval_on_selector_all("svg path, svg line", "all => all.map(e => e.outerHTML).join()")
        assert "NaN" not in drawn and np.isfinite(box["height"])
        assert complaints == []
