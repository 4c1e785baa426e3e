"""ConvNeXt."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._activations import Activate, Activation
from ._layers import IMAGENET, Conv, Dense, LayerNorm, Normalize, logits_dtype


class ConvNeXtBlock(nn.Module):
    """``x + layer_scale * dense(activation(dense(norm(conv(x)))))``, the convolution 7x7 and for each channel alone.

    Attributes:
        layer_scale: initial value of the learned factor of each channel.
        activation: see :class:`Activate`.
        dtype: of the computation.
    """

    layer_scale: float = 1e-6
    activation: Activation = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, height, width, channels]`` to the same shape."""
        channels = x.shape[-1]
        y = Conv(
            channels, (7, 7), padding=3, dtype=self.dtype, initializer="normal", groups=channels, name="depthwise"
        )(x)
        y = LayerNorm(self.dtype, name="norm")(y)
        y = Dense(4 * channels, "normal", self.dtype, name="dense_0")(y)
        y = Activate(self.activation, name="activation")(y)
        y = Dense(channels, "normal", self.dtype, name="dense_1")(y)
        # Not called "scale", which would be a norm's: see decay_mask.
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (channels,), jnp.float32)
        return x + scale.astype(self.dtype) * y


class ConvNeXt(nn.Module):
    """ConvNeXt (Liu et al., 2022): a convolutional network in the shape of a shifted-window transformer.

    Patches are embedded and normalised; between stages come norm and a 2x2 convolution with stride 2; after the last stage
    average over the feature map, norm and dense layer. There is no stochastic depth. Kernels start from N(0, 0.02^2),
    biases at zero, and the blocks close to the identity.

    Attributes:
        classes: number of logits.
        patch_size: side of the square patches in pixels.
        widths: channels per stage.
        stage_sizes: blocks per stage; each stage after the first halves the resolution.
        layer_scale: initial value of the factors of the blocks' results.
        activation: see :class:`Activate`.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters and logits are at least float32.
    """

    classes: int
    patch_size: int = 4
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stage_sizes: tuple[int, ...] = (3, 3, 9, 3)
    layer_scale: float = 1e-6
    activation: Activation = "gelu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``.

        Raises:
            ValueError: for an unknown activation, or image sides that are not a multiple of
                ``patch_size * 2 ** (stages - 1)``. (PyTorch's networks ignore the pixels at the edge that are too many.)
        """
        del train
        if len(self.widths) != len(self.stage_sizes):
            raise ValueError(
                f"widths and stage_sizes must have one entry per stage, got {self.widths} and {self.stage_sizes}"
            )
        multiple = self.patch_size * 2 ** (len(self.widths) - 1)
        if images.ndim != 4 or images.shape[1] % multiple or images.shape[2] % multiple:
            raise ValueError(
                f"images {images.shape} do not fit: height and width must be multiples of {multiple}; resize the "
                "images, or choose another patch_size or fewer stages"
            )

        def downsample(x: jax.Array, stage: int, size: int, name: str) -> jax.Array:
            return Conv(self.widths[stage], (size, size), size, dtype=self.dtype, initializer="normal", name=name)(x)

        x = Normalize(self.mean, self.std, self.dtype)(images)
        x = downsample(x, 0, self.patch_size, "stem")
        x = LayerNorm(self.dtype, name="stem_norm")(x)
        for stage, blocks in enumerate(self.stage_sizes):
            if stage:
                x = LayerNorm(self.dtype, name=f"stage_{stage}_norm")(x)
                x = downsample(x, stage, 2, f"stage_{stage}_conv")
            for block in range(blocks):
                name = f"stage_{stage}_block_{block}"
                x = ConvNeXtBlock(self.layer_scale, self.activation, self.dtype, name=name)(x)
        x = LayerNorm(self.dtype, name="norm")(x.mean((1, 2)))
        return Dense(self.classes, "normal", logits_dtype(self.dtype), name="head")(x)


def convnext_tiny(classes: int, **options: Any) -> ConvNeXt:
    """ConvNeXt-T, the normalisation of its published checkpoints included: 28,589,128 parameters for 1000 classes.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`ConvNeXt`.
    """
    return ConvNeXt(classes, **{**IMAGENET, **options})


def convnext_base(classes: int, **options: Any) -> ConvNeXt:
    """ConvNeXt-B, the normalisation of its published checkpoints included: 88,591,464 parameters for 1000 classes.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`ConvNeXt`.
    """
    preset = {"widths": (128, 256, 512, 1024), "stage_sizes": (3, 3, 27, 3), **IMAGENET}
    return ConvNeXt(classes, **{**preset, **options})
