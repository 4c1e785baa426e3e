"""Run a function over a data set in batches of one shape, on all devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust.attacks import LogitsFn
from jaxrobust.data import to_float
from jaxrobust.iteration import Closure
from jaxrobust.random import typed_key


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the single axis ``data`` over the given devices, all of them by default."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("data",))


def check_images(images: np.ndarray, bounds: tuple[float, float] | None = (0.0, 1.0)) -> None:
    """Check on the host that the pixels are finite and in range; 8-bit images always are.

    Raises:
        ValueError: saying what range was found and what to do.
    """
    if np.issubdtype(images.dtype, np.integer):
        if images.dtype != np.uint8:
            raise ValueError(f"integer images must be uint8, got {images.dtype}")
        return
    low, high = float(np.min(images, initial=np.inf)), float(np.max(images, initial=-np.inf))
    if not (np.isfinite(low) and np.isfinite(high)) and images.size:
        raise ValueError("the images hold NaN or infinite pixels")
    if bounds is not None and images.size and not (bounds[0] <= low and high <= bounds[1]):
        raise ValueError(
            f"pixels must lie in [{bounds[0]:g}, {bounds[1]:g}], found [{low:.4g}, {high:.4g}]: divide 8-bit images "
            "by 255, and put normalisation by mean and standard deviation inside the model, or the attack's budget "
            "means something else; data that are not confined to a box need bounds=None in threat model and here"
        )


def map_batches(
    function: Callable[[LogitsFn, jax.Array, jax.Array, jax.Array], Any],
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    batch_size: int = 500,
    mesh: Mesh | None = None,
) -> Any:
    """Apply ``function(logits_fn, keys, images, labels)`` batch by batch and join the results on the host.

    Every batch has the same shape: the last one is filled up with copies of its last example, whose results are
    dropped, so nothing is compiled twice and no example counts twice. Example ``i`` gets the key
    ``fold_in(key, i)``: results depend neither on the batch size nor on the number of devices, as far as the
    function treats examples independently.

    Args:
        function: returns a pytree of arrays with leading axis ``[batch]``. It is called from Python; what is to be
            compiled is compiled inside (an attack compiles its own steps).
        logits_fn: the network; arrays bound by ``functools.partial`` are copied to every device once.
        images: ``[n, ...]``, uint8 (divided by 255 here) or floating point.
        labels: ``[n]``.
        key: random key of the evaluation.
        batch_size: images per batch, rounded up to a multiple of the number of devices.
        mesh: devices to use, with axis ``data``; all local devices by default.

    Returns:
        A pytree of NumPy arrays with leading axis ``[n]``.

    Raises:
        ValueError: for labels that are no class numbers, other numbers of labels than images, or no images at all.
    """
    if len(images) != len(labels) or not len(images):
        raise ValueError(
            f"images and labels must have the same length, at least 1: got {len(images)} and {len(labels)}"
        )
    if np.ndim(labels) != 1 or not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise ValueError(
            f"labels must be class numbers, integers of shape [n], got {np.asarray(labels).dtype} of shape "
            f"{np.shape(labels)}; one-hot rows become class numbers by labels.argmax(-1)"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    key = typed_key(key)
    mesh = data_mesh() if mesh is None else mesh
    rows = NamedSharding(mesh, PartitionSpec("data"))
    closure = jax.device_put(Closure(logits_fn), NamedSharding(mesh, PartitionSpec()))
    size = min(batch_size, len(images))
    size = -(-size // mesh.size) * mesh.size
    results = []
    for begin in range(0, len(images), size):
        index = np.minimum(np.arange(begin, begin + size), len(images) - 1)
        keys = jax.device_put(_example_keys(key, jnp.asarray(index, jnp.uint32)), rows)
        batch = to_float(jax.device_put(images[index], rows))
        targets = jax.device_put(np.asarray(labels[index], np.int32), rows)
        result = function(closure, keys, batch, targets)
        keep = min(size, len(images) - begin)
        results.append(jax.tree.map(lambda array, keep=keep: array[:keep], result))
    return jax.tree.map(lambda *arrays: np.concatenate([np.asarray(array) for array in arrays]), *results)


@jax.jit
def _example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)
