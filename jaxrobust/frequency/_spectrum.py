"""How the energy of images is spread over frequencies, and the order of frequencies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._dct import check_floating, check_images, dct2

Size = int | tuple[int, int]
"""Height and width, or one number for a square image."""


def height_width(size: Size) -> tuple[int, int]:
    """``size`` as a pair, checked."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be a positive number or pair (height, width), got {size}")
    return height, width


def energy(x: ArrayLike) -> jax.Array:
    """Energy ``sum x_i^2`` of every example, the same for images and their coefficients (Parseval).

    Args:
        x: ``[batch, ...]``, floating point.

    Returns:
        ``[batch]``.

    Raises:
        TypeError: if ``x`` is not floating point.
        ValueError: if ``x`` has no axis.
    """
    x = check_floating(x, "x")
    if x.ndim == 0:
        raise ValueError("x must have a leading batch axis, got a scalar")
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))


def spectral_energy(images: ArrayLike) -> jax.Array:
    """Mean magnitude of every cosine coefficient, ``S[i, j] = mean_n |dct2(x_n)[i, j]|``.

    The mean runs over examples and channels. Over a data set, average the maps of its batches, weighted by
    their number of images. Source: optimizer-robustness study, figures 4.2 and 4.10 (which show the map and
    its diagonal).

    Args:
        images: ``[..., height, width, channels]``, floating point.

    Returns:
        ``[height, width]``, in pixel units.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: if there are fewer than three axes.
    """
    images = check_images(images)
    averaged = (*range(images.ndim - 3), images.ndim - 1)
    return jnp.mean(jnp.abs(dct2(images)), axis=averaged)


def radial_order(size: Size) -> np.ndarray:
    """Coefficients sorted by their distance to the constant one, lowest frequency first.

    The key is ``i^2 + j^2`` and the sort is stable, so equal distances stay in row-major order. In a
    rectangle ``i`` and ``j`` are indices all the same, not cycles per pixel.

    Args:
        size: height and width of the image, or one number for a square.

    Returns:
        A permutation of the flat (row-major) coefficient indices, ``[height * width]``.

    Raises:
        ValueError: for a size below 1.

    Example:
        >>> radial_order(2).tolist()
        [0, 1, 2, 3]
        >>> radial_order((2, 3)).tolist()
        [0, 1, 3, 4, 2, 5]
    """
    height, width = height_width(size)
    squared_radius = np.arange(height)[:, None] ** 2 + np.arange(width) ** 2
    return np.argsort(squared_radius, axis=None, kind="stable")
