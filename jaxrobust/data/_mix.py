"""Mixup and CutMix: each image of a batch is mixed with another, and their labels likewise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxrobust.losses import smooth_labels
from jaxrobust.random import typed_key

Mix = Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]
"""``(key, batch) -> batch`` with images ``[batch, ...]`` and floating-point labels ``[batch, classes]``, jittable."""


def mixup(num_classes: int, alpha: float = 0.8, *, label_smoothing: float = 0.0) -> Mix:
    """:func:`mix` with mixup alone (Zhang et al., 2018)."""
    return mix(num_classes, mixup_alpha=alpha, cutmix_alpha=0.0, label_smoothing=label_smoothing)


def cutmix(num_classes: int, alpha: float = 1.0, *, label_smoothing: float = 0.0) -> Mix:
    """:func:`mix` with CutMix alone (Yun et al., 2019)."""
    return mix(num_classes, mixup_alpha=0.0, cutmix_alpha=alpha, label_smoothing=label_smoothing)


def mix(
    num_classes: int,
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    probability: float = 1.0,
    switch_probability: float = 0.5,
    label_smoothing: float = 0.1,
) -> Mix:
    """Mix a batch with itself in reverse order, by mixup or by CutMix.

    One share ``l`` from ``Beta(alpha, alpha)`` serves the whole batch, as in timm's mode ``batch``. Mixup gives the images
    ``l * x + (1 - l) * x[::-1]``. CutMix replaces a box of ``sqrt(1 - l)`` of the height and of the width, centred at a
    uniform pixel, by the same box of the other image; where the border cuts it, ``l`` becomes the share of the pixels that
    stayed. The labels become ``l * q + (1 - l) * q[::-1]`` of the smoothed ``q``. The middle image of an odd batch meets
    itself.

    Args:
        num_classes: length of the labels that come out.
        mixup_alpha: of mixup's distribution; 0 for no mixup.
        cutmix_alpha: of CutMix's; 0 for no CutMix.
        probability: of mixing a batch at all; the labels are smoothed anyway.
        switch_probability: of CutMix rather than mixup, where both are on.
        label_smoothing: ``q = (1 - s) * one_hot + s / num_classes``.

    Returns:
        ``(key, batch) -> batch``, jittable. ``batch["images"]`` is ``[batch, height, width, channels]``, of floating
        point for mixup; ``batch["labels"]`` holds classes ``[batch]``, or floating-point labels ``[batch, num_classes]``,
        which are smoothed and mixed likewise. Labels come out as float32 ``[batch, num_classes]``; other entries stay.

    Raises:
        ValueError: for fewer than one class, a negative alpha or two zeros, a probability outside [0, 1], and, when it is called,
            labels of another shape or images that are not of floating point.

    Example:
        >>> batch = {"images": jnp.ones((4, 8, 8, 3)), "labels": jnp.arange(4)}
        >>> mixed = jax.jit(mix(num_classes=10))(jax.random.key(0), batch)
        >>> mixed["labels"].shape, mixed["labels"].sum(1).round(4).tolist()
        ((4, 10), [1.0, 1.0, 1.0, 1.0])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"{name} must be 0 (off) or a positive number, got {alpha}")
    if not (mixup_alpha or cutmix_alpha):
        raise ValueError("mixup_alpha or cutmix_alpha must be above 0; without mixing there is losses.smooth_labels")
    for name, value in (
        ("probability", probability),
        ("switch_probability", switch_probability),
        ("label_smoothing", label_smoothing),
    ):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    if not cutmix_alpha:
        switch_probability = 0.0
    elif not mixup_alpha:
        switch_probability = 1.0

    def apply(key: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        images, labels = batch["images"], batch["labels"]
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images must be floating-point [batch, height, width, channels], got {images.dtype} {images.shape}; "
                f"make stored images floats by jaxrobust.data.to_float"
            )
        labels = _soft_labels(labels, images.shape[0], num_classes, label_smoothing)
        draw_key, stays_key = jax.random.split(typed_key(key))
        draws = jax.random.uniform(draw_key, (4,), jnp.float32)
        use, cut = draws[0] < probability, draws[1] < switch_probability
        alpha = jnp.where(cut, jnp.float32(cutmix_alpha), jnp.float32(mixup_alpha))
        stays = jnp.where(use, jax.random.beta(stays_key, alpha, alpha, dtype=jnp.float32), 1)
        # How much of the other image a pixel takes: the same everywhere, or all inside the box.
        box = _box(draws[2:], 1 - stays, images.shape[1], images.shape[2]).astype(jnp.float32)
        weight = jnp.where(cut, box, 1 - stays)
        stays = jnp.where(cut, 1 - box.mean(), stays)
        weight = weight[:, :, None].astype(images.dtype)
        return {
            **batch,
            "images": images * (1 - weight) + images[::-1] * weight,
            "labels": stays * labels + (1 - stays) * labels[::-1],
        }

    return apply


def _soft_labels(labels: jax.Array, batch: int, num_classes: int, smoothing: float) -> jax.Array:
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == (batch,):
        return smooth_labels(labels, num_classes, smoothing)
    if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == (batch, num_classes):
        return (1 - smoothing) * labels.astype(jnp.float32) + smoothing / num_classes
    raise ValueError(
        f"labels must be integer classes [batch] or floating-point [batch, classes], here ({batch},) or "
        f"({batch}, {num_classes}), got {labels.dtype} {labels.shape}"
    )


def _box(centre: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels ``[height, width]`` CutMix replaces: about a ``share``, around a ``centre`` in [0, 1) both ways."""

    def inside(centre: jax.Array, length: int) -> jax.Array:
        side = (length * jnp.sqrt(share)).astype(jnp.int32)
        start = (length * centre).astype(jnp.int32) - side // 2
        pixel = jnp.arange(length)
        return (pixel >= start) & (pixel < start + side)

    return inside(centre[0], height)[:, None] & inside(centre[1], width)
