"""The l2 ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.pytree import register_pytree_dataclass
from jaxrobust.random import example_keys

from ._base import Bounds, Box, Extent, flatten, per_example, safe_norm
from ._distance import move_length, signed_distance
from ._hyperplane import spread, task
from ._support import box_support, products


@partial(register_pytree_dataclass, static=("bounds",))
@dataclass(frozen=True)
class L2(Box):
    """The Euclidean length of the perturbation is at most ``eps``.

    Example:
        >>> L2(1.0).project(jnp.array([[3.0, 4.0]])).round(4).tolist()
        [[0.6, 0.8]]
    """

    eps: Any
    bounds: Bounds = (0.0, 1.0)

    def norm(self, perturbation: jax.Array) -> jax.Array:
        """``sqrt(sum p_i^2)``, ``[batch]``; its gradient at zero is zero."""
        return safe_norm(flatten(perturbation))

    def dual_norm(self, gradient: jax.Array) -> jax.Array:
        """The norm itself."""
        return self.norm(gradient)

    def steepest(self, gradient: jax.Array) -> jax.Array:
        """The gradient divided by its length; zero where it is zero."""
        length = per_example(self.norm(gradient), gradient)
        return gradient / jnp.where(length > 0, length, 1)

    def project(self, perturbation: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Scale to length ``eps`` if longer, then clip to the box.

        Without a box this is the nearest point of the ball. With one the result lies in both sets and projecting it
        again changes nothing, but it is not the nearest point of their intersection: the common choice of PGD and
        AutoAttack, one pass instead of an iterative solution.
        """
        length = per_example(self.norm(perturbation), perturbation)
        eps = self.radius(perturbation)
        inside = perturbation * jnp.where(length > eps, eps / jnp.where(length > 0, length, 1), 1)
        if images is None or (room := self.room(images)) is None:
            return inside
        return jnp.clip(inside, *room)

    def to_hyperplane(self, images: jax.Array, normal: jax.Array, excess: jax.Array) -> jax.Array:
        """Pixels move along the normal, or as far as they can.

        ``d = -sign(excess) t w`` clipped to the box, with ``t >= 0`` such that ``<w, d> = -excess``. The squares of the
        normal's entries must be floating-point numbers: in single precision, entries from 1e-18 to 1e18.

        Example:
            >>> images, normal, excess = jnp.array([[0.5, 0.1]]), jnp.array([[1.0, 1.0]]), jnp.array([0.4])
            >>> L2(1.0).to_hyperplane(images, normal, excess).round(4).tolist()
            [[-0.3, -0.1]]
        """
        return spread(task(self.bounds, images, normal, excess), evenly=False).reshape(images.shape)

    def distance(self, images: jax.Array, normal: jax.Array, excess: jax.Array, *, signed: bool = True) -> jax.Array:
        """Signed distance to half-spaces, see :meth:`ThreatModel.distance`; the range of normals as for hyperplanes.

        Example:
            >>> images, normal, excess = jnp.array([[0.1, 0.5, 0.9]]), jnp.array([[2.0, -1.0, 1.0]]), jnp.array([1.5])
            >>> L2(1.0).distance(images, normal, excess).round(4).tolist()
            [0.9487]
        """
        return signed_distance(task(self.bounds, images, normal, excess), self.dual_norm, move_length, signed=signed)

    def support(self, normals: jax.Array, extent: Extent) -> jax.Array:
        """The smaller of ``sqrt(sum (n_i r_i)^2)`` and what the box allows, see :meth:`ThreatModel.support`."""
        squares = products(jnp.square(normals), jnp.square(extent.radii))
        positive = squares != 0
        ball = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
        return ball if self.bounds is None else jnp.minimum(ball, box_support(normals, extent))

    def sample(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """A Gaussian direction times ``eps * U^(1/d)``: uniform in the ball; then clipped to the box."""
        features = math.prod(images.shape[1:])

        def draw(key: jax.Array) -> jax.Array:
            direction_key, radius_key = jax.random.split(key)
            direction = jax.random.normal(direction_key, (features,), images.dtype)
            radius = jax.random.uniform(radius_key, (), images.dtype) ** (1 / max(features, 1))
            return radius * direction / safe_norm(direction)

        points = jax.vmap(draw)(example_keys(key, images.shape[0])).reshape(images.shape)
        return self.project(self.radius(images) * points, images)
