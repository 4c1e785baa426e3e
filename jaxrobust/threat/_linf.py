"""The l-infinity ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.pytree import register_pytree_dataclass
from jaxrobust.random import example_keys, uniform

from ._base import Bounds, Box, Extent, absolute, flatten
from ._distance import largest_move, signed_distance
from ._hyperplane import spread, task
from ._support import box_support, products


@partial(register_pytree_dataclass, static=("bounds",))
@dataclass(frozen=True)
class Linf(Box):
    """Every pixel may change by at most ``eps``.

    Example:
        >>> Linf(8 / 255).project(jnp.array([[0.5, -0.01]])).round(4).tolist()
        [[0.0314, -0.01]]
    """

    eps: Any
    bounds: Bounds = (0.0, 1.0)

    def norm(self, perturbation: jax.Array) -> jax.Array:
        """``max |p_i|``, ``[batch]``."""
        return absolute(flatten(perturbation)).max(-1, initial=0)

    def dual_norm(self, gradient: jax.Array) -> jax.Array:
        """``sum |g_i|``, ``[batch]``."""
        return absolute(flatten(gradient)).sum(-1)

    def l2_radius(self, images: jax.Array) -> jax.Array:
        """``sqrt(d) eps`` for ``d`` entries of an image: the corners of the cube lie there."""
        return super().l2_radius(images) * math.sqrt(math.prod(images.shape[1:]))

    def steepest(self, gradient: jax.Array) -> jax.Array:
        """The sign of the gradient, with ``sign(0) = 0``."""
        return jnp.sign(gradient)

    def project(self, perturbation: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """The nearest point of ball and box: two clips."""
        eps = self.radius(perturbation)
        low, high = -eps, eps
        if images is not None and (room := self.room(images)) is not None:
            low, high = jnp.maximum(low, room[0]), jnp.minimum(high, room[1])
        return jnp.clip(perturbation, low, high)

    def to_hyperplane(self, images: jax.Array, normal: jax.Array, excess: jax.Array) -> jax.Array:
        """All pixels with a nonzero normal move equally far, or as far as they can.

        ``d_i = -sign(excess * w_i) min(t, room_i)`` with ``t`` such that ``sum |w_i| min(t, room_i) = |excess|``.

        Example:
            >>> images, normal, excess = jnp.array([[0.5, 0.1]]), jnp.array([[1.0, 1.0]]), jnp.array([0.4])
            >>> Linf(1.0).to_hyperplane(images, normal, excess).round(4).tolist()
            [[-0.3, -0.1]]
        """
        return spread(task(self.bounds, images, normal, excess), evenly=True).reshape(images.shape)

    def distance(self, images: jax.Array, normal: jax.Array, excess: jax.Array, *, signed: bool = True) -> jax.Array:
        """Signed distance to half-spaces, see :meth:`ThreatModel.distance`.

        Example:
            >>> images, normal, excess = jnp.array([[0.1, 0.5, 0.9]]), jnp.array([[2.0, -1.0, 1.0]]), jnp.array([1.5])
            >>> Linf(1.0).distance(images, normal, excess).round(4).tolist()
            [0.8]
        """
        return signed_distance(task(self.bounds, images, normal, excess), self.dual_norm, largest_move, signed=signed)

    def support(self, normals: jax.Array, extent: Extent) -> jax.Array:
        """Every pixel moves on its own: exact, see :meth:`ThreatModel.support`."""
        return products(absolute(normals), extent.radii) if self.bounds is None else box_support(normals, extent)

    def sample(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Uniform in the cube, then clipped to the box."""
        keys = example_keys(key, images.shape[0])
        points = jax.vmap(lambda k: uniform(k, images.shape[1:], images.dtype, -1, 1))(keys)
        return self.project(self.radius(images) * points, images)
