"""What linear functions can gain from a perturbation, many of them at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ._base import Extent, absolute


def products(rows: jax.Array, values: jax.Array) -> jax.Array:
    """``[..., rows, features]`` times ``[..., features]``: ``[..., rows]``, as a matrix product.

    Under ``vmap``, rows that all examples share stay a matrix; a product of elements would copy them for each example.
    """
    return jnp.einsum("...rf,...f->...r", rows, values, precision=jax.lax.Precision.HIGHEST)


def box_support(normals: jax.Array, extent: Extent) -> jax.Array:
    """``sum_i max(n_i low_i, n_i high_i)``: what a linear function gains if every pixel moves on its own.

    Written as ``<n, (low + high) / 2> + <|n|, (high - low) / 2>``.
    """
    middle, half = (extent.high + extent.low) / 2, (extent.high - extent.low) / 2
    return products(normals, middle) + products(absolute(normals), half)
