"""The networks that the reference AutoAttack judged, as functions, and its verdicts.

The folder holds ``NAME.npz`` with images, labels and weights under PyTorch's names, and ``ref_NAME_NORM.npz`` with the
verdicts. It is found beside the repository, or where JAXROBUST_REFERENCE_DIR says.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = Path(
    os.environ.get("JAXROBUST_REFERENCE_DIR")
    or Path(__file__).resolve().parents[1].parent / "shared" / "reference" / "autoattack"
)
CASES = (
    ("mlp_plain", "Linf"),
    ("mlp_plain", "L2"),
    ("mlp_plain", "L1"),
    ("mlp_scaled", "Linf"),
    ("cnn_pgd", "Linf"),
    ("cnn_pgd", "L2"),
    ("cnn_pgd", "L1"),
)


class Network(NamedTuple):
    """A trained network with the images it was judged on."""

    logits_fn: Callable[[jax.Array], jax.Array]
    weights: dict[str, jax.Array]
    images: np.ndarray
    labels: np.ndarray


def mlp(weights: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    x = images.reshape(images.shape[0], -1)
    for layer in ("1", "3"):
        x = jax.nn.relu(x @ weights[f"{layer}.weight"] + weights[f"{layer}.bias"])
    return x @ weights["5.weight"] + weights["5.bias"]


def cnn(weights: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    x = images
    for layer in ("0", "2"):
        x = jax.lax.conv_general_dilated(
            x, weights[f"{layer}.weight"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + weights[f"{layer}.bias"])
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # PyTorch flattens channels first
    x = jax.nn.relu(x @ weights["5.weight"] + weights["5.bias"])
    return x @ weights["7.weight"] + weights["7.bias"]


def load(name: str) -> Network:
    """A network of the folder; its weights are the arrays that ``functools.partial`` binds."""
    with np.load(FOLDER / f"{name}.npz") as archive:
        arrays = dict(archive)
    images, labels = arrays.pop("images"), arrays.pop("labels").astype(np.int32)
    # [out, in, ...] becomes [..., in, out].
    weights = {
        key: jnp.asarray(np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array)
        for key, array in arrays.items()
    }
    return Network(functools.partial(cnn if name.startswith("cnn") else mlp, weights), weights, images, labels)


def verdicts(name: str, norm: str) -> dict[str, np.ndarray]:
    """What the reference found."""
    with np.load(FOLDER / f"ref_{name}_{norm}.npz") as archive:
        return dict(archive)
