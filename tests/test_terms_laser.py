"""The LASER family and its relatives: hand-worked numbers, edge cases, bad input."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loops.laser import LOOPS
from rewards import Batch, Monitor, Piecewise, Progress, Reward, TautError, build_reward, dump
from rewards.batch import OPTIONAL
from rewards.terms.arora_zanette import AroraZanette
from rewards.terms.kimi import Kimi
from rewards.terms.laser import Laser
from rewards.terms.laser_d import AdaptiveTarget, LaserD
from rewards.terms.laser_de import LaserDE
from rewards.terms.laser_targets import bands, coverage, grid, least_correct, shares, targets
from rewards.terms.mean_over_length import MeanOverLength
from rewards.terms.shorter_better import ShorterBetter
from rewards.terms.token_loops import loop_start
from rewards.terms.truncation import Truncation
from tests.batches import CAP, batches

CONTEXT = Progress(max_length=16384)


def group(length: list[int], verdict: list[int], **columns: Any) -> Batch:
    return Batch(group=[0] * len(length), length=length, verdict=verdict, **columns)


def paid(reward: Reward, batch: Batch, progress: Progress = CONTEXT) -> list[float]:
    return reward.score(batch, progress).total.round(6).tolist()


# ---- base scores ---------------------------------------------------------------------------------------------------


def test_base_scores() -> None:
    batch = group([100, 100, 100, 5000], [1, 0, 1, 1], format_ok=[1, 1, 0, 1])
    assert paid(Laser(target=4096), batch) == [1.5, -0.5, -1, 1]
    assert paid(Laser(target=4096, bonus="penalty"), batch) == [1, -0.5, -1, 0.5]
    assert paid(Laser(target=4096, format=False, wrong=0), batch) == [1.5, 0, 1.5, 1]
    assert Laser(target=100).needs == {"format_ok"} and not Laser(target=100, format=False).needs
    assert paid(Laser(target=Piecewise(from_steps=[0, 2], values=[100, 99])), batch)[0] == 1.5
    assert paid(Laser(target=Piecewise(from_steps=[0, 2], values=[100, 99])), batch, Progress(2))[0] == 1


def test_truncation() -> None:
    batch = group([100, 200, 201, 100], [1, 1, 1, 0], truncated=[0, 0, 0, 1], format_ok=[1, 0, 1, 1])
    assert paid(Truncation(), batch) == [1, 1, 1, 0]
    assert paid(Truncation(target=200), batch) == [1, 1, 0, 0]
    assert paid(Truncation(target=200, over=-0.25, wrong=-0.5, malformed=-1, format=True), batch) == [
        1,
        -1,
        -0.25,
        -0.25,
    ]
    cut = group([50], [1], truncated=[1])
    assert paid(Truncation(target=200), cut) == [0], "unfinished is no answer"


# ---- LASER-D and LASER-DE ------------------------------------------------------------------------------------------


def test_grid() -> None:
    assert grid(4096, 8192, 1024).tolist() == [4096, 5120, 6144, 7168, 8192]
    assert grid(512, 3072, 1024).tolist() == [512, 1024, 2048, 3072]
    assert grid(1500, 3000, 1024).tolist() == [1500, 2524, 3548], "the last one reaches the cap"
    assert grid(9000, 3000, 1024).tolist() == []


@given(st.integers(0, 400), st.integers(1, 400), st.integers(1, 400))
def test_grid_reaches_the_cap_in_steps(lower: int, upper: int, interval: int) -> None:
    lengths = grid(lower, upper, interval).tolist()
    if lower <= upper:
        assert lengths[0] == lower and upper <= lengths[-1] < upper + interval
    assert all(0 < b - a <= interval for a, b in pairwise(lengths))


def test_least_correct_of_eight_is_the_papers() -> None:
    assert least_correct(np.array([8, 6, 1]), "ceil").tolist() == [[1, 3, 6], [1, 2, 4], [1, 1, 1]]
    assert least_correct(np.array([8, 6, 1]), "floor").tolist() == [[1, 2, 5], [1, 2, 4], [1, 0, 0]]


def test_bands_at_the_edges() -> None:
    right = [0, 1, 2, 3]
    batch = Batch(group=np.repeat(range(4), 3), length=[1] * 12, verdict=[int(k < r) for r in right for k in range(3)])
    assert bands(batch).tolist() == [0, 1, 2, 2]
    assert bands(batch, "harder").tolist() == [0, 0, 1, 2]
    assert shares(bands(batch)).tolist() == [0.25, 0.25, 0.5]
    assert shares(np.zeros(0, dtype=np.int64)).tolist() == [0, 0, 0]


def test_coverage_counts_right_and_wrong() -> None:
    batch = Batch(group=[0, 0, 1, 1], length=[10, 20, 10, 30], verdict=[1, 1, 0, 0])
    np.testing.assert_array_equal(
        coverage(batch, bands(batch), np.array([9, 10, 29])), [[0, 0.5, 0.5], [0] * 3, [0, 0.5, 1]]
    )


def test_targets_by_hand() -> None:
    # for 8 rollouts a third must be covered in the medium band, a sixth in the easy one (paper); a half and a fifth (code)
    lengths, covered = np.array([1024, 2048, 4096]), np.array([[0.2, 0.5, 0.9], [0.3, 0.4, 0.6], [0.17, 0.3, 0.9]])
    eight = np.array([8])
    paper = targets(lengths, covered, least_correct(eight, "ceil"), 1, "ceil", 16384)
    code = targets(lengths, covered, least_correct(eight, "floor"), 1, "floor", 16384)
    assert paper.tolist() == [[16384, 2048, 1024]] and code.tolist() == [[16384, 4096, 2048]]
    assert targets(lengths, covered, least_correct(eight, "ceil"), 1, "ceil", 1500).tolist() == [[1500, 1500, 1024]]
    assert targets(lengths[:0], covered[:, :0], least_correct(eight, "ceil"), 1, "ceil", 9).tolist() == [[9, 9, 9]]


def watched() -> Batch:
    """An easy problem of short answers and a hard one of long ones."""
    length = [100] * 8 + [900] * 8
    return Batch(group=np.repeat([0, 1], 8), length=length, verdict=[1] * 8 + [0] * 8, origin=["monitor"] * 16)


def test_only_the_monitor_moves_the_table() -> None:
    reward, progress = LaserD(target=64, interval=64), Progress(max_length=1024)
    assert reward.monitor() == Monitor(500, 8, 20)
    before = reward.state_dict()
    for origin in ("train", "validation"):
        reward.observe(Batch(group=[0], length=[9], verdict=[1], origin=[origin]), progress)
    reward.observe(Batch(group=[0], length=[9], verdict=[None], origin=["monitor"]), progress)
    assert reward.state_dict() == before
    assert reward.targets(np.array([8]), 50, progress).tolist() == [[1024, 1024, 1024]]
    reward.observe(watched(), progress)
    assert reward.targets(np.array([8]), 50, progress).tolist() == [[960, 1024, 128]]
    assert LaserD(target=64, unmonitored=300).targets(np.array([8, 4]), 50, progress).tolist() == [[300] * 3] * 2


def test_laser_d_by_hand() -> None:
    reward, progress = LaserD(target=64, interval=64), Progress(max_length=1024)
    reward.observe(watched(), progress)
    batch = Batch(
        group=[0] * 3 + [1] * 4 + [2], length=[128, 129, 9, 960, 961, 9, 9, 129], verdict=[1, 1, 1, 1, 0, 0, 0, 1]
    )
    well = {"format_ok": np.ones(8, dtype=bool)}
    batch = Batch(**{k: getattr(batch, k) for k in ("group", "length", "verdict")}, **well)
    # group 0 easy, target 128; group 1 hard (one of four), target 960; group 2, one right of one, easy
    assert paid(reward, batch, progress) == [1.5, 1, 1.5, 1.5, -0.5, -0.5, -0.5, 1]
    longer = LaserDE(target=64, interval=64)
    longer.observe(watched(), progress)
    assert paid(longer, batch, progress) == [1.5, 1, 1.5, 1.5, 0, -0.5, -0.5, 1]
    assert paid(build_reward({**dump(reward), "fallback": 90}), batch, progress) == [1, 1, 1.5, 1, -0.5, -0.5, -0.5, 1]


def test_laser_de_leaves_the_badly_formed_and_loops_alone() -> None:
    loop, plain = np.tile([4, 5, 6], 20), np.arange(60)
    tokens = {"tokens": [plain, plain, loop], "format_ok": [1, 0, 1]}
    batch = group([60] * 3, [0] * 3, **tokens)
    far, near = LaserDE(target=9, unmonitored=59), LaserDE(target=9, unmonitored=59, skip_loops=True)
    assert paid(far, batch) == [0, -1, 0] and paid(near, batch) == [0, -1, -0.5]
    assert near.needs == {"format_ok", "tokens"} and far.needs == {"format_ok"}
    with pytest.raises(TautError, match="reward laser_de: needs the column 'tokens'"):
        near.score(group([60], [0], format_ok=[1]))
    assert paid(LaserDE(target=9, unmonitored=59, format=False), group([60, 60, 59], [0, 1, 0])) == [0, 1, -0.5]


@given(batches())
def test_batch_as_fallback_pays_as_the_context_does(batch: Batch) -> None:
    progress, seen = Progress(max_length=CAP), batch.take(np.arange(len(batch)))
    object.__setattr__(seen, "origin", np.full(len(batch), "monitor", dtype=object))
    by_batch = LaserDE(target=16, interval=32, fallback="batch")
    by_context = LaserDE(target=16, interval=32)
    for reward in (by_batch, by_context):
        reward.observe(seen, progress)
    np.testing.assert_array_equal(by_batch.score(batch, progress).total, by_context.score(batch, progress).total)


def test_loops_of_tokens() -> None:
    assert loop_start(np.array([1] * 8)) == 8, "too short to tell"
    assert loop_start(np.arange(50)) == 50
    assert loop_start(np.full(201, 7)) == 192, "one token repeated is found by the long n-grams"
    assert loop_start(np.tile([1, 2], 6)) == 8, "the second occurrence from the end, two tokens further on"
    far = np.arange(60)
    far[:4] = far[-4:] = [97, 98, 99, 96]
    assert loop_start(far) == 60, "a third of the response or more apart"


@given(st.lists(st.integers(0, 4), max_size=130))
def test_loop_start_is_a_scan_from_the_end(tokens: list[int]) -> None:
    assert loop_start(np.array(tokens, dtype=np.int64)) == scan(tokens)


def scan(tokens: list[int]) -> int:
    """The rule again, token by token."""
    size = len(tokens)
    if size <= 8:
        return size
    n = 2 if size < 30 else 3 if size < 100 else 4
    seen: dict[tuple[int, ...], list[int]] = {}
    for i in range(size - n, -1, -1):
        gram = tuple(tokens[i : i + n])
        if n > 2 and len(set(gram)) == 1:
            continue
        places = seen.setdefault(gram, [])
        places.append(i)
        if len(places) >= (2 if size < 200 else 3) and any(a - b < size // 3 for a, b in pairwise(places)):
            return i
    count: Counter[tuple[int, ...]] = Counter()
    for i in range(size - 2 * n, -1, -1) if size >= 4 * n else ():
        count[gram := tuple(tokens[i : i + 2 * n])] += 1
        if count[gram] == 2:
            return i
    return size


# ---- relatives -----------------------------------------------------------------------------------------------------


def test_kimi_by_hand() -> None:
    assert paid(Kimi(), group([10, 20, 30, 50], [1, 0, 1, 0])) == [0.5, 0, 0, -0.5]
    assert paid(Kimi(), group([10, 10], [1, 0])) == [0, 0] and paid(Kimi(), group([10], [1])) == [0]
    assert paid(Kimi(singleton="raw"), group([10], [1])) == [-9.5], "LASER's repository"
    assert paid(Kimi(format=True), group([10, 30], [1, 1], format_ok=[0, 1])) == [0, -0.5]


def test_arora_zanette_variants() -> None:
    batch = group([100, 200, 300, 10], [1, 1, 1, 0], format_ok=[1, 1, 0, 1])
    assert paid(AroraZanette(alpha=0.2, ddof=1), batch) == [0.946212, 0.9, 0.853788, 0], "z is -1, 0, 1"
    variant = AroraZanette(alpha=0.2, ddof=1, wrong=-0.5, malformed=-1, format=True)
    assert paid(variant, batch) == [0.933952, 0.866048, -1, -0.5]
    lone = group([100, 10], [1, 0])
    assert paid(AroraZanette(), lone) == [0.9, 0] and paid(AroraZanette(singleton="raw"), lone) == [0.8, 0]
    assert paid(AroraZanette(), group([100, 10], [1, 0], truncated=[1, 0])) == [0, 0]
    many = Batch(group=[0] * 10001, length=[1, *[9] * 10000], verdict=[1] * 10001)
    with np.errstate(all="raise"):
        assert np.isfinite(AroraZanette().score(many).total).all()


def test_mean_over_length_by_hand() -> None:
    reward = MeanOverLength(coefficient=0.1)
    assert paid(reward, group([10, 30], [1, 0])) == [1.1, pytest.approx(-1 / 30, abs=1e-6)]
    assert paid(reward, group([0, 3], [0, 0])) == [0.1, pytest.approx(-1 / 30, abs=1e-6)], "empty counts as one token"
    assert paid(reward, group([0], [0])) == [0]


def test_shorter_better_by_hand() -> None:
    assert paid(ShorterBetter(), group([100, 300, 50], [1, 1, 0])) == [2, 1.8, -0.05]
    assert paid(ShorterBetter(), group([100, 300], [0, 0])) == [-0.1, -0.1], "the mean length where none is right"
    assert paid(ShorterBetter(), group([100], [1])) == [2]
    bounds = ShorterBetter().bounds(Progress(max_length=1900))
    assert bounds.ordered and not ShorterBetter().bounds(Progress(max_length=2100)).ordered


@pytest.mark.parametrize("name", LOOPS)
@given(batch=batches(unknown=False))
def test_plain_loops_agree(name: str, batch: Batch) -> None:
    method, loop = LOOPS[name]
    smaller = {"target": 40, "interval": 30} if isinstance(method, AdaptiveTarget) else {}
    method, progress = build_reward(dump(method) | smaller), Progress(max_length=CAP)
    columns = SimpleNamespace(**{k: v.tolist() for k, v in vars(batch).items() if isinstance(v, np.ndarray)})
    if isinstance(method, AdaptiveTarget):
        seen = {k: getattr(batch, k) for k in ("group", "length", "verdict", *OPTIONAL)}
        method.observe(Batch(**seen, origin=["monitor"] * len(batch)), progress)
    np.testing.assert_allclose(method.score(batch, progress).total, loop(method, columns, progress), atol=1e-12)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"type": "laser_d"}, "target: Field required"),
        ({"type": "laser_d", "target": -1}, "negative"),
        ({"type": "laser_d", "target": 9, "interval": 0}, "interval: .*greater than or equal to 1, got 0"),
        ({"type": "laser_d", "target": 9, "rounding": "up"}, "rounding: .*'ceil' or 'floor', got 'up'"),
        ({"type": "laser_d", "target": 9, "fallback": "longest"}, "fallback"),
        ({"type": "laser_d", "target": 9, "monitor_every": 0}, "monitor_every"),
        ({"type": "laser_de", "target": 9, "bonus": "hybrid"}, "'laser_de' has no setting 'bonus'"),
        ({"type": "kimi", "eps": -1}, "eps"),
        ({"type": "truncation", "over": "x"}, "over"),
        ({"type": "arora_zanette", "eps": 0}, "eps"),
        ({"type": "shorter_better", "betta": 1}, "did you mean 'beta'"),
    ],
)
def test_bad_settings_are_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_reward(config)
