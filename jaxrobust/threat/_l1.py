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

from ._base import Bounds, Box, Extent, absolute, flatten
from ._distance import signed_distance, sum_of_moves
from ._hyperplane import row_sum, steepest_first, task
from ._support import box_support


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
        return absolute(flatten(perturbation)).sum(-1)

    def dual_norm(self, gradient: jax.Array) -> jax.Array:
        """``max |g_i|``, ``[batch]``."""
        return absolute(flatten(gradient)).max(-1, initial=0)

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
        ``sum_i min(max(|p_i| - t, 0), c_i)``: piecewise linear in ``t``, solved by a few passes of Newton's method instead
        of sorting. Source for the ball alone: Duchi et al., 2008; for ball and box: Croce and Hein, 2021.
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
        return steepest_first(task(self.bounds, images, normal, excess)).reshape(images.shape)

    def distance(self, images: jax.Array, normal: jax.Array, excess: jax.Array, *, signed: bool = True) -> jax.Array:
        """Signed distance to half-spaces, see :meth:`ThreatModel.distance`.

        Example:
            >>> images, normal, excess = jnp.array([[0.1, 0.5, 0.9]]), jnp.array([[2.0, -1.0, 1.0]]), jnp.array([1.0])
            >>> L1(1.0).distance(images, normal, excess).round(4).tolist()
            [0.9]
        """
        return signed_distance(task(self.bounds, images, normal, excess), self.dual_norm, sum_of_moves, signed=signed)

    def support(self, normals: jax.Array, extent: Extent) -> jax.Array:
        """The smaller of ``max |n_i r_i|`` and what the box allows, see :meth:`ThreatModel.support`."""
        ball = absolute(normals * extent.radii[..., None, :]).max(-1, initial=0)
        return ball if self.bounds is None else jnp.minimum(ball, box_support(normals, extent))

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


CLOSE = 16
"""How near to the radius the search for the threshold goes, in units of rounding."""


@jax.custom_jvp
@jax.jit  # one compilation, where projections are called from Python as well
def _shrink(size: jax.Array, limit: jax.Array, eps: jax.Array) -> jax.Array:
    """``min(max(size - t, 0), limit)`` for the smallest ``t >= 0`` with a sum of at most ``eps``; ``limit <= size``.

    Behind the condition the arrays are read from memory. A fused program would compute them anew for each pass, and might
    round them differently each time.
    """
    return jax.lax.cond((row_sum(limit) <= eps).all(), lambda size, limit, eps: limit, _solve, size, limit, eps)


@_shrink.defjvp
def _shrink_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """Pixels that grow share what the others gain or lose; those at their limit move with it."""
    _, limit, _ = primals
    d_size, d_limit, d_eps = tangents
    kept = _shrink(*primals)
    growing = (kept > 0) & (kept < limit)
    d_size, d_limit = jnp.where(growing, d_size, 0), jnp.where(kept < limit, 0, d_limit)
    d_rest = (d_eps - (d_size + d_limit).sum(-1)) / jnp.maximum(growing.sum(-1, dtype=limit.dtype), 1)
    return kept, d_size + d_limit + jnp.where(growing, d_rest[:, None], 0)


def _solve(size: jax.Array, limit: jax.Array, eps: jax.Array) -> jax.Array:
    """:func:`_shrink` where some example needs it.

    What a threshold in floating point leaves of the radius is shared by the pixels that grow there. Only differences to
    the threshold are summed, never sizes: a radius that is small against the sizes would be lost in their rounding.
    """
    t, growing_at = (x[:, None] for x in _threshold(size, limit, eps))
    growing = row_sum(((size > growing_at) & (size - limit <= growing_at)).astype(size.dtype))
    rest = (eps - row_sum(jnp.clip(size - t, 0, limit))) / jnp.maximum(growing, 1)
    kept = jnp.clip(size - t + rest[:, None], 0, limit)
    total = row_sum(kept)
    return kept * jnp.where(total > eps, eps / jnp.where(total > 0, total, 1), 1)[:, None]


def _threshold(size: jax.Array, limit: jax.Array, eps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``t`` of :func:`_shrink`, from above where it lies between two numbers, and where to look for growing pixels.

    The sum is piecewise linear and falls with ``t``. Newton steps find ``t`` in a handful of passes without sorting;
    every fourth pass halves the interval instead, which bounds their number. ``[batch]`` both.
    """
    rounding = float(jnp.finfo(size.dtype).eps)

    def narrow(state: Any) -> Any:
        low, high, guess, done, number = state
        t = guess[:, None]
        excess = row_sum(jnp.clip(size - t, 0, limit)) - eps
        growing = row_sum(((size > t) & (size - limit <= t)).astype(size.dtype))
        found = jnp.abs(excess) <= CLOSE * rounding * eps
        new_low = jnp.where(found | (excess > 0), guess, low)
        new_high = jnp.where(found | ~(excess > 0), guess, high)
        middle, newton = (new_low + new_high) / 2, guess + excess / jnp.maximum(growing, 1)
        use_newton = (new_low < newton) & (newton < new_high) & (growing > 0) & (number % 4 < 3)
        return (
            jnp.where(done, low, new_low),
            jnp.where(done, high, new_high),
            jnp.where(use_newton, newton, middle),
            done | (new_high - new_low <= 4 * rounding * new_high),
            number + 1,
        )

    largest = size.max(-1, initial=0)
    zero = jnp.zeros_like(largest)
    start = (zero, largest, zero, zero > 0, jnp.zeros((), jnp.int32))
    low, high, *_ = jax.lax.while_loop(lambda state: ~state[3].all(), narrow, start)
    return high, (low + high) / 2
