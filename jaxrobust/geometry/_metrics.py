"""How blocks of points are held on the devices and compared, for each norm and type of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

_ROWS, _ROWS_LAST = PartitionSpec("data"), PartitionSpec(None, None, "data")
_STEP = 16
_FLOAT_CHUNK = 1024

INT32_FEATURES = (2**31 - 1) // 255**2
"""The squared distance of two images of so many 8-bit pixels fits int32."""


class Metric(NamedTuple):
    """A way to compare all points of one block with all points of another.

    Attributes:
        prepare: what the host holds of a block, points on the first axis, to what :attr:`compare` takes. Jitted.
        compare: two prepared blocks to their distances, or to numbers in the same order, ``[size, size]``.
        rows: which axis of the arrays of a prepared block runs over the points.
        block_size: points in a block, such that the cache of a CPU holds the distances between two blocks.
    """

    prepare: Callable[[Any], Any]
    compare: Callable[[Any, Any], jax.Array]
    rows: Any
    block_size: int


def _pad_features(points: jax.Array) -> jax.Array:
    return jnp.pad(points, ((0, 0), (0, -points.shape[1] % _STEP)))


@jax.jit
def _centre(points: jax.Array) -> tuple[jax.Array, jax.Array]:
    centred = _pad_features(points.astype(jnp.int32) - 128)
    return centred.astype(jnp.int8), jnp.sum(centred * centred, axis=1, dtype=jnp.int32)


def _squared_l2_uint8(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> jax.Array:
    products = lax.dot_general(a[0], b[0], (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
    return a[1][:, None] + b[1][None] - 2 * products


@jax.jit
def _pad(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _pad_features(block[0]), block[1]


def _squared_l2_float(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> jax.Array:
    total = a[1][:, None] + b[1][None]
    for begin in range(0, a[0].shape[1], _FLOAT_CHUNK):
        chunk = slice(begin, begin + _FLOAT_CHUNK)
        total -= 2 * jnp.matmul(a[0][:, chunk], b[0][:, chunk].T, precision=lax.Precision.HIGHEST)
    return total


@jax.jit
def _features_first(points: jax.Array) -> jax.Array:
    return _pad_features(points).T.reshape(-1, _STEP, len(points))


def _largest(
    difference: Callable[[jax.Array, jax.Array], jax.Array], dtype: Any, a: jax.Array, b: jax.Array
) -> jax.Array:
    """The largest difference of all pairs, feature by feature, so that the innermost loop runs over pairs.

    XLA's CPU backend vectorises that loop where a step takes at least 16 features, and is fifty times slower else. It
    is not left to a reduction over features: jaxlib 0.10.2 returns wrong maxima of 8-bit integers on CPU.

    There is no early exit. Even with all distances known beforehand, blocks of 1024 points of MNIST and CIFAR-10 need
    90 to 100 % of the features until no pair of them can be nearer.
    """

    def step(largest: jax.Array, features: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        for ours, theirs in zip(*features, strict=True):
            largest = jnp.maximum(largest, difference(ours[:, None], theirs[None]))
        return largest, None

    return lax.scan(step, jnp.zeros((a.shape[2], b.shape[2]), dtype), (a, b))[0]


def _linf_uint8(a: jax.Array, b: jax.Array) -> jax.Array:
    return _largest(lambda p, q: jnp.maximum(p, q) - jnp.minimum(p, q), jnp.uint8, a, b).astype(jnp.int32)


def _linf_float(a: jax.Array, b: jax.Array) -> jax.Array:
    """Non-negative floats are ordered as their bits are; a maximum of floats takes longer, as it looks for NaN."""
    bits = jnp.dtype(f"int{8 * a.dtype.itemsize}")
    largest = _largest(lambda p, q: lax.bitcast_convert_type(jnp.abs(p - q), bits), bits, a, b)
    return lax.bitcast_convert_type(largest, a.dtype)


def float_roundings(features: int) -> int:
    """How often rounding ``w_i + w_j`` moves a number of :data:`SQUARED_L2_FLOAT` at most, ``w`` the squared norms.

    Once in every addition of a chunk's product, as ``2 |a_i| |a_j| <= w_i + w_j``; twice where a chunk is subtracted, as
    what is left is at most ``2 (w_i + w_j)``; once for the sum of the norms.
    """
    return min(features, _FLOAT_CHUNK) + 2 * -(-features // _FLOAT_CHUNK) + 1


SQUARED_L2_UINT8 = Metric(_centre, _squared_l2_uint8, (_ROWS, _ROWS), 1024)
"""Points ``uint8 [size, features]``, at most :data:`INT32_FEATURES`; exact. The shift to int8 changes no distance."""

SQUARED_L2_FLOAT = Metric(_pad, _squared_l2_float, (_ROWS, _ROWS), 1024)
"""``(points [size, features], squared norms [size])``, float32, rounded: ``squared norms - 2 products``."""

LINF_UINT8 = Metric(_features_first, _linf_uint8, _ROWS_LAST, 1024)
"""Points ``uint8 [size, features]``; exact."""

LINF_FLOAT = Metric(_features_first, _linf_float, _ROWS_LAST, 512)
"""Points ``[size, features]``, float32 or float64; the largest difference, rounded once."""
