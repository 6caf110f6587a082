"""The front's HTML page: its data, what is escaped, and how it behaves in a browser."""

import json
import math

import numpy as np
import pytest

from benchmarks.collect import Configuration, collect, differing_settings, method_of
from benchmarks.html.page import as_json
from benchmarks.html.rollouts import HEAD, TAIL, Texts, capped, problem_texts, shortest_and_longest
from benchmarks.html_report import front_band, hypervolume_shares
from benchmarks.pareto import main, make_points
from rewards.errors import TautError
from tests.browser import assert_self_contained, open_page
from tests.test_pareto import samples, write_evaluation

EVIL = "</script><script>alert(1)</script><!-- & \u2028 https://example.org/x.js <b>bold</b>"


def write_run(folder, reward: str, accuracy: float, tokens: float, seed: int = 0, texts: str | None = None):
    """A run folder with its settings and an evaluation, whose texts are of two kinds and hostile."""
    s = samples(accuracy, tokens, seed=seed)
    text = [texts or f"{EVIL} {i}" for i in range(len(s))]
    file = write_evaluation(
        folder / "eval.parquet", text=text, length=s.length, verdict=s.verdict, gold=["<1>"] * len(s), answer=["&2"] * len(s)
    )  # fmt: skip
    (folder / "config.yaml").write_text(f"out: {folder}\nseed: {seed}\nsteps: 4\nreward: {reward}\n", encoding="utf-8")
    return file


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "plain-s0", "{type: correct}", 0.8, 120)
    write_run(tmp_path / "laser-s0", "{type: laser, target: 60}", 0.85, 60, 1)
    write_run(tmp_path / "laser-s1", "{type: laser, target: 60}", 0.85, 60, 2)
    write_run(tmp_path / "harsh-s0", "{type: sum, terms: [{type: correct}, {type: linear_length}]}", 0.5, 30, 3)
    return [str(tmp_path / n) for n in ("plain-s0", "laser-s0", "laser-s1", "harsh-s0")]


