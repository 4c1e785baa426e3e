"""The least and the most robust points of a data set: focus sets."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def least_robust(distances: ArrayLike, count: int, *, ties: ArrayLike | None = None) -> np.ndarray:
    """The points closest to another class, the closest first.

    The order is by ``(distance, ties, index)``, so it is always the same, and smaller sets are the beginnings of
    larger ones. Linf distances of 8-bit images take few values: a set of them nearly always ends among equals, and
    which of these it holds is decided by the distances in the other norm, if they are given.

    Args:
        distances: from :func:`robustness`, ``[m]``.
        count: how many points, from 1 to ``m``.
        ties: what decides between equal distances, ``[m]``: the distances in the other norm, for instance.

    Returns:
        Indices ``[count]``.

    Raises:
        ValueError: for NaN, for shapes that disagree, or for more points than there are.

    Source: data-geometry study, section 3.2 (focus sets), where the decision between equals is left open.

    Example:
        >>> least_robust([0.3, 0.1, 0.2, 0.1], 3).tolist()
        [1, 3, 2]
        >>> least_robust([0.3, 0.1, 0.2, 0.1], 3, ties=[0, 2, 0, 1]).tolist()
        [3, 1, 2]
    """
    return _order(distances, count, ties)[:count]


def most_robust(distances: ArrayLike, count: int, *, ties: ArrayLike | None = None) -> np.ndarray:
    """The points farthest from another class, the farthest first: the end of the order of :func:`least_robust`.

    Args:
        distances: from :func:`robustness`, ``[m]``.
        count: how many points, from 1 to ``m``.
        ties: what decides between equal distances, ``[m]``.

    Returns:
        Indices ``[count]``.

    Raises:
        ValueError: for NaN, for shapes that disagree, or for more points than there are.

    Example:
        >>> most_robust([0.3, 0.1, 0.2, 0.1], 3).tolist()
        [0, 2, 3]
    """
    return _order(distances, count, ties)[::-1][:count]


def _order(distances: ArrayLike, count: int, ties: ArrayLike | None) -> np.ndarray:
    distances = np.asarray(distances)
    ties = np.zeros_like(distances) if ties is None else np.asarray(ties)
    if distances.ndim != 1 or ties.shape != distances.shape:
        raise ValueError(
            f"distances and ties must have the same shape [m], got shapes {distances.shape} and {ties.shape}"
        )
    if np.isnan(distances).any() or np.isnan(ties).any():
        raise ValueError("distances and ties must not hold NaN, which has no place in an order")
    if not 1 <= count <= len(distances):
        raise ValueError(f"count must lie in 1..{len(distances)}, the number of points, got {count}")
    return np.lexsort((ties, distances))
