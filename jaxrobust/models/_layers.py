"""Layers that the networks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Literal["torch", "zeros"]


def _uniform(bound: float) -> nn.initializers.Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def initializers(name: Initializer, fan_in: int) -> dict[str, nn.initializers.Initializer]:
    """Kernel and bias initialisers.

    ``"torch"`` is PyTorch's default, uniform on ``+-1/sqrt(fan_in)`` for both, which the study trained from; Flax's own
    default has three times that variance and zero biases, and without batch norm the difference decides whether SGD
    diverges at the study's learning rates.
    """
    if name == "zeros":
        return {"kernel_init": nn.initializers.zeros, "bias_init": nn.initializers.zeros}
    if name == "torch":
        init = _uniform(1 / math.sqrt(fan_in))
        return {"kernel_init": init, "bias_init": init}
    raise ValueError(f"unknown initializer {name!r}; choose torch or zeros")


class Dense(nn.Module):
    """Fully connected layer with the initialisation above."""

    features: int
    initializer: Initializer = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, in] -> [batch, features]``."""
        init = initializers(self.initializer, x.shape[-1])
        return nn.Dense(self.features, dtype=self.dtype, name="linear", **init)(x)


class Conv(nn.Module):
    """Convolution with explicit zero padding on both sides, as PyTorch pads, and the initialisation above."""

    features: int
    kernel_size: tuple[int, ...]
    strides: int = 1
    padding: int = 0
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, *spatial, in] -> [batch, *spatial, features]``."""
        init = initializers("torch", x.shape[-1] * math.prod(self.kernel_size))
        return nn.Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=[(self.padding, self.padding)] * len(self.kernel_size),
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="conv",
            **init,
        )(x)


class Norm(nn.Module):
    """Batch norm with PyTorch's defaults (its momentum 0.1 is 0.9 here), or nothing."""

    enabled: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise by batch statistics in training and by running statistics otherwise."""
        if not self.enabled:
            return x
        return nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name="batch_norm"
        )(x)


def normalize(
    images: jax.Array, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, dtype: Any = jnp.float32
) -> jax.Array:
    """Images in [0, 1] to ``(images - mean) / std`` per channel: the first layer of every network.

    It belongs to the model so that budgets keep their meaning in pixels; ``None`` leaves the images as they are.
    """
    images = images.astype(dtype)
    if mean is not None:
        images = images - jnp.asarray(mean, dtype)
    if std is not None:
        images = images / jnp.asarray(std, dtype)
    return images
