"""The front: who is on it, what is said about it, and a picture whose labels can be read."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.comparison import comparison
from benchmarks.pareto import Configuration, Point, collect, front_table, main, make_points, non_dominated
from benchmarks.picture import place_labels
from benchmarks.statistics import Estimate, Samples
from rewards.errors import TautError


def point(accuracy: float, tokens: float, name: str = "p", kind: str = "shaped") -> Point:
    def estimate(x: float, half: float) -> Estimate:
        return Estimate(x, half / 2, x - half, x + half)

    return Point(name, estimate(accuracy, 0.02), estimate(tokens, 2.0), kind=kind)


def samples(accuracy: float, tokens: float, problems: int = 40, k: int = 4, seed: int = 0, first: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"p{i:03}" for i in range(first, first + problems)], k)
    n = len(ids)
    return Samples(ids, rng.integers(1, round(2 * tokens), n), (rng.random(n) < accuracy).astype(int))


def write_evaluation(path, accuracy=0.5, tokens=100.0, meta=None, **columns):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    s = samples(accuracy, tokens)
    table: dict = {
        "problem_id": s.problem_id, "level": ["1"] * len(s), "sample_id": np.arange(len(s)), "length": s.length,
        "verdict": s.verdict, "truncated": s.truncated, "reason": [""] * len(s), "text": [""] * len(s),
    }  # fmt: skip
    table |= columns
    arrow = pa.table({k: pa.array(v) for k, v in table.items() if v is not None})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.replace_schema_metadata({"taut": json.dumps(meta or {})}), path)
    return path


def test_a_point_is_off_the_front_when_another_is_at_least_as_good_in_both():
    points = [point(0.9, 100), point(0.9, 80), point(0.8, 80), point(0.7, 40), point(0.95, 200)]
    assert non_dominated(points) == [False, True, False, True, True]


def test_equal_points_share_the_front_and_nan_is_never_on_it():
    assert non_dominated([point(0.9, 100), point(0.9, 100), point(math.nan, 1)]) == [True, True, False]
    assert non_dominated([]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_front_equals_brute_force(pairs):
    def dominated(a, t):
        return any(b >= a and u <= t and (b > a or u < t) for b, u in pairs)

    points = [point(float(a), float(t)) for a, t in pairs]
    assert non_dominated(points) == [not dominated(a, t) for a, t in pairs]


def test_differences_are_taken_to_plain_on_the_shared_problems():
    configurations = [
        Configuration("base", "base", [samples(0.5, 120)]),
        Configuration("plain", "plain", [samples(0.8, 100, seed=1), samples(0.8, 100, seed=2)]),
        Configuration("short", "shaped", [samples(0.8, 50, seed=3)]),
    ]
    points, warnings = make_points(configurations)
    assert warnings == [] and [p.seeds for p in points] == [1, 2, 1]
    assert points[1].against is None and points[2].against is not None
    assert points[2].against.tokens_ratio.value == pytest.approx(-0.5, abs=0.1)
    assert "plain" in front_table(points).splitlines()[0]


def test_other_problems_are_warned_about_and_none_in_common_is_an_error():
    a, b = Configuration("a", "shaped", [samples(0.5, 10)]), Configuration("b", "shaped", [samples(0.5, 10, first=20)])
    points, warnings = make_points([a, b])
    assert all(p.summary and p.summary.problems == 20 for p in points)
    assert "20 problems they share" in warnings[0]
    with pytest.raises(TautError, match="no problem in common"):
        make_points([a, Configuration("c", "shaped", [samples(0.5, 10, first=500)])])


def test_one_problem_is_warned_about():
    _, warnings = make_points([Configuration("a", "shaped", [samples(0.5, 10, problems=1)])])
    assert any("one problem" in w for w in warnings)


def test_an_unknown_reference_is_named():
    with pytest.raises(TautError, match="'plane' is none of the configurations: plain"):
        make_points([Configuration("plain", "plain", [samples(0.5, 10)])], "plane")


def test_main_writes_png_csv_and_table(tmp_path, capsys):
    for seed in (0, 1):
        run = tmp_path / f"plain-s{seed}"
        write_evaluation(run / "heldout/step-000020.parquet", 0.1)
        write_evaluation(run / "heldout/step-000040.parquet", 0.9, 120)  # the last counts
        (run / "config.yaml").write_text("reward: {type: correct}\n")
    write_evaluation(tmp_path / "laser-s0/eval.parquet", 0.85, 60, {"temperature": 1.0})
    (tmp_path / "laser-s0/config.yaml").write_text("reward: {type: laser, target: 60}\n")
    write_evaluation(tmp_path / "x.parquet", 0.5, 100, {"temperature": 1.0})
    paths = [str(tmp_path / n) for n in ("plain-s0", "plain-s1", "laser-s0")]
    assert main([*paths, f"base={tmp_path / 'x.parquet'}", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.strip().splitlines()[-1].endswith("front.png")
    rows = {r["name"]: r for r in csv.DictReader((tmp_path / "out/front.csv").open())}
    assert {n: r["kind"] for n, r in rows.items()} == {"plain": "plain", "laser": "shaped", "base": "base"}
    assert rows["plain"]["seeds"] == "2" and float(rows["plain"]["accuracy"]) > 0.8
    assert rows["plain"]["accuracy_difference"] == "" and float(rows["laser"]["tokens_change_high"]) < 0
    assert (tmp_path / "out/front.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out/front.pdf").read_bytes()[:4] == b"%PDF"


def test_compare_tells_differences_and_win_rates_with_intervals(tmp_path, capsys):
    rng, texts = np.random.default_rng(0), {}
    for name, size in (("long", 120), ("short", 60)):
        texts[name] = ["x" * int(n) for n in rng.integers(size // 2, size * 2, 160)]
    logged = {"group": np.repeat(np.arange(40), 4), "max_tokens": [512] * 160, "origin": [None] * 160}
    logged |= {"token_ids": [[1]] * 160}
    one = write_evaluation(tmp_path / "long.parquet", 0.6, 120, text=texts["long"], **logged)
    two = write_evaluation(tmp_path / "short.parquet", 0.8, 60, text=texts["short"], **logged)
    arguments = [str(one), str(two), "--out", str(tmp_path / "out"), "--compare", "long", "short"]
    assert main(arguments) == 0
    assert "| long -> short" in capsys.readouterr().out
    rows = {r["measure"]: r for r in csv.DictReader((tmp_path / "out/compare.csv").open())}
    assert list(rows) == ["accuracy", "tokens", "tokens, relative", "win rate, %", "win rate at equal lengths, %"]
    value = {name: float(row["value"]) for name, row in rows.items()}
    assert value["win rate, %"] == pytest.approx(50 + 50 * value["accuracy"]) and value["accuracy"] > 0.1
    assert all(float(row["low"]) < float(row["value"]) < float(row["high"]) for row in rows.values())
    with pytest.raises(TautError, match="'medium' is none of the configurations: long, short"):
        main([*arguments[:-1], "medium"])
    with pytest.raises(TautError, match="name two configurations"):
        main([*arguments[:-1], "long"])


def test_compare_without_texts_says_why_there_is_no_win_rate(tmp_path):
    a = Configuration("a", "shaped", [samples(0.5, 100)])
    b = Configuration("b", "shaped", [samples(0.9, 50, seed=1)])
    told = comparison([a, b], "a", "b", tmp_path / "compare.csv")
    assert "n/a (a was logged by others" in told and "accuracy" in told


@pytest.mark.parametrize("bad, message", [
    ({"verdict": None}, "no column verdict"),
    ({"sample_id": np.zeros(160, dtype=int)}, "rows 1 and 2"),
    ({"length": [None] * 160}, "row 1 has no length"),
])  # fmt: skip
def test_a_bad_evaluation_is_named(tmp_path, bad, message):
    path = write_evaluation(tmp_path / "bad.parquet", **bad)
    with pytest.raises(TautError, match=message) as error:
        collect([str(path)])
    assert "bad.parquet" in str(error.value)


def test_a_torn_file_and_a_folder_without_evaluation_are_named(tmp_path):
    path = write_evaluation(tmp_path / "torn.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TautError, match=r"torn\.parquet: cannot be read"):
        collect([str(path)])
    (tmp_path / "run").mkdir()
    with pytest.raises(TautError, match="taut eval"):
        collect([str(tmp_path / "run")])
    with pytest.raises(TautError, match="no such"):
        collect([str(tmp_path / "nothing")])


def test_evaluations_made_differently_are_warned_about(tmp_path):
    a = write_evaluation(tmp_path / "a.parquet", meta={"temperature": 1.0})
    b = write_evaluation(tmp_path / "b.parquet", meta={"temperature": 0.6})
    _, warnings = make_points(collect([str(a), str(b)]))
    assert any("temperature" in w for w in warnings)


def test_labels_of_crowded_points_do_not_overlap():
    rng = np.random.default_rng(0)
    crowd, apart = rng.normal((900, 700), 14, (8, 2)), rng.uniform((100, 100), (1700, 1000), (6, 2))
    spots = np.concatenate([crowd, apart])
    boxes = place_labels(spots, [(190, 28)] * len(spots), [], (0, 0, 1800, 1160))
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 1800 and b[3] <= 1160 for b in boxes)


def test_scores_hold_aes_reg_hypervolume_and_who_dominates(tmp_path, capsys):
    for name, accuracy, tokens in (("base", 0.5, 120), ("plain", 0.8, 100), ("short", 0.8, 50)):
        write_evaluation(tmp_path / f"{name}.parquet", accuracy, tokens)
    (tmp_path / "f.json").write_text(json.dumps({"easy": [[0, 1000], [0, 1]], "hard": [[0, 1000], [0, 0]]}))
    files = [str(tmp_path / f"{n}.parquet") for n in ("base", "plain", "short")]
    assert (
        main(
            [*files, "--frontier", f"{tmp_path / 'f.json'}:hard", "--out", str(tmp_path / "out"), "--resamples", "500"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "O1-Pruner's form to base, DRPO's to plain" in out and "hypervolume 0." in out
    rows = {r["name"]: r for r in csv.DictReader((tmp_path / "out/scores.csv").open())}
    assert rows["base"]["aes_o1_pruner"] == "" and rows["plain"]["aes_drpo"] == ""
    short = {
        k: float(v) for k, v in rows["short"].items() if v and k not in ("name", "by", "base", "reference", "frontier")
    }
    front = {r["name"]: r for r in csv.DictReader((tmp_path / "out/front.csv").open())}
    (a, t), (a0, t0) = ((float(front[n]["accuracy"]), float(front[n]["tokens"])) for n in ("short", "base"))
    assert short["aes_o1_pruner"] == pytest.approx(1 - t / t0 + 3 * (a / a0 - 1), rel=1e-4)
    assert short["aes_o1_pruner_low"] < short["aes_o1_pruner"] < short["aes_o1_pruner_high"]
    assert short["reg"] == pytest.approx(-a / 2, rel=1e-4) and short["reg_positive"] == 0
    assert short["p_front"] > 0.9 and rows["plain"]["by"] == "short"
    matrix = {r["name"]: r for r in csv.DictReader((tmp_path / "out/dominance.csv").open())}
    assert float(matrix["short"]["base"]) > 0.95 and float(matrix["base"]["short"]) == 0
    for arguments, message in (
        (["--base", "bass"], "'bass' is none"),
        (["--frontier", str(tmp_path / "f.json")], "easy, hard"),
    ):
        with pytest.raises(TautError, match=message):
            main([*files, *arguments, "--out", str(tmp_path / "out")])
    assert main([files[0], "--out", str(tmp_path / "one")]) == 0  # one point: nothing to compare it with
