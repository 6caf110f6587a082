"""The statistics of an evaluation: closed forms, measured coverage, pairing, and what is too little to say anything."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.coverage import (
    accuracy_cells,
    coverage_table,
    lengths,
    percentile,
    shares,
    shortest_cells,
    summary_table,
)
from benchmarks.intervals import (
    difference_interval,
    mean_interval,
    ratio_interval,
    resampling_weights,
    share_interval,
    student_quantile,
)
from benchmarks.statistics import Samples, by_level, compare, problem_means, summarise


def evaluation(correct, length=None, ids=None, **columns) -> Samples:
    """Samples from a (problems, samples) matrix of verdicts; lengths default to 10."""
    verdict = np.asarray(correct)
    p, k = verdict.shape
    length = np.full((p, k), 10.0) if length is None else np.asarray(length)
    ids = [f"p{i}" for i in range(p)] if ids is None else ids
    return Samples(np.repeat(ids, k), length.ravel(), verdict.ravel(), **columns)


def simulate(rng, problems: int, samples: int, concentration: float = 1.0) -> Samples:
    """Problems of very different difficulty (Beta), so that samples of one problem agree; lengths are heavy-tailed."""
    p = rng.beta(concentration, concentration, size=(problems, 1))
    correct = rng.random((problems, samples)) < p
    length = 50 * (2 - p) * rng.lognormal(0, 0.5, size=(problems, samples))
    return evaluation(correct.astype(int), length)


def test_point_estimates_are_means_over_problems_of_means_over_samples():
    s = summarise(evaluation([[1, 1, 0, 0], [1, 1, 1, 1]], [[10, 10, 20, 20], [30, 30, 30, 30]]))
    assert s.accuracy.value == pytest.approx(0.75)
    assert s.tokens.value == pytest.approx(22.5)
    assert (s.problems, s.samples, s.unknown, s.seeds) == (2, 8, 0, 1)


def test_standard_error_equals_the_closed_form_of_a_mean_of_problem_means():
    ev = simulate(np.random.default_rng(1), 300, 4)
    means = problem_means(ev)
    s = summarise(ev, resamples=20_000)
    for got, column in ((s.accuracy, means[:, 0]), (s.tokens, means[:, 1])):
        assert got.se == pytest.approx(column.std(ddof=0) / math.sqrt(300), rel=0.03)
        assert got.low == pytest.approx(got.value - 1.96 * got.se, abs=0.3 * got.se)
        assert got.high == pytest.approx(got.value + 1.96 * got.se, abs=0.3 * got.se)


def test_repeating_every_sample_does_not_narrow_the_interval():
    """Eight copies of one sample carry the information of one: an interval over samples would be sqrt(8) too narrow."""
    once = np.random.default_rng(2).integers(0, 2, size=(200, 1))
    one, eight = summarise(evaluation(once)), summarise(evaluation(np.repeat(once, 8, axis=1)))
    assert eight.accuracy == one.accuracy
    naive = math.sqrt(one.accuracy.value * (1 - one.accuracy.value) / (200 * 8))
    assert eight.accuracy.se > 2.5 * naive


@pytest.mark.parametrize(
    "accuracy, agreement, samples", [(0.05, 0, 1), (0.5, 0.9, 16), (0.95, 0.6, 16), (0.05, 0.9, 4)]
)
def test_intervals_of_accuracy_hold_the_truth_as_often_as_they_say(accuracy, agreement, samples):
    """At 30 problems, 2 points and three standard errors of 4,000 simulations allowed; percentile intervals hold 80 %."""
    values = shares(np.random.default_rng(0), (30, 4000), samples, accuracy, agreement)
    low, high = share_interval(values, 1 / samples)
    assert ((low <= accuracy) & (accuracy <= high)).mean() == pytest.approx(0.95, abs=0.03)
    low, high = percentile(values, 500)
    if accuracy != 0.5:
        assert ((low <= accuracy) & (accuracy <= high)).mean() < 0.9


@pytest.mark.parametrize("agreement, samples, tail", [(0, 1, 0.8), (0.9, 16, 0.8), (0.9, 4, 1.0)])
def test_intervals_of_tokens_hold_the_truth_as_often_as_they_say(agreement, samples, tail):
    rng, truth = np.random.default_rng(1), math.exp(tail**2 / 2)
    values = lengths(rng, (30, 2000), samples, agreement, tail)
    low, high = mean_interval(values, 800)
    assert ((low <= truth) & (truth <= high)).mean() == pytest.approx(0.95, abs=0.03)
    low, high = percentile(values, 800)
    assert ((low <= truth) & (truth <= high)).mean() < 0.92
    low, high = ratio_interval(0.7 * values, lengths(rng, (30, 2000), samples, agreement, tail), 800)
    assert ((low <= 0.7) & (high >= 0.7)).mean() == pytest.approx(0.95, abs=0.03)


def test_intervals_over_samples_would_be_far_too_narrow():
    values = shares(np.random.default_rng(3), (150, 2000), 8, 0.5, 0.5)
    low, high = share_interval(values, 1 / 8)
    assert ((low <= 0.5) & (high >= 0.5)).mean() == pytest.approx(0.95, abs=0.02)
    naive = 1.96 * math.sqrt(0.25 / (150 * 8))
    assert (abs(values.mean(axis=0) - 0.5) <= naive).mean() < 0.75


def test_methods_that_agree_on_every_problem_are_not_equal_for_certain():
    low, high = difference_interval(np.zeros((30, 1)), 1.0)
    assert low[0] == -high[0] < -0.05
    wide, narrow = (
        difference_interval(np.eye(1, 30).T / 16, 1 / 16),
        difference_interval(np.full((30, 1), 1 / 16), 1 / 16),
    )
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])  # where one problem differs, the next may by more


@pytest.mark.parametrize("problems", [2, 5, 40])
def test_a_single_odd_length_gives_a_finite_interval(problems):
    values = np.full((problems, 1), 100.0)
    values[0] = 900
    for low, high in (mean_interval(values), ratio_interval(values, np.full((problems, 1), 50.0))):
        assert np.isfinite([low, high]).all()
    low, high = mean_interval(values)
    assert low[0] < values.mean() < high[0]
    assert mean_interval(np.full(problems, 7.0)) == (7, 7)


def test_student_quantiles():
    for freedom, quantile in ((1, 12.7062), (2, 4.3027), (3, 3.1824), (8, 2.3060), (29, 2.0452), (500, 1.9647)):
        assert student_quantile(0.975, freedom) == pytest.approx(quantile, rel=2e-3)


def test_paired_differences_are_narrower_than_independent_ones_and_match_the_closed_form():
    rng = np.random.default_rng(4)
    p = rng.beta(0.5, 0.5, size=(500, 1))
    a, b = (
        evaluation((rng.random((500, 4)) < p).astype(int), 100 * (2 - p) + rng.normal(0, 5, (500, 4))) for _ in "ab"
    )
    c = compare(a, b, resamples=20_000)
    d = problem_means(a) - problem_means(b)
    assert c.accuracy.value == pytest.approx(d[:, 0].mean())
    assert c.accuracy.se == pytest.approx(d[:, 0].std() / math.sqrt(500), rel=0.03)
    unpaired = math.hypot(summarise(a).tokens.se, summarise(b).tokens.se)
    assert c.tokens.se < 0.3 * unpaired
    assert c.problems == 500 and c.left_out == 0


def test_the_difference_to_itself_is_exactly_zero():
    ev = simulate(np.random.default_rng(5), 50, 4)
    c = compare(ev, ev)
    assert (c.accuracy.value, c.accuracy.se, c.tokens_ratio.high) == (0, 0, 0)


def test_tokens_ratio_is_the_saving():
    ev = evaluation([[1], [0], [1]], [[100], [200], [300]])
    shorter = evaluation([[1], [0], [1]], [[50], [100], [150]])
    assert compare(shorter, ev).tokens_ratio.value == pytest.approx(-0.5)
    assert compare(shorter, ev).tokens_ratio.se == pytest.approx(0, abs=1e-12)


def test_seeds_are_averaged_on_jointly_resampled_problems_and_their_spread_is_told():
    a, b = evaluation([[1], [1], [0], [1]]), evaluation([[1], [0], [0], [0]])
    both = summarise([a, b])
    assert both.accuracy.value == pytest.approx(0.5)
    assert both.spread["accuracy"] == pytest.approx(np.std([0.75, 0.25], ddof=1))
    averaged = evaluation([[1, 1], [1, 0], [0, 0], [1, 0]])  # the same samples, taken as one evaluation
    assert both.accuracy.interval == pytest.approx(summarise(averaged).accuracy.interval)
    assert math.isnan(summarise(a).spread["accuracy"])


def test_unknown_verdicts_are_absent_and_counted():
    known = evaluation([[1, 0], [1, 1], [0, 0]], [[10, 20], [30, 40], [50, 60]])
    with_unknown = evaluation(
        [[1, 0, -1], [1, 1, -1], [0, 0, -1], [-1, -1, -1]],
        [[10, 20, 999], [30, 40, 999], [50, 60, 999], [999, 999, 999]],
    )
    s, reference = summarise(with_unknown), summarise(known)
    assert s.unknown == 6 and s.problems == 4
    assert (s.accuracy.value, s.tokens.value) == (reference.accuracy.value, reference.tokens.value)
    assert compare(with_unknown, known).left_out == 1


def test_none_is_unknown():
    s = Samples(np.array(["a", "b", "c"]), np.ones(3), np.array([1, None, 0]))
    assert s.known.tolist() == [True, False, True]


def test_the_order_of_samples_does_not_matter():
    ev = simulate(np.random.default_rng(6), 40, 4)
    order = np.random.default_rng(7).permutation(len(ev))
    a, b = summarise(ev), summarise(ev.take(order))
    for first, second in ((a.accuracy, b.accuracy), (a.tokens, b.tokens)):
        assert first.value == pytest.approx(second.value) and first.interval == pytest.approx(second.interval)


def test_too_little_data_gives_nan_and_a_reason():
    none = summarise(evaluation([[-1, -1]])).accuracy
    assert math.isnan(none.value) and none.reason == "no problem with a known verdict"
    one = summarise(evaluation([[1, 0]])).accuracy
    assert one.value == 0.5 and math.isnan(one.low) and "one problem" in one.reason
    empty = summarise(Samples(np.array([]), np.array([]), np.array([]))).accuracy
    assert math.isnan(empty.value) and empty.reason
    apart = compare(evaluation([[1], [1]], ids=["a", "b"]), evaluation([[1], [1]], ids=["c", "d"]))
    assert math.isnan(apart.accuracy.value) and apart.accuracy.reason and apart.left_out == 4
    assert none.text() == "n/a (no problem with a known verdict)" and one.text() == "0.500 [n/a]"


def test_levels_are_summarised_apart_in_natural_order():
    levels = by_level(evaluation([[1], [1], [0], [0]], level=["10", "2", "10", "2"]))
    assert list(levels) == ["2", "10"] and levels["2"].accuracy.value == 0.5
    assert by_level(evaluation([[1], [0]])) == {}


def test_a_column_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"Samples\.length"):
        Samples(np.array(["a", "b"]), np.ones(3), np.array([1, 0]))


def test_the_same_seed_gives_the_same_resamples():
    assert np.array_equal(resampling_weights(30, 50, 1), resampling_weights(30, 50, 1))
    assert not np.array_equal(resampling_weights(30, 50, 1), resampling_weights(30, 50, 2))
    assert resampling_weights(30, 50, 1).sum(axis=1).tolist() == [30] * 50


def test_the_coverage_script_measures_every_design_and_sums_up():
    cells = list(itertools.islice(accuracy_cells(200, 100), 27))
    assert {c.problems for c in cells} == {30} and len({(c.samples, c.agreement, c.accuracy) for c in cells}) == 27
    assert len(coverage_table(cells).splitlines()) == 29 and "27" in summary_table(cells)


def test_seeds_that_know_different_problems_are_averaged_as_the_bootstrap_does():
    a, b = evaluation([[1], [1], [0], [-1]] * 20, ids=range(80)), evaluation([[1], [0], [0], [1]] * 20, ids=range(80))
    s = summarise([a, b], resamples=20_000)
    assert s.accuracy.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (s.accuracy.high - s.accuracy.low) / 2 == pytest.approx(1.96 * s.accuracy.se, rel=0.05)
    assert s.tokens.interval == pytest.approx((10, 10))


def test_the_interval_of_the_shortest_answers_is_measured_too():
    cells = [c for c in itertools.islice(shortest_cells(40, resamples=100), 9)]
    assert {c.problems for c in cells} == {30, 100, 500} and all(0.8 <= c.covered <= 1 for c in cells)
    assert "accuracy of the shortest 20%" in summary_table(cells) and "nan" not in coverage_table(cells)
