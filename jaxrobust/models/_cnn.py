"""Small convolutional networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._activations import Activate, Activation
from ._layers import Conv, Dense, Norm, Normalize, logits_dtype


class CNN4(nn.Module):
    """The optimizer-robustness study's network for MNIST: two convolutions and two dense layers.

    16 and 32 filters of 4x4, stride 1, each followed by an activation, then dense layers of 100 units and of ``classes``. For
    28x28x1 images and 10 classes the last feature map is 26x26x32 and there are 2,172,806 parameters.

    Departures from the published description:

    1. The padding is not stated; the published 21,632 inputs of the dense layer are ``32 * 26 * 26``, which takes a
       padding of 1 in each convolution.

    Attributes:
        classes: number of logits.
        dense_relu: put the activation between the two dense layers as well; as published there is none.
        batch_norm: before each activation of the convolutions; not part of the published network.
        activation: see :class:`Activate`; as published ReLU.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    dense_relu: bool = False
    batch_norm: bool = False
    activation: Activation = "relu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        x = Normalize(self.mean, self.std, self.dtype)(images)
        for number, features in enumerate((16, 32)):
            x = Conv(features, (4, 4), padding=1, dtype=self.dtype, name=f"conv_{number}")(x)
            x = Norm(self.batch_norm, self.dtype, name=f"norm_{number}")(x, train)
            x = Activate(self.activation, name=f"activation_{number}")(x)
        x = Dense(100, dtype=self.dtype, name="dense_0")(x.reshape(x.shape[0], -1))
        if self.dense_relu:
            x = Activate(self.activation, name="activation_dense")(x)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x)


class SmallCNN(nn.Module):
    """3x3 convolutions with stride 2 and a dense layer: for tests and quick runs.

    Attributes:
        classes: number of logits.
        features: channels of each convolution.
        batch_norm: before each activation.
        activation: see :class:`Activate`.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    features: tuple[int, ...] = (8, 16)
    batch_norm: bool = False
    activation: Activation = "relu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        x = Normalize(self.mean, self.std, self.dtype)(images)
        for number, features in enumerate(self.features):
            x = Conv(features, (3, 3), strides=2, padding=1, dtype=self.dtype, name=f"conv_{number}")(x)
            x = Norm(self.batch_norm, self.dtype, name=f"norm_{number}")(x, train)
            x = Activate(self.activation, name=f"activation_{number}")(x)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x.reshape(x.shape[0], -1))


class CNN6(nn.Module):
    """Six 3x3 convolutions, the average over the feature map and a dense layer; for images of 32x32.

    The SOAR study names a network of six convolutions and one of eight (:class:`CNN8`) but does not describe them. The
    defaults are the usual ones: 64, 128 and 256 channels, twice each, with a stride of 2 where the number of channels
    changes. For RGB images and 10 classes there are 1,147,978 parameters.

    Kernels start from N(0, 2 / (9 * output channels)), biases at 0.

    Attributes:
        classes: number of logits.
        features: channels of each convolution.
        batch_norm: before each activation; the study found no benefit of its method with it.
        activation: see :class:`Activate`.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    features: tuple[int, ...] = (64, 64, 128, 128, 256, 256)
    batch_norm: bool = False
    activation: Activation = "relu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        x = Normalize(self.mean, self.std, self.dtype)(images)
        for number, features in enumerate(self.features):
            strides = 2 if number > 0 and features != self.features[number - 1] else 1
            x = Conv(features, (3, 3), strides, padding=1, dtype=self.dtype, initializer="he", name=f"conv_{number}")(x)
            x = Norm(self.batch_norm, self.dtype, name=f"norm_{number}")(x, train)
            x = Activate(self.activation, name=f"activation_{number}")(x)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x.mean((1, 2)))


class CNN8(CNN6):
    """Eight convolutions: those of :class:`CNN6` and two of 512 channels; 4,690,506 parameters for 10 classes."""

    features: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 512, 512)
