"""Frequency bands and Gaussian noise confined to them (Observation II)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxrobust.random import normal

from ._dct import idct2
from ._spectrum import Size, height_width, radial_order


def band_masks(size: Size, bands: int = 10) -> jax.Array:
    """Cut the coefficients into bands of nearly equal count, from low to high frequency.

    The coefficients in :func:`radial_order` are cut into consecutive runs; where ``bands`` does not divide
    their number the first runs are one longer. Equal radii may fall into neighbouring bands, so a mask need
    not be symmetric. Source: optimizer-robustness study, section 4.3.2.

    Args:
        size: height and width of the image, or one number for a square.
        bands: number of bands, from 1 to the number of coefficients.

    Returns:
        Boolean ``[bands, height, width]``: disjoint masks that cover all coefficients; band 0 holds the
        constant part.

    Raises:
        ValueError: for a size or number of bands out of range.

    Example:
        >>> band_masks(8).sum(axis=(1, 2)).tolist()
        [7, 7, 7, 7, 6, 6, 6, 6, 6, 6]
    """
    height, width = height_width(size)
    if not 1 <= bands <= height * width:
        raise ValueError(f"bands must be from 1 to {height * width} for size {size}, got {bands}")
    masks = np.zeros((bands, height * width), dtype=bool)
    for mask, members in zip(masks, np.array_split(radial_order(size), bands), strict=True):
        mask[members] = True
    return jnp.asarray(masks.reshape(bands, height, width))


def band_noise(
    key: jax.Array,
    mask: ArrayLike,
    variance: float | jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Gaussian noise on chosen cosine coefficients, as images: ``C^T (M * delta) C``.

    ``delta ~ N(0, variance)`` independently per coefficient and channel, so the expected squared norm is
    ``variance * |M|`` per channel. The study calls the noise of its bands equal in norm; it is so in
    expectation, and up to one coefficient. Any mask will do, a band or the empty frequencies of upsampled
    images, say. Source: optimizer-robustness study, section 4.3.2.

    Args:
        key: random key.
        mask: boolean ``[height, width]``, True where there is noise.
        variance: sigma squared, **not** the standard deviation, in squared pixel units; may be traced.
        shape: shape of the result, ``(..., height, width, channels)``.
        dtype: floating-point type of the result.

    Returns:
        Noise images of the given shape, not clipped.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if mask and shape disagree, or for a negative variance.
    """
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean, got dtype {mask.dtype}")
    if len(shape) < 3 or mask.shape != tuple(shape[-3:-1]):
        raise ValueError(
            "mask must have the shape [height, width] of the images [..., height, width, channels], "
            f"got mask {mask.shape} and images {tuple(shape)}"
        )
    if not isinstance(variance, jax.core.Tracer) and not variance >= 0:
        raise ValueError(f"variance must be at least 0, got {variance}")
    delta = jnp.sqrt(jnp.asarray(variance, dtype)) * normal(key, shape, dtype)
    return idct2(jnp.where(mask[..., None], delta, 0))


def band_noises(
    key: jax.Array,
    masks: ArrayLike,
    variance: float | jax.Array,
    draws: int,
    image_shape: tuple[int, int, int],
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Several noise images for each of several bands, to be added to every test image.

    Draw ``k`` uses the same ``delta`` in all bands: it is
    ``band_noise(jax.random.split(key, draws)[k], mask, ...)``. On disjoint masks these noises are
    independent and orthogonal, and their sum over all bands is white noise.

    Args:
        key: random key.
        masks: boolean ``[bands, height, width]``, from :func:`band_masks` for instance.
        variance: sigma squared, in squared pixel units; may be traced.
        draws: noise images per band (the study uses 10), at least 1.
        image_shape: ``(height, width, channels)``.
        dtype: floating-point type of the result.

    Returns:
        ``[bands, draws, height, width, channels]``.

    Raises:
        TypeError: if the masks are not boolean.
        ValueError: if masks and shape disagree, for a negative variance, or for fewer than one draw.
    """
    masks = jnp.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks must have the axes [bands, height, width], got shape {masks.shape}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")

    def draw(mask: jax.Array, draw_key: jax.Array) -> jax.Array:
        return band_noise(draw_key, mask, variance, image_shape, dtype)

    per_band = jax.vmap(draw, in_axes=(None, 0))
    return jax.vmap(per_band, in_axes=(0, None))(masks, jax.random.split(key, draws))
