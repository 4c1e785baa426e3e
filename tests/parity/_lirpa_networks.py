"""The same random network twice: as a function of images for JAX, and as a PyTorch module for auto_LiRPA.

A network is a tuple of layers, described by their kind and size alone. The weights are drawn with NumPy, so that both
sides and all versions of the libraries see the same numbers. The function takes images ``[batch, height, width,
channels]``, the module the same images as ``[batch, channels, height, width]``. Flattening keeps the order of each
side; what is flat in another order on the side of PyTorch is undone in the weights of the dense layer that follows, so
neither network holds a transposition.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer with bias, after ``"flatten"`` or another dense layer."""

    features: int


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with bias: square kernel, the same stride and zero padding at all sides."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class AveragePool:
    """Means over squares that do not overlap; all that auto_LiRPA can propagate."""

    size: int = 2


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Largest values of squares that do not overlap."""

    size: int = 2


@dataclasses.dataclass(frozen=True)
class Residual:
    """``layers(x) + shortcut(x)``; a shortcut without layers is the identity."""

    layers: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()


Layer = Dense | Conv | AveragePool | MaxPool | Residual | str  # "flatten", "relu", "sigmoid", "tanh", "arctan"

_CNN = (Conv(4, 4, 2, 1), "relu", Conv(8, 4, 2, 1), "relu", "flatten", Dense(20), "relu", Dense(5))
_BLOCK = Residual((Conv(4, 3, 1, 1), "relu", Conv(4, 3, 1, 1)))
_DOWN = Residual((Conv(8, 3, 2, 1), "relu", Conv(8, 3, 1, 1)), (Conv(8, 1, 2),))

# Name -> shape of an image, layers. All give five logits.
ARCHITECTURES: dict[str, tuple[tuple[int, int, int], tuple[Layer, ...]]] = {
    "mlp-2": ((6, 6, 1), ("flatten", Dense(30), "relu", Dense(5))),
    "mlp-3": ((6, 6, 1), ("flatten", Dense(30), "relu", Dense(20), "relu", Dense(5))),
    "mlp-4": ((6, 6, 1), ("flatten", Dense(30), "relu", Dense(20), "relu", Dense(20), "relu", Dense(5))),
    "mlp-sigmoid": ((6, 6, 1), ("flatten", Dense(20), "sigmoid", Dense(20), "sigmoid", Dense(5))),
    "mlp-tanh": ((6, 6, 1), ("flatten", Dense(20), "tanh", Dense(20), "tanh", Dense(5))),
    "mlp-arctan": ((6, 6, 1), ("flatten", Dense(20), "arctan", Dense(20), "arctan", Dense(5))),
    "cnn": ((9, 8, 2), _CNN),  # the height leaves a row that the second stride does not reach
    "cnn-unpadded": ((9, 9, 2), (Conv(4, 3, 2), "relu", Conv(6, 2), "relu", "flatten", Dense(5))),
    "cnn-groups": ((8, 8, 2), (Conv(4, 3, 2, 1), "relu", Conv(8, 3, 1, 1, groups=2), "relu", "flatten", Dense(5))),
    "cnn-tanh": ((8, 8, 1), (Conv(4, 4, 2, 1), "tanh", Conv(4, 3, 1, 1), "tanh", "flatten", Dense(5))),
    "average-pool": ((8, 8, 2), (Conv(4, 3, 1, 1), "relu", AveragePool(), Conv(6, 3), "relu", "flatten", Dense(5))),
    "max-pool": ((8, 8, 2), (Conv(4, 3, 1, 1), "relu", MaxPool(), Conv(6, 3), "relu", "flatten", Dense(5))),
    "residual": ((6, 6, 2), (Conv(4, 3, 1, 1), "relu", _BLOCK, "relu", _DOWN, "relu", "flatten", Dense(5))),
}


class Network(NamedTuple):
    """One network for JAX (``[batch, height, width, channels] -> [batch, classes]``) and for PyTorch."""

    logits_fn: Callable[[jax.Array], jax.Array]
    module: torch.nn.Module


def network(
    layers: tuple[Layer, ...], image_shape: tuple[int, int, int], seed: int = 0, *, gain: float = 1.4
) -> Network:
    """The network of ``layers`` for images of ``image_shape`` (height, width, channels).

    Weights are normal with standard deviation ``gain / sqrt(inputs of a unit)``, biases with 0.1.
    """
    function, module, shape, order = _chain(layers, image_shape, None, functools.partial(_draw, seed, gain))
    if len(shape) != 1 or not np.array_equal(order, np.arange(shape[0])):
        raise ValueError("a network ends with a dense layer; add Dense(classes)")
    return Network(function, module.eval())


def architecture(name: str, seed: int = 0) -> Network:
    """The network of ``ARCHITECTURES[name]``."""
    image_shape, layers = ARCHITECTURES[name]
    return network(layers, image_shape, seed)


class _Add(torch.nn.Module):
    def __init__(self, layers: torch.nn.Module, shortcut: torch.nn.Module):
        super().__init__()
        self.layers, self.shortcut = layers, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.shortcut(x)


class _Arctan(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.atan(x)


_ACTIVATIONS = {
    "relu": (jax.nn.relu, torch.nn.ReLU),
    "sigmoid": (jax.nn.sigmoid, torch.nn.Sigmoid),
    "tanh": (jnp.tanh, torch.nn.Tanh),
    "arctan": (jnp.arctan, _Arctan),
}


def _draw(seed, gain, path, shape, fan_in):
    """Weights and biases of the layer at ``path``, the positions of the layer and of the blocks that hold it."""
    rng = np.random.default_rng([seed, *path])
    weights = rng.normal(size=shape) * (gain / np.sqrt(fan_in))
    return weights.astype(np.float32), (0.1 * rng.normal(size=shape[-1])).astype(np.float32)


def _chain(layers, shape, order, draw, path=()):
    """Function, module, shape of the output, and its order if it is flat: entry i of PyTorch is order[i] of JAX."""
    functions, modules = [], []
    for position, layer in enumerate(layers):
        function, module, shape, order = _layer(layer, shape, order, draw, (*path, position))
        functions.append(function)
        modules.append(module)

    def chain(x):
        for function in functions:
            x = function(x)
        return x

    return chain, torch.nn.Sequential(*modules), shape, order


def _layer(layer, shape, order, draw, path):
    if isinstance(layer, str) and layer in _ACTIVATIONS:
        function, module = _ACTIVATIONS[layer]
        return function, module(), shape, order
    if isinstance(layer, Dense):
        if len(shape) != 1:
            raise ValueError(f"a dense layer takes flat inputs, not {shape}; add 'flatten' before it")
        weights, biases = draw(path, (shape[0], layer.features), shape[0])
        linear = torch.nn.Linear(shape[0], layer.features)
        _set(linear, weights[order].T, biases)
        function = functools.partial(_dense, jnp.asarray(weights), jnp.asarray(biases))
        return function, linear, (layer.features,), np.arange(layer.features)
    if len(shape) != 3:
        raise ValueError(f"{layer} takes images, not the flat shape {shape}")
    height, width, channels = shape
    if layer == "flatten":
        order = np.arange(height * width * channels).reshape(shape).transpose(2, 0, 1).ravel()
        return _flatten, torch.nn.Flatten(), (height * width * channels,), order
    if isinstance(layer, Conv):
        kernel_shape = (layer.kernel, layer.kernel, channels // layer.groups, layer.channels)
        weights, biases = draw(path, kernel_shape, int(np.prod(kernel_shape[:3])))
        conv = torch.nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding, groups=layer.groups)
        _set(conv, weights.transpose(3, 2, 0, 1), biases)
        height, width = ((size + 2 * layer.padding - layer.kernel) // layer.stride + 1 for size in (height, width))
        function = functools.partial(_conv, layer, jnp.asarray(weights), jnp.asarray(biases))
        return function, conv, (height, width, layer.channels), None
    if isinstance(layer, AveragePool | MaxPool):
        average = isinstance(layer, AveragePool)
        function = functools.partial(_average_pool if average else _max_pool, layer.size)
        pool = (torch.nn.AvgPool2d if average else torch.nn.MaxPool2d)(layer.size)
        return function, pool, (height // layer.size, width // layer.size, channels), None
    if isinstance(layer, Residual):
        body, body_module, body_shape, _ = _chain(layer.layers, shape, order, draw, (*path, 0))
        shortcut, shortcut_module, shortcut_shape, _ = _chain(layer.shortcut, shape, order, draw, (*path, 1))
        if body_shape != shortcut_shape:
            raise ValueError(f"the branches of {layer} give {body_shape} and {shortcut_shape}; they must be equal")
        return lambda x: body(x) + shortcut(x), _Add(body_module, shortcut_module), body_shape, None
    raise ValueError(f"unknown layer {layer!r}")


def _set(module, weights, biases):
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights)))
        module.bias.copy_(torch.from_numpy(biases))


def _dense(weights, biases, x):
    return x @ weights + biases


def _flatten(x):
    return x.reshape(x.shape[0], -1)


def _conv(layer, weights, biases, x):
    return biases + jax.lax.conv_general_dilated(
        x,
        weights,
        (layer.stride, layer.stride),
        ((layer.padding, layer.padding), (layer.padding, layer.padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=layer.groups,
    )


def _average_pool(size, x):
    window = (1, size, size, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / size**2


def _max_pool(size, x):
    window = (1, size, size, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
