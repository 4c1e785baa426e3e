"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ._cnn import CNN4, SmallCNN
from ._mlp import MLP, Linear
from ._preact_resnet import PreActResNet18

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "linear": Linear,
    "mlp": MLP,
    "small_cnn": SmallCNN,
    "cnn4": CNN4,
    "preact_resnet18": PreActResNet18,
}
_WITH_BATCH_NORM = ("small_cnn", "cnn4", "preact_resnet18")


def names() -> tuple[str, ...]:
    """Names that :func:`create` knows."""
    return tuple(_NETWORKS)


def create(
    name: str, *, classes: int, image_shape: tuple[int, ...], batch_norm: bool = False, **options: Any
) -> nn.Module:
    """Make a network for images of a given shape.

    Args:
        name: one of :func:`names`.
        classes: number of logits.
        image_shape: ``(height, width, channels)``; it decides the stem of the residual networks.
        batch_norm: whether to use batch norm; only for networks that have a version with it.
        **options: further attributes of the module, e.g. ``widths=(256, 256)`` for the MLP.

    Raises:
        ValueError: for an unknown name, listing the names, or batch norm where there is none.
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(_NETWORKS)}")
    if name in _WITH_BATCH_NORM:
        options["batch_norm"] = batch_norm
    elif batch_norm:
        raise ValueError(f"the network {name!r} has no batch norm; those that do: {', '.join(_WITH_BATCH_NORM)}")
    if name == "preact_resnet18" and image_shape[0] >= 128:
        options.setdefault("stem", "large")
    return _NETWORKS[name](classes=classes, **options)
