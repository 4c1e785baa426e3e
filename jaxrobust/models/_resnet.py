"""Residual networks."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._activations import Activate, Activation
from ._layers import Conv, Dense, Norm, Normalize, logits_dtype

BlockKind = Literal["basic", "bottleneck"]


class ResBlock(nn.Module):
    """``act(branch(x) + shortcut(x))``; the branch has a norm after each convolution, activations between them.

    The branch is ``conv3x3, conv3x3`` or, in a bottleneck, ``conv1x1, conv3x3, conv1x1`` with four times the channels
    at the end. The shortcut is the input itself or, where the shape changes, a 1x1 convolution and a norm.

    Attributes:
        features: output channels of the 3x3 convolutions.
        strides: of the first 3x3 convolution and of that in the shortcut.
        bottleneck: which of the two.
        batch_norm, momentum: see :class:`Norm`.
        dtype: of the computation.
        activation: see :class:`Activate`.
    """

    features: int
    strides: int
    bottleneck: bool
    batch_norm: bool
    dtype: Any = jnp.float32
    activation: Activation = "relu"
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[batch, height, width, channels]`` to the block's output."""
        width, strides = self.features, self.strides
        layers = [(width, 3, strides), (width, 3, 1)]  # channels, size, strides
        if self.bottleneck:
            layers = [(width, 1, 1), (width, 3, strides), (4 * width, 1, 1)]

        def conv(x: jax.Array, layer: tuple[int, int, int], name: str, norm: str, last: bool = False) -> jax.Array:
            features, size, strides = layer
            x = Conv(
                features,
                (size, size),
                strides,
                size // 2,
                use_bias=not self.batch_norm,
                dtype=self.dtype,
                initializer="zeros" if last and not self.batch_norm else "he",
                name=name,
            )(x)
            return Norm(self.batch_norm, self.dtype, self.momentum, name=norm)(x, train)

        shortcut = x
        if strides != 1 or x.shape[-1] != layers[-1][0]:
            shortcut = conv(x, (layers[-1][0], 1, strides), "shortcut", "shortcut_norm")
        for number, layer in enumerate(layers[:-1]):
            x = conv(x, layer, f"conv_{number}", f"norm_{number}")
            x = Activate(self.activation, name=f"activation_{number}")(x)
        number = len(layers) - 1
        x = conv(x, layers[-1], f"conv_{number}", f"norm_{number}", last=True)
        return Activate(self.activation, name=f"activation_{number}")(x + shortcut)


class ResNet(nn.Module):
    """ResNet (He et al., 2016) as torchvision and timm have it: in bottlenecks the stride is in the 3x3 convolution.

    Padding is explicit and symmetric as in PyTorch. For 1000 classes and RGB images the network of 18 layers has
    11,689,512 parameters, that of 50 layers 25,557,032. :func:`from_torch` loads the weights of both libraries.

    Kernels start from N(0, 2 / (size^2 * output channels)), biases at 0; the last layer from PyTorch's default.

    Without batch norm each convolution has a bias, as if the norm had been folded into it, and the last convolution of
    each branch starts at 0, so that at first every block is its shortcut and activations do not grow with depth. Zhang
    et al. (2019, "Fixup initialization") start so, too; their other rules (smaller kernels, scalar biases and
    multipliers, a last layer of zeros) are left out: the networks here are shallow. It makes the first steps safe but
    does not bound later ones: SGD with momentum 0.9, a learning rate of 0.1 and batches of 128, as the SOAR study has
    it, was stable in short runs on CIFAR-10 (150 steps at a width of 16), the faster with ``mean`` and ``std``; with
    batches of 32, or on data that are learnt in some ten steps, losses jumped up and did not always come back. Take a
    smaller rate or a warm-up there.

    Attributes:
        classes: number of logits.
        stage_sizes: blocks per stage; the first stage keeps the resolution, each other one halves it.
        block: ``"basic"``, two 3x3 convolutions, or ``"bottleneck"``, a 3x3 convolution between two of 1x1.
        width: channels of the first stage's 3x3 convolutions, doubled in each following one.
        stem: ``"small"``, a 3x3 convolution, or ``"large"``, a 7x7 convolution with stride 2 and, after the
            activation, a max pool.
        batch_norm: after every convolution.
        activation: see :class:`Activate`.
        momentum: of batch norm: the weight of the old running statistics, 1 minus PyTorch's.
        remat: compute each block's intermediate values again in the backward pass instead of keeping them. Results
            are the same up to rounding; a gradient takes less memory and the time of one more forward pass. XLA's CPU
            backend does not save the memory.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.

    Example:
        >>> model = resnet10(classes=10, width=8)
        >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        >>> smooth = model.clone(activation="gelu")  # takes the same variables
        >>> smooth.apply(variables, jnp.zeros((2, 8, 8, 3))).shape
        (2, 10)
    """

    classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    block: BlockKind = "basic"
    width: int = 64
    stem: Literal["small", "large"] = "large"
    batch_norm: bool = True
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
            ValueError: for an unknown block, stem or activation.
        """
        if self.block not in ("basic", "bottleneck"):
            raise ValueError(f"unknown block {self.block!r}; choose basic or bottleneck")
        if self.stem not in ("small", "large"):
            raise ValueError(f"unknown stem {self.stem!r}; choose small or large")
        size, strides = (7, 2) if self.stem == "large" else (3, 1)
        x = Normalize(self.mean, self.std, self.dtype)(images)
        x = Conv(
            self.width,
            (size, size),
            strides,
            size // 2,
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            initializer="he",
            name="stem",
        )(x)
        x = Norm(self.batch_norm, self.dtype, self.momentum, name="stem_norm")(x, train)
        x = Activate(self.activation, name="stem_activation")(x)
        if self.stem == "large":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block_type = nn.remat(ResBlock, static_argnums=(2,)) if self.remat else ResBlock  # 2 is train, self being 0
        for stage, blocks in enumerate(self.stage_sizes):
            for block in range(blocks):
                x = block_type(
                    features=self.width * 2**stage,
                    strides=2 if stage > 0 and block == 0 else 1,
                    bottleneck=self.block == "bottleneck",
                    batch_norm=self.batch_norm,
                    dtype=self.dtype,
                    activation=self.activation,
                    momentum=self.momentum,
                    name=f"stage_{stage}_block_{block}",
                )(x, train)
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x.mean((1, 2)))


def resnet10(classes: int, **options: Any) -> ResNet:
    """The network of 10 layers for small images that the SOAR study trained: no batch norm, small stem.

    The study states neither blocks nor widths; one basic block in each of four stages and a width of 64 are usual. It
    reports no benefit of SOAR in networks with batch norm. For 10 classes there are 4,900,362 parameters.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`ResNet`.
    """
    preset = {"stage_sizes": (1, 1, 1, 1), "stem": "small", "batch_norm": False}
    return ResNet(classes, **{**preset, **options})


def resnet18(classes: int, **options: Any) -> ResNet:
    """The network of 18 layers: two basic blocks in each of four stages, large stem, batch norm.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`ResNet`.
    """
    return ResNet(classes, **{"stage_sizes": (2, 2, 2, 2), **options})


def resnet50(classes: int, **options: Any) -> ResNet:
    """The network of 50 layers: 3, 4, 6 and 3 bottlenecks, large stem, batch norm.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`ResNet`.
    """
    return ResNet(classes, **{"stage_sizes": (3, 4, 6, 3), "block": "bottleneck", **options})
