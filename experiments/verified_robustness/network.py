"""The study's networks: FC1 and the CNN, with any of three activations."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models import torch_default_init

from .rows import Activation

FUNCTIONS = {"relu": nn.relu, "sigmoid": nn.sigmoid, "tanh": jnp.tanh}


class Network(nn.Module):
    """4x4 convolutions of stride 2 and padding 1, then dense layers; an activation after each layer but the last.

    ``widths=(1024,)`` without convolutions is FC1. ``channels=(16, 32), widths=(100,)`` is the CNN: the study says that it has two
    convolutions and two dense layers, the rest is from the code of the networks that it compares with. Parameters start as in
    PyTorch, which the study uses.

    Attributes:
        classes: number of logits.
        channels: of the convolutions.
        widths: units of the hidden dense layers.
        activation: ``"relu"``, ``"sigmoid"`` or ``"tanh"``.
    """

    classes: int
    channels: tuple[int, ...] = ()
    widths: tuple[int, ...] = (1024,)
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        del train
        activate = FUNCTIONS[self.activation]
        x = images
        for number, features in enumerate(self.channels):
            kernel, bias = torch_default_init(math.prod((4, 4, x.shape[-1])))
            convolution = nn.Conv(
                features, (4, 4), 2, padding=1, kernel_init=kernel, bias_init=bias, name=f"conv_{number}"
            )
            x = activate(convolution(x))
        x = x.reshape(x.shape[0], -1)
        for number, width in enumerate((*self.widths, self.classes)):
            kernel, bias = torch_default_init(x.shape[-1])
            x = nn.Dense(width, kernel_init=kernel, bias_init=bias, name=f"dense_{number}")(x)
            x = activate(x) if number < len(self.widths) else x
        return x
