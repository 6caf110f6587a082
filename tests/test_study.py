"""The study of the table: its statistics on data of which the truth is known, its files, and one of its runs made again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.intervals import Estimate
from benchmarks.study import long, warning
from benchmarks.study.claims import better, claims, equal
from benchmarks.study.curves import curves
from benchmarks.study.figure import front
from benchmarks.study.long import fall
from benchmarks.study.pace import REFERENCE, WINDOW, paces, soonest
from benchmarks.study.reference import Against, against_linear, best, mixture
from benchmarks.study.report import answer, report
from benchmarks.study.runs import Measured, Study, first_down, load
from benchmarks.study.summary import BEGIN, SHOWN, summary, write
from benchmarks.study.uncertainty import Noise, measure, measure_beside, measure_these, moderate, noise, two_way
from rewards.errors import TautError

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "table"
QUIET = 40  # steps of a made-up run


def made(
    rng: np.random.Generator,
    name: str,
    accuracy: float,
    seeds: int = 3,
    problems: int = 400,
    seed_sd: float = 0.0,
    tokens: float = 60,
) -> Measured:
    """One answer a problem and seed; a seed shifts all chances alike; problems differ in difficulty."""
    hard = np.linspace(-0.1, 0.1, problems)
    chances = np.clip(accuracy + hard + rng.normal(size=(seeds, 1)) * seed_sd, 0, 1)
    lengths = tokens + 100 * hard + rng.normal(size=(seeds, problems))
    answers = (rng.random((seeds, problems)) < chances).astype(np.float64)
    return Measured(name, "shaped", tuple(range(seeds)), answers, lengths)


def test_the_variance_of_seeds_is_told_from_that_of_sampling() -> None:
    rng = np.random.default_rng(0)
    found = [two_way(made(rng, "x", 0.8, 4, 300, seed_sd=0.03).accuracy) for _ in range(400)]
    total, sampling = np.mean(found, axis=0)
    assert total - sampling == pytest.approx(0.03**2, rel=0.15)
    assert sampling == pytest.approx(0.8 * 0.2 / 300, rel=0.1)
    assert all(math.isnan(v) for v in two_way(np.ones((1, 5))))


def test_moderated_variances_know_what_they_were_drawn_from() -> None:
    rng = np.random.default_rng(1)
    freedom = np.full(3000, 2.0)
    true = 4.0 * 6 / rng.chisquare(6, 3000)  # a scaled inverse chi-square: prior 4 with 6 degrees of freedom
    drawn = true * rng.chisquare(2, 3000) / 2
    found = moderate(drawn, freedom)
    assert found.prior == pytest.approx(4, rel=0.1) and found.freedom == pytest.approx(6, rel=0.25)
    assert np.mean((np.log(found.each) - np.log(true)) ** 2) < 0.5 * np.mean((np.log(drawn) - np.log(true)) ** 2)
    same = moderate(5 * rng.chisquare(2, 3000) / 2, freedom)
    assert same.prior == pytest.approx(5, rel=0.1) and same.freedom > 50
    lone = moderate(np.array([1.0, 2.0, math.nan]), np.array([2.0, 2.0, 0.0]))
    assert lone.each[2] == pytest.approx(lone.prior)
    with pytest.raises(ValueError, match="two seeds"):
        moderate(np.ones(3), np.zeros(3))


def test_intervals_contain_the_truth_where_seeds_matter() -> None:
    """Of a difference whose truth is 0.02: 95 % of the intervals, which problems alone would make far too narrow."""
    rng = np.random.default_rng(2)
    hit = narrow = 0
    for _ in range(120):
        study = [made(rng, f"c{i}", 0.80 + 0.02 * (i == 0), 3, 300, seed_sd=0.03) for i in range(12)]
        u = measure_these(study, 400, 0)
        e = u.difference("c0", "c1", "accuracy")
        hit += e.low <= 0.02 <= e.high
        both = study[0].accuracy.mean(axis=0) - study[1].accuracy.mean(axis=0)
        narrow += abs(both.mean() - 0.02) <= 1.96 * both.std(ddof=1) / math.sqrt(len(both))
    assert 0.90 <= hit / 120 <= 1.0 and narrow / 120 < 0.85


def test_the_power_that_is_stated_is_had() -> None:
    rng = np.random.default_rng(3)
    known = Noise(seed=0.02, problem=0.3, sample=0.4, freedom=math.inf)
    difference = known.detectable(seeds=3, problems=1000)
    error = known.error(3, 1000)
    seen = difference + error * rng.normal(size=4000)
    assert np.mean(np.abs(seen) > 1.96 * error) == pytest.approx(0.9, abs=0.02)
    assert known.detectable(10, 1000) < known.detectable(3, 1000) < known.detectable(3, 100)


def small() -> Study:
    """A study with the configurations that the claims ask for; harsh ones collapse, after their answers have become short."""
    rng = np.random.default_rng(4)
    names = [
        "plain", "linear-0.1", "linear-0.3", "linear-1", "linear-2", "linear-4", "std-linear-0.1", "std-linear-4", "az-0.8",
        "grpo-lambda-0.8", "laser-100", "laser-60", "laser-d-48", "laser-d-24", "hapo-0.1", "hapo-1", "dler-144", "dler-96",
        "drpo-advantage-0.1", "canon-inter", "canon-random", "canon-eff-0.8", "canon-eff-0.5", "canon-entropy", "pear-1",
    ]  # fmt: skip
    harsh = {"linear-4", "az-0.8", "std-linear-4", "std-linear-0.1"}
    found = {"base": Measured("base", "base", (0,), rng.random((1, 400)) < 0.85, np.full((1, 400), 100.0))}  # type: ignore[arg-type]
    steps, alarms = {}, {}
    for name in names:
        c = made(rng, name, 0.6 if name in harsh else 0.9, tokens=35 if name in harsh else 60)
        found[name] = Measured(name, "plain" if name == "plain" else "shaped", c.seeds, c.accuracy, c.tokens)
        for seed in c.seeds:
            down = np.clip((np.arange(QUIET) - 20) / 10, 0, 1) if name in harsh else np.zeros(QUIET)
            soon = np.clip((np.arange(QUIET) - 8) / 10, 0, 1) if name in harsh else np.zeros(QUIET)
            flat = {
                q: np.full(QUIET, 0.5) for q in ("tokens_max", "entropy", "grad_norm", "advantage_abs", "zero_signal")
            }
            flat |= {q: np.zeros(QUIET) for q in ("correct_pushed_down", "wrong_pushed_up", "truncated", "format_ok")}
            tokens = 100 - 60 * soon + rng.normal(size=QUIET)
            steps[name, seed] = {
                **flat, "tokens": tokens, "tokens_correct": tokens, "tokens_wrong": tokens, "accuracy": 0.9 - 0.3 * down,
            }  # fmt: skip
            alarms[name, seed] = ["length collapse" if name == "az-0.8" and i == 30 else "" for i in range(QUIET)]
    level = np.array(["1", "2"] * 200)
    return Study(np.array([f"p{i}" for i in range(400)]), level, found, steps, alarms, {"machine": "none"})


def test_the_pages_say_every_configuration_and_every_claim() -> None:
    study = small()
    u = measure(study, 200)
    page = report(study, u)
    assert all(f"| {c.name} " in page for c in study.trained)
    found = claims(study, u)
    assert len({c.paper for c in found}) == len(found) >= 8
    by = {c.paper.split()[0]: c for c in found}
    assert by["GRPO-λ"].verdict == "confirmed"  # 0.9 against 0.6
    assert by["HAPO"].verdict in ("undecided", "refuted", "confirmed")
    assert {c.method for c in curves(study, u)} >= {"linear", "laser", "hapo"}


def test_mixtures_of_linear_penalties_are_the_reference() -> None:
    points = np.array([[0.6, 40.0], [0.9, 60.0], [0.95, 80.0], [0.7, 70.0]])  # the last is below what the others reach
    at = {38.5: (), 39.5: (0,), 50.0: (0, 1), 59.5: (1,), 62.0: (1, 2), 75.0: (1, 2), 79.5: (2,), 200.0: (2,)}
    assert {t: best(points, t) for t in at} == at
    assert float(mixture(points[0], points[1], np.array(50.0))) == pytest.approx(0.75)
    study = small()
    u = measure(study, 200)
    of = against_linear(study, u, "plain")
    assert (
        of is not None
        and all(n.startswith("linear-") for n in of.reference)
        and of.value.low <= of.value.value <= of.value.high
    )
    assert against_linear(study, u, "linear-4") is None  # no other is as short
    told = answer({"good": Against(Estimate(0.1, 0.01, 0.08, 0.12), ("linear-1",)), "even": of})
    assert "better are good; not told apart 1; worse are none" in told


def test_a_slower_configuration_is_told_however_seeds_move_all_alike() -> None:
    study = small()
    u = measure(study, 200)
    true = {"laser-60": 0.95, "hapo-1": 1.5, "hapo-0.1": 1.7}
    hit = told = 0
    for draw in range(40):
        rng = np.random.default_rng(draw)
        shared = rng.normal(size=3) * 0.3  # what the seeds' problems move, in all configurations
        for c in study.trained:
            for seed in c.seeds:
                pace = 60 * true.get(c.name, 1.0) * math.exp(shared[seed] + 0.01 * rng.normal())
                study.steps[c.name, seed]["tokens"] = np.full(QUIET, pace)
        found = {p.name: p for p in paces(study, u, {})}
        assert set(found) == {c.name for c in study.trained if u.mean[c.name][1] > 50}  # the short ones do not settle
        hit += sum(p.ratio.low <= true.get(n, 1.0) <= p.ratio.high for n, p in found.items() if n != REFERENCE)
        told += sum(found[n].ratio.low > 1 for n in ("hapo-1", "hapo-0.1")) + (found["laser-60"].ratio.high < 1)
        first = [p.name for p in soonest(study, list(found.values()))]
        assert first[0].startswith("laser-60") and first[-1] == "hapo-1" and "hapo-0.1" not in first
    assert 0.92 <= hit / (40 * (len(found) - 1)) <= 0.99 and told >= 115
    assert (
        first_down(np.array([9.0, 9, 9, 3, 3, 3, 9]), WINDOW, 5.0) == 5
        and first_down(np.full(7, 9.0), WINDOW, 5.0) is None
    )


def test_the_readme_has_the_table_and_keeps_its_words(tmp_path: Path) -> None:
    study = small()
    u = measure(study, 200)
    page = tmp_path / "README.md"
    page.write_text(f"above\n{BEGIN}\nold numbers\n<!-- end of the table -->\nbelow\n")
    write(study, u, page)
    told = page.read_text()
    assert (
        told.startswith("above\n")
        and told.endswith("below\n")
        and "old numbers" not in told
        and summary(study, u) in told
    )
    assert SHOWN["laser-60"] in told and SHOWN["alp-1"] not in told  # which this study lacks
    page.write_text("no mark")
    with pytest.raises(TautError, match="has no <!-- table"):
        write(study, u, page)


@pytest.mark.slow
def test_the_readme_says_what_the_committed_results_say() -> None:
    study = load(RESULTS)
    assert set(SHOWN) - {"base"} <= set(study.configurations)
    assert summary(study, measure(study)) in (RESULTS.parents[2] / "README.md").read_text(encoding="utf-8")


def test_verdicts_follow_from_intervals() -> None:
    def e(low: float, high: float) -> Estimate:
        return Estimate((low + high) / 2, 0.1, low, high)

    assert [better(e(*i)) for i in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == ["confirmed", "refuted", "undecided"]
    assert [equal(e(*i)) for i in ((-0.01, 0.01), (0.03, 0.05), (-0.05, 0.05), (-0.1, -0.03))] == [
        "confirmed", "refuted", "undecided", "refuted",
    ]  # fmt: skip


def test_what_warned_early_is_found_and_false_alarms_are_counted() -> None:
    study = small()
    runs = warning.runs_of(study)
    assert {r.configuration for r in runs if r.collapsed} == {"linear-4", "az-0.8", "std-linear-4", "std-linear-0.1"}
    own, other = warning.judge("tokens, of the start", runs) or pytest.fail("no threshold was found")
    assert own.early == own.collapsed == 12 and own.false == 0 and other.early == 12
    assert min(own.leads) >= 5  # the answers shorten from step 8, accuracy falls from step 20
    late, _ = warning.judge("training accuracy", runs) or pytest.fail("no threshold was found")
    assert np.median(late.leads) < np.median(own.leads)
    (told,) = warning.of_the_trainer(runs)
    assert (told.quantity, told.early, told.late, told.false) == ("length collapse", 0, 3, 0)
    assert "tokens, of the start" in warning.report(study)


def test_a_fall_is_seen_where_it_is() -> None:
    accuracy = np.concatenate([np.full(50, 0.9), np.full(50, 0.5)])
    assert fall(accuracy) == 53  # three of ten at 0.5 are the first to pull the mean 0.1 down
    assert fall(np.full(30, 0.9)) is None


def test_the_long_claim_says_when_each_seed_fell() -> None:
    rng = np.random.default_rng(7)
    found = {"base": Measured("base", "base", (0,), np.ones((1, 400)), np.full((1, 400), 100.0))}
    steps = {}
    for name in ("plain", "az-0.2", "az-0.5", "grpo-lambda-0.2", "grpo-lambda-0.5"):
        found[name] = made(rng, name, 0.4 if name == "az-0.5" else 0.9, seeds=2)
        for seed in (0, 1):
            down = 0.5 * (np.arange(100) >= 50) if name == "az-0.5" and seed else np.zeros(100)
            steps[name, seed] = {"accuracy": 0.9 - down, "tokens": np.full(100, 60.0)}
    study = Study(np.arange(400), np.array(["1"] * 400), found, steps, {}, {})
    u = measure(study, 200)
    (told,) = long.claims(study, u)
    assert (
        told.verdict == "confirmed" and "never/53 (all)" in told.number and "never/never (best groups)" in told.number
    )
    assert "| az-0.5" in long.report(study, u)


def test_long_runs_are_held_against_the_same_after_forty_steps() -> None:
    """A configuration of both studies lost 0.2, which holds with seeds of either drawn apart and problems drawn together."""
    rng = np.random.default_rng(8)
    names = ("linear-0.3", "linear-2", "laser-100", "laser-d-48", "hapo-1", "az-0.5", "grpo-lambda-0.5")
    levels = ((0.9, 60.0), (0.7, 50.0))
    both = []
    for accuracy, tokens in levels:
        found = {n: made(rng, n, accuracy, seeds=2, seed_sd=0.02, tokens=tokens) for n in names}
        steps = {(n, s): {"accuracy": np.full(40, 0.9), "tokens": np.full(40, 60.0)} for n in names for s in (0, 1)}
        both.append(Study(np.arange(400), np.array(["1"] * 400), found, steps, {}, {}))
    table40, study = both
    u, u40 = measure_beside(study, table40, 2000)
    change = u.draws["hapo-1"][:, 0] - u40.draws["hapo-1"][:, 0]
    assert -0.27 < change.mean() < -0.13
    own = [float(d.draws["hapo-1"][:, 0].var()) for d in (u, u40)]
    assert 0.5 < change.var() / sum(own) < 1.1  # problems in common, training seeds not
    text = long.report(study, u, u40)
    assert "Δ accuracy to 40 steps" in text and "| laser-d-48 - laser-100" in text and "linear-0.3" in text
    found = {c.paper: c for c in long.claims(study, u)}
    assert {"LASER-D (2505.15612)", "HAPO (2505.11225)"} < set(found)
    assert found["LASER-D (2505.15612)"].verdict == better(u.difference("laser-d-48", "laser-100", "accuracy"))
    elsewhere = Study(np.arange(1, 401), study.level, study.configurations, study.steps, {}, {})
    with pytest.raises(TautError, match="other problems"):
        measure_beside(study, elsewhere)


def test_the_front_rises_from_fewest_tokens_to_most() -> None:
    study = small()
    u = measure(study, 200)
    best = front(study, u)
    means = np.array([u.mean[n] for n in best])
    assert np.all(np.diff(means[:, 0]) > 0) and np.all(np.diff(means[:, 1]) > 0)
    assert best[0] in ("linear-4", "az-0.8", "std-linear-4", "std-linear-0.1")


def test_seeds_that_lose_tokens_and_accuracy_together_are_drawn_so() -> None:
    rng = np.random.default_rng(5)
    study = []
    for i in range(10):
        shift = rng.normal(size=(3, 1))
        c = made(rng, f"c{i}", 0.8)
        accuracy = (rng.random(c.accuracy.shape) < 0.8 + 0.05 * shift).astype(np.float64)
        study.append(Measured(c.name, c.kind, c.seeds, accuracy, c.tokens + 0.5 * shift))
    u = measure_these(study, 2000, 0)
    drawn = u.draws["c0"] - u.mean["c0"]
    assert float(np.corrcoef(drawn.T)[0, 1]) > 0.5


def test_noise_is_measured_among_those_named() -> None:
    study = small()
    u = measure(study, 200)
    found = noise(study, u, ["plain", "linear-1", "hapo-1"], "accuracy")
    assert found.sample == pytest.approx(math.sqrt(0.9 * 0.1), abs=0.05) and found.seed < 0.02


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TautError, match=r"answers\.parquet: not there"):
        load(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_the_table_made_again_agrees_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the answer on the kind of machine that made the table; elsewhere within the interval of the difference of two seeds."""
    from benchmarks.study.gather import main as gather
    from taut import main as taut

    name, seed, out = "linear-1", 0, tmp_path / "table"
    assert taut(["sweep", "table", "--out", str(out), "--jobs", "1", "--runs", name, f"seeds=[{seed}]"]) == 0
    assert gather([str(out), "--out", str(tmp_path / "gathered")]) == 0
    assert "1 runs of" in capsys.readouterr().out
    again, study = load(tmp_path / "gathered"), load(RESULTS)
    table = study.configurations[name]
    i = table.seeds.index(seed)
    mine = again.configurations[name]
    assert np.array_equal(again.problems, study.problems) and again.level.tolist() == study.level.tolist()
    if np.array_equal(mine.tokens[0], table.tokens[i]) and np.array_equal(mine.accuracy[0], table.accuracy[i]):
        for quantity in ("accuracy", "tokens"):
            np.testing.assert_array_equal(again.steps[name, seed][quantity], study.steps[name, seed][quantity])
        for quantity in ("loss", "grad_norm"):  # another CPU's kernels may round otherwise and still sample the same
            ours, theirs = again.steps[name, seed][quantity], study.steps[name, seed][quantity]
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
        return
    u, problems = measure(study), len(study.problems)
    for j, values, others in ((0, mine.accuracy, table.accuracy), (1, mine.tokens, table.tokens)):
        gap = values[0] - others[i]
        error = math.hypot(math.sqrt(2) * u.seed_sd[name][j], float(gap.std(ddof=1)) / math.sqrt(problems))
        assert abs(gap.mean()) < 4 * error, (
            f"{name}, seed {seed}: {gap.mean():+.4f} from the table, {error:.4f} is usual"
        )
