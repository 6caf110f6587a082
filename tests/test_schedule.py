"""Whatever workers do and whenever they die, every item is done once, and fixed pieces never change."""

from __future__ import annotations

import math
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from rollout.schedule import Schedule, Watch


@given(
    workers=st.integers(1, 5),
    items=st.integers(0, 40),
    feed=st.sampled_from(["fixed", "free"]),
    size=st.integers(1, 9),
    chance=st.randoms(use_true_random=False),
)
def test_every_item_ends_once_whoever_dies(
    workers: int, items: int, feed: Literal["fixed", "free"], size: int, chance
) -> None:
    schedule = Schedule(workers, items, feed, size)
    under_way: dict[int, list[int]] = {w: [] for w in range(workers)}
    for w in range(workers):
        schedule.ready(w)
    ended, pieces, deaths, dead = [], set(), 6, list[int]()
    while not schedule.done:
        for w, got in schedule.assign():
            assert got and len(under_way[w]) + len(got) <= schedule.size
            if feed == "fixed":
                assert not under_way[w], "a piece is computed alone"
                pieces.add(tuple(got))
            under_way[w] += got
        if dead and (len(dead) == workers or chance.random() < 0.3):  # it is there again, sooner or later
            schedule.ready(dead.pop(0))
            continue
        busy = [w for w in under_way if under_way[w]]
        assert busy, "work is left, but nobody has any"
        w = chance.choice(busy)
        if deaths and chance.random() < 0.2:
            deaths -= 1
            schedule.lost(w)
            under_way[w] = []
            dead.append(w)
        else:
            item = under_way[w].pop(chance.randrange(len(under_way[w])))
            if schedule.ended(w, item):
                ended.append(item)
            assert not schedule.ended(w, item)
            if feed == "fixed" and not under_way[w]:
                schedule.ready(w)
    assert sorted(ended) == list(range(items))
    if feed == "fixed":  # however it went, the pieces are those of the order
        step = max(min(size, -(-items // workers)), 1)
        assert pieces == {tuple(range(i, min(i + step, items))) for i in range(0, items, step)}


def test_one_queue_keeps_every_worker_busy_until_it_is_empty() -> None:
    schedule = Schedule(2, 7, "free", 3)
    schedule.ready(1)
    assert schedule.assign() == [(1, [0, 1, 2])]
    schedule.ready(0)
    assert schedule.assign() == [(0, [3, 4, 5])]
    assert schedule.ended(0, 4) and schedule.assign() == [(0, [6])]
    assert schedule.lost(1) == [0, 1, 2] and schedule.assign() == []  # the other one is full
    assert schedule.ended(0, 3) and schedule.assign() == [(0, [0])] and schedule.owed(0) == 3


def test_a_fixed_piece_is_done_again_whole_or_not_at_all() -> None:
    schedule = Schedule(1, 4, "fixed", 2)
    schedule.ready(0)
    assert schedule.assign() == [(0, [0, 1])] and schedule.ended(0, 0)
    assert schedule.lost(0) == [0, 1] and schedule.assign() == []
    schedule.ready(0)
    assert schedule.assign() == [(0, [0, 1])]
    assert not schedule.ended(0, 0) and schedule.ended(0, 1)
    assert schedule.lost(0) == []  # all had ended
    schedule.ready(0)
    assert schedule.assign() == [(0, [2, 3])]


def test_the_watch_knows_who_is_too_quiet() -> None:
    watch = Watch(3)
    assert watch.patience(5.0) == math.inf and watch.overdue(1e9) == []
    watch.expect(0, 10.0, now=0.0)
    watch.expect(2, 4.0, now=1.0)
    assert watch.patience(2.0) == 3.0 and watch.overdue(4.9) == []
    assert watch.overdue(5.0) == [2] and watch.patience(6.0) == 0.0
    watch.seen(2, 5.5)
    assert watch.overdue(9.0) == [] and watch.overdue(10.0) == [0, 2]
    watch.rest(0)
    assert watch.overdue(11.0) == [2] and watch.limit(0) == math.inf
