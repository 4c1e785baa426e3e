"""Norm balls with a radius of its own for each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.pytree import register_pytree_dataclass

from ._base import Bounds, Box, Extent, flatten, safe_norm
from ._l1 import L1
from ._l2 import L2
from ._linf import Linf

ROUNDING = 16
"""A pixel of radius 0 has not moved if it differs by less than this, in units of the rounding of the largest pixel."""


@partial(register_pytree_dataclass, static=("kind", "bounds"))
@dataclass(frozen=True, eq=False)  # arrays have no truth value; two objects are equal if they are the same
class NonUniform(Box):
    """Perturbations ``eps * radii * v`` with ``||v|| <= 1``: a cuboid for ``Linf``, an ellipsoid for ``L2``.

    Everything is that of ``kind`` in the coordinates ``perturbation / radii``, in which the norm is measured: it has no
    unit, nor has ``eps``, which is 1 if ``radii`` are meant as they are. Steps of attacks are multiples of ``radii`` as
    well. A pixel of radius 0 may not move: the norm of a perturbation that moves it, beyond rounding, is infinite.
    Source: Liu et al., 2019, "On certifying non-uniform bounds against adversarial attacks".

    Attributes:
        kind: ``Linf``, ``L2`` or ``L1``.
        radii: how far each pixel may move alone, in the images' units, finite and at least 0; shaped as one image, for
            all images, or ``[batch, ...]``. Flat images may come with radii of any shape.
        eps: scale of the set, a number or ``[batch]``.
        bounds: valid pixel range.

    Example:
        >>> threat = NonUniform(L2, jnp.array([0.3, 0.1]), bounds=None)
        >>> threat.project(jnp.array([[0.3, 0.1]])).round(4).tolist()
        [[0.2121, 0.0707]]
    """

    kind: Any
    radii: Any
    eps: Any = 1.0
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Check what is concrete."""
        super().__post_init__()
        if self.kind not in (Linf, L2, L1):
            raise ValueError(f"kind must be Linf, L2 or L1, the class itself, got {self.kind!r}")
        if not isinstance(self.radii, (np.ndarray, jax.Array)):
            raise TypeError(f"radii must be an array shaped as the images or as one image, got {self.radii!r}")
        if not isinstance(self.radii, jax.core.Tracer):
            values = np.asarray(self.radii)
            if not ((values >= 0) & (values < math.inf)).all():
                raise ValueError(f"radii must be finite and at least 0, got {values.min()} to {values.max()}")

    def norm(self, perturbation: jax.Array) -> jax.Array:
        """``||p / radii||``, ``[batch]``."""
        flat, radii = flatten(perturbation), self._radii(perturbation)
        largest = 1.0 if self.bounds is None else max(abs(end) for end in self.bounds)
        moved = jnp.abs(flat) > ROUNDING * float(jnp.finfo(flat.dtype).eps) * largest
        return self.kind(1.0).norm(jnp.where((radii == 0) & moved, jnp.inf, _divided(flat, radii)))

    def dual_norm(self, gradient: jax.Array) -> jax.Array:
        """Dual norm of ``radii * g``, ``[batch]``."""
        return self.kind(1.0).dual_norm(flatten(gradient) * self._radii(gradient))

    def steepest(self, gradient: jax.Array) -> jax.Array:
        """``radii`` times the steepest step of ``radii * g``."""
        radii = self._radii(gradient)
        return (radii * self.kind(1.0).steepest(flatten(gradient) * radii)).reshape(gradient.shape)

    def project(self, perturbation: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """The projection of ``kind`` in the coordinates ``p / radii``, for ``Linf`` two clips.

        For ``L2`` and ``L1`` the result lies in the ball and, given ``images``, in the box, but distances to it are
        measured in those coordinates: it is not the nearest point in pixels; nor is it for ``L2`` in a box at all.
        """
        flat, radii = flatten(perturbation), self._radii(perturbation)
        origin = None if images is None else jnp.zeros_like(flat)
        inside = radii * self._scaled(images, radii).project(_divided(flat, radii), origin)
        return self._in_room(inside, images).reshape(perturbation.shape)

    def sample(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Uniform in the ball, then clipped to the box."""
        radii = self._radii(images)
        inside = radii * self._scaled(images, radii).sample(key, jnp.zeros_like(flatten(images)))
        return self._in_room(inside, images).reshape(images.shape)

    def to_hyperplane(self, images: jax.Array, normal: jax.Array, excess: jax.Array) -> jax.Array:
        """The move that is smallest in units of ``radii``.

        Example:
            >>> threat = NonUniform(Linf, jnp.array([0.1, 0.3]))
            >>> images, normal, excess = jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 1.0]]), jnp.array([0.4])
            >>> threat.to_hyperplane(images, normal, excess).round(4).tolist()
            [[-0.1, -0.3]]
        """
        radii = self._radii(images)
        flat, scaled = flatten(images), self._scaled(images, radii)
        return (radii * scaled.to_hyperplane(jnp.zeros_like(flat), flatten(normal) * radii, excess)).reshape(
            images.shape
        )

    def distance(self, images: jax.Array, normal: jax.Array, excess: jax.Array, *, signed: bool = True) -> jax.Array:
        """Signed distance to half-spaces in units of ``radii``, see :meth:`ThreatModel.distance`."""
        radii = self._radii(images)
        flat, scaled = flatten(images), self._scaled(images, radii)
        return scaled.distance(jnp.zeros_like(flat), flatten(normal) * radii, excess, signed=signed)

    def support(self, normals: jax.Array, extent: Extent) -> jax.Array:
        """That of ``kind``: the radii are in the extent, see :meth:`ThreatModel.support`."""
        return self.kind(1.0, self.bounds).support(normals, extent)

    def semi_axes(self, images: jax.Array) -> jax.Array:
        """``eps * radii``."""
        radii = self._radii(images)
        return self.radius(images) * radii.reshape(radii.shape[0], *images.shape[1:])

    def l2_radius(self, images: jax.Array) -> jax.Array:
        """``eps`` times the Euclidean length of ``radii`` for ``Linf``, the largest of ``radii`` for the others."""
        radii = self._radii(images)
        longest = safe_norm(radii) if self.kind is Linf else radii.max(-1, initial=0)
        return super().l2_radius(images) * (longest[0] if radii.shape[0] == 1 else longest)

    def _radii(self, like: jax.Array) -> jax.Array:
        """``[batch or 1, features]`` in the dtype of ``like``. Those whose reciprocals could overflow count as 0."""
        radii = jnp.asarray(self.radii, like.dtype)
        batch, features = like.shape[0], math.prod(like.shape[1:])

        def fits(shape: tuple[int, ...]) -> bool:
            return shape in (like.shape[1:], (features,)) or (like.ndim == 2 and math.prod(shape) == features)

        if not fits(radii.shape) and not (radii.shape[:1] == (batch,) and fits(radii.shape[1:])):
            raise ValueError(
                f"radii of shape {radii.shape} do not fit images of shape {like.shape}; give them the shape of the "
                "images or of one image"
            )
        radii = radii.reshape(-1, features)
        return jnp.where(radii < float(jnp.finfo(radii.dtype).tiny), 0, radii)

    def _scaled(self, images: jax.Array | None, radii: jax.Array) -> Any:
        """The threat model of ``kind`` for ``perturbation / radii`` around images at 0, with what room these have."""
        room = None if images is None else self.room(flatten(images))
        return self.kind(self.eps, None if room is None else tuple(_divided(end, radii) for end in room))

    def _in_room(self, perturbation: jax.Array, images: jax.Array | None) -> jax.Array:
        """Clip roundings off."""
        room = None if images is None else self.room(flatten(images))
        return perturbation if room is None else jnp.clip(perturbation, *room)


def _divided(values: jax.Array, radii: jax.Array) -> jax.Array:
    """``values / radii``, and 0 where a radius is 0."""
    positive = radii > 0
    return jnp.where(positive, values / jnp.where(positive, radii, 1), 0)
