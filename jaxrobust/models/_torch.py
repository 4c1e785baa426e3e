"""Weights of PyTorch modules in our networks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import flax.linen as nn
import numpy as np
from flax.traverse_util import unflatten_dict

from ._cnn import CNN4, CNN6, SmallCNN
from ._convnext import ConvNeXt
from ._m5 import M5
from ._mlp import MLP
from ._preact_resnet import PreActResNet
from ._resnet import ResNet
from ._swin import Swin
from ._torch_names import match_names, torch_name
from ._variables import Shape, differences, expected_shapes, listed, misfit, to_float32
from ._vit import ViT
from ._wide_resnet import WideResNet

Arrays = dict[str, Any]
FlattenOrder = Literal["chw", "hwc"]
_WRAPPERS = ("module.", "model.", "_orig_mod.")  # DataParallel, Lightning and others, torch.compile
_NEVER_APPLIED = "sub_block1."
_NOT_LEARNED = ("num_batches_tracked", "relative_position_index", "attn_mask")
_FUSED = ("query", "key", "value")
_BUFFERS = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}


def from_torch(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    image_shape: Shape,
    *,
    key_map: Mapping[str, str] | None = None,
    prefix: str = "",
    flatten: FlattenOrder = "chw",
) -> dict[str, Any]:
    """Variables of one of our networks from the state dict of a PyTorch module of the same architecture.

    Tensors are found by name. Known are, for every network, our own names with dots (``conv_0.weight``,
    ``norm_0.running_mean``, ``head.bias``) and

    * for ``Linear``, ``MLP``, ``CNN4``, ``SmallCNN``, ``CNN6``, ``CNN8`` and ``M5`` the numbers of an
      ``nn.Sequential`` (``0.weight``, ``2.weight``), taken in order, and names that count from one (``conv1``, ``bn1``,
      ``fc1``);
    * for a ``PreActResNet`` the names of most code for CIFAR (``conv1``, ``layer1.0.bn1``, ``layer2.0.shortcut.0``,
      ``bn``, ``linear``);
    * for a ``ResNet`` those of torchvision and timm (``conv1``, ``layer1.0.bn1``, ``layer2.0.downsample.0``, ``fc``) and
      of most code for CIFAR (``shortcut.0`` and ``linear`` instead of the last two);
    * for a ``WideResNet`` those of TRADES and RobustBench (``conv1``, ``block1.layer.0.bn1``,
      ``block2.layer.0.convShortcut``, ``bn1``, ``fc``) and those of Gowal et al. (``init_conv``,
      ``layer.0.block.0.batchnorm_0``, ``batchnorm``, ``logits``);
    * for a ``ViT`` those of timm (``patch_embed.proj``, ``blocks.0.attn.qkv``, ``head``) and torchvision (``conv_proj``,
      ``encoder.layers.encoder_layer_0.self_attention.in_proj_weight``, ``heads.head``);
    * for a ``Swin`` and a ``ConvNeXt`` those of timm (``layers.0.blocks.0.attn.qkv``, ``stages.0.blocks.0.conv_dw``) and
      torchvision (``features.1.0.attn.qkv``, ``features.1.0.block.0``), for a ``Swin`` also those of the original
      implementation and of old versions of timm (``layers.0.downsample.reduction`` and ``head``).

    Counters of batches and the tables of a ``Swin`` that follow from its sizes (``relative_position_index``,
    ``attn_mask``) are ignored, and so is the ``sub_block1`` of a ``WideResNet``, which the code of TRADES makes but
    never applies. A prefix ``module.`` or ``model.`` of all names is dropped. Buffers of a normalisation (``mean`` or
    ``mu``, ``std`` or ``sigma``) are not loaded, but must equal those of the model.

    Names and shapes do not tell everything; compare logits, or at least the accuracy:

    * activations have no names, and a normalisation outside the module is not in its state dict;
    * a ``PreActResNet`` here has its shortcuts start after the first activation of the block, while some
      implementations with the same names let them start at its input;
    * a ``WideResNet`` needs the default padding with the names of Gowal et al., and ``symmetric_padding=True`` with those
      of TRADES and RobustBench;
    * the transformers of timm and torchvision have ``activation="gelu"``, which a ``ViT`` must be given, and expect images
      normalised with ImageNet's mean and standard deviation, or with 0.5 and 0.5 in the case of some of timm's.

    Args:
        model: the network, with ``batch_norm`` and the sizes that the module has.
        state_dict: arrays by name, see :func:`read_weights`; PyTorch's own tensors will do if they are on the CPU.
        image_shape: ``(height, width, channels)``, for audio ``(samples, channels)``.
        key_map: our names to theirs where none of the namings above holds, of tensors
            (``{"head.weight": "out.w"}``) or of layers (``{"head": "classifier.6"}``); the rest is found as usual. A
            tensor three times as tall as ``query``, ``key`` or ``value`` is taken for all three.
        prefix: place of the network within a larger module, such as ``"1."``; other names are then left out.
        flatten: order of the module's entries where it flattens images or a feature map: ``"chw"``, as
            ``nn.Flatten`` gives, or ``"hwc"``, ours. It matters for the first dense layer of a ``Linear``, ``MLP`` (if
            the images have three axes), ``CNN4`` and ``SmallCNN``.

    Returns:
        ``{"params": ...}`` and, with batch norm, ``"batch_stats"``, in float32.

    Raises:
        ValueError: if a tensor is missing, left over, of another shape, not floating point or not finite, if the
            normalisation is another one, or for a network that is not one of those above.

    Example:
        >>> import jax, numpy as np
        >>> from jaxrobust import models
        >>> model = models.MLP(classes=2, widths=(3,))
        >>> state_dict = {"1.weight": np.ones((3, 4)), "1.bias": np.zeros(3)}
        >>> state_dict |= {"3.weight": np.ones((2, 3)), "3.bias": np.zeros(2)}
        >>> variables = models.from_torch(model, state_dict, (2, 2, 1))
        >>> jax.tree.map(np.shape, variables["params"]["dense_0"]["linear"])
        {'bias': (3,), 'kernel': (4, 3)}
    """
    supported = (MLP, CNN4, SmallCNN, CNN6, M5, ResNet, PreActResNet, WideResNet, ViT, Swin, ConvNeXt)
    if not isinstance(model, supported):
        raise ValueError(
            f"cannot load PyTorch weights into {type(model).__name__}; choose one of Linear, "
            f"{', '.join(kind.__name__ for kind in supported)}"
        )
    if flatten not in ("chw", "hwc"):
        raise ValueError(f"unknown order {flatten!r} to flatten in; choose chw or hwc")
    shapes = expected_shapes(model, image_shape)
    paths = {torch_name(path): path for path in shapes}
    arrays, prefix = _select(state_dict, prefix)
    arrays = _without_normalization(arrays, model, image_shape[-1])
    if isinstance(model, WideResNet):
        arrays = {name: array for name, array in arrays.items() if not name.startswith(_NEVER_APPLIED)}
    names = match_names(
        model, tuple(paths), arrays, {name: theirs.removeprefix(prefix) for name, theirs in (key_map or {}).items()}
    )
    labels = {name: name if name == theirs else f"{theirs} (for {name})" for name, theirs in names.items()}
    wanted = {name: _torch_shape(path, shapes[path]) for name, path in paths.items()}
    found = {name: _part(name, arrays[names[name]], shape) for name, shape in wanted.items() if names[name] in arrays}
    missing, unused = wanted.keys() - found.keys(), arrays.keys() - set(names.values())
    wrong = differences(
        {labels[name]: array.shape for name, array in found.items()}, {labels[name]: wanted[name] for name in found}
    )
    problems = misfit([labels[name] for name in missing], unused, wrong)
    if problems:
        raise ValueError(
            f"the state dict does not fit this {type(model).__name__} for images {image_shape}. {problems}. "
            f"{_advice(model, arrays, missing)}"
        )
    if flatten == "chw":
        found |= _flattened_by_channel(model, found, image_shape)
    variables = {
        path: to_float32(path, _to_flax(path, found[name], shapes[path]), labels[name]) for name, path in paths.items()
    }
    return unflatten_dict(variables, sep="/")


def _select(state_dict: Mapping[str, Any], prefix: str) -> tuple[Arrays, str]:
    """The network's tensors by their names without prefix, and the prefix."""
    names = [name for name in state_dict if not name.endswith(_NOT_LEARNED)]
    if not names:
        raise ValueError("the state dict is empty; give the arrays of a module by name, as read_weights returns them")
    if prefix:
        prefix = prefix.rstrip(".") + "."
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no name starts with the prefix {prefix!r}; the names are {listed(names)}")
    else:
        while outer := [start for start in _WRAPPERS if all(name.startswith(prefix + start) for name in names)]:
            prefix += outer[0]
    selected = [name for name in names if name.startswith(prefix)]
    return {name.removeprefix(prefix): np.asarray(state_dict[name]) for name in selected}, prefix


