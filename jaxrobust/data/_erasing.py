"""Random erasing: a rectangle of each image becomes noise or one colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxrobust.random import example_keys, normal

from ._augment import Augment
from ._resized_crop import SIDE_DRAWS, check_range, random_place, random_sides

ErasingMode = Literal["pixel", "constant"]

_DRAWS = 2 + SIDE_DRAWS


def random_erasing(
    mean: Sequence[float],
    std: Sequence[float],
    *,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    mode: ErasingMode = "pixel",
    clip: bool = True,
) -> Augment:
    """Fill a random rectangle of an image with noise, with a probability (Zhong et al., 2017).

    The rectangle's share of the image is uniform in ``area`` and the logarithm of its height over its width uniform in
    that of ``ratio``; of ten draws the first that is smaller than the image both ways is taken, and its place is uniform.
    If none fits, the image stays as it is. These are the rules and the defaults of timm.

    timm erases *normalised* images, with normal noise (``"pixel"``) or zeros. In pixels that is ``mean + std * noise`` or
    ``mean``. The noise then lies outside [0, 1] at nearly every third value, where an attack's projection clips it and
    training without an attack does not. ``clip=True`` clips it here, so that all methods train on the same images;
    ``clip=False`` is timm's.

    Args:
        mean: one number per channel, in pixels: those that the network normalises with.
        std: likewise.
        probability: of erasing, for each image.
        area: smallest and largest share of the image's area, in (0, 1].
        ratio: smallest and largest height over width.
        mode: ``"pixel"``, a normal number for every value, or ``"constant"``, the mean colour.
        clip: whether the noise is clipped to [0, 1].

    Returns:
        Augmentation that keeps shape and dtype.

    Raises:
        ValueError: for a probability outside [0, 1], a range that is empty or not positive, an unknown mode, and, when
            it is called, images with another number of channels.

    Example:
        >>> augment = random_erasing([0.5], [0.25], probability=1.0, mode="constant")
        >>> images = jax.jit(augment)(jax.random.key(0), jnp.ones((4, 16, 16, 1)))
        >>> sorted(set(images.ravel().tolist()))
        [0.5, 1.0]
    """
    if len(mean) != len(std):
        raise ValueError(f"mean and std must have one number per channel each, got {len(mean)} and {len(std)}")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    check_range("area", area, largest=1.0)
    check_range("ratio", ratio)
    if mode not in get_args(ErasingMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(ErasingMode))}, got {mode!r}")

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        draw_key, noise_key = jax.random.split(key)
        draws = jax.random.uniform(draw_key, (1 + _DRAWS,), jnp.float32)
        height, width, _ = image.shape
        erase = (draws[0] < probability) & _rectangle(draws[1:], height, width, area, ratio)
        noise = jnp.asarray(mean, jnp.float32)
        if mode == "pixel":
            noise = noise + jnp.asarray(std, jnp.float32) * normal(noise_key, image.shape)
        if clip:
            noise = jnp.clip(noise, 0, 1)
        return jnp.where(erase[:, :, None], noise.astype(image.dtype), image)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        if images.shape[-1] != len(mean):
            raise ValueError(f"mean and std have {len(mean)} channels, the images have shape {images.shape}")
        return jax.vmap(one)(example_keys(key, images.shape[0]), images)

    return augment


def _rectangle(
    draws: jax.Array, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Which pixels ``[height, width]`` a random rectangle covers, from uniform numbers."""
    rows, columns, found = random_sides(
        draws[2:], height * width, area, ratio, lambda rows, columns: (rows < height) & (columns < width)
    )
    top, left = random_place(draws[:2], jnp.stack([height - rows, width - columns]))
    row, column = jnp.arange(height)[:, None], jnp.arange(width)
    return found & (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
