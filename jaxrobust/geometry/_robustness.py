"""The distance of every point to the nearest differently labelled one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrobust.batching import check_images, check_labels, data_mesh

from ._blocks import Blocks, keep_nearer, no_distance
from ._candidates import nearest_l2
from ._metrics import INT32_FEATURES, LINF_FLOAT, LINF_UINT8, SQUARED_L2_UINT8, Metric


class Robustness(NamedTuple):
    """How far the points of a data set are from other classes.

    Attributes:
        distances: ``[m]`` float64, to the nearest differently labelled point; ``inf`` where there is none. The
            sensitivity of one-hot labels is ``1 / distances``.
        neighbours: ``[m]`` int64, which point that is, the lowest index among equally near ones; -1 where there is none.
    """

    distances: np.ndarray
    neighbours: np.ndarray


def robustness(
    images: np.ndarray,
    labels: np.ndarray,
    norm: Literal["l2", "linf"],
    *,
    block_size: int | None = None,
    cache_bytes: int = 2**32,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Robustness:
    """The distance of every image to the nearest differently labelled one, which depends on no model.

    ``r(x_i) = min { ||x_i - x_j|| : y_j != y_i }``. A classifier that is right and robust at radius ``eps`` on all of
    the data exists if and only if ``eps < min r / 2``; the nearest-neighbour classifier is one.

    Results are exact, and depend neither on the block size nor on the number of devices. 8-bit images are compared in
    integers. For floating-point images in the L2 norm, a float32 pass leaves all points that the bound of its error does
    not rule out, and float64 decides between these. In the Linf norm, differences are rounded to the images' own type,
    float32 at least: distances are the true ones, rounded, and points with the same rounded distance count as equally
    near. Where data have 8-bit images, give these: they are compared up to four times faster, and ties are true ties.

    Every pair of points is compared once. Each device holds about ``12 block_size**2`` bytes of distances and at most
    ``cache_bytes`` of images besides the two blocks compared, and nothing holds ``m * m`` of anything. Images may be
    memory-mapped; they are read block by block. For floating-point images in the L2 norm, the host holds
    ``4 m**2 / block_size`` bytes of bounds.

    Args:
        images: ``[m, ...]``, uint8 (divided by 255 here) or floating point, of any range.
        labels: class numbers, ``[m]``.
        norm: ``"l2"`` or ``"linf"``.
        block_size: points in a block; by default 1024 on CPU, 512 for floating-point images in the Linf norm, and 8192 on
            accelerators.
        cache_bytes: so much of the data stays on every device between comparisons; the rest is sent again for each.
        mesh: devices to use, with axis ``data``; all local devices by default. Each compares its share of a block's
            points with all points of the other.
        progress: show a progress bar; by default when the output is a terminal.

    Returns:
        Distances and neighbours. Images that coincide with a differently labelled one are those with distance 0.

    Raises:
        ValueError: for labels that do not fit, no images at all, NaN or infinite pixels, pixels of another type, an
            unknown norm, or a block size below 1.

    Source: data-geometry study, sections 2.4 (robustness) and 3.1 (algorithm 1); a point without differently labelled
    ones has the distance -1 there.

    Example:
        >>> line = np.asarray([[0.0], [1.0], [3.0], [7.0]])
        >>> found = robustness(line, np.asarray([0, 0, 1, 1]), "l2")
        >>> found.distances.tolist(), found.neighbours.tolist()
        ([3.0, 2.0, 2.0, 6.0], [2, 2, 1, 1])
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_labels(images, labels)
    floating = jnp.issubdtype(images.dtype, jnp.floating)
    if not images.size or (not floating and images.dtype != np.uint8):
        raise ValueError(
            f"images must be uint8 or floating point of shape [m, ...], got {images.dtype} of shape {images.shape}; "
            "integers of another scale become floating point by division by their largest value"
        )
    check_images(images, bounds=None)
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm must be 'l2' or 'linf', got {norm!r}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    points = images.reshape(len(images), -1)
    blocks_of = partial(
        Blocks,
        labels=labels,
        block_size=block_size,
        cache_bytes=cache_bytes,
        mesh=data_mesh(jax.local_devices()) if mesh is None else mesh,
        progress=progress,
    )
    if norm == "linf":
        distances, neighbours = _nearest(points, LINF_FLOAT if floating else LINF_UINT8, blocks_of)
    elif floating or points.shape[1] > INT32_FEATURES:
        distances, neighbours = nearest_l2(points, blocks_of)
    else:
        distances, neighbours = _nearest(points, SQUARED_L2_UINT8, blocks_of)
        distances = np.sqrt(distances)
    return Robustness(distances if floating else distances / 255, neighbours)


def _nearest(points: np.ndarray, metric: Metric, blocks_of: Callable[..., Blocks]) -> tuple[np.ndarray, np.ndarray]:
    """What an exact metric measures to the nearest differently labelled points, and their indices; ``inf`` and -1."""
    small_float = points.dtype not in (np.uint8, np.float64)

    def load(indices: np.ndarray) -> np.ndarray:
        return points[indices].astype(np.float32 if small_float else points.dtype)

    with jax.enable_x64(True) if points.dtype == np.float64 else contextlib.nullcontext():
        blocks = blocks_of(load, metric)
        distances, neighbours = np.full(len(points), np.inf), np.full(len(points), -1)
        for found in blocks.nearest():
            values = np.where(found.distances == no_distance(found.distances.dtype), np.inf, found.distances)
            keep_nearer((distances, neighbours), blocks.order[found.rows], values, found.indices)
    return distances, neighbours
