"""What PyTorch implementations call the tensors of our networks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import flax.linen as nn

from ._convnext import ConvNeXt
from ._preact_resnet import PreActResNet
from ._resnet import ResNet
from ._swin import Swin
from ._torch_names_resnet import RESNET, RESNET_OF_CIFAR
from ._torch_names_transformers import transformer_namings
from ._variables import listed
from ._vit import ViT
from ._wide_resnet import WideResNet

Names = dict[str, str]
"""Our name of each tensor, such as ``"conv_0.weight"``, to theirs."""

_WRAPPED = ("conv", "linear", "batch_norm", "layer_norm")  # the Flax layers inside our own
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_COUNTED = {"conv": "conv", "norm": "bn", "dense": "fc"}
_ORDER = {"conv": 0, "norm": 0, "dense": 1, "head": 2}

_PREACT_RESNET = {
    "stem": "conv1",
    "norm_0": "bn1",
    "conv_0": "conv1",
    "norm_1": "bn2",
    "conv_1": "conv2",
    "shortcut": "shortcut.0",
    "norm": "bn",
    "head": "linear",
}
_WIDE_RESNET = {
    "stem": "conv1",
    "norm_0": "bn1",
    "conv_0": "conv1",
    "norm_1": "bn2",
    "conv_1": "conv2",
    "shortcut": "convShortcut",
    "norm": "bn1",
    "head": "fc",
}
_WIDE_RESNET_OF_GOWAL = {
    "stem": "init_conv",
    "norm_0": "batchnorm_0",
    "norm_1": "batchnorm_1",
    "norm": "batchnorm",
    "head": "logits",
}


def torch_name(path: str) -> str:
    """Our own name in PyTorch's terms: ``"params/conv_0/conv/kernel"`` is ``"conv_0.weight"``."""
    _, *modules, leaf = path.split("/")
    if modules[-1] in _WRAPPED:
        modules = modules[:-1]
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def match_names(
    model: nn.Module, own: Collection[str], given: Collection[str], key_map: Mapping[str, str] | None
) -> Names:
    """The naming that leaves the fewest tensors over, ``key_map`` before all of them.

    Raises:
        ValueError: if ``key_map`` has keys that are neither tensors nor layers of the network.
    """
    key_map = {} if key_map is None else key_map
    unknown = set(key_map) - set(own) - {_layer(name) for name in own}
    if unknown:
        raise ValueError(
            f"key_map has the keys {listed(unknown)}, which the network does not have; its tensors are {listed(own)}. "
            "The keys are our names, of tensors or of layers; the values are the names in the state dict"
        )

    def mapped(name: str, customary: str) -> str:
        if name in key_map:
            return key_map[name]
        if _layer(name) in key_map:
            return f"{key_map[_layer(name)]}.{name.rpartition('.')[2]}"
        return customary

    namings = [{name: mapped(name, naming[name]) for name in own} for naming in _namings(model, own, given)]
    return min(namings, key=lambda names: len(set(names.values()) ^ set(given)))


def _namings(model: nn.Module, own: Collection[str], given: Collection[str]) -> list[Names]:
    """Our own names first, then what is customary for the network."""
    namings = [{name: name for name in own}]
    if isinstance(model, PreActResNet):
        namings.append({name: _residual(name, "layer{stage}.{block}", 1, _PREACT_RESNET) for name in own})
    elif isinstance(model, ResNet):
        namings.append({name: _residual(name, "layer{stage}.{block}", 1, RESNET) for name in own})
        namings.append({name: _residual(name, "layer{stage}.{block}", 1, RESNET_OF_CIFAR) for name in own})
    elif isinstance(model, WideResNet):
        namings.append({name: _residual(name, "block{stage}.layer.{block}", 1, _WIDE_RESNET) for name in own})
        namings.append({name: _residual(name, "layer.{stage}.block.{block}", 0, _WIDE_RESNET_OF_GOWAL) for name in own})
    elif isinstance(model, (ViT, Swin, ConvNeXt)):
        namings.extend(transformer_namings(model, own))
    else:
        layers = sorted({_layer(name) for name in own}, key=_application_order)
        if layers == ["head"]:  # an nn.Linear itself
            namings.append({name: name.removeprefix("head.") for name in own})
        hidden = sum(layer.startswith("dense") for layer in layers)
        namings.append(_by_layer(own, {layer: _counted(layer, hidden) for layer in layers}))
        numbered = {_layer(name) for name in given if re.fullmatch(r"(\d+\.)+\w+", name)}
        in_order = sorted(numbered, key=lambda layer: [int(number) for number in layer.split(".")])
        namings.append(_by_layer(own, dict(zip(layers, in_order, strict=False))))
    return namings


def _residual(name: str, place: str, first: int, parts: Mapping[str, str]) -> str:
    """A name within a residual network: that of its block, whose stages are counted from ``first``, and its parts'."""

    def placed(found: re.Match[str]) -> str:
        return place.format(stage=int(found[1]) + first, block=found[2])

    return ".".join(
        re.sub(r"stage_(\d+)_block_(\d+)", placed, part) if part.startswith("stage_") else parts.get(part, part)
        for part in name.split(".")
    )


def _counted(layer: str, hidden: int) -> str:
    """As in hand-written modules, counted from one: ``conv1``, ``bn1``, ``fc1``; the last layer is the last ``fc``."""
    if layer == "head":
        return f"fc{hidden + 1}"
    kind, number = layer.split("_")
    return f"{_COUNTED[kind]}{int(number) + 1}"


def _application_order(layer: str) -> tuple[int, int, str]:
    kind, _, number = layer.partition("_")
    return _ORDER[kind], int(number or 0), kind


def _by_layer(own: Collection[str], layers: Mapping[str, str]) -> Names:
    """Layers renamed, one that has no counterpart keeps its name; so do ``weight``, ``bias`` and so on."""
    return {name: f"{layers.get(_layer(name), _layer(name))}.{name.rpartition('.')[2]}" for name in own}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
