"""Jittable augmentation with one random key per example."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.random import example_keys, fold_in_each

Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""``(key, images [batch, height, width, channels]) -> images``."""


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


def compose(*augments: Augment) -> Augment:
    """Apply augmentations one after the other, each with keys of its own."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        keys = example_keys(key, images.shape[0])
        for number, one in enumerate(augments):
            images = one(fold_in_each(keys, number), images)
        return images

    return augment
