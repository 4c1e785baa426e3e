"""Hinges of distances: what regularisers of distances to decision boundaries have in common."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import flatten
from jaxrobust.threat._support import products

from ._logits import _largest


def hinge(distances: jax.Array, margin: Any) -> jax.Array:
    """``max(0, 1 - distance / margin)``, without a gradient from the margin on."""
    margin = jnp.asarray(margin, distances.dtype)
    near = ~(distances >= margin)  # not a number stays one
    return jnp.where(near, 1 - jnp.where(near, distances, 0) / margin, 0)


def of_worst_classes(terms: jax.Array, labels: jax.Array, worst: int) -> jax.Array:
    """Sum of the largest terms, which are at least 0, over classes other than the label, ``[batch]``."""
    classes = terms.shape[-1]
    terms = jnp.where(jnp.arange(classes, dtype=labels.dtype) == labels[:, None], 0, terms)
    if worst >= classes - 1:
        return terms.sum(-1)
    found = _largest(terms, worst)
    return sum(found[1:], found[0])


def class_distances(
    threat: ThreatModel, points: jax.Array, normals: jax.Array, margins: jax.Array, images: jax.Array | None = None
) -> jax.Array:
    """Signed distances of points from half-spaces ``margins + <normals, x - images> <= 0``, ``[batch, classes]``.

    Args:
        threat: its norm and box; its radius does not matter.
        points: ``[batch, ...]``.
        normals: ``[batch, classes, ...]``.
        margins: ``[batch, classes]``.
        images: where the margins are taken; the points themselves by default.
    """
    normals = normals.reshape(*margins.shape, -1)
    if images is not None:
        margins = margins + products(normals, flatten(points - images))
    return jax.vmap(threat.distance, (None, 1, 1), 1)(points, normals, margins)
