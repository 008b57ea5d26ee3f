"""Pairs of rows and columns of least cost (the Hungarian method; Jonker & Volgenant 1987)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def least_cost(cost: ArrayLike) -> NDArray[np.int64]:
    """The column of every row, no two the same, whose costs have the least sum.

    Rows are added one after the other, each along the shortest path of exchanges, with the potentials of rows and
    columns kept; the time is that of rows² · columns steps.

    Args:
        cost: (N, M) with N ≤ M.
    Raises:
        ValueError: there are more rows than columns, or a cost is not finite.

    Examples:
        >>> least_cost([[1.0, 2.0, 9.0], [1.0, 5.0, 9.0]]).tolist()
        [1, 0]
    """
    costs = np.asarray(cost, dtype=np.float64)
    if costs.ndim != 2 or costs.shape[0] > costs.shape[1]:
        raise ValueError(f"cost must have no more rows than columns, got {costs.shape}")
    if not np.isfinite(costs).all():
        raise ValueError("cost must be finite; boxes or scores that it is made from are not")
    rows, columns = costs.shape
    row_of = np.full(columns, -1, dtype=np.int64)
    u, v = np.zeros(rows), np.zeros(columns)
    for row in range(rows):
        distance = np.full(columns, np.inf)
        before = np.full(columns, -1, dtype=np.int64)  # the column before each on the shortest path to it
        done = np.zeros(columns, dtype=bool)
        reached, current, column = 0.0, row, -1
        while True:
            step = reached + costs[current] - u[current] - v
            better = ~done & (step < distance)
            distance[better], before[better] = step[better], column
            column = int(np.argmin(np.where(done, np.inf, distance)))
            reached = float(distance[column])
            if row_of[column] < 0:
                break
            done[column] = True
            current = int(row_of[column])
        u[row] += reached
        u[row_of[done]] += reached - distance[done]
        v[done] += distance[done] - reached
        while column >= 0:
            previous = int(before[column])
            row_of[column] = row if previous < 0 else row_of[previous]
            column = previous
    found = np.empty(rows, dtype=np.int64)
    taken = row_of >= 0
    found[row_of[taken]] = taken.nonzero()[0]
    return found
