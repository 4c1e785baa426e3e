"""Wide residual networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._activations import Activate, Activation
from ._layers import Conv, Dense, Norm, Normalize, logits_dtype
from ._preact_resnet import block_class


class WideResNet(nn.Module):
    """WRN-depth-width (Zagoruyko and Komodakis, 2016), by default as Gowal et al. (2020) and Wang et al. (2023) have it.

    A 3x3 convolution of 16 filters; three stages of ``(depth - 4) / 6`` pre-activation blocks with 16, 32 and 64 times
    ``width`` channels, the last two stages with a stride of 2 in their first block; norm, activation, average over the
    feature map, dense layer. Batch norm is always on. For 10 classes WRN-28-10 has 36,479,194 parameters, for 100
    classes 36,536,884, and WRN-34-10 for 10 classes 46,160,474.

    Two networks of this kind are in use, which the parameters' shapes do not tell apart:

    * that of Gowal et al. and Wang et al., the defaults: SiLU (the former also have ReLU), ``"SAME"`` padding, momentum
      0.99, no dropout;
    * that of the original publication, of TRADES and of most PyTorch code: ``activation="relu"``,
      ``symmetric_padding=True``, ``momentum=0.9``, and ``dropout`` of 0 to 0.3.

    Kernels of convolutions start from N(0, 2 / (size^2 * output channels)), biases at 0. The published code leaves the
    last layer's kernel to PyTorch's default, uniform on ``+-1/sqrt(inputs)``, and so does this network.

    Departures from the published networks:

    1. The last feature map is averaged as a whole, which is the published 8x8 window for images of 32x32.
    2. Where a stride of 2 meets a side of odd length, ``symmetric_padding=False`` pads on both sides, as ``"SAME"``
       does; the published code for PyTorch pads one side only, and fails there.
    3. Running statistics start with mean 0 and variance 1, which have a weight of ``momentum ** t`` after ``t`` updates:
       0.6 after 50 updates, 0.007 after 500. Wang et al. let them be the batch's in the first training step. For
       statistics that start from a batch, see the example.

    Attributes:
        classes: number of logits.
        depth: number of layers, 4 more than a multiple of 6.
        width: channels of the first stage divided by 16.
        activation: see :class:`Activate`.
        symmetric_padding: pad 3x3 convolutions with stride 2 on both sides; else at the bottom and on the right only.
        dropout: share of the entries that are dropped before the second convolution of each block. In training it
            needs a key: ``apply(..., train=True, rngs={"dropout": key})``.
        momentum: of batch norm: the weight of the old running statistics, 1 minus PyTorch's.
        remat: compute each block's intermediate values again in the backward pass instead of keeping them. Results
            are the same up to rounding; a gradient takes less memory and the time of one more forward pass. XLA's CPU
            backend does not save the memory.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = WideResNet(classes=10, depth=10, width=1)
        >>> images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
        >>> variables = jax.jit(model.init)(jax.random.key(1), images)
        >>> first = model.clone(momentum=0.0)  # its running statistics are those of the last batch
        >>> _, state = first.apply(variables, images, train=True, mutable=["batch_stats"])
        >>> variables = {**variables, **state}
        >>> in_training, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        >>> bool(jnp.allclose(model.apply(variables, images), in_training, atol=1e-4))
        True
    """

    classes: int
    depth: int = 28
    width: int = 10
    activation: Activation = "silu"
    symmetric_padding: bool = False
    dropout: float = 0.0
    momentum: float = 0.99
    remat: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``.

        Raises:
            ValueError: if the depth or another attribute is out of its range.
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1 or self.width < 1:
            raise ValueError(
                f"depth must be 10, 16, 22, 28, ... and width at least 1, got depth={self.depth}, width={self.width}"
            )
        block_type = block_class(self.remat)
        x = Normalize(self.mean, self.std, self.dtype)(images)
        x = Conv(16, (3, 3), padding=1, use_bias=False, dtype=self.dtype, initializer="he", name="stem")(x)
        for stage in range(3):
            for block in range(blocks):
                x = block_type(
                    features=16 * self.width * 2**stage,
                    strides=2 if stage > 0 and block == 0 else 1,
                    batch_norm=True,
                    dtype=self.dtype,
                    activation=self.activation,
                    momentum=self.momentum,
                    symmetric_padding=self.symmetric_padding,
                    dropout=self.dropout,
                    initializer="he",
                    name=f"stage_{stage}_block_{block}",
                )(x, train)
        x = Norm(True, self.dtype, self.momentum, name="norm")(x, train)
        x = Activate(self.activation, name="activation_last")(x)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), zero_bias=True, name="head")(x.mean((1, 2)))


def wrn_28_10(classes: int, **options: Any) -> WideResNet:
    """WRN-28-10 as Wang et al. (2023) trained it: SiLU, "SAME" padding, momentum 0.99.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`WideResNet`.
    """
    return WideResNet(classes, **{"depth": 28, "width": 10, **options})


def wrn_34_10(classes: int, **options: Any) -> WideResNet:
    """WRN-34-10 as TRADES has it (Zhang et al., 2019): ReLU, symmetric padding, momentum 0.9, no dropout.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`WideResNet`.
    """
    preset = {"depth": 34, "width": 10, "activation": "relu", "symmetric_padding": True, "momentum": 0.9}
    return WideResNet(classes, **{**preset, **options})
