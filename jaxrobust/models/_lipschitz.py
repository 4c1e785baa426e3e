"""Describe a trained network as the layers whose norms bound its Lipschitz constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import curvature

from ._cnn import CNN4, SmallCNN
from ._layers import BATCH_NORM_EPSILON
from ._mlp import MLP
from ._preact_resnet import PreActResNet

Layers = tuple[curvature.Layer, ...]
Pair = tuple[int, int]


class _Describer:
    """Follows the activations' spatial size while it lists layers."""

    def __init__(self, model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> None:
        self._params, self._stats = variables["params"], variables.get("batch_stats", {})
        self._batch_norm = getattr(model, "batch_norm", False)
        name = getattr(model, "activation", "relu").partition(":")[0]  # a softplus has slope 1 whatever its sharpness
        if name not in curvature.ACTIVATION_CONSTANTS:
            raise ValueError(
                f"no Lipschitz constant is known for the activation {name!r}: it depends on what was learned"
            )
        constant = curvature.ACTIVATION_CONSTANTS[name]
        # Layers with constant 1 are left out.
        self.activation: Layers = () if constant == 1 else (curvature.Elementwise(constant),)
        # Dense networks take inputs of any shape and do not look at the size.
        self.size: Pair = (image_shape[0], image_shape[1]) if len(image_shape) == 3 else (1, 1)

    def dense(self, name: str) -> Layers:
        return (curvature.Dense(self._params[name]["linear"]["kernel"]),)

    def conv(self, *path: str, strides: int = 1, padding: int = 1, advance: bool = True) -> Layers:
        kernel = _at(self._params, path)["conv"]["kernel"]
        pads = ((padding, padding), (padding, padding))
        layer = curvature.Conv(kernel, input_shape=self.size, strides=(strides, strides), padding=pads)
        if advance:
            rows, columns = self.size
            height, width = kernel.shape[:2]
            self.size = ((rows + 2 * padding - height) // strides + 1, (columns + 2 * padding - width) // strides + 1)
        return (layer,)

    def norm(self, *path: str) -> Layers:
        if not self._batch_norm:
            return ()
        scale = _at(self._params, path)["batch_norm"]["scale"]
        variance = _at(self._stats, path)["batch_norm"]["var"]
        return (curvature.BatchNorm(scale, variance, epsilon=BATCH_NORM_EPSILON),)


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def lipschitz_layers(model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> Layers:
    """The layers of a network in evaluation mode, for :func:`jaxrobust.curvature.lipschitz_upper_bound`.

    ReLU, flattening and biases do not change the bound and are left out.

    Args:
        model: ``Linear``, ``MLP``, ``CNN4``, ``SmallCNN`` or a ``PreActResNet``.
        variables: its parameters and, with batch norm, its running statistics.
        image_shape: ``(height, width, channels)``.

    Raises:
        ValueError: for any other network, or variables that are not those of this network for these images.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import curvature
        >>> model = MLP(classes=3, widths=(4,))
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
        >>> layers = lipschitz_layers(model, variables, (2, 2, 1))
        >>> len(layers), bool(curvature.lipschitz_upper_bound(layers) > 0)
        (2, True)
    """
    if not isinstance(model, (MLP, CNN4, SmallCNN, PreActResNet)):
        supported = "Linear, MLP, CNN4, SmallCNN, PreActResNet"
        raise ValueError(f"no layer-wise Lipschitz bound for {type(model).__name__}; there is one for {supported}")
    wanted = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape), model.dtype))
    if _shapes(dict(wanted)) != _shapes({name: variables.get(name, {}) for name in wanted}):
        raise ValueError(
            f"the variables are not those of this {type(model).__name__} for images {image_shape}; give one network's "
            "variables, without a population axis but with running statistics, and (height, width, channels)"
        )
    describe = _Describer(model, variables, image_shape)
    layers: Layers = ()
    if model.std is not None:
        layers += (curvature.Scale(1 / jnp.asarray(model.std, jnp.float32)),)
    if isinstance(model, MLP):
        for number in range(len(model.widths)):
            layers += describe.dense(f"dense_{number}") + describe.activation
        return layers + describe.dense("head")
    if isinstance(model, (CNN4, SmallCNN)):
        strides, count = (1, 2) if isinstance(model, CNN4) else (2, len(model.features))
        for number in range(count):
            layers += describe.conv(f"conv_{number}", strides=strides) + describe.norm(f"norm_{number}")
            layers += describe.activation
        if isinstance(model, CNN4):
            layers += describe.dense("dense_0") + (describe.activation if model.dense_relu else ())
        return layers + describe.dense("head")
    return layers + _preact_resnet(model, describe)


def _preact_resnet(model: PreActResNet, describe: _Describer) -> Layers:
    layers: Layers
    if model.stem == "large":
        layers = describe.conv("stem", strides=2, padding=3)
        layers += (curvature.MaxPool(window=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))),)
        describe.size = (-(-describe.size[0] // 2), -(-describe.size[1] // 2))
    else:
        layers = describe.conv("stem")
    for stage, blocks in enumerate(model.stage_sizes):
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            name = f"stage_{stage}_block_{block}"
            first = describe.norm(name, "norm_0") + describe.activation
            shortcut: Layers = ()
            if strides != 1:
                shortcut = describe.conv(name, "shortcut", strides=strides, padding=0, advance=False)
            branch = describe.conv(name, "conv_0", strides=strides) + describe.norm(name, "norm_1")
            branch += describe.activation + describe.conv(name, "conv_1")
            if shortcut:  # it starts after the norm and the activation, too
                layers += (*first, curvature.Residual(shortcut=shortcut, branch=branch))
            else:
                layers += (curvature.Residual(shortcut=(), branch=first + branch),)
    if model.final_norm:
        layers += describe.norm("norm") + describe.activation
    layers += (curvature.AveragePool(window=describe.size, strides=describe.size),)
    return layers + describe.dense("head")
