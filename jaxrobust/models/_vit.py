"""Vision transformers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._activations import Activate, Activation
from ._layers import Conv, Dense, Initializer, LayerNorm, Normalize, initializers, logits_dtype


class ViTBlock(nn.Module):
    """``y = x + attention(norm(x))``, then ``y + dense(activation(dense(norm(y))))``."""

    heads: int
    mlp_width: int
    activation: Activation = "gelu_tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, tokens, width]`` to the same shape."""
        width = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(
            self.heads, dtype=self.dtype, name="attention", **initializers("torch", width)
        )
        x = x + attention(LayerNorm(self.dtype, name="norm_0")(x))
        y = LayerNorm(self.dtype, name="norm_1")(x)
        y = Dense(self.mlp_width, dtype=self.dtype, name="dense_0")(y)
        y = Activate(self.activation, name="activation")(y)
        return x + Dense(width, dtype=self.dtype, name="dense_1")(y)


class ViTEncoder(nn.Module):
    """Everything of a :class:`ViT` before its last layer."""

    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    activation: Activation = "gelu_tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to the class token ``[batch, width]`` after the last norm."""
        if self.width % self.heads:
            raise ValueError(f"the width {self.width} is not a multiple of the number of heads, {self.heads}")
        if images.ndim != 4 or images.shape[1] % self.patch_size or images.shape[2] % self.patch_size:
            raise ValueError(
                f"images {images.shape} cannot be cut into patches of {self.patch_size}x{self.patch_size}: "
                "height and width must be multiples; resize the images or choose another patch_size"
            )
        patch = (self.patch_size, self.patch_size)
        x = Conv(self.width, patch, self.patch_size, dtype=self.dtype, name="embedding")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width), jnp.float32)
        token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]), jnp.float32)
        x = x + positions.astype(self.dtype)
        for number in range(self.depth):
            x = ViTBlock(self.heads, self.mlp_width, self.activation, self.dtype, name=f"block_{number}")(x)
        return LayerNorm(self.dtype, name="norm")(x[:, 0])


class ViT(nn.Module):
    """Vision transformer with a class token and learned positions (Dosovitskiy et al., 2021).

    Norms stand before attention and MLP, their epsilon is 1e-6, and there is no dropout. Its parameters have two parts:
    ``"encoder"`` and ``"head"``, the last layer. Training of the head alone needs the encoder only once per image:

    * ``model.apply(variables, images, method="features")`` are the inputs of the head, ``[batch, width]``;
    * :func:`trainable_mask` tells an optimizer which parameters those of the head are.

    Attributes:
        classes: number of logits.
        patch_size: side of the square patches in pixels; the image sides must be multiples of it.
        width: entries of a token.
        depth: number of blocks.
        heads: number of attention heads; the width must be a multiple.
        mlp_width: units of the hidden layer in each block.
        activation: see :class:`Activate`. The original checkpoints, :func:`load_vit_npz`, were trained with
            ``"gelu_tanh"``, those of timm and torchvision expect ``"gelu"``.
        head_initializer: ``"torch"`` or ``"zeros"``, usual for new heads on pretrained encoders.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters and logits are at least float32.
    """

    classes: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    activation: Activation = "gelu_tanh"
    head_initializer: Initializer = "torch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Make the layers."""
        self.normalize = Normalize(self.mean, self.std, self.dtype)
        self.encoder = ViTEncoder(
            self.patch_size, self.width, self.depth, self.heads, self.mlp_width, self.activation, self.dtype
        )
        self.head = Dense(self.classes, self.head_initializer, logits_dtype(self.dtype))

    def features(self, images: jax.Array) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to the inputs of the head, ``[batch, width]``."""
        return self.encoder(self.normalize(images))

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        del train
        return self.head(self.features(images))


def vit_b16(classes: int, **options: Any) -> ViT:
    """ViT-B/16, the normalisation of its published checkpoints included: 86,567,656 parameters for 1000 classes.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`ViT`.
    """
    half = (0.5, 0.5, 0.5)
    preset = {"patch_size": 16, "width": 768, "depth": 12, "heads": 12, "mlp_width": 3072, "mean": half, "std": half}
    return ViT(classes, **{**preset, **options})


def vit_small(classes: int, **options: Any) -> ViT:
    """ViT-S/16, half as wide as ViT-B; ``patch_size=4`` suits images of 32x32.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`ViT`.
    """
    preset = {"patch_size": 16, "width": 384, "depth": 12, "heads": 6, "mlp_width": 1536}
    return ViT(classes, **{**preset, **options})
