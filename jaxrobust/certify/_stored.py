"""Values that XLA's CPU backend is to compute once.

It fuses a value into each of its users, and computes it anew for every element of theirs: the slope of a unit for each of a
thousand rows that pass it. Barriers are no help, since it removes them. The result of a condition is kept in memory.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

Arrays = tuple[jax.Array, ...]


@jax.custom_jvp
def stored(arrays: Arrays) -> Arrays:
    """The same arrays, computed before they are used."""
    return _stored(arrays) if jax.default_backend() == "cpu" else arrays


@stored.defjvp
def _stored_jvp(primals: tuple[Arrays], tangents: tuple[Arrays]) -> tuple[Arrays, Arrays]:
    return stored(*primals), tangents[0]


@custom_vmap
def _stored(arrays: Arrays) -> Arrays:
    """Where the first element is not a number all become so, which is what keeps the condition from being simplified."""
    first = arrays[0].reshape(-1)[0]

    def undefined(arrays: Arrays) -> Arrays:
        return tuple(jnp.full_like(array, jnp.nan) for array in arrays)

    return jax.lax.cond(first == first, lambda arrays: arrays, undefined, arrays)


@_stored.def_vmap
def _stored_batch(axis_size: int, in_batched: Any, arrays: Arrays) -> tuple[Arrays, Any]:
    """One condition for the batch; one for each example would be computed as a choice between both results."""
    del axis_size
    return _stored(arrays), in_batched[0]
