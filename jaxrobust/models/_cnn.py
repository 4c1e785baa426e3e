"""Small convolutional networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import Conv, Dense, Norm, Normalize, logits_dtype


class CNN4(nn.Module):
    """The optimizer-robustness study's network for MNIST: two convolutions and two dense layers.

    16 and 32 filters of 4x4, stride 1, each followed by ReLU, then dense layers of 100 units and of ``classes``. For
    28x28x1 images and 10 classes the last feature map is 26x26x32 and there are 2,172,806 parameters.

    Departures from the published description:

    1. The padding is not stated; the published 21,632 inputs of the dense layer are ``32 * 26 * 26``, which takes a
       padding of 1 in each convolution.

    Attributes:
        classes: number of logits.
        dense_relu: put a ReLU between the two dense layers; as published there is none.
        batch_norm: before each ReLU of the convolutions; not part of the published network.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    dense_relu: bool = False
    batch_norm: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        x = Normalize(self.mean, self.std, self.dtype)(images)
        for number, features in enumerate((16, 32)):
            x = Conv(features, (4, 4), padding=1, dtype=self.dtype, name=f"conv_{number}")(x)
            x = nn.relu(Norm(self.batch_norm, self.dtype, name=f"norm_{number}")(x, train))
        x = Dense(100, dtype=self.dtype, name="dense_0")(x.reshape(x.shape[0], -1))
        if self.dense_relu:
            x = nn.relu(x)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x)


class SmallCNN(nn.Module):
    """3x3 convolutions with stride 2 and a dense layer: for tests and quick runs.

    Attributes:
        classes: number of logits.
        features: channels of each convolution.
        batch_norm: before each ReLU.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    features: tuple[int, ...] = (8, 16)
    batch_norm: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        x = Normalize(self.mean, self.std, self.dtype)(images)
        for number, features in enumerate(self.features):
            x = Conv(features, (3, 3), strides=2, padding=1, dtype=self.dtype, name=f"conv_{number}")(x)
            x = nn.relu(Norm(self.batch_norm, self.dtype, name=f"norm_{number}")(x, train))
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x.reshape(x.shape[0], -1))
