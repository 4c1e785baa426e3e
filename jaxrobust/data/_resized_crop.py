"""Random windows of an image, resized to one size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxrobust.random import example_keys

from ._augment import Augment

Interpolation = Literal["bilinear", "bicubic"]

_TRIES = 10
SIDE_DRAWS = 2 * _TRIES
"""How many uniform numbers :func:`random_sides` needs."""


def random_resized_crop(
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bicubic",
) -> Augment:
    """Cut a window of random area, shape and place out of each image and resize it to ``size`` by ``size`` pixels.

    The window's share of the image is uniform in ``scale``, the logarithm of its width over its height uniform in that
    of ``ratio``, its sides are rounded, and its place is uniform. Of ten such draws the first that fits is taken; if none
    fits, the largest central window whose shape lies in ``ratio``. So does torchvision's ``RandomResizedCrop``.

    Resizing is that of Pillow: with antialiasing where it shrinks, and blind to what lies outside the window. Bicubic
    interpolation overshoots, so values are clipped to [0, 1].

    Args:
        size: side of the result in pixels.
        scale: smallest and largest share of the image's area, in (0, 1].
        ratio: smallest and largest width over height.
        interpolation: ``"bicubic"`` (Keys' kernel with -1/2) or ``"bilinear"``.

    Returns:
        Augmentation of images ``[batch, height, width, channels]`` in [0, 1] to ``[batch, size, size, channels]``; the
        dtype stays.

    Raises:
        ValueError: for a size below 1, a range that is empty or not positive, or another interpolation.

    Example:
        >>> images = jnp.ones((2, 12, 16, 3))
        >>> jax.jit(random_resized_crop(8))(jax.random.key(0), images).shape
        (2, 8, 8, 3)
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    check_range("scale", scale, largest=1.0)
    check_range("ratio", ratio)
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"interpolation must be one of {', '.join(get_args(Interpolation))}, got {interpolation!r}")

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        height, width = image.shape[:2]
        top, left, rows, columns = _window(key, height, width, scale, ratio)
        down = _resize_weights(top, rows, height, size, interpolation)
        right = _resize_weights(left, columns, width, size, interpolation)
        resized = jnp.einsum("ir,rcx->icx", down, image.astype(jnp.float32), precision="highest")
        resized = jnp.einsum("jc,icx->ijx", right, resized, precision="highest")
        return jnp.clip(resized, 0, 1).astype(image.dtype)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        return jax.vmap(one)(example_keys(key, images.shape[0]), images)

    return augment


def check_range(name: str, limits: tuple[float, float], largest: float = math.inf) -> None:
    """Check that two numbers are the ends of a range of positive numbers up to ``largest``."""
    low, high = limits
    if not (0 < low <= high <= largest and math.isfinite(high)):
        upper = f" of at most {largest:g}" if math.isfinite(largest) else ""
        raise ValueError(f"{name} must be two positive numbers{upper}, the smaller first, got {limits}")


def random_sides(
    draws: jax.Array,
    pixels: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    fits: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sides of a random rectangle: the first of ten that fits.

    The area over ``pixels`` is uniform in ``scale``, the logarithm of the first over the second side uniform in that of
    ``ratio``; the sides are rounded.

    Args:
        draws: ``[SIDE_DRAWS]`` independent numbers, uniform in [0, 1).
        pixels: area of the image.
        scale: smallest and largest area over ``pixels``.
        ratio: smallest and largest quotient of the sides.
        fits: from first and second sides ``[10]`` to which of them are allowed.

    Returns:
        The first side, the second, and whether any fitted: int32, int32 and bool scalars.
    """
    share, position = draws.reshape(2, _TRIES)
    side = jnp.sqrt(pixels * (scale[0] + (scale[1] - scale[0]) * share))
    low, high = map(math.log, ratio)
    root = jnp.exp(0.5 * (low + (high - low) * position))
    first, second = (jnp.round(sides).astype(jnp.int32) for sides in (side * root, side / root))
    allowed = fits(first, second)
    chosen = jnp.argmax(allowed)
    return first[chosen], second[chosen], allowed.any()


def random_place(draws: jax.Array, free: jax.Array) -> jax.Array:
    """Whole numbers from 0 to ``free`` with equal chances, from uniform numbers in [0, 1)."""
    # A draw next to 1 may be rounded up to 1.
    return jnp.minimum((draws * (free + 1).astype(jnp.float32)).astype(jnp.int32), free)


def _window(
    key: jax.Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Top, left, height and width of a random window, int32."""

    def fits(columns: jax.Array, rows: jax.Array) -> jax.Array:
        return (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)

    # One draw for everything compiles several times faster than one for each purpose.
    draws = jax.random.uniform(key, (2 + SIDE_DRAWS,), jnp.float32)
    columns, rows, found = random_sides(draws[2:], height * width, scale, ratio, fits)
    central_columns = min(width, max(1, round(height * ratio[1])))
    central_rows = min(height, max(1, round(width / ratio[0])))
    columns, rows = jnp.where(found, columns, central_columns), jnp.where(found, rows, central_rows)
    free = jnp.stack([height - rows, width - columns])
    top, left = jnp.where(found, random_place(draws[:2], free), free // 2)
    return top, left, rows, columns


def _resize_weights(
    start: jax.Array, length: jax.Array, pixels: int, size: int, interpolation: Interpolation
) -> jax.Array:
    """``[size, pixels]``: what each of ``size`` pixels takes from those of ``start <= pixel < start + length``."""
    step = length.astype(jnp.float32) / size
    centre = start.astype(jnp.float32) + (jnp.arange(size, dtype=jnp.float32) + 0.5) * step
    pixel = jnp.arange(pixels)
    # Where the window shrinks, the kernel is stretched, so that every pixel of it counts.
    distance = jnp.abs(pixel.astype(jnp.float32) + 0.5 - centre[:, None]) / jnp.maximum(step, 1)
    weights = _bicubic(distance) if interpolation == "bicubic" else jnp.maximum(1 - distance, 0)
    weights = jnp.where((pixel >= start) & (pixel < start + length), weights, 0)
    return weights / weights.sum(1, keepdims=True)


def _bicubic(distance: jax.Array) -> jax.Array:
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0))
