"""Pre-activation residual networks."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._activations import Activate, Activation
from ._layers import (
    Conv,
    ConvInitializer,
    Dense,
    Dropout,
    Norm,
    Normalize,
    logits_dtype,
)


class PreActBlock(nn.Module):
    """``conv3x3(dropout(act(norm(conv3x3(o))))) + shortcut`` with ``o = act(norm(x))``.

    The shortcut is the input itself or, where the shape changes, a 1x1 convolution of ``o``.

    Attributes:
        features: output channels.
        strides: of the first convolution and of that in the shortcut.
        batch_norm, momentum: see :class:`Norm`.
        dtype: of the computation.
        activation: see :class:`Activate`.
        symmetric_padding: whether the strided convolution is padded on both sides or as by ``"SAME"``.
        dropout: share of the entries that are dropped in training.
        initializer: of the convolutions.
    """

    features: int
    strides: int
    batch_norm: bool
    dtype: Any = jnp.float32
    activation: Activation = "relu"
    momentum: float = 0.9
    symmetric_padding: bool = True
    dropout: float = 0.0
    initializer: ConvInitializer = "torch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[batch, height, width, channels]`` to the block's output."""

        def norm_and_activation(x: jax.Array, number: int) -> jax.Array:
            x = Norm(self.batch_norm, self.dtype, self.momentum, name=f"norm_{number}")(x, train)
            return Activate(self.activation, name=f"activation_{number}")(x)

        def conv(x: jax.Array, size: int, strides: int, padding: int | Literal["SAME"], name: str) -> jax.Array:
            return Conv(
                self.features,
                (size, size),
                strides,
                padding,
                use_bias=False,
                dtype=self.dtype,
                initializer=self.initializer,
                name=name,
            )(x)

        o = norm_and_activation(x, 0)
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.features:
            shortcut = conv(o, 1, self.strides, 0, "shortcut")
        y = conv(o, 3, self.strides, 1 if self.symmetric_padding else "SAME", "conv_0")
        y = norm_and_activation(y, 1)
        if self.dropout:
            y = Dropout(self.dropout, name="dropout")(y, train)
        return conv(y, 3, 1, 1, "conv_1") + shortcut


def block_class(remat: bool) -> type[PreActBlock]:
    """:class:`PreActBlock`, on demand one that keeps only its input for the backward pass."""
    return nn.remat(PreActBlock, static_argnums=(2,)) if remat else PreActBlock  # 2 is train, self being 0


class PreActResNet(nn.Module):
    """Pre-activation ResNet (He et al., 2016) as the optimizer-robustness study used it.

    No biases in convolutions, no norm or activation after the last block. Padding is explicit and symmetric as in
    PyTorch; XLA's "SAME" would shift the windows of strided convolutions by a pixel. Without batch norm and with ReLU
    the network is positively homogeneous up to the bias ``b`` of its last layer: ``f(a x) - b = a (f(x) - b)`` for
    ``a >= 0``.

    The network that is usual in adversarial training (Rice et al., 2020) has ``batch_norm=True, final_norm=True``.

    Departures from the published network:

    1. The last feature map is averaged as a whole. That is the published 4x4 window for images of 32x32 (and 28x28,
       whose map is 4x4 as well) and 7x7 for 224x224; for other sizes, where the fixed windows would not fit or would
       leave several cells, this network needs no change.

    Attributes:
        classes: number of logits.
        stage_sizes: blocks per stage; the first stage keeps the resolution, each other one halves it.
        width: channels of the first stage, doubled in each following one.
        stem: ``"small"``, a 3x3 convolution, or ``"large"``, a 7x7 convolution with stride 2 and a max pool.
        batch_norm: before every activation; off in the study's main comparison.
        final_norm: batch norm and activation after the last block, as in the original publication; off in the study.
        activation: see :class:`Activate`.
        momentum: of batch norm: the weight of the old running statistics, 1 minus PyTorch's.
        remat: compute each block's intermediate values again in the backward pass instead of keeping them. Results
            are the same up to rounding; a gradient takes less memory and the time of one more forward pass. XLA's CPU
            backend does not save the memory.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem: Literal["small", "large"] = "small"
    batch_norm: bool = False
    final_norm: bool = False
    activation: Activation = "relu"
    momentum: float = 0.9
    remat: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``.

        Raises:
            ValueError: for an unknown stem or activation, or a final norm without batch norm.
        """
        if self.final_norm and not self.batch_norm:
            raise ValueError("final_norm=True is a batch norm, but the network has none; add batch_norm=True")
        block_type = block_class(self.remat)
        x = Normalize(self.mean, self.std, self.dtype)(images)
        if self.stem == "large":
            x = Conv(self.width, (7, 7), 2, 3, use_bias=False, dtype=self.dtype, name="stem")(x)
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        elif self.stem == "small":
            x = Conv(self.width, (3, 3), 1, 1, use_bias=False, dtype=self.dtype, name="stem")(x)
        else:
            raise ValueError(f"unknown stem {self.stem!r}; choose small or large")
        for stage, blocks in enumerate(self.stage_sizes):
            for block in range(blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                name = f"stage_{stage}_block_{block}"
                x = block_type(
                    features=self.width * 2**stage,
                    strides=strides,
                    batch_norm=self.batch_norm,
                    dtype=self.dtype,
                    activation=self.activation,
                    momentum=self.momentum,
                    name=name,
                )(x, train)
        if self.final_norm:
            x = Norm(True, self.dtype, self.momentum, name="norm")(x, train)
            x = Activate(self.activation, name="activation_last")(x)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x.mean((1, 2)))


class PreActResNet18(PreActResNet):
    """The 18-layer network: two blocks in each of four stages.

    Without batch norm it has 11,164,362 parameters for 10 classes and the small stem, 11,172,042 with the large one,
    whatever the size of the (RGB) images; with the small stem and all norms, the final one included, 11,172,170.
    """
