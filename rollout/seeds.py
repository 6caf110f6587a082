"""Every random draw of a run is a pure function of (run seed, stream, number): nothing to save, nothing to lose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STREAMS = {"train": 0, "validation": 1, "monitor": 2, "data": 3, "plan": 4, "evaluate": 5, "fill": 6}


def seed_of(seed: int, stream: str, number: int) -> int:
    """A 63-bit seed; equal arguments give equal seeds on every machine."""
    words = np.random.SeedSequence([seed, STREAMS[stream], number]).generate_state(2, np.uint64)
    return int(words[0] >> np.uint64(1))


def seeds_of(seed: int, stream: str, numbers: Sequence[int]) -> list[int]:
    """`seed_of` of each number, all at once: numpy's SeedSequence written for arrays, at a tenth of the time."""
    if not 0 <= seed < 1 << 32 or not all(0 <= n < 1 << 32 for n in numbers):  # an integer would be several words
        return [seed_of(seed, stream, n) for n in numbers]
    words = [np.full(len(numbers), w, np.uint32) for w in (seed, STREAMS[stream], 0, 0)]
    words[2] = np.array(numbers, np.uint32)
    constant = 0x43B0D7E5

    def hashed(value: NDArray[np.uint32], factor: int) -> NDArray[np.uint32]:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * factor & 0xFFFFFFFF
        value = value * np.uint32(constant)
        return value ^ value >> np.uint32(16)

    pool = [hashed(word, 0x931E8875) for word in words]
    for source in range(4):
        for target in range(4):
            if source != target:
                mixed = pool[target] * np.uint32(0xCA01F9DD) - hashed(pool[source], 0x931E8875) * np.uint32(0x4973F715)
                pool[target] = mixed ^ mixed >> np.uint32(16)
    constant = 0x8B51F9DD
    low, high = (hashed(word, 0x58F38DED).astype(np.uint64) for word in pool[:2])
    return ((high << np.uint64(32) | low) >> np.uint64(1)).tolist()


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
