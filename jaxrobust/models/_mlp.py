"""Softmax regression and multi-layer perceptrons."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._activations import Activate, Activation
from ._layers import Dense, Initializer, Normalize, logits_dtype


class MLP(nn.Module):
    """Flattened images through dense layers, an activation between them; no hidden layer is softmax regression.

    Attributes:
        classes: number of logits.
        widths: units of the hidden layers.
        activation: see :class:`Activate`.
        initializer: ``"torch"`` or, for softmax regression, ``"zeros"``.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters are float32, logits at least.
    """

    classes: int
    widths: tuple[int, ...] = (128,)
    activation: Activation = "relu"
    initializer: Initializer = "torch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, ...]`` to logits ``[batch, classes]``."""
        del train
        x = Normalize(self.mean, self.std, self.dtype)(images).reshape(images.shape[0], -1)
        for number, width in enumerate(self.widths):
            x = Dense(width, self.initializer, self.dtype, name=f"dense_{number}")(x)
            x = Activate(self.activation, name=f"activation_{number}")(x)
        return Dense(self.classes, self.initializer, logits_dtype(self.dtype), name="head")(x)


class Linear(MLP):
    """Softmax regression.

    Trained by SGD from ``initializer="zeros"``, its logits do not react at all to noise in frequencies that the
    training images do not contain.
    """

    widths: tuple[int, ...] = ()
