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
from ._hyperplane import steepest_first, task


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

    def to_hyperplane(self, images: jax.Array, normal: jax.Array, excess: jax.Array) -> jax.Array:
        """The pixels with the largest normal move as far as they can, the last one of them as far as is needed.

        Example:
            >>> images, normal, excess = jnp.array([[0.5, 0.1]]), jnp.array([[1.0, 2.0]]), jnp.array([0.4])
            >>> L1(1.0).to_hyperplane(images, normal, excess).round(4).tolist()
            [[-0.2, -0.1]]
        """
        return steepest_first(task(self, images, normal, excess)).reshape(images.shape)

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
def _shrink(size: jax.Array, limit: jax.Array, eps: jax.Array) -> jax.Array:
    """``min(max(size - t, 0), limit)`` for the smallest ``t >= 0`` with a sum of at most ``eps``; ``limit <= size``.

    Pixel ``i`` grows while ``t`` falls from ``size_i`` to ``size_i - limit_i``, so the sum is linear between
    neighbouring breakpoints. Newton steps, in turns with bisection, find the piece that holds ``t`` in some ten passes
    without sorting; each pass rules out the whole piece that it looked at. What is left at the piece's upper end is
    shared by the pixels that grow below it. Only differences to that breakpoint are summed, never sizes: a radius that
    is small against the sizes would be lost in their rounding.
    """
    lower, upper = _piece(*jax.lax.stop_gradient((size, limit, eps)))  # any piece's ends cancel in the derivative
    # Compared with the middle, never for equality: a fused program may compute ``size`` twice, rounded differently.
    between = ((upper + lower) / 2)[:, None]
    growing = ((size > between) & (size - limit < between)).sum(-1, dtype=size.dtype)
    kept = jnp.clip(size - upper[:, None], 0, limit).sum(-1)
    rest = jnp.where(growing > 0, (eps - kept) / jnp.maximum(growing, 1), 0)
    grown = jnp.maximum(size - upper[:, None] + jnp.clip(rest, 0, upper - lower)[:, None], 0)
    return jnp.where((limit.sum(-1) <= eps)[:, None], limit, jnp.minimum(grown, limit))


def _piece(size: jax.Array, limit: jax.Array, eps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The neighbouring breakpoints with ``t`` of :func:`_shrink` between them, ``[batch]`` each."""
    stop, largest, infinity = size - limit, size.max(-1, initial=0), jnp.asarray(jnp.inf, size.dtype)

    def narrow(state: Any) -> Any:
        low, high, guess, found, number = state
        t = guess[:, None]
        below = jnp.maximum(jnp.where(size <= t, size, 0), jnp.where(stop <= t, stop, 0)).max(-1, initial=0)
        above = jnp.minimum(jnp.where(size > t, size, infinity), jnp.where(stop > t, stop, infinity))
        above = jnp.minimum(above.min(-1, initial=jnp.inf), largest)
        growing = ((size > t) & (stop <= t)).sum(-1, dtype=size.dtype)
        excess = jnp.clip(size - t, 0, limit).sum(-1) - eps
        beyond = excess > growing * (above - guess)
        before = excess < growing * (below - guess)
        new_low = jnp.where(beyond, above, jnp.where(before, low, below))
        new_high = jnp.where(before, below, jnp.where(beyond, high, above))
        newton = guess + excess / jnp.maximum(growing, 1)
        use_newton = (new_low < newton) & (newton < new_high) & (number % 3 < 2)
        guess = jnp.where(use_newton, newton, (new_low + new_high) / 2)
        return (
            jnp.where(found, low, new_low),
            jnp.where(found, high, jnp.maximum(new_low, new_high)),
            guess,
            found | ~(beyond | before) | (new_low >= new_high),
            number + 1,
        )

    zero, fits = jnp.zeros_like(largest), limit.sum(-1) <= eps
    start = (zero, largest, zero, fits, jnp.zeros((), jnp.int32))
    lower, upper, *_ = jax.lax.while_loop(lambda state: ~state[3].all(), narrow, start)
    return lower, upper
