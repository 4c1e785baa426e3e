"""Layers that the networks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust._imagenet import IMAGENET_MEAN, IMAGENET_STD
from jaxrobust.random import normal, uniform

Initializer = Literal["torch", "zeros", "normal"]
ConvInitializer = Literal["torch", "zeros", "normal", "he"]
BATCH_NORM_EPSILON = 1e-5
IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
"""Normalisation that networks for ImageNet are trained with."""


def torch_default_init(fan_in: int) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    """Initialisers of kernel and bias as in PyTorch: both uniform on ``+-1/sqrt(fan_in)``.

    The optimizer-robustness study trained from it. Flax's own default has kernels of three times that variance and
    zero biases; without batch norm the difference decides whether SGD diverges at the study's learning rates.

    Args:
        fan_in: number of inputs of one output unit; for convolutions kernel size times input channels.

    Raises:
        ValueError: if there are no inputs.
    """
    if fan_in < 1:
        raise ValueError(
            "a layer gets no inputs: the images are too small for this network, or their axes are mixed up"
        )
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return uniform(key, shape, dtype, -bound, bound)

    return init, init


def initializers(name: Initializer, fan_in: int) -> dict[str, Any]:
    """Keyword arguments ``kernel_init`` and ``bias_init`` of Flax's layers.

    Raises:
        ValueError: for another name than ``"torch"`` (:func:`torch_default_init`), ``"zeros"`` and ``"normal"``: kernels
            from N(0, 0.02^2) and zero biases, usual in transformers.
    """
    if name == "zeros":
        kernel, bias = nn.initializers.zeros, nn.initializers.zeros
    elif name == "normal":
        kernel, bias = normal_init(0.02), nn.initializers.zeros
    elif name == "torch":
        kernel, bias = torch_default_init(fan_in)
    else:
        raise ValueError(f"unknown initializer {name!r}; choose torch, zeros or normal")
    return {"kernel_init": kernel, "bias_init": bias}


def normal_init(deviation: float) -> nn.initializers.Initializer:
    """Normal distribution with mean 0 and this standard deviation."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return normal(key, shape, dtype) * jnp.asarray(deviation, dtype)

    return init


def he_init(fan_out: int) -> nn.initializers.Initializer:
    """Kernels from a normal distribution with mean 0 and variance ``2 / fan_out`` (He et al., 2015, Eq. 14).

    Args:
        fan_out: kernel size times output channels.
    """
    return normal_init(math.sqrt(2 / fan_out))


def logits_dtype(dtype: Any) -> Any:
    """Type of the last layer: at least float32, because in half precision the logits of close classes tie."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


class Normalize(nn.Module):
    """Images in [0, 1] to ``(images - mean) / std`` per channel: the first layer of every network.

    It belongs to the model so that budgets keep their meaning in pixels.

    Attributes:
        mean, std: one number per channel; ``None`` leaves the images as they are.
        dtype: what the images are converted to.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    def __call__(self, images: jax.Array) -> jax.Array:
        """``[batch, ..., channels]`` to the same shape.

        Raises:
            ValueError: if the number of channels is another one or a ``std`` is not positive.
            TypeError: for integer images.
        """
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(
                f"images must be floating point in [0, 1], got {images.dtype}; divide 8-bit images by 255 first"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != images.shape[-1]:
                raise ValueError(
                    f"{name} has {len(values)} values but the images have {images.shape[-1]} channels; "
                    "give one value per channel"
                )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        images = images.astype(self.dtype)
        if self.mean is not None:
            images = images - jnp.asarray(self.mean, self.dtype)
        if self.std is not None:
            images = images / jnp.asarray(self.std, self.dtype)
        return images


class Dense(nn.Module):
    """Fully connected layer with the initialisation above, its bias optionally zero at the start."""

    features: int
    initializer: Initializer = "torch"
    dtype: Any = jnp.float32
    zero_bias: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, in] -> [batch, features]``."""
        init = initializers(self.initializer, x.shape[-1])
        if self.zero_bias:
            init["bias_init"] = nn.initializers.zeros
        return nn.Dense(self.features, use_bias=self.use_bias, dtype=self.dtype, name="linear", **init)(x)


class Conv(nn.Module):
    """Convolution with the initialisation above.

    Attributes:
        features: output channels.
        kernel_size: of the spatial axes.
        strides: the same for all spatial axes.
        padding: zeros on both sides, as PyTorch pads, or ``"SAME"`` for XLA's rule. They differ for strides: with a
            stride of 2, 3x3 windows on sides of even length then get zeros at the bottom and on the right only.
        use_bias: whether there is one.
        dtype: of the computation.
        initializer: see :func:`initializers`, or ``"he"`` (:func:`he_init`, biases 0).
        groups: of channels, each convolved on its own; as many as channels for a depthwise convolution.
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: int = 1
    padding: int | Literal["SAME"] = 0
    use_bias: bool = True
    dtype: Any = jnp.float32
    initializer: ConvInitializer = "torch"
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, *spatial, in] -> [batch, *spatial, features]``."""
        size = math.prod(self.kernel_size)
        if self.initializer == "he":
            init: dict[str, Any] = {"kernel_init": he_init(self.features * size), "bias_init": nn.initializers.zeros}
        else:
            init = initializers(self.initializer, x.shape[-1] // self.groups * size)
        padding = self.padding
        return nn.Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=padding if isinstance(padding, str) else [(padding, padding)] * len(self.kernel_size),
            feature_group_count=self.groups,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="conv",
            **init,
        )(x)


class Norm(nn.Module):
    """Batch norm with PyTorch's defaults, or nothing.

    PyTorch's momentum 0.1 is 0.9 here: the weight of the old value. The running variance averages the batches' biased
    variances, PyTorch's the unbiased ones; they differ by a factor ``n / (n - 1)`` for ``n`` values per channel.

    Attributes:
        enabled: whether there is a norm at all.
        dtype: of the result; statistics are at least float32.
        momentum: weight of the old running statistics; with 0 they become those of the batch.
    """

    enabled: bool
    dtype: Any = jnp.float32
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise by batch statistics in training and by running statistics otherwise.

        Raises:
            ValueError: if the momentum is not in [0, 1).
        """
        if not self.enabled:
            return x
        if not 0 <= self.momentum < 1:
            raise ValueError(
                f"momentum must be in [0, 1), got {self.momentum}; it is the weight of the old running statistics, "
                "1 minus PyTorch's momentum"
            )
        # Flax's norms promote half precision and their float32 statistics implicitly.
        with jax.numpy_dtype_promotion("standard"):
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=self.momentum,
                epsilon=BATCH_NORM_EPSILON,
                dtype=self.dtype,
                name="batch_norm",
            )(x)


class Dropout(nn.Module):
    """Dropout in training, with the random stream ``"dropout"``: ``apply(..., rngs={"dropout": key})``."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Any array to the same shape; the entries that remain are divided by ``1 - rate``.

        Raises:
            ValueError: if the rate is not in [0, 1).
        """
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.rate}; it is the share of entries set to zero")
        # Flat, because XLA's CPU backend compiles draws of several axes slowly, see jaxrobust.random.
        return nn.Dropout(self.rate, name="dropout")(x.ravel(), deterministic=not train).reshape(x.shape)


class LayerNorm(nn.Module):
    """Layer norm over the channels, by default with the epsilon of vision transformers."""

    dtype: Any = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., channels]`` to the same shape."""
        with jax.numpy_dtype_promotion("standard"):  # as above
            return nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="layer_norm")(x)
