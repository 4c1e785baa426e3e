"""Distances to half-spaces within the box of valid pixels.

The pixels that move to their ends are found by the loops of :mod:`._hyperplane`, which derivatives pass by. With those
pixels fixed, what is left is solved in closed form, and that is what is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ._base import safe_norm
from ._hyperplane import Task, fill_level, last_slopes, quotient, row_sum


def largest_move(task: Task) -> jax.Array:
    """Length in l-infinity of the smallest move onto the hyperplane, or to the end of the box, ``[batch]``.

    ``(needed - sum_full slope_i room_i) / sum_others slope_i``.
    """
    constant = task.constant()
    full = constant.way().room <= fill_level(constant, evenly=True)[:, None]
    slope, room, _ = task.way()
    rate = row_sum(jnp.where(full, 0, slope))
    level = quotient(task.needed - row_sum(jnp.where(full, slope * room, 0)), rate, 0)
    return jnp.where(rate > 0, level, jnp.where(slope > 0, room, 0).max(-1, initial=0))


def move_length(task: Task) -> jax.Array:
    """The same in l2. The other pixels move by ``level * slope_i``."""
    constant = task.constant()
    slope, room, _ = constant.way()
    full = room <= fill_level(constant, evenly=False)[:, None] * slope
    slope, room, _ = task.way()
    gain = row_sum(jnp.where(full, slope * room, 0))
    length = safe_norm(jnp.where(full & (slope > 0), room, 0))
    slope_of_others = safe_norm(jnp.where(full, 0, slope))
    rest = quotient(task.needed - gain, slope_of_others, 0)
    # Where no pixel is full, the derivative is that of the rest alone, also at a distance of zero.
    return jnp.where(length > 0, safe_norm(jnp.stack([length, rest], -1)), rest)


def sum_of_moves(task: Task) -> jax.Array:
    """The same in l1. The last pixels, of equal slopes, move by the same part of their rooms."""
    constant = task.constant()
    low, high = last_slopes(constant)
    slope, room, _ = task.way()
    full = slope > jnp.where(low.gain > constant.needed, high.threshold, low.threshold)[:, None]
    last = ~full & (slope > low.threshold[:, None])
    gain = row_sum(jnp.where(full, slope * room, 0))
    part = quotient(task.needed - gain, row_sum(jnp.where(last, slope * room, 0)), 0)
    return row_sum(jnp.where(full, room, 0)) + part * row_sum(jnp.where(last, room, 0))


def signed_distance(
    task: Task, dual_norm: Callable[[jax.Array], jax.Array], boxed: Callable[[Task], jax.Array], *, signed: bool
) -> jax.Array:
    """:meth:`~jaxrobust.threat.ThreatModel.distance`, given the dual norm and, for a box, one of the functions above.

    A sum of ``n`` positive terms is right to ``n`` roundings: within these, what is needed counts as reachable.
    """
    needed, (slope, room, _) = task.needed, task.way()
    if room is None:
        dual = dual_norm(task.normal)
        nearest, gain = quotient(needed, dual, 0), jnp.where(dual > 0, jnp.inf, dual)
    else:
        nearest, gain = boxed(task), jax.lax.stop_gradient(row_sum(slope * room))
        gain = gain * (1 + slope.shape[-1] * float(jnp.finfo(slope.dtype).eps))
    outside = jnp.where(needed > gain, jnp.inf, nearest)
    inside = -nearest if signed else jnp.zeros_like(nearest)
    return jnp.where(jnp.isnan(needed + gain), jnp.nan, jnp.where(task.excess < 0, inside, outside))
