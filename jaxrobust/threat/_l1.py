"""The l1 ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.pytree import register_pytree_dataclass
from jaxrobust.random import example_keys

from ._base import Bounds, Box, flatten


@partial(register_pytree_dataclass, static=("bounds",))
@dataclass(frozen=True)
class L1(Box):
    """The absolute changes of all pixels sum up to at most ``eps``.

    Example:
        >>> L1(1.0).project(jnp.array([[3.0, -2.5]])).round(4).tolist()
        [[0.75, -0.25]]
    """

    eps: Any
    bounds: Bounds = (0.0, 1.0)

    def norm(self, perturbation: jax.Array) -> jax.Array:
        """``sum |p_i|``, ``[batch]``."""
        return jnp.abs(flatten(perturbation)).sum(-1)

    def dual_norm(self, gradient: jax.Array) -> jax.Array:
        """``max |g_i|``, ``[batch]``."""
        return jnp.abs(flatten(gradient)).max(-1, initial=0)

    def steepest(self, gradient: jax.Array) -> jax.Array:
        """The sign of the largest coordinate at that coordinate, the first one on ties; zero elsewhere."""
        flat = flatten(gradient)
        largest = jnp.abs(flat).argmax(-1)
        one_hot = jax.nn.one_hot(largest, flat.shape[-1], dtype=flat.dtype)
        return (one_hot * jnp.sign(flat)).reshape(gradient.shape)

    def project(self, perturbation: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """The nearest point of ball and box, exact.

        The solution is ``clip(soft_threshold(p, t), low, high)`` for the smallest ``t >= 0`` that brings the norm down
        to ``eps``. With ``c_i`` the room of pixel ``i`` in the direction of ``p_i``, the norm at ``t`` is
        ``sum_i min(max(|p_i| - t, 0), c_i)``: piecewise linear, with breakpoints ``|p_i|`` and ``|p_i| - c_i``. Sorting
        them gives the piece that holds the solution (O(d log d)). Source for the ball alone: Duchi et al., 2008; for
        ball and box: Croce and Hein, 2021.
        """
        flat = flatten(perturbation)
        room = None if images is None else self.room(flatten(images))
        size = jnp.abs(flat)
        limit = size if room is None else jnp.minimum(size, jnp.where(flat >= 0, room[1], -room[0]))
        eps = jnp.broadcast_to(self.radius(flat).reshape(-1), flat.shape[:1])
        kept = jax.vmap(_shrink)(size, limit, eps)
        return (jnp.sign(flat) * kept).reshape(perturbation.shape)

    def sample(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Uniform in the ball, from exponential variates with random signs; then clipped to the box."""
        features = math.prod(images.shape[1:])

        def draw(key: jax.Array) -> jax.Array:
            size_key, sign_key = jax.random.split(key)
            sizes = jax.random.exponential(size_key, (features + 1,), images.dtype)
            signs = jax.random.rademacher(sign_key, (features,), images.dtype)
            return signs * sizes[:-1] / sizes.sum()

        points = jax.vmap(draw)(example_keys(key, images.shape[0])).reshape(images.shape)
        inside = self.radius(images) * points
        room = self.room(images)
        return inside if room is None else jnp.clip(inside, *room)


def _shrink(size: jax.Array, limit: jax.Array, eps: jax.Array) -> jax.Array:
    """``min(max(size - t, 0), limit)`` for the smallest ``t >= 0`` with a sum of at most ``eps``; ``limit <= size``.

    Walking ``t`` down from the largest size, pixel ``i`` starts to grow at ``size_i`` and stops at
    ``size_i - limit_i``; between breakpoints the sum grows with the number of growing pixels as its slope. Sizes are
    measured from the largest one: what is kept is at most ``eps``, and would be lost in the rounding of large sizes.
    """
    largest = size.max(initial=0)
    shifted = size - largest
    points = jnp.concatenate([shifted, shifted - limit])
    slopes = jnp.concatenate([jnp.ones_like(size), -jnp.ones_like(size)])
    order = jnp.argsort(points, descending=True)
    points, slopes = points[order], jnp.cumsum(slopes[order])
    below = jnp.concatenate([points[1:], jnp.full_like(points[:1], -largest)])
    reached = jnp.cumsum(slopes * (points - below))  # the sum at the lower end of each piece
    piece = jnp.argmax(reached >= eps)  # the first piece that reaches eps holds the solution
    slope = slopes[piece]
    threshold = below[piece] + (reached[piece] - eps) / jnp.where(slope > 0, slope, 1)
    threshold = jnp.clip(threshold, below[piece], points[piece])
    kept = jnp.minimum(jnp.maximum(shifted - threshold, 0), limit)
    return jnp.where(limit.sum() > eps, kept, limit)
