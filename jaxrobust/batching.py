"""Data sets on the host, batch by batch onto the devices: one shape, every example with its own key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust._types import LogitsFn
from jaxrobust.random import is_key


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the single axis ``data`` over the given devices, all of them by default."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("data",))


@overload
def to_float(images: np.ndarray) -> np.ndarray: ...
@overload
def to_float(images: jax.Array) -> jax.Array: ...
def to_float(images: Any) -> Any:
    """8-bit images to float32 in [0, 1]; floating-point images as they are. Jittable; NumPy arrays stay on the host."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    return images


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


def check_labels(images: np.ndarray, labels: np.ndarray) -> None:
    """Check on the host that there is one class number for each image, and at least one.

    Raises:
        ValueError: for other numbers of labels than images, none at all, or labels that are no class numbers.
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


def check_classes(logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray) -> int:
    """Check, without running the network, that it returns logits of classes that the labels are among.

    Returns:
        The number of classes.

    Raises:
        ValueError: for a function that does not return logits, or labels outside its classes.
    """

    def logits_of(images: jax.Array) -> jax.Array:
        return logits_fn(to_float(images))

    logits = jax.eval_shape(logits_of, images)
    if getattr(logits, "ndim", None) != 2 or logits.shape[0] != len(images):
        found = logits.shape if hasattr(logits, "shape") else type(logits).__name__
        raise ValueError(f"logits_fn must return logits [batch, classes]; for {len(images)} images it returned {found}")
    classes = logits.shape[1]
    if np.max(labels, initial=0) >= classes or np.min(labels, initial=0) < 0:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, the classifier's classes; found {np.min(labels)}..{np.max(labels)}"
        )
    return classes


Tree = TypeVar("Tree")


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """A pytree with a copy of its arrays and random keys on every device of a mesh.

    On several hosts each process gives the same values, which it holds on devices of its own.
    """
    sharding = NamedSharding(mesh, PartitionSpec())
    if all(device.process_index == jax.process_index() for device in mesh.devices.flat):
        return jax.device_put(tree, sharding)

    def put(leaf: Any) -> Any:
        if is_key(leaf):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree)


def local_copy(tree: Tree) -> Tree:
    """Replicated arrays of all hosts as arrays of this process alone, with which it can compute by itself."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, tree)


def shard_rows(array: np.ndarray | jax.Array, mesh: Mesh) -> jax.Array:
    """An array whose rows are split over the devices of a mesh with the axis ``data``.

    On several hosts each process gives its own rows, those of the first process first.

    Raises:
        ValueError: if the devices of this process do not divide its rows.
    """
    here = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    if len(array) % here:
        raise ValueError(
            f"a batch of {len(array)} rows cannot be split over {here} devices: choose a batch size divisible by "
            f"{mesh.size}, drop the last partial batch (drop_last=True), or use fewer devices (mesh=data_mesh([...]))"
        )
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), array)


class Batch(NamedTuple):
    """Examples on the devices, filled up to the common size with copies of the last one.

    Attributes:
        numbers: ``[size]``, which examples they are, NumPy.
        kept: how many of them are no copies.
        keys: ``[size]``, ``fold_in(key, number)``.
        images: ``[size, ...]`` floating point.
        labels: ``[size]`` int32.
    """

    numbers: np.ndarray
    kept: int
    keys: jax.Array
    images: jax.Array
    labels: jax.Array


class Batches:
    """Batches of one shape over a data set, with its rows on all devices of a mesh.

    The last batch of every selection is filled up with copies of its last example, so nothing is compiled twice.
    Example ``i`` gets the key ``fold_in(key, i)``: results depend neither on the batch size nor on the number of
    devices, as far as examples are treated independently.

    Args:
        images: ``[n, ...]``, uint8 (divided by 255 here) or floating point.
        labels: ``[n]``.
        key: random key of the whole data set.
        size: images per batch, at most ``n``, rounded up to a multiple of the number of devices.
        mesh: devices of this process to use, with axis ``data``; all of them by default.

    Raises:
        ValueError: for labels that do not fit, or a size below 1.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, key: jax.Array, size: int, mesh: Mesh | None = None
    ) -> None:
        check_labels(images, labels)
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, got {size}")
        self._images, self._labels, self._key = images, labels, key
        self.mesh = data_mesh(jax.local_devices()) if mesh is None else mesh
        self._rows = NamedSharding(self.mesh, PartitionSpec("data"))
        self.size = -(-min(size, len(images)) // self.mesh.size) * self.mesh.size

    def replicate(self, tree: Tree) -> Tree:
        """A pytree with a copy of its arrays on every device."""
        return replicate(tree, self.mesh)

    def __call__(self, index: np.ndarray | None = None) -> Iterator[Batch]:
        """Batches of the examples with the given numbers, in that order; all of them by default."""
        index = np.arange(len(self._images)) if index is None else index
        for begin in range(0, len(index), self.size):
            some = index[np.minimum(np.arange(begin, begin + self.size), len(index) - 1)]
            yield Batch(
                some,
                min(self.size, len(index) - begin),
                jax.device_put(_fold_in(self._key, jnp.asarray(some, jnp.uint32)), self._rows),
                to_float(jax.device_put(self._images[some], self._rows)),
                self.rows(np.asarray(self._labels[some], np.int32)),
            )

    def rows(self, array: np.ndarray) -> jax.Array:
        """An array ``[size, ...]`` with its rows over the devices, as those of a batch."""
        return jax.device_put(array, self._rows)


@jax.jit
def _fold_in(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)
