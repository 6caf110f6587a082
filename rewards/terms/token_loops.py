"""LASER's repetition test: does a response end in a loop of tokens? (Liu et al., 2505.15612, official code.)"""

from __future__ import annotations

import numpy as np

from rewards.batch import Ints


def loop_start(tokens: Ints) -> int:
    """Where the repetition begins that a scan from the end meets first; len(tokens) when there is none.

    N tokens, N > 8. First n-grams, n = 2, 3, 4 for N < 30, < 100, or more, that are not one token n times (n > 2): one that
    was seen 2 times (3 from N = 200 on), two neighbouring ones less than N // 3 apart. Else, from N = 4n on, any 2n-gram seen
    twice. The official reward hands over tensors, whose elements never compare equal as dictionary keys, so its test never
    found anything; this is what the same code gives for lists.
    """
    n_tokens = len(tokens)
    if n_tokens <= 8:
        return n_tokens
    n = 2 if n_tokens < 30 else 3 if n_tokens < 100 else 4
    found = _scan(tokens, n, 2 if n_tokens < 200 else 3, n_tokens // 3, skip_uniform=n > 2)
    if found is None and n_tokens >= 4 * n:
        found = _scan(tokens, 2 * n, 2, n_tokens, skip_uniform=False)
    return n_tokens if found is None else found


def _scan(tokens: Ints, n: int, needed: int, apart: int, skip_uniform: bool) -> int | None:
    """The last position of an n-gram that occurs `needed` times from there on, with two neighbouring occurrences among them
    less than `apart` tokens apart."""
    grams = np.lib.stride_tricks.sliding_window_view(tokens, n)
    place = np.arange(len(grams))
    if skip_uniform:
        place = np.flatnonzero((grams != grams[:, :1]).any(axis=1))
        grams = grams[place]
    order = np.lexsort((-place, *grams.T))  # equal n-grams side by side, from the end on
    place, grams = place[order], grams[order]
    if len(place) < 2:
        return None
    same = np.append(False, (grams[1:] == grams[:-1]).all(axis=1))
    close = same & (np.append(0, place[:-1] - place[1:]) < apart)
    start = np.maximum.accumulate(np.where(same, 0, np.arange(len(place))))  # where each run of equal n-grams begins
    near = np.cumsum(close)
    hit = (np.arange(len(place)) - start + 1 >= needed) & (near > near[start])
    return int(place[hit].max()) if hit.any() else None
