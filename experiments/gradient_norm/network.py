"""The study's small network."""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxrobust.models import Activate, Activation, Normalize


class PlainCNN(nn.Module):
    """Two 3x3 convolutions of 16 and 32 channels, a dense layer of 64 units and one of ``classes``; no batch norm.

    Every kernel is drawn from a normal distribution of variance ``2 / inputs``, cut off at two deviations (He et al., 2015), biases
    are 0, the padding is 1. For 8x8x1 images and 10 classes there are 512 inputs of the dense layer and 38,282 parameters.

    Attributes:
        classes: number of logits.
        strides: of the two convolutions.
        activation: see :class:`jaxrobust.models.Activate`.
        mean, std: normalisation per channel inside the model, off by default.
    """

    classes: int
    strides: tuple[int, int] = (1, 2)
    activation: Activation = "gelu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        del train
        he = nn.initializers.he_normal()
        x = Normalize(self.mean, self.std)(images)
        for number, (features, strides) in enumerate(zip((16, 32), self.strides, strict=True)):
            x = nn.Conv(features, (3, 3), strides, padding=1, kernel_init=he, name=f"conv_{number}")(x)
            x = Activate(self.activation, name=f"activation_{number}")(x)
        x = nn.Dense(64, kernel_init=he, name="dense")(x.reshape(x.shape[0], -1))
        x = Activate(self.activation, name="activation_dense")(x)
        return nn.Dense(self.classes, kernel_init=he, name="head")(x)
