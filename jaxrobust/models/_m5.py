"""A convolutional network for audio."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import Conv, Dense, Norm, Normalize, logits_dtype


class M5(nn.Module):
    """M5, a network of four one-dimensional convolutions on raw waveforms (Dai et al., 2017).

    Every convolution is followed by batch norm, ReLU and a max pool over 4 samples; the last feature map is averaged
    over time. The first filters are 80 samples long, 10 ms at the 8 kHz the network was designed for, all others 3.
    559,114 parameters for 10 classes. Waveforms are in [-1, 1], not [0, 1]: attack with ``bounds=(-1.0, 1.0)``.

    Departures from the publication:

    1. The output is logits, not probabilities.
    2. Padding is explicit and symmetric, which keeps the published resolutions of 2000, 500 and 125 samples for an
       input of 32,000; the last pool rounds 125 / 4 down.

    A smaller variant is common in PyTorch; it is ``M5(classes, features=(32, 32, 64, 64), strides=16,
    padding="valid")``. Which of the two the optimizer-robustness study trained is not stated.

    Attributes:
        classes: number of logits.
        features: channels of the convolutions.
        strides: stride of the first convolution.
        padding: ``"same"`` or, without padding, ``"valid"``.
        mean, std: normalisation inside the model, off by default.
        dtype: of the computation; parameters, running statistics and logits are at least float32.
    """

    classes: int
    features: tuple[int, ...] = (128, 128, 256, 512)
    strides: int = 4
    padding: Literal["same", "valid"] = "same"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """Waveforms ``[batch, samples, 1]`` to logits ``[batch, classes]``.

        Raises:
            ValueError: for waveforms of another shape or too short, or an unknown padding.
        """
        if waveforms.ndim != 3:
            raise ValueError(f"M5 takes waveforms [batch, samples, channels], got the shape {waveforms.shape}")
        if self.padding not in ("same", "valid"):
            raise ValueError(f"unknown padding {self.padding!r}; choose same or valid")
        x = Normalize(self.mean, self.std, self.dtype)(waveforms)
        for number, features in enumerate(self.features):
            size, strides = (80, self.strides) if number == 0 else (3, 1)
            padding = (size - strides) // 2 if self.padding == "same" else 0
            x = Conv(features, (size,), strides, padding, dtype=self.dtype, name=f"conv_{number}")(x)
            x = nn.relu(Norm(True, self.dtype, name=f"norm_{number}")(x, train))
            x = nn.max_pool(x, (4,), strides=(4,))
            if x.shape[1] == 0:
                raise ValueError(
                    f"waveforms of {waveforms.shape[1]} samples leave nothing after layer {number + 1} of M5; "
                    "use longer ones or a smaller stride"
                )
        return Dense(self.classes, dtype=logits_dtype(self.dtype), name="head")(x.mean(1))