@pytest.fixture
def page(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("benchmarks.pareto.draw_picture", lambda *_: None)  # the PNG has tests of its own
    assert main([*runs, "--out", str(tmp_path / "out"), "--resamples", "200", "--title", "Front <1> & {{data}}"]) == 0
    return tmp_path / "out/front.html"


def data_of(text: str):
    return json.loads(text.split('id="data">', 1)[1].split("</script>", 1)[0])


def test_the_page_is_one_well_formed_file_in_which_no_text_becomes_markup(page):
    text = assert_self_contained(page)
    assert "<title>Front &lt;1&gt; &amp; {{data}}</title>" in text
    assert "alert(1)" in text and "<script>alert" not in text and "<b>bold" not in text
    data = data_of(text)
    assert [p["name"] for p in data["points"]] == ["plain", "laser", "harsh"]
    assert {r["text"].rsplit(" ", 1)[0] for r in data["examples"]["laser"]["rollouts"]} == {EVIL}


def test_a_point_tells_the_settings_that_differ_and_its_method(runs):
    configurations = collect(runs)
    settings = differing_settings(configurations)
    assert settings["laser"] == {"reward.type": "laser", "reward.target": "60"}
    assert settings["plain"] == {"reward.type": "correct"}
    assert "steps" not in settings["harsh"] and json.loads(settings["harsh"]["reward.terms"])[0] == {"type": "correct"}
    assert [method_of(c) for c in configurations] == ["correct", "laser", "sum(correct, linear_length)"]


def test_what_is_not_finite_is_null_and_nothing_ends_the_script():
    text = as_json({"a": [math.nan, math.inf, 1.0], "b": "</script><!-- \u2028", "c": None})
    assert json.loads(text) == {"a": [None, None, 1.0], "b": "</script><!-- \u2028", "c": None}
    assert "<" not in text and "\u2028" not in text


def test_a_configuration_without_verdicts_is_in_the_table_and_stops_nothing(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("benchmarks.pareto.draw_picture", lambda *_: None)
    n = len(samples(0.5, 10))
    write_evaluation(tmp_path / "silent.parquet", verdict=[None] * n, text=None)
    assert main([*runs, str(tmp_path / "silent.parquet"), "--out", str(tmp_path / "out"), "--resamples", "50"]) == 0
    text = assert_self_contained(tmp_path / "out/front.html")
    data = data_of(text)
    assert data["points"][-1]["accuracy"] == [None, None, None] and 'data-name="silent"' in text
    assert all("no texts" in r["text"] for r in data["examples"]["silent"]["rollouts"])


def test_the_band_is_the_best_accuracy_within_a_budget():
    configurations = [
        Configuration("a", "plain", [samples(0.9, 100)], [{}]),
        Configuration("b", "shaped", [samples(0.5, 40)], [{}]),
    ]
    points, _ = make_points(configurations, resamples=300)
    band = front_band(points)
    low, high, tokens = (np.array(band[k]) for k in ("low", "high", "tokens"))
    assert (low <= high).all() and low[0] == high[0] == 0
    assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()  # more budget is never worse
    middle = np.searchsorted(tokens, (points[0].tokens.low + points[1].tokens.high) / 2)
    assert low[middle] < points[1].accuracy.value < high[middle]
    assert low[-1] < points[0].accuracy.value < high[-1]
    assert front_band([]) == {"tokens": [], "low": [], "high": []}


def test_a_share_of_the_hypervolume_is_what_is_lost_without_the_point():
    configurations = [
        Configuration("base", "base", [samples(0.8, 100)], [{}]), Configuration("b", "shaped", [samples(0.6, 40)], [{}]),
    ]  # fmt: skip
    points, _ = make_points(configurations, resamples=50)
    assert hypervolume_shares(points, "base") == {"base": pytest.approx(0), "b": pytest.approx(1)}
    assert hypervolume_shares(points, "") == {}


def test_examples_are_short_and_long_of_each_verdict_none_twice(tmp_path):
    texts = Texts(write_run(tmp_path / "r", "{type: correct}", 0.9, 50))
    chosen = shortest_and_longest(texts, 3)
    assert len({i for i, _ in chosen}) == len(chosen) == 12
    right = texts.length[texts.verdict == 1]
    assert texts.length[chosen[0][0]] == right.min() and texts.length[chosen[3][0]] == right.max()
    assert [size for _, size in chosen] == ["short"] * 3 + ["long"] * 3 + ["short"] * 3 + ["long"] * 3


def test_a_long_text_is_cut_in_its_middle_and_says_so():
    assert capped("short") == {"text": "short", "left_out": 0, "rest": ""}
    cut = capped("a" * HEAD + "b" * 7 + "c" * TAIL)
    assert cut == {"text": "a" * HEAD, "left_out": 7, "rest": "c" * TAIL}


def test_problem_texts_come_from_the_data_file_where_it_still_is(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"key": "p1", "question": "how many?"}\n{"key": "p2", "question": "why?"}\n')
    columns = {"id": "key", "problem": "question"}
    assert problem_texts(tmp_path / "p.jsonl", columns, {"p2"}) == {"p2": "why?"}
    assert problem_texts(tmp_path / "gone.jsonl", columns, {"p2"}) == {}


def test_a_torn_evaluation_is_named(tmp_path):
    (tmp_path / "torn.parquet").write_bytes(b"PAR1torn")
    with pytest.raises(TautError, match=r"torn\.parquet: cannot be read as parquet"):
        Texts(tmp_path / "torn.parquet")


@pytest.mark.slow
def test_the_page_in_a_browser(page):
    with open_page(page) as (browser, complaints):
        marks, rows = "#plot .point", "#points tbody tr"
        assert browser.locator(marks).count() == browser.locator(rows).count() == 3
        browser.hover(f"{marks}[data-name=laser] .mark")
        tip = browser.inner_text("#tip")
        assert "laser" in tip and "reward.target" in tip and "60" in tip and "seeds" in tip

        browser.fill("#words", "target=60")
        assert browser.locator(marks).count() == 1 and browser.locator(f"{rows}:visible").count() == 1
        browser.fill("#words", "")
        browser.uncheck("input[name=kind][value=plain]")
        assert browser.locator(f"{marks}[data-name=plain]").count() == 0
        assert browser.inner_text("#count") == "2 of 3 shown"
        browser.check("input[name=kind][value=plain]")

        def order():
            return browser.eval_on_selector_all(rows, "rows => rows.map(row => row.dataset.name)")

        assert order() == ["harsh", "laser", "plain"]  # fewest tokens first
        browser.click("#points th button >> text=accuracy >> nth=0")
        assert order() == ["laser", "plain", "harsh"]  # the best first
        browser.click("#points th button >> text=accuracy >> nth=0")
        assert order() == ["harsh", "plain", "laser"]

        browser.click(f"{marks}[data-name=harsh] .mark")
        assert browser.input_value("#which") == "harsh"
        assert browser.locator("#examples article").count() == 12
        assert EVIL[:20] in browser.inner_text("#examples")
        browser.focus(f"{marks}[data-name=plain]")
        browser.keyboard.press("Enter")
        assert browser.input_value("#which") == "plain"
        assert complaints == []
