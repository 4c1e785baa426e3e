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
        ``sum_i min(max(|p_i| - t, 0), c_i)``: piecewise linear, with breakpoints ``|p_i|`` and ``|p_i| - c_i``. Among
        them, sorted, lies the piece that holds the solution (O(d log d)). Source for the ball alone: Duchi et al., 2008; for
        ball and box: Croce and Hein, 2021.
        """
        flat = flatten(perturbation)
        room = None if images is None else self.room(flatten(images))
        size = jnp.abs(flat)
        limit = size if room is None else jnp.minimum(size, jnp.where(flat >= 0, room[1], -room[0]))
        eps = jnp.broadcast_to(self.radius(flat).reshape(-1), flat.shape[:1])
        kept = _shrink(size, limit, eps)
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


@jax.jit  # one compilation, where projections are called from Python as well
@jax.vmap
def _shrink(size: jax.Array, limit: jax.Array, eps: jax.Array) -> jax.Array:
    """``min(max(size - t, 0), limit)`` for the smallest ``t >= 0`` with a sum of at most ``eps``; ``limit <= size``.

    Pixel ``i`` grows while ``t`` falls from ``size_i`` to ``size_i - limit_i``, so the sum is linear between
    neighbours of the sorted breakpoints. Bisection finds the last breakpoint where the sum is within ``eps``, and what
    is left is shared by the pixels that grow below it. Only differences to that breakpoint are summed, never sizes:
    a radius that is small against the sizes would be lost in their rounding.
    """

    def kept(threshold: jax.Array) -> jax.Array:
        return jnp.minimum(jnp.maximum(size - threshold, 0), limit)

    stop = size - limit
    breakpoints = jnp.sort(jnp.concatenate([size, stop]), descending=True)

    def halve(_: int, interval: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        inside, outside = interval
        middle = (inside + outside) // 2
        fits = kept(breakpoints[middle]).sum() <= eps
        return jnp.where(fits, middle, inside), jnp.where(fits, outside, middle)

    ends = (jnp.zeros((), jnp.int32), jnp.asarray(breakpoints.size - 1, jnp.int32))
    inside, outside = jax.lax.fori_loop(0, breakpoints.size.bit_length(), halve, ends)
    upper, lower = breakpoints[inside], breakpoints[outside]
    # Compared with the middle, never for equality: a fused program may compute ``size`` twice, rounded differently.
    between = (upper + lower) / 2
    growing = ((size > between) & (stop < between)).sum(dtype=size.dtype)
    rest = jnp.where(growing > 0, (eps - kept(upper).sum()) / jnp.maximum(growing, 1), 0)
    grown = jnp.maximum(size - upper + jnp.clip(rest, 0, upper - lower), 0)
    return jnp.where(limit.sum() > eps, jnp.minimum(grown, limit), limit)
