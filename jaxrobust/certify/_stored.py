"""Values that XLA's CPU backend is to compute once.

It fuses a value into each of its users, and computes it anew for every element of theirs: the slope of a unit for each of a
thousand rows that pass it. Barriers are no help, since it removes them. The result of a condition is kept in memory.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


@jax.custom_jvp
def stored(array: jax.Array) -> jax.Array:
    """The same array, computed before it is used."""
    return _stored(array) if jax.default_backend() == "cpu" else array


@stored.defjvp
def _stored_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return stored(*primals), tangents[0]


@custom_vmap
def _stored(array: jax.Array) -> jax.Array:
    """Where the first element is not a number all become so, which is what keeps the condition from being simplified."""
    first = array.reshape(-1)[0]
    return jax.lax.cond(first == first, lambda x: x, lambda x: jnp.full_like(x, jnp.nan), array)


@_stored.def_vmap
def _stored_batch(axis_size: int, in_batched: Any, array: jax.Array) -> tuple[jax.Array, bool]:
    """One condition for the batch; one for each example would be computed as a choice between both results."""
    del axis_size
    return _stored(array), in_batched[0]
