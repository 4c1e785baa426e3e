"""Measures of radii per pixel: their volume, and how alike their shapes are."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.threat._base import flatten, safe_norm


def geometric_mean(radii: jax.Array) -> jax.Array:
    """``(prod_i r_i)^(1/n)`` of each image's radii, ``[batch]``: the radius of the uniform set of the same volume.

    Args:
        radii: ``[batch, ...]``, at least 0, in the images' units, as the result is. One radius of 0 makes it 0.

    Source:
        The thesis of Liu, section 3.2.2.

    Example:
        >>> geometric_mean(jnp.array([[1e-30, 1e-20], [0.0, 1.0]])).tolist()
        [1e-25, 0.0]
    """
    return jnp.exp(mean_log(radii))


def mean_log(radii: jax.Array) -> jax.Array:
    """Of each image, ``[batch]``: a product of many radii would leave the range of floating-point numbers."""
    return jnp.log(flatten(radii)).mean(-1)


def _directions(radii: jax.Array) -> jax.Array:
    """Of unit length, flat."""
    flat = flatten(radii)
    length = safe_norm(flat)[:, None]
    return flat / jnp.where(length > 0, length, 1)


def cosine_similarity_matrix(radii: jax.Array) -> jax.Array:
    """Cosines of the angles between all pairs of radii, seen as vectors, ``[n, n]``.

    1 means the same shape, whatever the sizes. Vectors uniform in the unit cube have about 3/4 in many dimensions. Radii that
    are all 0 have the cosine 0 with all.

    Args:
        radii: ``[n, ...]``.

    Source:
        The thesis of Liu, section 3.2.2 and Table 3.3.

    Example:
        >>> cosine_similarity_matrix(jnp.array([[1.0, 0.0], [3.0, 4.0]])).round(4).tolist()
        [[1.0, 0.6], [0.6, 1.0]]
    """
    directions = _directions(radii)
    return jnp.matmul(directions, directions.T, precision=jax.lax.Precision.HIGHEST)


class PairSimilarity(NamedTuple):
    """Cosines between the radii of all pairs of different images, scalars."""

    mean: jax.Array
    smallest: jax.Array


def pair_similarity(radii: jax.Array) -> PairSimilarity:
    """How alike the shapes are that a network allows at different images: the two columns of Table 3.3.

    Args:
        radii: ``[n, ...]`` of certified images, at least two. It takes ``n * n`` numbers.

    Raises:
        ValueError: for fewer than two.

    Example:
        >>> found = pair_similarity(jnp.array([[1.0, 0.0], [3.0, 4.0], [6.0, 8.0]]))
        >>> round(float(found.mean), 4), round(float(found.smallest), 4)
        (0.7333, 0.6)
    """
    if len(radii) < 2:
        raise ValueError(f"pairs need at least two images, got {len(radii)}")
    first, second = np.triu_indices(len(radii), 1)
    pairs = cosine_similarity_matrix(radii)[first, second]
    return PairSimilarity(pairs.mean(), pairs.min())


def common_direction(radii: jax.Array) -> jax.Array:
    """The mean of the directions of several images' radii, of unit length, shaped as one image.

    A measure of how robust each pixel is that does not depend on the image, as far as their radii are collinear, and a start
    for others (``initial`` of :func:`nonuniform`).

    Args:
        radii: ``[n, ...]`` of certified images.

    Source:
        The thesis of Liu, section 3.2.2.

    Example:
        >>> common_direction(jnp.array([[3.0, 4.0], [30.0, 40.0]])).round(4).tolist()
        [0.6, 0.8]
    """
    return _directions(_directions(radii).mean(0, keepdims=True)).reshape(radii.shape[1:])
