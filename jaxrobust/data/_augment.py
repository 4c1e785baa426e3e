"""Jittable augmentation with one random key per example."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.random import example_keys, fold_in_each

Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""``(key, images [batch, height, width, channels]) -> images``, jittable."""


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability 1/2. It leaves all frequency magnitudes unchanged."""
    keys = example_keys(key, images.shape[0])
    flip = jax.vmap(lambda k: jax.random.bernoulli(k))(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """Pad with zeros on all sides and cut out a window of the original size at a random place."""
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    keys = example_keys(key, images.shape[0])
    shape = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(key: jax.Array, image: jax.Array) -> jax.Array:
        corner = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.zeros((), corner.dtype)), shape)

    return jax.vmap(cut)(keys, padded)


def random_rotation(degrees: float) -> Augment:
    """Rotate each image about its centre by an angle drawn uniformly from ``[-degrees, degrees]``.

    A pixel gets the value of the pixel that its centre comes from, and zero where that lies outside: nearest-neighbour
    sampling and zero filling, as torchvision's ``RandomRotation`` does by default. The public recipes for CIFAR-100
    rotate within 15 degrees, after cropping and flipping.

    Args:
        degrees: largest angle, 0 to 180.

    Returns:
        Augmentation that keeps shape and dtype.

    Example:
        >>> images = jnp.ones((2, 4, 4, 1))
        >>> jax.jit(random_rotation(15))(jax.random.key(0), images).shape
        (2, 4, 4, 1)
    """
    if not 0 <= degrees <= 180:
        raise ValueError(f"degrees must lie in [0, 180], got {degrees}")
    limit = math.radians(degrees)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        keys = example_keys(key, images.shape[0])
        angles = jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32, -limit, limit))(keys)
        return jax.vmap(_rotate)(images, angles)

    return augment


def _rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotate counter-clockwise by ``angle`` in radians."""
    height, width, channels = image.shape
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    down = (jnp.arange(height, dtype=jnp.float32) + 0.5 - height / 2)[:, None]
    right = jnp.arange(width, dtype=jnp.float32) + 0.5 - width / 2
    row = jnp.floor(cos * down + sin * right + height / 2).astype(jnp.int32)
    column = jnp.floor(cos * right - sin * down + width / 2).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = jnp.where(inside, row * width + column, 0)
    return jnp.where(inside[..., None], image.reshape(-1, channels)[source], jnp.zeros((), image.dtype))


def compose(*augments: Augment) -> Augment:
    """Apply augmentations one after the other, each with keys of its own."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        keys = example_keys(key, images.shape[0])
        for number, one in enumerate(augments):
            images = one(fold_in_each(keys, number), images)
        return images

    return augment
