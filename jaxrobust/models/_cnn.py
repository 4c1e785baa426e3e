"""Small convolutional networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import Conv, Dense, Norm, normalize


class CNN4(nn.Module):
    """The optimizer-robustness study's network for MNIST: two convolutions and two dense layers.

    Filters are 4x4 with stride 1 and padding 1; 2,172,806 parameters for 28x28x1 images and 10 classes. As published
    there is no ReLU between the two dense layers; ``dense_relu`` puts one there.
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
        x = normalize(images, self.mean, self.std, self.dtype)
        for number, features in enumerate((16, 32)):
            x = Conv(features, (4, 4), padding=1, dtype=self.dtype, name=f"conv_{number}")(x)
            x = nn.relu(Norm(self.batch_norm, self.dtype, name=f"norm_{number}")(x, train))
        x = Dense(100, dtype=self.dtype, name="dense_0")(x.reshape(x.shape[0], -1))
        if self.dense_relu:
            x = nn.relu(x)
        return Dense(self.classes, dtype=self.dtype, name="head")(x)


class SmallCNN(nn.Module):
    """Two 3x3 convolutions with stride 2 and a dense layer: for tests and quick runs."""

    classes: int
    features: tuple[int, ...] = (8, 16)
    batch_norm: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        x = normalize(images, self.mean, self.std, self.dtype)
        for number, features in enumerate(self.features):
            x = Conv(features, (3, 3), strides=2, padding=1, dtype=self.dtype, name=f"conv_{number}")(x)
            x = nn.relu(Norm(self.batch_norm, self.dtype, name=f"norm_{number}")(x, train))
        return Dense(self.classes, dtype=self.dtype, name="head")(x.reshape(x.shape[0], -1))
