"""Weights in files."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrobust.files import write_atomically

from ._torch import FlattenOrder, from_torch
from ._variables import Shape, check_variables, listed, to_float32
from ._vit import ViT
from ._vit_checkpoint import load_vit_npz

_NESTED = ("state_dict", "model_state_dict", "model", "net")


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays by name from a file of weights; nothing in the file is executed.

    Args:
        path: ``.safetensors``; ``.npz`` without pickled objects; or ``.pt``, ``.pth`` or ``.bin`` by ``torch.save``,
            which takes PyTorch. Of a dictionary with the key ``state_dict``, ``model_state_dict``, ``model`` or
            ``net`` the weights under this key are read.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: for a file of ``torch.save`` without PyTorch, with what to do.
        ValueError: if the file is of another kind, damaged, or holds more than arrays.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz} | dict.fromkeys(
        (".pt", ".pth", ".bin"), _read_torch
    )
    if path.suffix not in readers:
        raise ValueError(
            f"{path} is no file of weights that can be read; the names of those end in {', '.join(readers)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights {path}")
    return readers[path.suffix](path)


def write_weights(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Write a network's variables as safetensors, to be read by :func:`load_variables`.

    The arrays are called by their place, such as ``params/conv_0/conv/kernel``. An existing file is replaced when the
    new one is whole.

    Args:
        path: a name that ends in ``.safetensors``; missing folders are made.
        variables: ``{"params": ...}`` and the network's other collections.

    Raises:
        ValueError: for another ending, or without ``"params"``.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> from jaxrobust import models
        >>> model = models.Linear(classes=3)
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     models.write_weights(f"{folder}/linear.safetensors", variables)
        ...     loaded = models.load_variables(f"{folder}/linear.safetensors", model, (2, 2, 1))
        >>> jax.tree.all(jax.tree.map(lambda ours, read: bool((ours == read).all()), variables, loaded))
        True
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written as safetensors; let the name of {path} end in .safetensors")
    if "params" not in variables:
        raise ValueError(f'variables must have "params", got {listed(variables)}; give {{"params": params}}')
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: safetensors.numpy.save_file(arrays, temporary))


def load_variables(
    path: str | os.PathLike[str],
    model: nn.Module,
    image_shape: Shape,
    *,
    key_map: Mapping[str, str] | None = None,
    prefix: str = "",
    flatten: FlattenOrder = "chw",
) -> dict[str, Any]:
    """Variables of a network from a file of weights of any kind that the library knows.

    The names in the file decide: those of :func:`write_weights`, those of the original JAX vision transformers
    (:func:`load_vit_npz`), or else PyTorch's (:func:`from_torch`).

    Args:
        path: see :func:`read_weights`.
        model: the network.
        image_shape: ``(height, width, channels)``, for audio ``(samples, channels)``.
        key_map, prefix, flatten: for PyTorch's names, see :func:`from_torch`.

    Returns:
        ``{"params": ...}`` and the network's other collections, in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: for a file of ``torch.save`` without PyTorch.
        ValueError: if the file cannot be read or its weights are not those of the network.
    """
    arrays = read_weights(path)
    if isinstance(model, ViT) and any(name.startswith("Transformer/") for name in arrays):
        return load_vit_npz(path, model, image_shape)  # type: ignore[arg-type]
    try:
        if any(name.startswith("params/") for name in arrays):
            check_variables(model, unflatten_dict(arrays, sep="/"), image_shape)
            return unflatten_dict({name: to_float32(name, array) for name, array in arrays.items()}, sep="/")
        return from_torch(model, arrays, image_shape, key_map=key_map, prefix=prefix, flatten=flatten)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); download or write it again") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file; download or write it again")
    with np.load(path, allow_pickle=False) as archive:
        try:
            return dict(archive)
        except ValueError as error:
            raise ValueError(
                f"{path} holds other objects than arrays of numbers, which are not read ({error})"
            ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} takes PyTorch: pip install torch; or, where PyTorch is installed, write the weights as "
            "safetensors: safetensors.torch.save_file(module.state_dict(), 'weights.safetensors')"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} holds more than tensors, so that it could only be read by running code from it, or it is damaged. "
            "Where it was made, save the tensors alone: torch.save(module.state_dict(), path)"
        ) from error
    while isinstance(content, Mapping) and (keys := [key for key in _NESTED if isinstance(content.get(key), Mapping)]):
        content = content[keys[0]]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict; save module.state_dict()")
    other = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise ValueError(
            f"{path} has entries that are no tensors: {listed(other)}; save module.state_dict() alone or under the "
            f"key {_NESTED[0]!r}"
        )
    # NumPy does not know PyTorch's bfloat16.
    return {
        name: (value.detach().float() if value.is_floating_point() else value.detach()).numpy()
        for name, value in content.items()
    }
