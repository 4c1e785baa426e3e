"""Norms of single layers other than convolutions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ._layers import AveragePool, BatchNorm, MaxPool, Pair, Scale


def windows_per_pixel(window: Pair, strides: Pair) -> int:
    """The largest number of windows that cover one pixel; a large enough image attains it."""
    return math.prod(-(-size // stride) for size, stride in zip(window, strides, strict=True))


def dense_norm(kernel: jax.Array, p: float) -> jax.Array:
    """Operator norm from l_p to l_p of ``x -> kernel^T x``."""
    # The transpose exchanges rows and columns: the 1-norm of one is the infinity-norm of the other.
    return jnp.linalg.norm(kernel, ord={1: jnp.inf, 2: 2, math.inf: 1}[p])


def max_pool_norm(pool: MaxPool, p: float) -> float:
    """``m^(1/p)``, ``m`` windows per pixel: each may take the change of one and the same pixel."""
    return float(windows_per_pixel(pool.window, pool.strides) ** (1 / p))


def average_pool_norm(pool: AveragePool, p: float) -> float:
    """Rows sum to 1, columns to windows per pixel over window size; the 2-norm is a product over both axes.

    Along one axis with ``k`` cells and stride ``s`` the pool is a filter ``1/k, ..., 1/k`` of which every
    ``s``-th output is kept. Pixels whose position has remainder ``r`` by the stride enter through ``c_r`` of
    the cells, with gain ``c_r / k`` at frequency 0, where the gain is largest. Together that is the norm
    ``sqrt(sum_r c_r^2) / k``, attained in the limit of large images.
    """
    if p == math.inf:
        return 1.0
    if p == 1:
        return windows_per_pixel(pool.window, pool.strides) / math.prod(pool.window)

    def axis_norm(size: int, stride: int) -> float:
        return math.hypot(*(len(range(start, size, stride)) for start in range(stride))) / size

    return math.prod(map(axis_norm, pool.window, pool.strides))


def scale_norm(layer: Scale) -> jax.Array:
    """Largest absolute factor."""
    return jnp.abs(jnp.asarray(layer.scale)).max()


def batch_norm_norm(layer: BatchNorm) -> jax.Array:
    """Largest absolute factor, ``max_c |scale_c| / sqrt(variance_c + epsilon)``."""
    deviation = jnp.sqrt(jnp.asarray(layer.variance) + layer.epsilon)
    return (jnp.abs(jnp.asarray(layer.scale)) / deviation).max()
