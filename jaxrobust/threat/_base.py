"""What every threat model answers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Bounds = tuple[float, float] | None
"""Valid pixel range, or ``None`` for data that are not confined to a box."""


class Extent(NamedTuple):
    """How far pixels can move, arrays shaped as the images.

    Attributes:
        low: smallest change of each pixel alone, within ball and box; at most 0.
        high: largest one; at least 0.
        radii: how far the ball alone lets each pixel go.
    """

    low: jax.Array
    high: jax.Array
    radii: jax.Array


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

    def distance(self, images: jax.Array, normal: jax.Array, excess: jax.Array, *, signed: bool = True) -> jax.Array:
        """How far images are, inside the box, from the half-space ``{x: excess + <normal, x - image> <= 0}``.

        In the threat model's norm, whatever its radius. Differentiable in all arguments, with the set of pixels that
        move to their ends held fixed. For several half-spaces per image, ``vmap`` over ``normal`` and ``excess``.
        Source: Liu et al., 2021, "Training provably robust models by polyhedral envelope regularization", whose greedy
        algorithm runs to its end here.

        Args:
            images: ``[batch, ...]``, in the box.
            normal: of the half-spaces, shaped as the images or ``[batch, features]``.
            excess: ``[batch]``, positive outside the half-space.
            signed: whether images inside the half-space (``excess < 0``) get minus their distance to its complement,
                or 0.

        Returns:
            ``[batch]``. Outside the half-space (``excess > 0``) it is ``inf``, with derivative 0, where the box ends
            before the half-space or ``normal`` is zero. A corner of the box that lies on it up to the rounding of a sum
            over all pixels counts as reached. Inside, the value is finite, so that penalties are: where the box ends
            before the complement, minus the distance of the corner nearest to the complement, constant in ``normal``
            and ``excess``; where ``normal`` is zero, 0.
        """
        ...

    def extent(self, images: jax.Array) -> Extent:
        """How far each pixel can move, arrays shaped as the images ``[batch, ...]``."""
        ...

    def support(self, normals: jax.Array, extent: Extent) -> jax.Array:
        """An upper bound of ``<normal, perturbation>`` over ball and box, ``[..., rows]``.

        Exact for l-infinity, and for all norms without a box. With one, l2 and l1 take the smaller of what the ball
        and what the box allow, which is valid, not exact. Differentiable, with derivative 0 where a norm has none.

        Args:
            normals: ``[..., rows, features]``.
            extent: how far pixels move, fields ``[..., features]``; it brings the radius with it.
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
        if self.bounds is None or any(isinstance(end, jax.Array) for end in self.bounds):  # arrays: see NonUniform
            return
        if not (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise ValueError(f"bounds must be (lowest, highest) pixel value, or None for no box, got {self.bounds!r}")

    def clip(self, images: jax.Array) -> jax.Array:
        """Clip images to the box."""
        return images if self.bounds is None else jnp.clip(images, *self.bounds)

    def room(self, images: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Smallest and largest perturbation that each pixel allows, or ``None`` without a box."""
        return box_room(self.bounds, images)

    def radius(self, like: jax.Array) -> jax.Array:
        """``eps`` in the dtype of ``like``, shaped to broadcast against ``[batch, ...]``."""
        eps = jnp.asarray(self.eps, like.dtype)
        if eps.ndim > 1 or (eps.ndim == 1 and eps.shape[0] != like.shape[0]):
            raise ValueError(f"eps must be a scalar or have shape [batch], got {eps.shape} for {like.shape[0]} images")
        return eps.reshape(eps.shape + (1,) * (like.ndim - 1)) if eps.ndim else eps

    def extent(self, images: jax.Array) -> Extent:
        """How far each pixel can move, arrays shaped as the images.

        Example:
            >>> from jaxrobust import L2
            >>> low, high, radii = L2(0.25).extent(jnp.array([[0.5, 0.0]]))
            >>> low.tolist(), high.tolist(), radii.tolist()
            ([[-0.25, 0.0]], [[0.25, 0.25]], [[0.25, 0.25]])
        """
        radii = jnp.broadcast_to(self.semi_axes(images), images.shape)
        room = self.room(images)
        if room is None:
            return Extent(-radii, radii, radii)
        return Extent(jnp.maximum(room[0], -radii), jnp.minimum(room[1], radii), radii)

    def semi_axes(self, images: jax.Array) -> jax.Array:
        """How far the ball lets each pixel go, to broadcast against the images."""
        return self.radius(images)

    def l2_radius(self, images: jax.Array) -> jax.Array:
        """``eps``: the norm is at least the Euclidean one."""
        return self.radius(images).reshape(jnp.shape(self.eps))


def box_room(bounds: Any, images: jax.Array) -> tuple[jax.Array, jax.Array] | None:
    """Smallest and largest perturbation that each pixel allows, or ``None`` without a box.

    Zero is always allowed, even for a pixel that lies outside the box by a rounding.
    """
    if bounds is None:
        return None
    low, high = bounds
    return jnp.minimum(low - images, 0), jnp.maximum(high - images, 0)


def flatten(x: jax.Array) -> jax.Array:
    """``[batch, ...]`` to ``[batch, features]``."""
    return x.reshape(x.shape[0], -1)


def absolute(x: jax.Array) -> jax.Array:
    """``|x|`` with derivative 0 at 0, where that of ``jnp.abs`` is 1."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def safe_norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """Euclidean norm whose derivative at zero is zero instead of NaN, and which does not overflow."""
    largest = jax.lax.stop_gradient(jnp.abs(x).max(axis, keepdims=True, initial=0))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.square(x / scale).sum(axis)
    positive = squares != 0  # not a number stays one
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0) * scale.squeeze(axis)


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
    """``[batch]`` shaped to broadcast against ``like``."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
