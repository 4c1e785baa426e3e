"""Smallest moves onto a hyperplane within the box of valid pixels: what the norms have in common.

Towards the hyperplane, pixel ``i`` gains ``slope_i`` per unit moved and has ``room_i`` to move; together the pixels
need a gain of ``needed``. The solutions need no sorting: a few passes over the pixels each, for the batch as a whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._base import Box, flatten


class Way(NamedTuple):
    """How pixels move towards a hyperplane, ``[batch, features]``.

    Attributes:
        slope: gain per unit moved, at least 0.
        room: how far the box lets them go; ``None`` without a box.
        sign: in which direction; 0 for those that gain nothing.
    """

    slope: jax.Array
    room: Any
    sign: jax.Array


class Task(NamedTuple):
    """Images and normals, flat, and on which side of its hyperplane each image lies, ``<normal, image> - offset``."""

    box: Box
    images: jax.Array
    normal: jax.Array
    excess: jax.Array

    @property
    def needed(self) -> jax.Array:
        """What the pixels have to gain together, ``[batch]``."""
        return jnp.abs(self.excess)

    def way(self) -> Way:
        """What each pixel can contribute."""
        ascent = -jnp.sign(self.excess)[:, None] * self.normal
        span = self.box.room(self.images)
        room = None if span is None else jnp.where(ascent > 0, span[1], -span[0])
        return Way(jnp.abs(self.normal), room, jnp.sign(ascent))

    def way_in_loop(self, state: Any) -> tuple[Way, Any]:
        """The way again, computed anew in each pass of a loop, and the loop's state.

        Left alone, XLA computes it before the loop, with more arrays to read in each pass, which takes longer on CPU.
        """
        images, normal, state = jax.lax.optimization_barrier((self.images, self.normal, state))
        return self._replace(images=images, normal=normal).way(), state


def task(box: Box, images: jax.Array, normal: jax.Array, excess: jax.Array) -> Task:
    """The task with flat arrays."""
    return Task(box, flatten(images), flatten(normal), excess)


def row_sum(x: jax.Array) -> jax.Array:
    """Sum over the last axis. XLA's CPU backend sums rows in scalar code, but multiplies by vectors fast."""

    def product(x: jax.Array) -> jax.Array:
        return jnp.matmul(x, jnp.ones((x.shape[-1],), x.dtype), precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x.sum(-1))


def _quotient(numerator: jax.Array, denominator: jax.Array, otherwise: float) -> jax.Array:
    """Finite, since what is infinite times a slope of zero would not be a number."""
    positive = denominator > 0
    quotient = jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)
    return jnp.minimum(quotient, jnp.finfo(quotient.dtype).max)


def spread(task: Task, *, evenly: bool) -> jax.Array:
    """Every pixel moves by ``min(level * share, room)``, with a share of 1 if ``evenly``, else of its slope; flat.

    The gain ``sum_i slope_i min(level * share_i, room_i)`` is concave, increasing and piecewise linear in the level.
    Newton's method from level 0 climbs to the solution without passing it. Each pass but the last fills the room of
    at least one pixel more, so it ends, exactly, when no example fills another one: after four passes or so.
    Where the box is too small the level becomes so high that all pixels use their room.
    """
    needed, highest = task.needed, float(jnp.finfo(task.normal.dtype).max)

    def climb(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (slope, room, _), level = task.way_in_loop(state[0])
        share = jnp.ones_like(slope) if evenly else slope
        filled = room <= level[:, None] * share
        gained, rate = row_sum(jnp.where(filled, slope * room, 0)), row_sum(jnp.where(filled, 0, slope * share))
        higher = jnp.maximum(level, _quotient(needed - gained, rate, highest))
        return higher, (higher > level).any()

    slope, room, sign = task.way()
    share = jnp.ones_like(slope) if evenly else slope
    if room is None:
        return sign * _quotient(needed, row_sum(slope * share), 0)[:, None] * share
    start = _quotient(needed, row_sum(jnp.where(room > 0, slope * share, 0)), highest)
    level, _ = jax.lax.while_loop(lambda state: state[1], climb, (start, jnp.asarray(True)))
    return sign * jnp.minimum(level[:, None] * share, room)


class _Above(NamedTuple):
    """A threshold, the gain of all steeper pixels in their full room, and the sum of gain times slope, ``[batch]``."""

    threshold: jax.Array
    gain: jax.Array
    moment: jax.Array


def steepest_first(task: Task) -> jax.Array:
    """Full room for the pixels of largest slope, as many as are needed, and part of it for the last one; flat.

    The last one's slope is found by bisection. It lies between two thresholds: pixels steeper than ``low`` gain more
    than is needed, those steeper than ``high`` do not. Each pass splits the slopes between them at their mean, weighted
    by gain, until those left are alike, up to rounding. They share what is left: ties cost the same however broken.
    """
    needed = task.needed

    def above(way: Way, threshold: jax.Array) -> _Above:
        gain = jnp.where(way.slope > threshold[:, None], way.slope * way.room, 0)
        return _Above(threshold, row_sum(gain), row_sum(gain * way.slope))

    def split(state: tuple[_Above, _Above, jax.Array]) -> tuple[_Above, _Above, jax.Array]:
        way, (low, high) = task.way_in_loop(state[:2])
        mean = _quotient(low.moment - high.moment, low.gain - high.gain, 0)
        middle = above(way, jnp.clip(mean, low.threshold, high.threshold))
        # Sums over the same pixels are the same to the last bit: where they are equal, nothing was split off.
        splits = (low.gain > middle.gain) & (middle.gain > high.gain) & (low.gain > needed)
        enough = middle.gain > needed
        return (
            jax.tree.map(lambda new, old: jnp.where(splits & enough, new, old), middle, low),
            jax.tree.map(lambda new, old: jnp.where(splits & ~enough, new, old), middle, high),
            splits.any(),
        )

    way = task.way()
    slope, room, sign = way
    if room is None:
        steepest = jax.nn.one_hot(slope.argmax(-1), slope.shape[-1], dtype=slope.dtype)
        return sign * steepest * _quotient(needed, slope.max(-1, initial=0), 0)[:, None]
    zero = jnp.zeros_like(needed)
    everything, nothing = above(way, zero), _Above(jnp.full_like(zero, jnp.inf), zero, zero)
    reachable = everything.gain > needed
    low, high, _ = jax.lax.while_loop(lambda state: state[2], split, (everything, nothing, reachable.any()))
    part = jnp.where(reachable, _quotient(needed - high.gain, low.gain - high.gain, 0), 1)[:, None]
    share = jnp.where(slope > high.threshold[:, None], 1, jnp.where(slope > low.threshold[:, None], part, 0))
    return sign * share * room
