"""Metrics against closed forms, brute force and published values."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.metrics import (
    _shortest,
    accuracy_among_shortest,
    aes,
    budget_by_problem,
    dominance,
    hypervolume,
    load_frontier,
    majority_at_k,
    majority_by_problem,
    pass_at_k,
    pass_by_problem,
    reg,
)
from benchmarks.statistics import Samples
from rewards.errors import TautError

BUDGETS = [0, 100, 200, 400]


def test_pass_at_k_equals_the_closed_form_and_does_not_overflow():
    for n, k in itertools.product(range(1, 12), range(1, 12)):
        for c in range(n + 1):
            (got,) = pass_at_k([n], [c], k)
            if k > n:
                assert math.isnan(got)
            else:
                assert got == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)
    assert pass_at_k([100_000], [10], 5_000)[0] == pytest.approx(0.401267, rel=1e-3)
    with pytest.raises(ValueError, match="k=0"):
        pass_at_k([3], [1], 0)
    with pytest.raises(ValueError, match="between 0 and samples"):
        pass_at_k([3], [4], 1)


@given(st.integers(0, 4), st.lists(st.integers(1, 3), max_size=3), st.integers(0, 2), st.integers(1, 5))
def test_majority_at_k_equals_the_average_over_all_subsets(right, wrong, silent, k):
    votes = ["right"] * right + [str(i) for i, w in enumerate(wrong) for _ in range(w)] + [""] * silent
    got = majority_at_k(right, wrong, silent, k)
    if len(votes) < k:
        assert math.isnan(got)
        return
    won = []
    for subset in itertools.combinations(votes, k):
        count = {v: subset.count(v) for v in subset if v}
        best = [v for v, n in count.items() if n == max(count.values())]
        won.append(("right" in best) / len(best) if best else 0.0)
    assert got == pytest.approx(np.mean(won), abs=1e-12)


def test_majority_of_many_samples_is_exact_and_of_one_is_the_accuracy():
    assert majority_at_k(200, [100, 100], 100, 1) == pytest.approx(0.4)
    assert majority_at_k(60, [20, 10], 10, 100) == pytest.approx(1)
    assert majority_at_k(300, [100], 0, 31) > 0.99
    with pytest.raises(ValueError, match="at most 500"):
        majority_at_k(501, [], 0, 1)


def sampled(verdict, length, answer=None) -> Samples:
    p, k = np.shape(verdict)
    ids = np.repeat([f"p{i}" for i in range(p)], k)
    given = np.array([[""] * k] * p if answer is None else answer, dtype=object)
    return Samples(ids, np.ravel(length), np.ravel(verdict), answer=np.ravel(given))


def test_by_problem_forms_leave_unknown_samples_out():
    s = sampled([[1, 0, -1], [1, 1, 0]], [[10, 20, 5], [30, 40, 50]], [["7", "8", None], ["7", "7.0", "9"]])
    assert pass_by_problem(s, 2).tolist() == [1, 1]
    assert majority_by_problem(s, 2).tolist() == pytest.approx([0.5, 2 / 3])
    assert majority_by_problem(s, 3).tolist() == pytest.approx([math.nan, 1], nan_ok=True)
    assert budget_by_problem(s, [9, 10, 40]).tolist() == pytest.approx(np.array([[0, 0.5, 0.5], [0, 0, 2 / 3]]))
    none = sampled([[-1]], [[5]], [["7"]])
    assert len(pass_by_problem(none, 1)) == len(majority_by_problem(none, 1)) == len(budget_by_problem(none, [5])) == 0


def test_the_shortest_answers_are_those_of_all_problems():
    s = sampled([[1, 1, 0, 0, 1], [0, 0, 0, 0, 1]], [[1, 2, 3, 3, 9], [5, 6, 7, 8, 9]])
    assert accuracy_among_shortest(s, 0.2)[::3] == (1.0, 2)
    assert accuracy_among_shortest(s, 0.3)[::3] == (0.5, 4)  # two answers of three tokens: both count
    assert math.isnan(accuracy_among_shortest(sampled([[-1]], [[3]]), 0.05)[0])
    value, low, high, number = accuracy_among_shortest(sampled([[1, 0]], [[3, 3]]), 0.05)
    assert (value, number) == (0.5, 2) and math.isnan(low) and math.isnan(high)


def test_the_shortest_are_found_anew_in_every_resample():
    rng = np.random.default_rng(0)
    length, verdict = rng.integers(1, 12, (7, 3)), rng.integers(0, 2, (7, 3))
    order = np.argsort(length.ravel(), kind="stable")
    flat, right, problem = length.ravel()[order], verdict.ravel()[order] == 1, np.repeat(np.arange(7), 3)[order]
    ends = np.searchsorted(flat, flat, side="right") - 1
    weights = rng.multinomial(7, np.full(7, 1 / 7), size=200).astype(float)
    for share in (0.05, 0.2, 0.5):
        got = _shortest(weights[:, problem], right, ends, share)
        for w, value in zip(weights.astype(int), got, strict=True):
            pairs = [(n, v) for p in range(7) for n, v in zip(length[p], verdict[p], strict=True) for _ in range(w[p])]
            limit = sorted(n for n, _ in pairs)[math.ceil(share * len(pairs)) - 1]
            assert value == pytest.approx(np.mean([v for n, v in pairs if n <= limit]))


def test_the_interval_of_the_shortest_holds_its_value_and_has_a_width():
    rng = np.random.default_rng(1)
    for accuracy in (0, 0.3, 1):
        s = sampled((rng.random((40, 4)) < accuracy).astype(int), rng.integers(1, 99, (40, 4)))
        value, low, high, _ = accuracy_among_shortest(s, 0.1)
        assert low <= value <= high and high - low > 0.05


# DRPO (arXiv 2510.04474): its six published scores, from points read off the paper's figure (hence +-0.001).
@pytest.mark.parametrize("accuracy, tokens, reference_accuracy, reference_tokens, published", [
    (0.624, 1527, 0.649, 3494, 0.178),
    (0.714, 1502, 0.733, 3051, 0.249),
    (0.567, 2531, 0.590, 3426, -0.129),
    (0.692, 2649, 0.702, 2971, -0.033),
    (0.568, 2654, 0.606, 3494, -0.387),
    (0.534, 1791, 0.592, 3328, -0.519),
])  # fmt: skip
def test_aes_reproduces_the_published_values(accuracy, tokens, reference_accuracy, reference_tokens, published):
    got = aes(accuracy, tokens, reference_accuracy, reference_tokens, "drpo")
    assert got == pytest.approx(published, abs=0.00115)


def test_aes_has_two_forms_and_a_name_for_each():
    assert aes([0.6, 0.4], [50, 50], 0.5, 100, "o1-pruner") == pytest.approx([0.5 + 3 * 0.2, 0.5 - 5 * 0.2])
    assert aes([0.6, 0.4], [50, 50], 0.5, 100, "drpo") == pytest.approx([0.5, 0.5 - 10 * 0.2])
    with pytest.raises(ValueError, match="o1-pruner, drpo"):
        aes(1, 1, 1, 1, "ours")  # type: ignore[arg-type]


def test_reg_of_a_hand_made_frontier():
    frontier = [0.0, 0.4, 0.6, 0.8]
    assert reg(BUDGETS, frontier, frontier) == 0
    assert reg(BUDGETS, frontier, [0, 0, 0, 0]) == pytest.approx((20 + 50 + 140) / 400)
    assert reg(BUDGETS, frontier, np.array([[0.1, 0.5, 0.7, 0.9], [0, 0, 0, 0]])) == pytest.approx([-0.1, 0.525])
    crossing = [0.2, 0.2, 0.6, 0.8]  # the gap goes from -0.2 to +0.2: half of the first piece counts
    assert reg(BUDGETS, frontier, crossing) == pytest.approx((0 + 10 + 0) / 400)
    assert reg(BUDGETS, frontier, crossing, signed=False) == pytest.approx((5 + 10 + 0) / 400)
    with pytest.raises(ValueError, match="rising"):
        reg([0, 2, 1, 3], frontier, frontier)


def test_a_frontier_file_is_read_and_what_is_wrong_in_it_is_named(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"aime": [[0, 10], [0, 0.5]], "amc": [[0, 20], [0, 0.9]]}))
    assert load_frontier(path, "amc")[0].tolist() == [0, 20]
    for text, name, message in (
        (path.read_text(), None, "aime, amc"),
        (path.read_text(), "math", "'math' of aime, amc"),
        ("{", None, "cannot be read"),
        ("[]", None, "no frontier"),
        ('{"a": [[0, 1], [0, "x"]]}', None, "not two lists"),
        ('{"a": [[1, 0], [0, 1]]}', None, "rising"),
        ('{"a": [[0, 1], [0, 70]]}', None, "from 0 to 1"),
    ):
        path.write_text(text)
        with pytest.raises(TautError, match=message) as error:
            load_frontier(path, name)
        assert "f.json" in str(error.value)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=6))
def test_hypervolume_equals_counting_the_cells_that_are_dominated(points):
    cells = [any(a > y and t <= x for a, t in points) for y in range(4) for x in range(4)]
    got = hypervolume([a / 4 for a, _ in points], [25 * t for _, t in points], 100.0)
    assert got == pytest.approx(sum(cells) / 16)


def test_hypervolume_of_many_draws_and_of_absent_points():
    a, t = np.array([[0.5, 0.8], [0.5, np.nan]]), np.array([[50.0, 75.0], [50.0, 75.0]])
    assert hypervolume(a, t, 100.0) == pytest.approx([0.5 * 0.25 + 0.8 * 0.25, 0.25])


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=3), min_size=1, max_size=5)
)
def test_dominance_equals_brute_force(draws):
    at = np.array(draws, dtype=float)
    got = dominance(at[:, :, 0], at[:, :, 1])
    for i, j in itertools.product(range(3), repeat=2):
        wins = [d[i][0] >= d[j][0] and d[i][1] <= d[j][1] and d[i] != d[j] for d in draws]
        assert got[i, j] == pytest.approx(np.mean(wins))
