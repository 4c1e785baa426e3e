"""Random keys, one per example, and draws that compile quickly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def is_key(leaf: Any) -> bool:
    """Whether something is a typed key array."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def typed_key(key: jax.Array) -> jax.Array:
    """The key as a typed key array; legacy ``uint32`` keys are wrapped.

    Raises:
        ValueError: if it is no random key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype is not None and dtype == jnp.uint32 and key.ndim:
        return jax.random.wrap_key_data(key)
    found = type(key).__name__ if dtype is None else f"an array of dtype {dtype}"
    raise ValueError(f"expected a random key such as jax.random.key(0), got {found}")


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """One key per example, ``[batch]``.

    Args:
        key: one key, from which example ``i`` gets ``fold_in(key, i)``, or one key per example, returned as they are.
            Legacy ``uint32`` keys are accepted.
        batch: number of examples.

    Raises:
        ValueError: if ``key`` is no random key, or holds another number of keys.

    Example:
        >>> example_keys(jax.random.key(0), 3).shape
        (3,)
    """
    key = typed_key(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch, dtype=jnp.uint32))
    if key.shape != (batch,):
        raise ValueError(f"expected one random key, or one for each of the {batch} examples, got shape {key.shape}")
    return key


def fold_in_each(keys: jax.Array, data: int | jax.Array) -> jax.Array:
    """Fold the same number into each of the keys ``[batch]``."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def uniform(
    key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, minval: Any = 0.0, maxval: Any = 1.0
) -> jax.Array:
    """The numbers of :func:`jax.random.uniform`, drawn flat.

    On CPU, XLA needs up to seconds to compile a draw of three or more axes, whose counters it computes from all the
    indices, and a few tenths for the same numbers along one axis.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((uniform(key, (2, 3, 4)) == jax.random.uniform(key, (2, 3, 4))).all())
        True
    """
    return jax.random.uniform(key, (math.prod(shape),), dtype, minval, maxval).reshape(shape)


def normal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """The numbers of :func:`jax.random.normal`, drawn flat as in :func:`uniform`."""
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
