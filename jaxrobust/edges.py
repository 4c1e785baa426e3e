"""Edges of images: the energy of oriented derivative filters."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ive

EdgePreset = Literal["released", "thesis"]


class _Settings(NamedTuple):
    root: bool
    post_blur: bool


_PRESETS = {"released": _Settings(root=True, post_blur=True), "thesis": _Settings(root=False, post_blur=False)}


def oriented_energy(
    images: jax.Array,
    *,
    preset: EdgePreset = "released",
    sigma: float = 1.0,
    radius: int | None = None,
    root: bool | None = None,
    post_blur: bool | None = None,
) -> jax.Array:
    """Edge map: squared responses to a horizontal and a vertical derivative filter, summed over the channels.

    ``E = sum_c (g_u * x_c)^2 + (g_v * x_c)^2`` at each pixel. The filters are not stated where the map was published, so
    there are two presets:

    * ``"thesis"``, the equation as printed: sampled derivatives of a Gaussian, ``D_n = -n G_n / sigma^2`` along one axis
      and ``G_n ~ exp(-n^2 / (2 sigma^2))`` along the other.
    * ``"released"``, what the released code does: blur with the discrete Gaussian ``h_n ~ I_n(sigma^2)``, half the Sobel
      filter ``[[-.5, 0, .5], [-1, 0, 1], [-.5, 0, .5]]`` and its transpose, the square root of the energy, and the same
      blur again.

    Images are padded by reflection without repeating the border, so the derivative across a border is 0 on it, and the
    ``"thesis"`` energy is exactly 0 in the four corners. A constant image has no energy at all. The map of
    ``a x + b`` is ``a^2 E``, or ``|a| E`` with the square root; it turns and flips with the image.

    Source: Rodriguez Munoz, "Adversarial robustness without perturbations", MIT thesis, 2024, chapter 5.

    Args:
        images: ``[batch, height, width, channels]``, floating point. The map is in units of pixel value per pixel
            (squared without the root), so it depends on the range of the pixels.
        preset: ``"released"`` or ``"thesis"``.
        sigma: standard deviation of the blur, in pixels. The released code takes what it calls sigma as the
            variance; at its value 1 the two are the same.
        radius: the Gaussian has ``2 radius + 1`` taps, normalised to sum 1; ``ceil(3 sigma)`` by default.
        root: whether to take the square root of the energy; by default what the preset says.
        post_blur: whether to blur the map with the preset's Gaussian; by default what the preset says.

    Returns:
        ``[batch, height, width]``, not negative. Its gradient is finite everywhere, 0 for the root of energy 0.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: for an unknown preset, a sigma or radius that is not positive, images of another shape, or images
            that are too small to be reflected by the radius.

    Example:
        >>> step = jnp.zeros((1, 32, 32, 1)).at[:, :, 16:].set(1.0)
        >>> oriented_energy(step, preset="thesis")[0, 16, 13:19].round(4).tolist()
        [0.0002, 0.0147, 0.132, 0.132, 0.0147, 0.0002]
    """
    if preset not in get_args(EdgePreset):
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(get_args(EdgePreset))}")
    if not sigma > 0:
        raise ValueError(f"sigma is a standard deviation in pixels and must be positive, got {sigma}")
    radius = math.ceil(3 * sigma) if radius is None else radius
    if radius < 1:
        raise ValueError(f"radius must be at least 1, got {radius}")
    _check(images, radius)
    defaults = _PRESETS[preset]
    return _energy(
        images,
        preset,
        sigma,
        radius,
        defaults.root if root is None else root,
        defaults.post_blur if post_blur is None else post_blur,
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))  # one compilation, where maps are made outside of others
def _energy(images: jax.Array, preset: EdgePreset, sigma: float, radius: int, root: bool, post_blur: bool) -> jax.Array:
    offsets = np.arange(radius + 1)
    if preset == "thesis":
        smoothing = _normalised(np.exp(-((offsets / sigma) ** 2) / 2))
        # Derivatives first: they vanish exactly on the border, where a reflected image is even.
        differences = [_odd(images, axis, offsets[1:] / sigma**2 * smoothing[1:]) for axis in (1, 2)]
        responses = [_even(differences[0], 2, smoothing), _even(differences[1], 1, smoothing)]
    else:
        smoothing = _normalised(ive(offsets, sigma**2))
        blurred = _even(_even(images, 1, smoothing), 2, smoothing)
        differences = [_odd(blurred, axis, [0.5]) for axis in (1, 2)]
        responses = [_even(differences[0], 2, [2.0, 1.0]), _even(differences[1], 1, [2.0, 1.0])]

    energy = (responses[0] ** 2 + responses[1] ** 2).sum(-1)
    if root:
        positive = energy > 0
        energy = jnp.where(positive, jnp.sqrt(jnp.where(positive, energy, 1)), 0)
    return _even(_even(energy, 1, smoothing), 2, smoothing) if post_blur else energy


def _normalised(half: np.ndarray) -> np.ndarray:
    """Taps 0, 1, ... of an even filter, scaled so that the whole filter sums to 1."""
    return half / (half[0] + 2 * half[1:].sum())


def _even(values: jax.Array, axis: int, taps: Sequence[float] | np.ndarray) -> jax.Array:
    """Filter along an axis with an even filter, given by its taps 0, 1, ..., reflecting at the border."""
    total = float(taps[0]) * values
    for tap, (before, after) in zip(taps[1:], _neighbours(values, axis, len(taps) - 1), strict=True):
        total += float(tap) * (before + after)
    return total


def _odd(values: jax.Array, axis: int, taps: Sequence[float] | np.ndarray) -> jax.Array:
    """Filter along an axis with an odd filter: ``sum_n taps_n (x_(i + n) - x_(i - n))``, ``n`` from 1."""
    pairs = _neighbours(values, axis, len(taps))
    terms = [float(tap) * (after - before) for tap, (before, after) in zip(taps, pairs, strict=True)]
    return sum(terms[1:], start=terms[0])


def _neighbours(values: jax.Array, axis: int, radius: int) -> list[tuple[jax.Array, jax.Array]]:
    """The values 1, 2, ... positions before and after each one."""
    size = values.shape[axis]
    padding = [(radius, radius) if i == axis else (0, 0) for i in range(values.ndim)]
    padded = jnp.pad(values, padding, mode="reflect")
    shifted = [jax.lax.slice_in_dim(padded, begin, begin + size, axis=axis) for begin in range(2 * radius + 1)]
    return [(shifted[radius - n], shifted[radius + n]) for n in range(1, radius + 1)]


def _check(images: jax.Array, radius: int) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be floating point in [0, 1], got dtype {images.dtype}; "
            "convert 8-bit images with images.astype('float32') / 255"
        )
    if images.ndim != 4:
        raise ValueError(f"images must have shape [batch, height, width, channels], got {images.shape}")
    if min(images.shape[1:3]) <= radius:
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels are too small to be reflected by {radius} pixels: "
            "choose a smaller sigma or radius, below the height and the width"
        )
