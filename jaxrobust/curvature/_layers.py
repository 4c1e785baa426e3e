"""Descriptions of layers, as far as a Lipschitz constant needs them: pure data, independent of any framework.

A network is a sequence of these in the order of computation. Biases and shifts play no role and are left out,
and so may be everything with constant 1: ReLU, leaky ReLU, tanh, flattening. All are pytrees whose leaves are
the parameters, so a description can be passed to compiled functions and differentiated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import jax
from jax.typing import ArrayLike

from jaxrobust.pytree import register_pytree_dataclass

Pair: TypeAlias = tuple[int, int]

ACTIVATION_CONSTANTS = MappingProxyType(
    {
        "relu": 1.0,
        "leaky_relu": 1.0,
        "elu": 1.0,
        "softplus": 1.0,
        "tanh": 1.0,
        "sigmoid": 0.25,
        # Phi(x) + x phi(x) is largest at x = sqrt(2).
        "gelu": 0.5 * (1.0 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi),
        # The approximation by tanh, which is what jax.nn.gelu computes by default; rounded up.
        "gelu_tanh": 1.12900,
        # (x + 2) / 4 at the root of x tanh(x / 2) = 2; rounded up.
        "silu": 1.09984,
    }
)
"""Largest absolute slope of common activation functions, for :class:`Elementwise`."""


@register_pytree_dataclass
@dataclass(frozen=True, eq=False)
class Dense:
    """A fully connected layer.

    Attributes:
        kernel: ``[inputs, outputs]``, as Flax stores it.
    """

    kernel: jax.Array


@dataclass(frozen=True, eq=False)
class Conv:
    """A two-dimensional convolution with zero padding, without groups or dilation.

    Attributes:
        kernel: ``[height, width, input channels, output channels]``.
        input_shape: height and width of the images that enter this layer; the 2-norm depends on it.
        strides: vertical and horizontal stride.
        padding: number of zeros added, ``((top, bottom), (left, right))``.
    """

    kernel: jax.Array
    input_shape: Pair
    strides: Pair
    padding: tuple[Pair, Pair]


register_pytree_dataclass(Conv, static=["input_shape", "strides", "padding"])


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Maximum over windows; its constants do not depend on the padding.

    Attributes:
        window: height and width of the window.
        strides: vertical and horizontal stride.
        padding: ``((top, bottom), (left, right))``.
    """

    window: Pair
    strides: Pair
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))


register_pytree_dataclass(MaxPool, static=["window", "strides", "padding"])


@dataclass(frozen=True, eq=False)
class AveragePool:
    """Sum over windows divided by the size of the window, also where the window covers padding.

    That is the default of Flax and PyTorch (``count_include_pad=True``); then the constants do not depend on
    the padding. Global average pooling is a window of the size of its input.

    Attributes:
        window: height and width of the window.
        strides: vertical and horizontal stride.
        padding: ``((top, bottom), (left, right))``.
    """

    window: Pair
    strides: Pair
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))


register_pytree_dataclass(AveragePool, static=["window", "strides", "padding"])


@register_pytree_dataclass
@dataclass(frozen=True, eq=False)
class Scale:
    """Multiplication of every channel by a number; normalisation of the input is ``Scale(1 / std)``.

    Attributes:
        scale: ``[channels]`` or a scalar.
    """

    scale: ArrayLike


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Batch normalisation in evaluation, with its running statistics.

    Attributes:
        scale: ``[channels]``, the learned factor, or 1 where the layer has none.
        variance: ``[channels]``, the running variance.
        epsilon: the number added to the variance.
    """

    scale: ArrayLike
    variance: jax.Array
    epsilon: float = 1e-5


register_pytree_dataclass(BatchNorm, static=["epsilon"])


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A function applied to every entry (activation), or any other map with the same constant for every norm.

    Attributes:
        constant: its Lipschitz constant; see :data:`ACTIVATION_CONSTANTS`.
    """

    constant: float = 1.0


register_pytree_dataclass(Elementwise, static=["constant"])


@register_pytree_dataclass
@dataclass(frozen=True, eq=False)
class Residual:
    """The sum of two sequences of layers applied to the same input, ``shortcut(x) + branch(x)``.

    Attributes:
        shortcut: layers of the shortcut; ``()`` is the identity.
        branch: layers of the residual branch.
    """

    shortcut: tuple[Layer, ...]
    branch: tuple[Layer, ...]


Layer: TypeAlias = Dense | Conv | MaxPool | AveragePool | Scale | BatchNorm | Elementwise | Residual
