"""Shifted-window transformers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ._activations import Activate, Activation
from ._layers import IMAGENET, Conv, Dense, LayerNorm, Normalize, logits_dtype, normal_init

Pair = tuple[int, int]
_EPSILON = 1e-5  # of the norms, ten times that of other vision transformers


def to_windows(x: Any, window: Pair) -> Any:
    """``[batch, height, width, channels]`` to ``[batch, windows, tokens, channels]``, both by rows."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window[0], window[0], width // window[1], window[1], channels)
    return x.swapaxes(2, 3).reshape(batch, -1, window[0] * window[1], channels)


def from_windows(x: jax.Array, window: Pair, size: Pair) -> jax.Array:
    """The inverse of :func:`to_windows` for feature maps of ``size``."""
    batch, _, _, channels = x.shape
    x = x.reshape(batch, size[0] // window[0], size[1] // window[1], *window, channels)
    return x.swapaxes(2, 3).reshape(batch, *size, channels)


def relative_offsets(window: Pair) -> np.ndarray:
    """Which row of the table of biases belongs to each query and key of a window, ``[tokens, tokens]``.

    The table lists the offsets of the query from the key, rows first, both from ``1 - side`` to ``side - 1``.
    """
    rows, columns = np.divmod(np.arange(window[0] * window[1]), window[1])
    down, right = (place[:, None] - place[None, :] for place in (rows, columns))
    return (down + window[0] - 1) * (2 * window[1] - 1) + right + window[1] - 1


def shifted_mask(size: Pair, window: Pair, shift: Pair) -> np.ndarray:
    """Which tokens of each window may attend to each other after a cyclic shift, ``[windows, tokens, tokens]``.

    The last windows hold tokens from opposite edges of the map; they are kept apart.
    """
    wrapped_rows, wrapped_columns = (np.arange(side) >= side - by for side, by in zip(size, shift, strict=True))
    region = 2 * wrapped_rows[:, None] + wrapped_columns[None, :]
    region = to_windows(region[None, ..., None], window)[0, ..., 0]
    return region[:, :, None] == region[:, None, :]


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each head and offset of the query from the key.

    Attributes:
        heads: number of attention heads.
        window: its height and width, which divide those of the feature map.
        shift: by how much the windows are moved down and to the right.
        dtype: of the computation.
    """

    heads: int
    window: Pair
    shift: Pair
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, height, width, channels]`` to the same shape."""
        _, rows, columns, channels = x.shape
        size = rows, columns
        shifted = any(self.shift)
        if shifted:
            x = jnp.roll(x, (-self.shift[0], -self.shift[1]), (1, 2))
        x = to_windows(x, self.window)

        def heads(name: str) -> jax.Array:
            y = Dense(channels, "normal", self.dtype, name=name)(x)
            return y.reshape(*y.shape[:-1], self.heads, channels // self.heads)

        offsets = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        table = self.param("relative_positions", normal_init(0.02), (offsets, self.heads), jnp.float32)
        bias = table[relative_offsets(self.window)].transpose(2, 0, 1).astype(self.dtype)
        mask = shifted_mask(size, self.window, self.shift)[:, None] if shifted else None
        y = nn.dot_product_attention(heads("query"), heads("key"), heads("value"), bias, mask)
        y = Dense(channels, "normal", self.dtype, name="out")(y.reshape(x.shape))
        y = from_windows(y, self.window, size)
        return jnp.roll(y, self.shift, (1, 2)) if shifted else y


class SwinBlock(nn.Module):
    """``y = x + attention(norm(x))`` within windows, then ``y + dense(activation(dense(norm(y))))``."""

    heads: int
    window: Pair
    shift: Pair
    mlp_width: int
    activation: Activation = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, height, width, channels]`` to the same shape."""
        y = LayerNorm(self.dtype, _EPSILON, name="norm_0")(x)
        x = x + WindowAttention(self.heads, self.window, self.shift, self.dtype, name="attention")(y)
        y = LayerNorm(self.dtype, _EPSILON, name="norm_1")(x)
        y = Dense(self.mlp_width, "normal", self.dtype, name="dense_0")(y)
        y = Activate(self.activation, name="activation")(y)
        return x + Dense(x.shape[-1], "normal", self.dtype, name="dense_1")(y)


class Swin(nn.Module):
    """Swin transformer (Liu et al., 2021): attention within windows, which every second block shifts by half a window.

    Patches are embedded and normalised; between stages, 2x2 neighbours are concatenated, normalised and reduced to half
    their channels; after the last stage come norm, average over the feature map and dense layer. There is neither dropout
    nor stochastic depth. Kernels start from N(0, 0.02^2), that of the patch embedding from PyTorch's default.

    A window is ``window`` tokens high and wide, but where a side of the feature map is no longer than that, the window
    takes the whole side and is not shifted along it. So does timm; torchvision pads the map with zeros instead. The sides
    must be multiples of the windows (timm and torchvision pad here, too, in different ways): for images of 32x32,
    ``patch_size=2, window=4`` fits; for 224x224 the default does. The windows decide the shape of the biases, so weights
    fit images of other sizes only if they lead to the same windows.

    Attributes:
        classes: number of logits.
        patch_size: side of the square patches in pixels.
        width: channels of the first stage, doubled in each following one.
        stage_sizes: blocks per stage; each stage after the first halves the resolution.
        heads: attention heads per stage.
        window: side of the windows in tokens.
        mlp_ratio: units of the hidden layer in each block, divided by the block's channels.
        activation: see :class:`Activate`.
        mean, std: normalisation per channel inside the model, off by default.
        dtype: of the computation; parameters and logits are at least float32.
    """

    classes: int
    patch_size: int = 4
    width: int = 96
    stage_sizes: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[batch, height, width, channels]`` to logits ``[batch, classes]``.

        Raises:
            ValueError: for an unknown activation, heads that do not divide the channels, or image sides that cannot be
                divided into patches and windows.
        """
        del train
        windows = self._windows(images.shape)
        x = Normalize(self.mean, self.std, self.dtype)(images)
        patch = (self.patch_size, self.patch_size)
        x = Conv(self.width, patch, self.patch_size, dtype=self.dtype, name="embedding")(x)
        x = LayerNorm(self.dtype, _EPSILON, name="embedding_norm")(x)
        for stage, window in enumerate(windows):
            channels = self.width * 2**stage
            if stage:
                # The published order: the four neighbours by columns.
                batch, rows, columns, _ = x.shape
                x = x.reshape(batch, rows // 2, 2, columns // 2, 2, -1).transpose(0, 1, 3, 4, 2, 5)
                x = x.reshape(batch, rows // 2, columns // 2, -1)
                x = LayerNorm(self.dtype, _EPSILON, name=f"stage_{stage}_norm")(x)
                name = f"stage_{stage}_reduction"
                x = Dense(channels, "normal", self.dtype, use_bias=False, name=name)(x)
            shift_rows, shift_columns = (self.window // 2 if side > self.window else 0 for side in x.shape[1:3])
            for block in range(self.stage_sizes[stage]):
                x = SwinBlock(
                    heads=self.heads[stage],
                    window=window,
                    shift=(shift_rows, shift_columns) if block % 2 else (0, 0),
                    mlp_width=int(channels * self.mlp_ratio),
                    activation=self.activation,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{block}",
                )(x)
        x = LayerNorm(self.dtype, _EPSILON, name="norm")(x)
        return Dense(self.classes, "normal", logits_dtype(self.dtype), name="head")(x.mean((1, 2)))

    def _windows(self, shape: tuple[int, ...]) -> list[Pair]:
        """Height and width of each stage's windows."""
        if len(self.heads) != len(self.stage_sizes):
            raise ValueError(
                f"heads and stage_sizes must have one entry per stage, got {self.heads} and {self.stage_sizes}"
            )
        if len(shape) != 4 or shape[1] % self.patch_size or shape[2] % self.patch_size:
            raise ValueError(
                f"images {shape} cannot be cut into patches of {self.patch_size}x{self.patch_size}: "
                "height and width must be multiples; resize the images or choose another patch_size"
            )
        rows, columns = shape[1] // self.patch_size, shape[2] // self.patch_size
        windows = []
        for stage, heads in enumerate(self.heads):
            channels = self.width * 2**stage
            if channels % heads:
                raise ValueError(
                    f"the {channels} channels of stage {stage} are not a multiple of the number of heads, {heads}"
                )
            window = (min(self.window, rows), min(self.window, columns))
            last = stage == len(self.heads) - 1
            if rows % window[0] or columns % window[1] or (not last and (rows % 2 or columns % 2)):
                halved = "" if last else ", nor both be halved"
                raise ValueError(
                    f"the feature map {rows}x{columns} of stage {stage} cannot be divided into windows of "
                    f"{window[0]}x{window[1]}{halved}; choose another window or patch_size, or resize the images"
                )
            windows.append(window)
            rows, columns = rows // 2, columns // 2
        return windows


def swin_t(classes: int, **options: Any) -> Swin:
    """Swin-T, the normalisation of its published checkpoints included: 28,288,354 parameters for 1000 classes.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`Swin`.
    """
    return Swin(classes, **{**IMAGENET, **options})


def swin_b(classes: int, **options: Any) -> Swin:
    """Swin-B, the normalisation of its published checkpoints included: 87,768,224 parameters for 1000 classes.

    Args:
        classes: number of logits.
        **options: other values for attributes of :class:`Swin`.
    """
    preset = {"width": 128, "stage_sizes": (2, 2, 18, 2), "heads": (4, 8, 16, 32), **IMAGENET}
    return Swin(classes, **{**preset, **options})
