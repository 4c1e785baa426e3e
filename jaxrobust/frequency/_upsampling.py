"""Enlarging images without adding any frequency."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._dct import check_images, dct2, idct2
from ._spectrum import Size, height_width


def upsample_dct(images: ArrayLike, size: Size) -> jax.Array:
    """Enlarge images by padding their cosine coefficients with zeros at the high frequencies.

    The coefficients are scaled by ``sqrt(new pixels / old pixels)``, 2 from 8x8 to 16x16, so that the mean
    and the level of the pixels stay what they were. The result has exactly empty frequencies,
    :func:`empty_frequencies`. Its pixels may leave the range of the originals, and clipping would fill the
    empty frequencies again.

    Args:
        images: ``[..., height, width, channels]``, floating point.
        size: new height and width, or one number for a square; not less than the old.

    Returns:
        ``[..., new height, new width, channels]``.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: if the size is smaller than the images, or they have fewer than three axes.

    Example:
        >>> upsample_dct(jnp.full((1, 8, 8, 1), 0.5), 16).mean().round(4).item()
        0.5
    """
    images = check_images(images)
    original = (images.shape[-3], images.shape[-2])
    height, width = _enlarged(original, size)
    extra = (height - original[0], width - original[1])
    scale = math.sqrt(height * width / math.prod(original))
    padding = [(0, 0)] * (images.ndim - 3) + [(0, extra[0]), (0, extra[1]), (0, 0)]
    return idct2(jnp.pad(scale * dct2(images), padding))


def empty_frequencies(original_size: Size, size: Size) -> jax.Array:
    """The coefficients that are zero in every image from :func:`upsample_dct`.

    Args:
        original_size: height and width before, or one number for a square.
        size: height and width after.

    Returns:
        Boolean ``[height, width]`` of the enlarged size, True where a coefficient is empty.

    Raises:
        ValueError: if ``size`` is smaller than ``original_size``.

    Example:
        >>> empty_frequencies(8, 16).sum().item()
        192
    """
    original = height_width(original_size)
    empty = np.ones(_enlarged(original, size), dtype=bool)
    empty[: original[0], : original[1]] = False
    return jnp.asarray(empty)


def _enlarged(original: tuple[int, int], size: Size) -> tuple[int, int]:
    height, width = height_width(size)
    if height < original[0] or width < original[1]:
        raise ValueError(f"size {size} is smaller than the images, {original}; this only enlarges")
    return height, width
