"""Nearest differently labelled points in the L2 norm where integers do not do: float32 rules out, float64 decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from ._blocks import Block, Blocks, keep_nearer
from ._metrics import SQUARED_L2_FLOAT, float_roundings

_HOST_NUMBERS = 2**22


def nearest_l2(points: np.ndarray, blocks_of: Callable[..., Blocks]) -> tuple[np.ndarray, np.ndarray]:
    """Distances ``[m]`` and indices ``[m]`` of the nearest differently labelled points, ``inf`` and -1 without one.

    1. Points are scaled into [-2, 2] by a power of two, centred, and rounded to float32: ``a_i`` with squared norm
       ``w_i``. In float32, ``w_i + w_j - 2 a_i . a_j`` is at most ``e_i + e_j`` away from the squared distance (see
       :func:`_errors`); with ``w_i - e_i`` in the place of ``w_i`` it is a lower bound.
    2. The smallest lower bound of every point in every block is kept. The squared distance to the nearest point is at
       most the smallest of a point's lower bounds plus ``2 (e_i + max e)``.
    3. Where a block has a lower bound within that limit, the point is compared with it again, and all pairs within
       the limit are evaluated in float64.
    """
    largest = max(abs(float(points.min())), abs(float(points.max())))
    scale = float(np.ldexp(1.0, int(np.frexp(largest)[1]) - 1))

    def exact(indices: np.ndarray) -> np.ndarray:
        return points[indices].astype(np.float64) / scale

    some = max(_HOST_NUMBERS // points.shape[1], 1)
    centre = exact(np.linspace(0, len(points) - 1, min(len(points), some)).astype(int)).mean(0)

    def rounded(indices: np.ndarray) -> np.ndarray:
        return (exact(indices) - centre).astype(np.float32)

    squares = np.empty(len(points))
    for begin in range(0, len(points), some):
        indices = np.arange(begin, min(begin + some, len(points)))
        squares[indices] = np.square(rounded(indices), dtype=np.float64).sum(1)
    errors = _errors(squares, points.shape[1])

    def load(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rounded(indices), (squares[indices] - errors[indices]).astype(np.float32)

    blocks = blocks_of(load, SQUARED_L2_FLOAT)
    bounds = np.full((len(points), len(blocks)), np.inf, np.float32)
    for found in blocks.nearest():
        bounds[found.rows, found.block] = found.distances
    limits = bounds.min(1) + 2 * (errors[blocks.order] + errors.max())

    squared, neighbours = np.full(len(points), np.inf), np.full(len(points), -1)
    for i, j in _candidates(blocks, bounds, limits):
        for begin in range(0, len(i), some):
            ours, theirs = i[begin : begin + some], j[begin : begin + some]
            values = np.square(exact(ours) - exact(theirs)).sum(1)
            order = np.lexsort((theirs, values, ours))
            rows, first = np.unique(ours[order], return_index=True)
            keep_nearer((squared, neighbours), rows, values[order][first], theirs[order][first])
    return np.sqrt(squared) * scale, neighbours


def _errors(squares: np.ndarray, features: int) -> np.ndarray:
    """What point ``i`` contributes to the error of its lower bounds: ``e_i``, from the squared norms ``w_i``.

    With ``u = 2**-24`` the number in :func:`nearest_l2` is wrong by ``float_roundings u (w_i + w_j)`` (Higham, *Accuracy
    and Stability of Numerical Algorithms*, 2nd ed., section 3.1), by ``u (w_i + w_j)`` as the norms are rounded, and by
    ``4.1 u (w_i + w_j)`` as the points are. Twice the sum leaves room for terms in ``u**2`` and for accelerators that make
    float32 of bfloat16. The last term is for numbers below ``2**-126``, which are flushed to zero.
    """
    unit = 2.0**-24
    return 2 * (float_roundings(features) + 6) * unit * squares + 16 * features * 2.0**-126


def _candidates(blocks: Blocks, bounds: np.ndarray, limits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of differently labelled points whose lower bound is within the limit of the first: their indices."""
    for number in range(len(blocks)):
        places = np.flatnonzero((bounds[:, number] <= limits) & np.isfinite(limits))
        theirs = blocks.order[blocks.rows(number)]
        for begin in range(0, len(places), blocks.size):
            some = places[begin : begin + blocks.size]
            ours = blocks.order[some]
            # Rounded up.
            limit = np.nextafter(limits[some].astype(np.float32), np.float32(np.inf))
            limit = np.resize(limit, blocks.size)
            mask = _within(SQUARED_L2_FLOAT.compare, blocks.spread(blocks.take(ours)), blocks[number], limit)
            i, j = np.nonzero(np.asarray(mask)[: len(some), : len(theirs)])
            yield ours[i], theirs[j]


@partial(jax.jit, static_argnums=0)
def _within(compare: Callable[[Any, Any], jax.Array], a: Block, b: Block, limits: jax.Array) -> jax.Array:
    return (compare(a.points, b.points) <= limits[:, None]) & (a.labels[:, None] != b.labels[None])