def _without_normalization(arrays: Arrays, model: nn.Module, channels: int) -> Arrays:
    """The tensors without the buffers of a normalisation, which must be the model's own."""
    kept = {}
    for name, array in arrays.items():
        attribute = _BUFFERS.get(name.rpartition(".")[2])
        if attribute is None:
            kept[name] = array
            continue
        ours = getattr(model, attribute)
        values = {"mean": 0.0, "std": 1.0}[attribute] if ours is None else ours
        if array.size not in (1, channels) or not np.allclose(array.ravel(), values, rtol=0, atol=1e-4):
            theirs = tuple(round(value, 6) for value in array.ravel()[:4].tolist())
            raise ValueError(
                f"the module normalises with {name} = {theirs}, the network with {attribute}={ours}; make the network "
                f"with this {attribute}, or leave {name} out of the state dict if it is something else"
            )
    return kept


def _part(name: str, array: np.ndarray, wanted: Shape) -> np.ndarray:
    """The third of a fused tensor that is the query, the key or the value; any other tensor itself.

    torchvision's layer scale loses the axes for height and width.
    """
    *_, layer, leaf = name.split(".")
    if leaf == "layer_scale" and array.shape == (*wanted, 1, 1):
        return array.reshape(wanted)
    if layer in _FUSED and array.ndim and array.shape[0] == 3 * wanted[0]:
        return np.split(array, 3)[_FUSED.index(layer)]
    return array


