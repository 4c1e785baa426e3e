"""Which classes a targeted attack aims at."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def highest_wrong_classes(logits: jax.Array, labels: jax.Array, targets: int) -> jax.Array:
    """The classes other than the label, by descending logit, at most ``targets`` of them: ``[batch, targets]``."""
    classes = logits.shape[-1]
    own = jnp.arange(classes, dtype=labels.dtype) == labels[:, None]
    order = jnp.argsort(jnp.where(own, -jnp.inf, logits), axis=-1, descending=True)
    return order[:, : min(targets, classes - 1)]
