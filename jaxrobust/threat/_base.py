"""What every threat model answers."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Bounds = tuple[float, float] | None
"""Valid pixel range, or ``None`` for data that are not confined to a box."""


@runtime_checkable
class ThreatModel(Protocol):
    """A norm ball around each example, intersected with the box of valid pixels.

    All methods take arrays with a leading batch axis and reduce over all other axes. ``eps`` is a number, a traced
    scalar, or one radius per example ``[batch]``, in the units of the images ([0, 1] unless ``bounds`` say otherwise).
    """

    @property
    def eps(self) -> Any:
        """Radius."""
        ...

    @property
    def bounds(self) -> Bounds:
        """Valid pixel range."""
        ...

    def norm(self, perturbation: jax.Array) -> jax.Array:
        """Norm of each perturbation, ``[batch]``."""
        ...

    def dual_norm(self, gradient: jax.Array) -> jax.Array:
        """Dual norm of each gradient, ``[batch]``: how much a unit perturbation can raise a linear function."""
        ...

    def l2_radius(self, images: jax.Array) -> jax.Array:
        """Radius of the smallest Euclidean ball that holds the norm ball, a scalar or ``[batch]``."""
        ...

    def steepest(self, gradient: jax.Array) -> jax.Array:
        """The unit step that most increases a linear function; zero where the gradient is zero."""
        ...

    def project(self, perturbation: jax.Array, images: jax.Array | None = None) -> jax.Array:
        """Bring perturbations into the ball and, given ``images``, keep ``images + perturbation`` in the box."""
        ...

    def sample(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """A random perturbation per image, uniform in the ball, then restricted to the box by clipping."""
        ...

    def clip(self, images: jax.Array) -> jax.Array:
        """Clip images to the box."""
        ...

    def to_hyperplane(self, images: jax.Array, normal: jax.Array, excess: jax.Array) -> jax.Array:
        """The smallest move inside the box that brings images onto a hyperplane, one per example.

        Args:
            images: ``[batch, ...]``, in the box.
            normal: the hyperplanes' normals, shaped as the images or ``[batch, features]``.
            excess: ``<normal, image> - offset``, ``[batch]``: how far each image lies on the normal's side.

        Returns:
            ``d`` with ``<normal, d> = -excess``, shaped as the images. Where the box ends before the hyperplane every
            pixel goes to its end in that direction; where ``normal`` is zero nothing moves.
        """
        ...


class Box:
    """The part of a threat model that does not depend on the norm: radius, box and their checks."""

    eps: Any
    bounds: Bounds

    def __post_init__(self) -> None:
        """Check concrete values; traced ones, and those JAX puts in their place, pass unseen."""
        if isinstance(self.eps, (bool, str)):
            raise TypeError(f"eps must be a number, got {self.eps!r}")
        if isinstance(self.eps, (int, float, np.number)) and not 0 <= float(self.eps) < math.inf:
            raise ValueError(f"eps must be finite and at least 0, got {self.eps}; it is a radius in pixel units")
        if self.bounds is not None and not (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise ValueError(f"bounds must be (lowest, highest) pixel value, or None for no box, got {self.bounds!r}")

    def clip(self, images: jax.Array) -> jax.Array:
        """Clip images to the box."""
        return images if self.bounds is None else jnp.clip(images, *self.bounds)

    def room(self, images: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Smallest and largest perturbation that each pixel allows, or ``None`` without a box.

        Zero is always allowed, even for a pixel that lies outside the box by a rounding.
        """
        if self.bounds is None:
            return None
        low, high = self.bounds
        return jnp.minimum(low - images, 0), jnp.maximum(high - images, 0)

    def radius(self, like: jax.Array) -> jax.Array:
        """``eps`` in the dtype of ``like``, shaped to broadcast against ``[batch, ...]``."""
        eps = jnp.asarray(self.eps, like.dtype)
        if eps.ndim > 1 or (eps.ndim == 1 and eps.shape[0] != like.shape[0]):
            raise ValueError(f"eps must be a scalar or have shape [batch], got {eps.shape} for {like.shape[0]} images")
        return eps.reshape(eps.shape + (1,) * (like.ndim - 1)) if eps.ndim else eps

    def l2_radius(self, images: jax.Array) -> jax.Array:
        """``eps``: the norm is at least the Euclidean one."""
        return self.radius(images).reshape(jnp.shape(self.eps))


def flatten(x: jax.Array) -> jax.Array:
    """``[batch, ...]`` to ``[batch, features]``."""
    return x.reshape(x.shape[0], -1)


def absolute(x: jax.Array) -> jax.Array:
    """``|x|`` with derivative 0 at 0, where that of ``jnp.abs`` is 1."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
    """``[batch]`` shaped to broadcast against ``like``."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
