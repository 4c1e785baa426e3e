"""What an attack is."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn


class Attack(Protocol):
    """``attack(key, logits_fn, images, labels) -> adversarial images``.

    ``key`` is one random key, or one per example (``[batch]``); with one per example an example's result does not
    depend on the others in its batch. ``images`` are floating point with a leading batch axis and lie within the
    threat model's bounds, [0, 1] unless stated otherwise. ``labels`` are the true classes, or the classes to reach
    where the attack is targeted.
    """

    def __call__(self, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        """Run the attack."""
        ...


def check_inputs(images: jax.Array, labels: jax.Array, *, soft_labels: bool = False) -> None:
    """Check what can be checked without leaving ``jit``: dtypes and shapes.

    With ``soft_labels`` class probabilities ``[batch, classes]`` pass as well.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be floating point in [0, 1], got dtype {images.dtype}; "
            "convert 8-bit images with images.astype('float32') / 255 and keep normalisation inside the model"
        )
    soft = soft_labels and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating)
    if not soft and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integer class numbers, got dtype {labels.dtype}")
    if images.ndim < 2 or (labels.shape[:1] if soft else labels.shape) != images.shape[:1]:
        raise ValueError(
            "images must have a leading batch axis and labels shape [batch], "
            f"got images {images.shape} and labels {labels.shape}"
        )
