"""Every random draw of a run is a pure function of (run seed, stream, number): nothing to save, nothing to lose."""

from __future__ import annotations

import numpy as np

STREAMS = {"train": 0, "validation": 1, "monitor": 2, "data": 3, "plan": 4, "evaluate": 5, "fill": 6}


def seed_of(seed: int, stream: str, number: int) -> int:
    """A 63-bit seed; equal arguments give equal seeds on every machine."""
    words = np.random.SeedSequence([seed, STREAMS[stream], number]).generate_state(2, np.uint64)
    return int(words[0] >> np.uint64(1))


def generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """A numpy generator for that place in the run."""
    return np.random.Generator(np.random.Philox(seed_of(seed, stream, number)))


def draw_order(size: int, count: int, start: int, seed: int) -> list[int]:
    """Positions start .. start+count-1 of an endless sequence that runs through all `size` rows once an epoch, in an order
    shuffled anew each epoch. The data position of a run is thus a number, not a state."""
    rows, epochs = [], {}
    for i in range(start, start + count):
        epoch, offset = divmod(i, size)
        if epoch not in epochs:
            epochs[epoch] = generator(seed, "data", epoch).permutation(size)
        rows.append(int(epochs[epoch][offset]))
    return rows