def _torch_shape(path: str, shape: Shape) -> Shape:
    """Shape in PyTorch of what has ``shape`` in Flax."""
    *_, module, layer, leaf = path.split("/")
    if module == "attention":  # Flax has an axis for the heads
        if layer == "out":
            shape = shape if leaf == "bias" else (math.prod(shape[:-1]), shape[-1])
        else:
            shape = (math.prod(shape),) if leaf == "bias" else (shape[0], math.prod(shape[1:]))
    return (shape[-1], shape[-2], *shape[:-2]) if leaf == "kernel" else shape


def _to_flax(path: str, array: np.ndarray, shape: Shape) -> np.ndarray:
    """PyTorch's ``[out, in, ...]`` to ``[..., in, out]``, with the heads apart."""
    return (np.moveaxis(array, (0, 1), (-1, -2)) if path.endswith("/kernel") else array).reshape(shape)


def _flattened_by_channel(model: nn.Module, found: Arrays, image_shape: Shape) -> Arrays:
    """The weight of the dense layer after flattening, from (channel, height, width) to (height, width, channel)."""
    if isinstance(model, MLP) and len(image_shape) == 3:
        channels = image_shape[-1]
    elif isinstance(model, (CNN4, SmallCNN)):
        last = max(int(name.split(".")[0].removeprefix("conv_")) for name in found if name.startswith("conv_"))
        channels = len(found[f"conv_{last}.weight"])
    else:
        return {}
    name = "dense_0.weight" if "dense_0.weight" in found else "head.weight"
    weight = found[name]
    return {name: weight.reshape(len(weight), channels, -1).swapaxes(1, 2).reshape(weight.shape)}


def _advice(model: nn.Module, given: Collection[str], missing: Collection[str]) -> str:
    """How the misfit is mended."""
    batch_norm = any(name.endswith("running_var") for name in given)
    if getattr(model, "batch_norm", batch_norm) != batch_norm:
        has = "has" if batch_norm else "has no"
        return f"The module {has} batch norm: make the network with batch_norm={batch_norm}"
    if isinstance(model, ResNet) and missing and all(name.endswith(".bias") for name in missing):
        return (
            "Without batch norm every convolution of this network has a bias; where the module has none, add zeros to the "
            "state dict"
        )
    if isinstance(model, PreActResNet):
        if model.final_norm and missing and all(name.startswith("norm.") for name in missing):
            return "The module has no norm before the last layer: make the network with final_norm=False"
        if not model.final_norm and not missing and any(name.startswith(("bn.", "norm.")) for name in given):
            return "The module has a norm before the last layer: make the network with final_norm=True"
        if not missing:
            return (
                "The module has layers that this network lacks; a norm in the shortcuts (shortcut.1) makes another "
                "network of it, whose weights cannot be used here"
            )
    return (
        "Compare the sizes and options of the network with the module's. Other names can be given by key_map or "
        "prefix; what is no part of the network must be left out of the state dict"
    )
