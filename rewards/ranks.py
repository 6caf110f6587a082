"""Places within groups: the shortest rollout, the half with the higher entropy, the k best."""

from __future__ import annotations

from typing import Any

import numpy as np

from rewards.batch import Batch, Ints


def group_rank(batch: Batch, key: Any) -> Ints:
    """(N,) each rollout's place in its group by `key` (N,), 0 for the least; ties by sample_id."""
    n, size = len(batch), batch.group_size
    key = np.asarray(key)[batch.order]  # by sample_id in each group: stable sorts then break ties as they should
    rank, out = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    if n and size[0] <= 32 and (size == size[0]).all():  # count who is before whom, a column at a time
        columns = np.ascontiguousarray(key.reshape(len(size), -1).T)
        places = np.zeros(columns.shape, dtype=np.int8)
        for i in range(1, len(columns)):
            for j in range(i):
                behind = columns[j] <= columns[i]
                places[i] += behind
                places[j] += ~behind
        rank[:] = places.T.ravel()
    elif n and (size == size[0]).all():  # a matrix, which is faster
        within = np.argsort(key.reshape(len(size), -1), axis=1, kind="stable")
        np.put_along_axis(rank.reshape(within.shape), within, np.arange(size[0])[None, :], axis=1)
    else:
        rank[np.lexsort((key, batch.group[batch.order]))] = np.arange(n) - np.repeat(batch.starts, size)
    out[batch.order] = rank
    return out
