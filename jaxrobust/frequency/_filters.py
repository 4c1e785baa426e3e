"""Filters that remove a percentage of the cosine coefficients of images (Observation I)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._dct import check_images, dct2, idct2
from ._spectrum import Size, height_width, radial_order

Rule = Literal["count", "radius"]

_RADIUS_STEPS = 2000


def energy_mask(coefficients: ArrayLike, percent: float | jax.Array) -> jax.Array:
    """Which coefficients of each image have the largest magnitude.

    ``M[i, j] = |x[i, j]| > phi`` where ``phi`` is the ``percent``-th percentile (linear interpolation) of the
    magnitudes of the image, averaged over channels; the mask is shared by the channels. Of ``n`` distinct
    magnitudes ``n - 1 - floor((n - 1) percent / 100)`` are kept; magnitudes equal to ``phi`` are removed.
    Source: optimizer-robustness study, appendix 4.C.

    Where this departs from the text:
        1. "p/100-th percentile" is the p-th percentile.
        2. ``percent = 0`` keeps everything (the strict inequality would remove the smallest magnitude).
        3. The interpolation is not carried out: the magnitudes above a value interpolated between two
           neighbours in the sorted list are those above the lower neighbour, and comparing with it leaves no
           room for rounding.

    Args:
        coefficients: ``[..., height, width, channels]`` from :func:`dct2`.
        percent: percentage removed, ``0 <= percent < 100``; may be traced.

    Returns:
        Boolean ``[..., height, width]``, True where a coefficient is kept.

    Raises:
        TypeError: if the coefficients are not floating point.
        ValueError: for a percentage out of range or fewer than three axes.
    """
    magnitudes = jnp.mean(jnp.abs(check_images(coefficients, "coefficients")), axis=-1)
    *batch, height, width = magnitudes.shape
    ascending = jnp.sort(magnitudes.reshape(*batch, height * width), axis=-1)
    threshold = jnp.take(ascending, _share(height * width - 1, percent), axis=-1)
    return (magnitudes > threshold[..., None, None]) | jnp.equal(percent, 0)


def frequency_mask(size: Size, percent: float | jax.Array, rule: Rule = "count") -> jax.Array:
    """Which coefficients have the lowest frequencies: the smallest radii ``sqrt(i^2 + j^2)``.

    ``rule="count"`` removes exactly ``floor(n percent / 100)`` of the ``n = height * width`` coefficients,
    the last ones in :func:`radial_order`; coefficients of equal radius may be parted. ``rule="radius"`` keeps
    whole radii, ``sqrt(i^2 + j^2) < rho``: ``rho`` is lowered from ``d sqrt(2)`` (the diagonal of the image)
    in steps of a 2000th of it until less than ``(100 - percent)`` % is kept, which is how the study's
    released code does it. Both keep the constant part for every percentage, and everything at
    ``percent = 0``. Source: optimizer-robustness study, appendix 4.C.

    Where this departs from the text:
        1. The printed inequality ``i^2 + j^2 > (p / 100) sqrt(2) d`` is reversed (it would remove the
           constant part and keep nearly all else) and compares a squared radius with a radius.

    Args:
        size: height and width of the image, or one number for a square.
        percent: percentage removed, ``0 <= percent < 100``; may be traced.
        rule: ``"count"`` or ``"radius"``.

    Returns:
        Boolean ``[height, width]``, True where a coefficient is kept.

    Raises:
        ValueError: for a percentage or size out of range or an unknown rule.

    Example:
        >>> frequency_mask(4, 50).sum().item()
        8
    """
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(get_args(Rule))}")
    height, width = height_width(size)
    total = height * width
    removed = _share(total, percent)
    if rule == "radius":
        counts = jnp.asarray(_scanned_counts(height, width))
        enough = 100 * counts.astype(float) >= total * (100 - jnp.asarray(percent, float))
        first_below = jnp.sum(enough[:-1])  # the counts fall, and the last one is 0
        removed = jnp.where(jnp.equal(percent, 0), 0, total - jnp.maximum(counts[first_below], 1))
    rank = np.argsort(radial_order(size)).astype(np.int32).reshape(height, width)
    return jnp.asarray(rank) < total - removed


def filter_by_energy(images: ArrayLike, percent: float | jax.Array) -> jax.Array:
    """Remove the weakest ``percent`` % of each image's coefficients: the energy filter of Observation I.

    ``C^T ((C x C^T) * M) C`` with ``M`` from :func:`energy_mask`. The result is not clipped to the pixel
    range. The printed formula applies the forward transform twice; the inverse is meant.

    Args:
        images: ``[..., height, width, channels]``, floating point; the mask is one per image.
        percent: percentage removed, ``0 <= percent < 100``; 0 returns the images as they are. May be traced.

    Returns:
        Filtered images of the same shape and dtype.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: for a percentage out of range or fewer than three axes.
    """
    images = check_images(images)
    coefficients = dct2(images)
    return _remove(images, coefficients, energy_mask(coefficients, percent))


def filter_by_frequency(images: ArrayLike, percent: float | jax.Array, rule: Rule = "count") -> jax.Array:
    """Remove the highest ``percent`` % of the frequencies: the frequency filter of Observation I.

    ``C^T ((C x C^T) * M) C`` with ``M`` from :func:`frequency_mask`, which depends on the image size only.
    Arguments, result and errors as in :func:`filter_by_energy`; ``rule`` as in :func:`frequency_mask`.
    """
    images = check_images(images)
    mask = frequency_mask((images.shape[-3], images.shape[-2]), percent, rule)
    return _remove(images, dct2(images), mask)


def _remove(images: jax.Array, coefficients: jax.Array, mask: jax.Array) -> jax.Array:
    # Subtracting what is removed, instead of rebuilding what is kept, returns the very images if nothing is.
    return images - idct2(jnp.where(mask[..., None], 0, coefficients))


def _share(total: int, percent: float | jax.Array) -> jax.Array:
    """``floor(total percent / 100)``, and less than ``total``."""
    if not isinstance(percent, jax.core.Tracer) and not 0 <= percent < 100:
        raise ValueError(f"percent is the percentage removed, 0 <= percent < 100, got {percent}")
    # Counted, because a compiled division by 100 may be a product with a rounded reciprocal: 26.99... for 27.
    return jnp.sum(100 * jnp.arange(1, total, dtype=float) <= total * jnp.asarray(percent, float))


def _scanned_counts(height: int, width: int) -> np.ndarray:
    """How many coefficients lie strictly within each scanned radius, largest radius first."""
    radii = np.sort(np.hypot(np.arange(height)[:, None], np.arange(width)), axis=None)
    diagonal = math.hypot(height, width)
    # One subtraction after another as in the released scan: its rounding decides ties of radius and
    # coefficient (size 224, 90 %, coefficient [56, 56]). It goes one step below zero: the last count is 0.
    steps = np.full(_RADIUS_STEPS + 2, diagonal / _RADIUS_STEPS)
    steps[0] = diagonal
    return np.searchsorted(radii, np.subtract.accumulate(steps), side="left").astype(np.int32)
