"""The orthonormal discrete cosine transform as matrix products."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike


@functools.lru_cache(maxsize=32)
def _cosines(size: int) -> np.ndarray:
    """The matrix in float64, read-only because it is shared."""
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    frequency, position = np.arange(size)[:, None], np.arange(size)
    # The angle is pi m / (2 size) with an integer m. Folding m into [0, 2 size] and taking the sine of the
    # complement makes the zeros and the symmetry C[k, size - 1 - j] = (-1)^k C[k, j] exact.
    m = (2 * position + 1) * frequency % (4 * size)
    m = np.minimum(m, 4 * size - m)
    matrix = np.sqrt(2 / size) * np.sin(np.pi * (size - m) / (2 * size))
    matrix[0] = np.sqrt(1 / size)
    matrix.flags.writeable = False
    return matrix


def dct_matrix(size: int, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """The orthonormal type-II discrete cosine transform of ``size`` points.

    ``C[k, j] = sqrt(a_k / size) cos(pi / size (j + 1/2) k)`` with ``a_0 = 1`` and ``a_k = 2`` for ``k > 0``:
    rows are frequencies, columns are positions, and ``C C^T = I``.
    Source: optimizer-robustness study, eq. (4.4).

    Where this departs from the text:
        1. The sum printed before (4.4) lacks the normalisation; (4.4) itself is what is meant.
        2. Computed in float64, then rounded to ``dtype``; coefficients that are zero are exactly zero.

    Args:
        size: number of points, at least 1.
        dtype: floating-point type of the result.

    Returns:
        ``[size, size]``.

    Raises:
        ValueError: if ``size`` is less than 1.

    Example:
        >>> [round(value, 4) for value in dct_matrix(3)[1].tolist()]
        [0.7071, 0.0, -0.7071]
    """
    return jnp.asarray(_cosines(size), dtype=dtype)


def dct(x: ArrayLike, axis: int = -1) -> jax.Array:
    """Coefficients ``C x`` along one axis: :func:`dct_matrix` applied to a floating-point array of any rank.

    Raises:
        TypeError: if ``x`` is not floating point.
        ValueError: if ``x`` has no such axis.
    """
    return _transform(x, axis, inverse=False)


def idct(coefficients: ArrayLike, axis: int = -1) -> jax.Array:
    """The inverse of :func:`dct` along one axis, ``C^T x``. Raises as :func:`dct` does."""
    return _transform(coefficients, axis, inverse=True)


def dct2(images: ArrayLike) -> jax.Array:
    """Two-dimensional coefficients of every image and channel, ``C x C^T``.

    Args:
        images: ``[..., height, width, channels]``, floating point; height and width may differ.

    Returns:
        Coefficients ``[..., height, width, channels]`` in the dtype of the images; ``[0, 0]`` is the constant
        part.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: if there are fewer than three axes.

    Example:
        >>> dct2(jnp.full((4, 4, 1), 0.5))[0, 0].round(4).item()  # a constant c gives 4 c at [0, 0]
        2.0
    """
    images = check_images(images)
    return dct(dct(images, axis=-3), axis=-2)


def idct2(coefficients: ArrayLike) -> jax.Array:
    """The inverse of :func:`dct2`, ``C^T x C`` on every image and channel. Raises as :func:`dct2` does."""
    coefficients = check_images(coefficients, "coefficients")
    return idct(idct(coefficients, axis=-3), axis=-2)


def _transform(x: ArrayLike, axis: int, inverse: bool) -> jax.Array:
    x = check_floating(x, "the array to transform")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} does not exist in an array of shape {x.shape}")
    matrix = dct_matrix(x.shape[axis], x.dtype)
    matrix = matrix.T if inverse else matrix
    # Accelerators would otherwise multiply float32 matrices in a shorter format.
    product = jnp.tensordot(matrix, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(product, 0, axis)


def check_floating(x: ArrayLike, name: str) -> jax.Array:
    """The argument as an array, refused if it is not floating point."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got dtype {x.dtype}; convert 8-bit images with "
                        "images.astype('float32') / 255")  # fmt: skip
    return x


def check_images(images: ArrayLike, name: str = "images") -> jax.Array:
    """The images as an array, floating point with the axes ``[..., height, width, channels]``."""
    array = check_floating(images, name)
    if array.ndim < 3:
        raise ValueError(
            f"{name} must have the axes [..., height, width, channels], got shape {array.shape}; "
            "add a channel axis with array[..., None]"
        )
    return array
