"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ._cnn import CNN4, CNN6, CNN8, SmallCNN
from ._convnext import convnext_base, convnext_tiny
from ._m5 import M5
from ._mlp import MLP, Linear
from ._preact_resnet import PreActResNet18
from ._resnet import resnet10, resnet18, resnet50
from ._swin import swin_b, swin_t
from ._vit import vit_b16, vit_small
from ._wide_resnet import WideResNet, wrn_28_10, wrn_34_10

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "linear": Linear,
    "mlp": MLP,
    "small_cnn": SmallCNN,
    "cnn4": CNN4,
    "cnn6": CNN6,
    "cnn8": CNN8,
    "preact_resnet18": PreActResNet18,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "wide_resnet": WideResNet,
    "wrn_28_10": wrn_28_10,
    "wrn_34_10": wrn_34_10,
    "vit_small": vit_small,
    "vit_b16": vit_b16,
    "swin_t": swin_t,
    "swin_b": swin_b,
    "convnext_tiny": convnext_tiny,
    "convnext_base": convnext_base,
    "m5": M5,
}
_WITH_STEM = ("preact_resnet18", "resnet10", "resnet18", "resnet50")
_WITH_BATCH_NORM = ("small_cnn", "cnn4", "cnn6", "cnn8", *_WITH_STEM)
_ALWAYS_BATCH_NORM = ("wide_resnet", "wrn_28_10", "wrn_34_10", "m5")


def names() -> tuple[str, ...]:
    """Names that :func:`create` knows."""
    return tuple(_NETWORKS)


def create(
    name: str, classes: int, image_shape: tuple[int, ...], batch_norm: bool | None = None, **options: Any
) -> nn.Module:
    """Make a network for images of a given shape.

    Args:
        name: one of :func:`names`.
        classes: number of logits.
        image_shape: ``(height, width, channels)``, for ``"m5"`` ``(samples, channels)``. It decides the stem of
            ``"preact_resnet18"``, ``"resnet10"``, ``"resnet18"`` and ``"resnet50"`` (the large one from 128 pixels,
            else the small one), the patches of ``"vit_small"`` (4x4 up to 64 pixels, else 16x16), and the patches and
            windows of ``"swin_t"`` and ``"swin_b"`` (2x2 and 4x4 up to 64 pixels, else 4x4 and 7x7).
        batch_norm: whether to use batch norm; only for networks that have a version with it. By default
            ``"resnet18"`` and ``"resnet50"`` do, as published, and the others do not. ``"m5"`` and the wide residual
            networks always have it.
        **options: further attributes of the module, e.g. ``widths=(256, 256)`` for the MLP, or ``depth=16, width=4``
            for ``"wide_resnet"``.

    Raises:
        ValueError: for an unknown name, listing the names, an image shape of the wrong kind, or batch norm where there
            is none.

    Example:
        >>> create("mlp", classes=10, image_shape=(28, 28, 1), widths=(256,)).widths
        (256,)
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(_NETWORKS)}")
    axes = {"linear": None, "mlp": None, "m5": 2}.get(name, 3)
    if axes is not None and len(image_shape) != axes:
        wanted = "(samples, channels)" if axes == 2 else "(height, width, channels)"
        raise ValueError(f"image_shape for {name!r} must be {wanted}, got {image_shape}")
    if name in _WITH_BATCH_NORM:
        if batch_norm is not None:
            options["batch_norm"] = batch_norm
    elif batch_norm and name not in _ALWAYS_BATCH_NORM:
        having = ", ".join(_WITH_BATCH_NORM + _ALWAYS_BATCH_NORM)
        raise ValueError(f"the network {name!r} has no batch norm; those that do: {having}")
    if name in _WITH_STEM:
        options.setdefault("stem", "large" if image_shape[0] >= 128 else "small")
    if name == "vit_small" and image_shape[0] <= 64:
        options.setdefault("patch_size", 4)
    if name in ("swin_t", "swin_b") and image_shape[0] <= 64:
        options = {"patch_size": 2, "window": 4, **options}
    return _NETWORKS[name](classes=classes, **options)
