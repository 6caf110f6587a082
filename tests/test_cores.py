"""A process that works beside its workers leaves them their cores, and takes them back."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from rollout import cores


def allowed() -> set[frozenset[int]]:
    """The cores that the threads of this process may run on."""
    return {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there must be cores to leave and to stay on")
def test_all_threads_leave_and_come_back() -> None:
    before, threads = frozenset(os.sched_getaffinity(0)), torch.get_num_threads()
    torch.set_num_threads(len(before))
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    taken = sorted(before)[:-1]
    back = cores.leave(taken)
    try:
        assert allowed() == {before.difference(taken)} and torch.get_num_threads() == 1
        assert len(os.listdir("/proc/self/task")) > 1
    finally:
        back()
        end.set()
        other.join()
    assert frozenset(os.sched_getaffinity(0)) == before and torch.get_num_threads() == len(before)
    torch.set_num_threads(threads)


def test_a_process_is_not_left_without_a_core() -> None:
    before, threads = allowed(), torch.get_num_threads()
    cores.leave(range(4096))()
    assert allowed() == before and torch.get_num_threads() == threads
    cores.leave(())()
    assert allowed() == before
