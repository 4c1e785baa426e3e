"""All pairs of differently labelled points, block against block, each pair once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust.progress import ProgressBar

from ._metrics import Metric

_ACCELERATOR_BLOCK = 8192


class Block(NamedTuple):
    """Points on the devices, filled up to the common size with copies of the last one.

    Attributes:
        points: as the metric has prepared them.
        labels: ``[size]`` int32.
        indices: ``[size]`` int32, which points of the data set they are.
    """

    points: Any
    labels: jax.Array
    indices: jax.Array


class Nearest(NamedTuple):
    """The nearest differently labelled points that some points have in one block.

    Attributes:
        rows: whose; places in the order of the blocks.
        block: the number of the block.
        distances: ``[rows]``, the largest number of their type where the block holds no differently labelled point.
        indices: ``[rows]``, meaningless there.
    """

    rows: slice
    block: int
    distances: np.ndarray
    indices: np.ndarray


class Blocks:
    """A data set in the order of its labels, in blocks of one size.

    Args:
        load: the points with the given indices as they go to the devices, a pytree of NumPy arrays.
        metric: how blocks are prepared and compared.
        labels: ``[m]``.
        block_size: points per block, rounded up to a multiple of the number of devices; ``None`` for the metric's own
            on CPU and 8192 on accelerators.
        cache_bytes: blocks stay on every device as long as all of them fit in so many bytes.
        mesh: devices to use, with axis ``data``.
        progress: show a progress bar; by default when the output is a terminal.
    """

    def __init__(
        self,
        load: Callable[[np.ndarray], Any],
        metric: Metric,
        *,
        labels: np.ndarray,
        block_size: int | None,
        cache_bytes: int,
        mesh: Mesh,
        progress: bool | None,
    ) -> None:
        if block_size is None:
            block_size = metric.block_size if mesh.devices.flat[0].platform == "cpu" else _ACCELERATOR_BLOCK
        self.size = -(-min(block_size, len(labels)) // mesh.size) * mesh.size
        self.order = np.argsort(labels, kind="stable")
        self._labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)
        self._load, self._metric, self._progress = load, metric, progress
        self._everywhere, rows = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
        self._spread = Block._make((jax.tree.map(partial(NamedSharding, mesh), metric.rows), rows, rows))
        self._cache: dict[int, Block] = {}
        self._free = cache_bytes

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def rows(self, block: int) -> slice:
        """The places in the order that a block holds."""
        return slice(block * self.size, min((block + 1) * self.size, len(self.order)))

    def __getitem__(self, block: int) -> Block:
        """A block, whole on every device."""
        if block in self._cache:
            return self._cache[block]
        made = self.take(self.order[self.rows(block)])
        size = sum(array.nbytes for array in jax.tree.leaves(made))
        if size <= self._free:
            self._cache[block] = made
            self._free -= size
        return made

    def take(self, indices: np.ndarray) -> Block:
        """The points with the given indices, at most a block of them, as a block."""
        filled = indices[np.minimum(np.arange(self.size), len(indices) - 1)]
        held = self._load(filled), self._labels[filled], filled.astype(np.int32)
        points, labels, numbers = jax.device_put(held, self._everywhere)
        return Block(self._metric.prepare(points), labels, numbers)

    def spread(self, block: Block) -> Block:
        """A block with its points spread over the devices."""
        return jax.device_put(block, self._spread)

    def _one_class(self, *blocks: int) -> bool:
        """Whether all points of the blocks have the same label."""
        ends = [self.order[end] for block in blocks for end in (self.rows(block).start, self.rows(block).stop - 1)]
        return len(set(self._labels[ends])) == 1

    def nearest(self) -> Iterator[Nearest]:
        """For all points and all blocks, the nearest differently labelled points.

        Two blocks are compared once, for the points of both. One comparison is under way on the devices while the host
        treats the one before.
        """
        pairs = [(a, b) for a in range(len(self)) for b in range(a, len(self)) if not self._one_class(a, b)]
        before = None
        with ProgressBar(len(pairs), show=self._progress) as bar:
            for done, (a, b) in enumerate(pairs, 1):
                if before is None or before[0] != a:
                    query = self.spread(self[a])
                found = _compare(self._metric.compare, query, self[b])
                if before is not None:
                    yield from self._on_host(*before)
                before = a, b, found
                bar.update(done, "comparing blocks of points")
            if before is not None:
                yield from self._on_host(*before)

    def _on_host(self, a: int, b: int, found: tuple[tuple[jax.Array, jax.Array], ...]) -> Iterator[Nearest]:
        for rows, block, arrays in ((a, b, found[0]), (b, a, found[1])):
            kept = self.rows(rows)
            distances, indices = (np.asarray(array)[: kept.stop - kept.start] for array in arrays)
            yield Nearest(kept, block, distances, indices)


def keep_nearer(
    kept: tuple[np.ndarray, np.ndarray], rows: np.ndarray, distances: np.ndarray, indices: np.ndarray
) -> None:
    """Put new distances and indices, one for each of the rows, in the place of greater ones in ``kept``."""
    old_distances, old_indices = kept[0][rows], kept[1][rows]
    nearer = (distances < old_distances) | ((distances == old_distances) & (indices < old_indices))
    kept[0][rows[nearer]], kept[1][rows[nearer]] = distances[nearer], indices[nearer]


def no_distance(dtype: Any) -> Any:
    """The number that stands for the distance to no point."""
    return np.inf if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max


@partial(jax.jit, static_argnums=0)
def _compare(
    compare: Callable[[Any, Any], jax.Array], a: Block, b: Block
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """For the points of both blocks, the smallest distance to the other, and the lowest index that has it."""
    distances = compare(a.points, b.points)
    none = jnp.asarray(no_distance(distances.dtype), distances.dtype)
    # Computed once: what each reduction computed for itself might be rounded differently.
    distances = jax.lax.optimization_barrier(jnp.where(a.labels[:, None] == b.labels[None], none, distances))
    rows, columns = jnp.min(distances, 1), jnp.min(distances, 0)
    no_index = jnp.asarray(np.iinfo(np.int32).max, jnp.int32)
    row_indices = jnp.min(jnp.where(distances == rows[:, None], b.indices[None], no_index), 1)
    column_indices = jnp.min(jnp.where(distances == columns[None], a.indices[:, None], no_index), 0)
    return (rows, row_indices), (columns, column_indices)
