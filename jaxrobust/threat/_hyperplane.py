"""Smallest moves onto a hyperplane within the box of valid pixels: what the norms have in common.

Towards the hyperplane, pixel ``i`` gains ``slope_i`` per unit moved and has ``room_i`` to move; together the pixels
need a gain of ``needed``. The solutions need no sorting: a few passes over the pixels each, for the batch as a whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._base import absolute, box_room, flatten


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

    bounds: Any
    images: jax.Array
    normal: jax.Array
    excess: jax.Array

    @property
    def needed(self) -> jax.Array:
        """What the pixels have to gain together, ``[batch]``."""
        return jnp.where(self.excess < 0, -self.excess, self.excess)

    def way(self) -> Way:
        """What each pixel can contribute. Images on the hyperplane face the side of lower values."""
        ascent = jnp.where((self.excess < 0)[:, None], self.normal, -self.normal)
        span = box_room(self.bounds, self.images)
        room = None if span is None else jnp.where(ascent > 0, span[1], -span[0])
        return Way(absolute(self.normal), room, jnp.sign(ascent))

    def way_in_loop(self, state: Any) -> tuple[Way, Any]:
        """The way again, computed anew in each pass of a loop, and the loop's state.

        Left alone, XLA computes it before the loop, with more arrays to read in each pass, which takes longer on CPU.
        """
        images, normal, state = jax.lax.optimization_barrier((self.images, self.normal, state))
        return self._replace(images=images, normal=normal).way(), state

    def constant(self) -> Task:
        """The same task for derivatives to pass by: loops have none in reverse."""
        return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x, self)


def task(bounds: Any, images: jax.Array, normal: jax.Array, excess: jax.Array) -> Task:
    """The task with flat arrays; ``bounds`` as a threat model's, or one array of each, flat as well."""
    return Task(bounds, flatten(images), flatten(normal), excess)


def row_sum(x: jax.Array) -> jax.Array:
    """Sum over the last axis. XLA's CPU backend sums rows in scalar code, but multiplies by vectors fast."""

    def product(x: jax.Array) -> jax.Array:
        return jnp.matmul(x, jnp.ones((x.shape[-1],), x.dtype), precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x.sum(-1))


def quotient(numerator: jax.Array, denominator: jax.Array, otherwise: float) -> jax.Array:
    """Finite, since what is infinite times a slope of zero would not be a number."""
    positive = denominator > 0
    quotient = jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)
    return jnp.minimum(quotient, jnp.finfo(quotient.dtype).max)


def fill_level(task: Task, *, evenly: bool) -> jax.Array:
    """The level at which pixels that move by ``min(level * share, room)`` reach the hyperplane in their box, ``[batch]``.

    The share is 1 if ``evenly``, else the pixel's slope. The gain ``sum_i slope_i min(level * share_i, room_i)`` is
    concave, increasing and piecewise linear in the level. Newton's method from level 0 climbs to the solution without
    passing it. Each pass but the last fills the room of at least one pixel more, so it ends, exactly, when no example
    fills another one: after four passes or so. Where the box is too small the level becomes so high that all pixels use
    their room.
    """
    needed, highest = task.needed, float(jnp.finfo(task.normal.dtype).max)

    def climb(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (slope, room, _), level = task.way_in_loop(state[0])
        share = jnp.ones_like(slope) if evenly else slope
        filled = room <= level[:, None] * share
        gained, rate = row_sum(jnp.where(filled, slope * room, 0)), row_sum(jnp.where(filled, 0, slope * share))
        higher = jnp.maximum(level, quotient(needed - gained, rate, highest))
        return higher, (higher > level).any()

    slope, room, _ = task.way()
    share = jnp.ones_like(slope) if evenly else slope
    start = quotient(needed, row_sum(jnp.where(room > 0, slope * share, 0)), highest)
    level, _ = jax.lax.while_loop(lambda state: state[1], climb, (start, jnp.asarray(True)))
    return level


def spread(task: Task, *, evenly: bool) -> jax.Array:
    """Every pixel moves by ``min(level * share, room)`` with the level of :func:`fill_level`; flat."""
    slope, room, sign = task.way()
    share = jnp.ones_like(slope) if evenly else slope
    if room is None:
        return sign * quotient(task.needed, row_sum(slope * share), 0)[:, None] * share
    return sign * jnp.minimum(fill_level(task, evenly=evenly)[:, None] * share, room)


class Above(NamedTuple):
    """A threshold, the gain of all steeper pixels in their full room, and the sum of gain times slope, ``[batch]``."""

    threshold: jax.Array
    gain: jax.Array
    moment: jax.Array


def last_slopes(task: Task) -> tuple[Above, Above]:
    """Two thresholds: steeper pixels than the higher use their full room, those down to the lower share what is left.

    Found by bisection: pixels steeper than ``low`` gain more than is needed, those steeper than ``high`` do not. Each
    pass splits the slopes between them at their mean, weighted by gain, until those left are alike, up to rounding.
    Where the box is too small, all pixels lie above ``low`` and none above ``high``.
    """
    needed = task.needed

    def above(way: Way, threshold: jax.Array) -> Above:
        gain = jnp.where(way.slope > threshold[:, None], way.slope * way.room, 0)
        return Above(threshold, row_sum(gain), row_sum(gain * way.slope))

    def split(state: tuple[Above, Above, jax.Array]) -> tuple[Above, Above, jax.Array]:
        way, (low, high) = task.way_in_loop(state[:2])
        mean = quotient(low.moment - high.moment, low.gain - high.gain, 0)
        middle = above(way, jnp.clip(mean, low.threshold, high.threshold))
        # Sums over the same pixels are the same to the last bit: where they are equal, nothing was split off.
        splits = (low.gain > middle.gain) & (middle.gain > high.gain) & (low.gain > needed)
        enough = middle.gain > needed
        return (
            jax.tree.map(lambda new, old: jnp.where(splits & enough, new, old), middle, low),
            jax.tree.map(lambda new, old: jnp.where(splits & ~enough, new, old), middle, high),
            splits.any(),
        )

    zero = jnp.zeros_like(needed)
    everything, nothing = above(task.way(), zero), Above(jnp.full_like(zero, jnp.inf), zero, zero)
    start = (everything, nothing, (everything.gain > needed).any())
    low, high, _ = jax.lax.while_loop(lambda state: state[2], split, start)
    return low, high


def steepest_first(task: Task) -> jax.Array:
    """Full room for the pixels of largest slope, as many as are needed, and part of it for the last one; flat.

    Where several pixels are the last, they share what is left: ties cost the same however broken.
    """
    needed = task.needed
    slope, room, sign = task.way()
    if room is None:
        steepest = jax.nn.one_hot(slope.argmax(-1), slope.shape[-1], dtype=slope.dtype)
        return sign * steepest * quotient(needed, slope.max(-1, initial=0), 0)[:, None]
    low, high = last_slopes(task)
    part = jnp.where(low.gain <= needed, 1, quotient(needed - high.gain, low.gain - high.gain, 0))[:, None]
    share = jnp.where(slope > high.threshold[:, None], 1, jnp.where(slope > low.threshold[:, None], part, 0))
    return sign * share * room
