"""Published parameters of vision transformers."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax.traverse_util import flatten_dict, unflatten_dict

from ._layers import Dense
from ._vit import ViT

_OUTSIDE_BLOCKS = {
    "encoder/embedding/conv/": "embedding/",
    "encoder/class_token": "cls",
    "encoder/positions": "Transformer/posembed_input/pos_embedding",
    "encoder/norm/layer_norm/": "Transformer/encoder_norm/",
    "head/linear/": "head/",
}
_IN_A_BLOCK = {
    "norm_0/layer_norm/": "LayerNorm_0/",
    "attention/": "MultiHeadDotProductAttention_1/",
    "norm_1/layer_norm/": "LayerNorm_2/",
    "dense_0/linear/": "MlpBlock_3/Dense_0/",
    "dense_1/linear/": "MlpBlock_3/Dense_1/",
}


def load_vit_npz(
    path: str | os.PathLike[str], model: ViT, image_shape: tuple[int, int, int], *, head_key: jax.Array | None = None
) -> dict[str, Any]:
    """Variables of a ViT from a checkpoint of the original JAX implementation (Dosovitskiy et al., 2021).

    The files of the ViT and AugReg (Steiner et al., 2022) publications hold one array per parameter, named like
    ``Transformer/encoderblock_0/LayerNorm_0/scale``. Positions learned for another number of patches are interpolated
    linearly between the old grid's corners, as the original implementation does. The checkpoints expect images in
    [-1, 1]: give the model ``mean`` and ``std`` of 0.5, as :func:`vit_b16` does.

    Args:
        path: an ``.npz`` file.
        model: the network; every array of the file must have its place in it and the reverse.
        image_shape: ``(height, width, channels)`` of the images the network is for.
        head_key: random key of a new head with ``model.classes`` outputs; the file's own head, if it has one, and the
            hidden layer before it (``pre_logits``, in some files) are then ignored. ``None`` takes the file's head.

    Returns:
        ``{"params": ...}`` in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no ``.npz`` file, or its names or shapes do not fit the model.

    Example:
        ``model = vit_b16(classes=10)``, then ``variables = load_vit_npz("ViT-B_16.npz", model, (224, 224, 3),
        head_key=jax.random.key(0))``.
    """
    arrays = _read(path)
    wanted = flatten_dict(
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape), model.dtype))["params"], sep="/"
    )
    params: dict[str, Any] = {}
    if head_key is not None:
        arrays = {name: array for name, array in arrays.items() if not name.startswith(("head/", "pre_logits/"))}
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith("head/")}
        head = Dense(model.classes, model.head_initializer)
        params["head"] = head.init(head_key, jnp.zeros((1, model.width)))["params"]
    names = {name: _published_name(name) for name in wanted}
    missing, unused = set(names.values()) - arrays.keys(), arrays.keys() - set(names.values())
    if missing or unused:
        raise ValueError(
            f"{path} does not fit the model. Not in the file: {_listed(missing)}. Not in the model: {_listed(unused)}. "
            "Compare the number of blocks; another head can be replaced by a new one with head_key"
        )
    positions = names["encoder/positions"]
    grid = (image_shape[0] // model.patch_size, image_shape[1] // model.patch_size)
    arrays[positions] = _resize_positions(arrays[positions], grid)
    wrong = [
        f"{names[name]} is {arrays[names[name]].shape}, the model wants {value.shape}"
        for name, value in wanted.items()
        if arrays[names[name]].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f"{path} does not fit the model: {'; '.join(wrong[:3])}. Compare patch_size, width, heads, mlp_width and "
            "classes; another head can be replaced by a new one with head_key"
        )
    loaded = {name: jnp.asarray(arrays[published], jnp.float32) for name, published in names.items()}
    return {"params": {**unflatten_dict(loaded, sep="/"), **params}}


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file; download the checkpoint again")
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _published_name(name: str) -> str:
    """The checkpoint's name of a parameter of :class:`ViT`."""
    for ours, published in _OUTSIDE_BLOCKS.items():
        if name.startswith(ours):
            return published + name.removeprefix(ours)
    _, block, rest = name.split("/", 2)
    number = block.removeprefix("block_")
    ours = next(start for start in _IN_A_BLOCK if rest.startswith(start))
    return f"Transformer/encoderblock_{number}/{_IN_A_BLOCK[ours]}{rest.removeprefix(ours)}"


def _resize_positions(positions: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Positions ``[1, 1 + side * side, width]`` of a class token and a square grid to another grid."""
    side = math.isqrt(max(positions.shape[1] - 1, 0))
    if positions.ndim != 3 or side * side != positions.shape[1] - 1:
        raise ValueError(f"position embeddings {positions.shape} are not those of a class token and a square grid")
    if grid == (side, side):
        return positions
    old = positions[0, 1:].reshape(side, side, -1)
    new = scipy.ndimage.zoom(old, (grid[0] / side, grid[1] / side, 1), order=1)
    return np.concatenate([positions[:, :1], new.reshape(1, grid[0] * grid[1], -1)], axis=1)


def _listed(names: set[str]) -> str:
    return ", ".join([*sorted(names)[:5], *(["..."] if len(names) > 5 else [])]) or "nothing"
