"""RandAugment: random operations on colours, sharpness and geometry, on the values of an 8-bit image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust.random import example_keys, normal, uniform

from ._augment import Augment

TABLES = ("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add")
"""Operations that send each level of each channel to another."""

BLENDS = ("color", "contrast", "brightness", "sharpness")
"""Operations that move an image away from, or towards, one that lacks something."""

MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
"""Affine maps of the plane."""

OPERATIONS = (*TABLES, *BLENDS, *MOVES)


def rand_augment(
    operations: int = 2,
    magnitude: float = 9.0,
    *,
    magnitude_std: float = 0.5,
    probability: float = 0.5,
    increasing: bool = True,
    fill: Sequence[float] = (128 / 255, 128 / 255, 128 / 255),
) -> Augment:
    """RandAugment (Cubuk et al., 2020) in the variant of timm; the defaults are its ``rand-m9-mstd0.5-inc1``.

    Each of the ``operations`` is one of 15, drawn with equal chances and with replacement, and applied with
    ``probability``. Its strength ``m`` is normal around ``magnitude`` and clipped to [0, 10]. With ``a`` equal to ``m / 10``
    under a random sign, and values from 0 to 255, the operations are:

    ================================  ================================================================================
    auto contrast, equalise, invert   no strength
    posterise                         keeps the top ``4 - floor(0.4 m)`` bits
    solarise                          inverts values from ``256 - floor(25.6 m)`` on
    solarise-add                      adds ``floor(11 m)`` to values below 128
    colour, contrast, brightness      factor ``max(0.1, 1 + 0.9 a)``; 0 is grey, evenly grey or black
    sharpness                         likewise; 0 is smoothed by a 3 x 3 filter
    rotate                            ``30 a`` degrees about the centre
    shear in x, in y                  by ``0.3 a`` about the upper left corner
    translate in x, in y              by ``0.45 a`` of the width or height
    ================================  ================================================================================

    Not ``increasing`` is timm's default set, whose effect does not grow with ``m``: posterise keeps ``floor(0.4 m)`` bits,
    solarise begins at ``floor(25.6 m)``, and the factors are ``0.1 + 0.18 m``.

    Colours are as Pillow computes them, on 8-bit values, so images come out as multiples of 1/255. Affine maps
    interpolate bicubically with Pillow's kernel (Keys' with -1) and fill what lies outside. All operations are computed
    for every image and one of the results is taken; the dear ones, the geometry, are one resampling.

    Args:
        operations: how many are drawn for an image.
        magnitude: mean strength, 0 to 10.
        magnitude_std: standard deviation of the strength.
        probability: of applying an operation that was drawn.
        increasing: which of the two sets.
        fill: colour of what lies outside the image, three numbers in [0, 1]; timm's recipes take the mean colour.

    Returns:
        Augmentation of RGB images ``[batch, height, width, 3]`` in [0, 1]; shape and dtype stay.

    Raises:
        ValueError: for fewer than 0 operations, a magnitude, deviation, probability or colour out of its range, and,
            when it is called, images that are not RGB.

    Example:
        >>> augment = jax.jit(rand_augment(operations=1))
        >>> images = augment(jax.random.key(0), jnp.full((8, 16, 16, 3), 0.5))
        >>> images.shape, bool(((images >= 0) & (images <= 1)).all())
        ((8, 16, 16, 3), True)
    """
    if operations < 0:
        raise ValueError(f"operations must be at least 0, got {operations}")
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude must lie in [0, 10], got {magnitude}")
    if not (magnitude_std >= 0 and math.isfinite(magnitude_std)):
        raise ValueError(f"magnitude_std must be a finite number of at least 0, got {magnitude_std}")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    if len(fill) != 3 or not all(0 <= value <= 1 for value in fill):
        raise ValueError(f"fill must be three numbers in [0, 1], got {tuple(fill)}")
    fill_levels = [round(255 * value) for value in fill]

    def layer(levels: jax.Array, draws: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        (choice, use, side), noise = draws
        changed = operate(
            levels,
            (len(OPERATIONS) * choice).astype(jnp.int32),
            jnp.clip(magnitude + magnitude_std * noise, 0, 10),
            jnp.where(side < 0.5, -1.0, 1.0).astype(jnp.float32),
            increasing,
            fill_levels,
        )
        return jnp.where(use < probability, changed, levels), None

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        draw_key, noise_key = jax.random.split(key)
        draws = uniform(draw_key, (operations, 3)), normal(noise_key, (operations,))
        levels = jnp.round(255 * jnp.clip(image.astype(jnp.float32), 0, 1))
        levels, _ = jax.lax.scan(layer, levels, draws)
        return (levels / 255).astype(image.dtype)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        if images.shape[-1] != 3:
            raise ValueError(f"RandAugment needs RGB images [batch, height, width, 3], got shape {images.shape}")
        return jax.vmap(one)(example_keys(key, images.shape[0]), images)

    return augment


def operate(
    levels: jax.Array,
    operation: jax.Array,
    strength: jax.Array,
    sign: jax.Array,
    increasing: bool,
    fill: Sequence[int],
) -> jax.Array:
    """One operation on one image.

    Args:
        levels: ``[height, width, 3]``, float32 with whole numbers from 0 to 255.
        operation: index into ``OPERATIONS``.
        strength: 0 to 10.
        sign: 1 or -1.
        increasing: which set of operations.
        fill: levels of what lies outside, by channel.

    Returns:
        Levels like the given ones.
    """
    signed = sign * strength / 10
    factor = jnp.maximum(1 + 0.9 * signed, 0.1) if increasing else 0.1 + 0.18 * strength
    whole = levels.astype(jnp.int32)
    blend = operation - len(TABLES)
    move = blend - len(BLENDS)
    # A product, because XLA's CPU backend would fuse a selection into the look-up and repeat it for every pixel.
    chosen = jax.nn.one_hot(operation, len(TABLES))
    table = jnp.einsum(
        "o,ocl->cl", chosen, jnp.stack(_tables(whole, strength, increasing)).astype(jnp.float32), precision="highest"
    )
    results = (
        _look_up(whole, table),
        _blend(_pick(_poor_images(levels, whole), blend), levels, factor),
        _resample(levels, _pick(_affine_maps(signed, *levels.shape[:2]), move), fill),
    )
    return jax.lax.select_n((blend >= 0).astype(jnp.int32) + (move >= 0).astype(jnp.int32), *results)


def _pick(choices: Sequence[jax.Array], index: jax.Array) -> jax.Array:
    """The choice of that index, or any where there is none; it is then not used."""
    return jax.lax.select_n(jnp.clip(index, 0, len(choices) - 1), *choices)


def _tables(levels: jax.Array, strength: jax.Array, increasing: bool) -> list[jax.Array]:
    """What becomes of each level, int32 ``[3, 256]``, for each of ``TABLES``."""
    every = jnp.arange(256)
    low, high = levels.min((0, 1))[:, None], levels.max((0, 1))[:, None]
    stretched = jnp.where(high > low, jnp.clip((every - low) * 255 // jnp.maximum(high - low, 1), 0, 255), every)

    bits = jnp.floor(0.4 * strength).astype(jnp.int32)
    dropped = 4 + bits if increasing else 8 - bits
    begin = jnp.floor(25.6 * strength).astype(jnp.int32)
    begin = 256 - begin if increasing else begin
    added = jnp.floor(11 * strength).astype(jnp.int32)
    tables = (
        stretched,
        _equalizing_table(levels),
        255 - every,
        (every >> dropped) << dropped,
        jnp.where(every < begin, every, 255 - every),
        jnp.where(every < 128, jnp.minimum(every + added, 255), every),
    )
    return [jnp.broadcast_to(table, (3, 256)) for table in tables]


def _equalizing_table(levels: jax.Array) -> jax.Array:
    """``[3, 256]``: levels by the rank of their pixels, so that the new levels are about equally frequent."""
    counts = jnp.zeros(3 * 256, jnp.int32).at[_flat_index(levels).ravel()].add(1).reshape(3, 256)
    last = jnp.take_along_axis(counts, levels.max((0, 1))[:, None], 1)
    step = (counts.sum(1, keepdims=True) - last) // 255
    below = jnp.cumsum(counts, 1) - counts
    equal = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, equal, jnp.arange(256))


def _flat_index(levels: jax.Array) -> jax.Array:
    return levels + 256 * jnp.arange(3)


def _look_up(levels: jax.Array, table: jax.Array) -> jax.Array:
    return table.ravel()[_flat_index(levels)]


def _poor_images(levels: jax.Array, whole: jax.Array) -> list[jax.Array]:
    """The image without what each of ``BLENDS`` is about: colour, contrast, light and detail."""
    # ITU-R 601 luma in 16-bit fixed point.
    luma = (19595 * whole[..., 0] + 38470 * whole[..., 1] + 7471 * whole[..., 2] + (1 << 15)) >> 16
    grey = luma.astype(jnp.float32)[..., None]
    height, width, _ = levels.shape
    neighbours = sum(levels[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    inner = jnp.floor((neighbours + 4 * levels[1:-1, 1:-1]) / 13 + 0.5)
    smooth = levels.at[1:-1, 1:-1].set(inner)
    poor = (grey, jnp.floor(grey.mean() + 0.5), jnp.zeros((), jnp.float32), smooth)
    return [jnp.broadcast_to(image, levels.shape) for image in poor]


def _blend(poor: jax.Array, levels: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.floor(jnp.clip(poor + factor * (levels - poor), 0, 255))


def _affine_maps(signed: jax.Array, height: int, width: int) -> list[jax.Array]:
    """``[2, 3]`` for each of ``MOVES``: from ``(x, y, 1)`` to the ``x`` and ``y`` that the value there comes from."""
    angle = math.radians(30) * signed
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
    x, y = width / 2, height / 2
    maps = (
        ((cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)),
        ((one, 0.3 * signed, zero), (zero, one, zero)),
        ((one, zero, zero), (0.3 * signed, one, zero)),
        ((one, zero, 0.45 * width * signed), (zero, one, zero)),
        ((one, zero, zero), (zero, one, 0.45 * height * signed)),
    )
    return [jnp.array(affine) for affine in maps]


def _resample(levels: jax.Array, affine: jax.Array, fill: Sequence[int]) -> jax.Array:
    """Bicubic interpolation at the places that an affine map sends the pixels' centres to."""
    height, width, channels = levels.shape
    x, y = jnp.arange(width, dtype=jnp.float32) + 0.5, (jnp.arange(height, dtype=jnp.float32) + 0.5)[:, None]
    column, row = (a * x + b * y + c for a, b, c in affine)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    (left, across), (top, down) = _corner_and_weights(column), _corner_and_weights(row)
    flat = levels.reshape(-1, channels)
    value = jnp.zeros_like(levels)
    for i in range(4):
        first = jnp.clip(top + i, 0, height - 1) * width
        line = sum(across[j][..., None] * flat[first + jnp.clip(left + j, 0, width - 1)] for j in range(4))
        value = value + down[i][..., None] * line
    # Pillow cuts decimals off. A thousandth keeps whole numbers whole in single precision.
    value = jnp.floor(jnp.clip(value + 1e-3, 0, 255))
    return jnp.where(inside[..., None], value, jnp.array(fill, jnp.float32))


def _corner_and_weights(position: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The first of the four pixels around a position, and their weights: Keys' bicubic kernel with -1."""
    before = jnp.floor(position - 0.5)
    t = position - 0.5 - before
    weights = (t * (t * (2 - t) - 1), 1 + t * t * (t - 2), t * (1 + t * (1 - t)), t * t * (t - 1))
    return before.astype(jnp.int32) - 1, weights
