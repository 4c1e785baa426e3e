"""Random keys, one per example."""

from __future__ import annotations

import jax
import jax.numpy as jnp


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
