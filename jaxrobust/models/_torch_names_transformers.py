"""What PyTorch implementations call the tensors of vision transformers and of ConvNeXt."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import flax.linen as nn

from ._swin import Swin
from ._vit import ViT


class Naming(NamedTuple):
    """How an implementation names layers.

    Attributes:
        layers: the outermost part of our names, its numbers replaced by ``#``, to theirs. ``stage`` and ``block`` are the
            numbers; ``before``, ``even`` and ``odd`` are ``stage - 1``, ``2 stage`` and ``2 stage + 1``.
        parts: what is within a block.
    """

    layers: Mapping[str, str]
    parts: Mapping[str, str]


_TIMM_BLOCK = {
    "norm_0": "norm1",
    "attention": "attn",
    "query": "qkv",  # query, key and value are three parts of one tensor
    "key": "qkv",
    "value": "qkv",
    "out": "proj",
    "relative_positions": "relative_position_bias_table",
    "norm_1": "norm2",
    "dense_0": "mlp.fc1",
    "dense_1": "mlp.fc2",
}
_TORCHVISION_VIT_LAYERS = {
    "embedding": "conv_proj",
    "positions": "encoder.pos_embedding",
    "block_#": "encoder.layers.encoder_layer_{block}",
    "norm": "encoder.ln",
    "head": "heads.head",
}
_TORCHVISION_VIT_BLOCK = {
    "norm_0": "ln_1",
    "attention": "self_attention",
    "query": "in_proj",
    "key": "in_proj",
    "value": "in_proj",
    "out": "out_proj",
    "norm_1": "ln_2",
}
_VIT = (
    Naming(
        {
            "embedding": "patch_embed.proj",
            "class_token": "cls_token",
            "positions": "pos_embed",
            "block_#": "blocks.{block}",
        },
        _TIMM_BLOCK,
    ),
    Naming(_TORCHVISION_VIT_LAYERS, {**_TORCHVISION_VIT_BLOCK, "dense_0": "mlp.0", "dense_1": "mlp.3"}),
    # In the files that torchvision publishes.
    Naming(_TORCHVISION_VIT_LAYERS, {**_TORCHVISION_VIT_BLOCK, "dense_0": "mlp.linear_1", "dense_1": "mlp.linear_2"}),
)
_TIMM_SWIN_LAYERS = {
    "embedding": "patch_embed.proj",
    "embedding_norm": "patch_embed.norm",
    "stage_#_block_#": "layers.{stage}.blocks.{block}",
    "stage_#_norm": "layers.{stage}.downsample.norm",
    "stage_#_reduction": "layers.{stage}.downsample.reduction",
    "head": "head.fc",
}
_SWIN = (
    Naming(_TIMM_SWIN_LAYERS, _TIMM_BLOCK),
    # The original implementation and old versions of timm count the merging of patches to the stage before it.
    Naming(
        {
            **_TIMM_SWIN_LAYERS,
            "stage_#_norm": "layers.{before}.downsample.norm",
            "stage_#_reduction": "layers.{before}.downsample.reduction",
            "head": "head",
        },
        _TIMM_BLOCK,
    ),
    Naming(
        {
            "embedding": "features.0.0",
            "embedding_norm": "features.0.2",
            "stage_#_block_#": "features.{odd}.{block}",
            "stage_#_norm": "features.{even}.norm",
            "stage_#_reduction": "features.{even}.reduction",
        },
        {**_TIMM_BLOCK, "dense_0": "mlp.0", "dense_1": "mlp.3"},
    ),
)
_CONVNEXT = (
    Naming(
        {
            "stem": "stem.0",
            "stem_norm": "stem.1",
            "stage_#_block_#": "stages.{stage}.blocks.{block}",
            "stage_#_norm": "stages.{stage}.downsample.0",
            "stage_#_conv": "stages.{stage}.downsample.1",
            "norm": "head.norm",
            "head": "head.fc",
        },
        {"depthwise": "conv_dw", "dense_0": "mlp.fc1", "dense_1": "mlp.fc2", "layer_scale": "gamma"},
    ),
    Naming(
        {
            "stem": "features.0.0",
            "stem_norm": "features.0.1",
            "stage_#_block_#": "features.{odd}.{block}",
            "stage_#_norm": "features.{even}.0",
            "stage_#_conv": "features.{even}.1",
            "norm": "classifier.0",
            "head": "classifier.2",
        },
        {"depthwise": "block.0", "norm": "block.2", "dense_0": "block.3", "dense_1": "block.5"},
    ),
)


def transformer_namings(model: nn.Module, own: Collection[str]) -> list[dict[str, str]]:
    """Our name of each tensor of a ``ViT``, ``Swin`` or ``ConvNeXt`` to theirs, for each known implementation."""
    namings = _VIT if isinstance(model, ViT) else _SWIN if isinstance(model, Swin) else _CONVNEXT
    return [{name: _renamed(name, naming) for name in own} for naming in namings]


def _renamed(name: str, naming: Naming) -> str:
    layer, *parts = name.removeprefix("encoder.").split(".")
    numbers = [int(number) for number in re.findall(r"\d+", layer)] or [0]
    stage, block = numbers[0], numbers[-1]
    numbered = {"stage": stage, "before": stage - 1, "even": 2 * stage, "odd": 2 * stage + 1, "block": block}
    layer = naming.layers.get(re.sub(r"\d+", "#", layer), layer).format(**numbered)
    # The fused tensors of torch.nn.MultiheadAttention belong to no layer: "in_proj_weight".
    return ".".join([layer, *(naming.parts.get(part, part) for part in parts)]).replace("in_proj.", "in_proj_")
