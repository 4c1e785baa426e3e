"""Pre-activation residual networks."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import Conv, Dense, Norm, Normalize, logits_dtype


class PreActBlock(nn.Module):
    """``conv3x3(relu(norm(conv3x3(o)))) + shortcut`` with ``o = relu(norm(x))``.

    The shortcut is the input itself or, where the shape changes, a 1x1 convolution of ``o``.
    """

    features: int
    strides: int
    batch_norm: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[batch, height, width, channels]`` to the block's output."""
        o = nn.relu(Norm(self.batch_norm, self.dtype, name="norm_0")(x, train))
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.features:
            shortcut = Conv(self.features, (1, 1), self.strides, use_bias=False, dtype=self.dtype, name="shortcut")(o)
        y = Conv(self.features, (3, 3), self.strides, 1, use_bias=False, dtype=self.dtype, name="conv_0")(o)
        y = nn.relu(Norm(self.batch_norm, self.dtype, name="norm_1")(y, train))
        y = Conv(self.features, (3, 3), 1, 1, use_bias=False, dtype=self.dtype, name="conv_1")(y)
        return y + shortcut


class PreActResNet(nn.Module):
    """Pre-activation ResNet (He et al., 2016) as the optimizer-robustness study used it.

    No biases in convolutions, no norm or ReLU after the last block. Padding is explicit and symmetric as in PyTorch;
    XLA's "SAME" would shift the windows of strided convolutions by a pixel. Without batch norm the network is
    positively homogeneous up to the bias ``b`` of its last layer: ``f(a x) - b = a (f(x) - b)`` for ``a >= 0``.

    Departures from the published network:

    1. The last feature map is averaged as a whole. That is the published 4x4 window for images of 32x32 (and 28x28,
       whose map is 4x4 as well) and 7x7 for 224x224; for other sizes, where the fixed windows would not fit or would
       leave several cells, this network needs no change.

    Attributes:
        classes: number of logits.
        stage_sizes: blocks per stage; the first stage keeps the resolution, each other one halves it.
        width: channels of the first stage, doubled in each following one.
        stem: ``"small"``, a 3x3 convolution, or ``"large"``, a 7x7 convolution with stride 2 and a max pool.
        batch_norm: before every ReLU; off in the study's main comparison.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem: Literal["small", "large"] = "small"
    batch_norm: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
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
                x = PreActBlock(self.width * 2**stage, strides, self.batch_norm, self.dtype, name=name)(x, train)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x.mean((1, 2)))


class PreActResNet18(PreActResNet):
    """The 18-layer network: two blocks in each of four stages.

    Without batch norm it has 11,164,362 parameters for 10 classes and the small stem, 11,172,042 with the large one,
    whatever the size of the (RGB) images.
    """
