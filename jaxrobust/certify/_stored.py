"""Values that XLA's CPU backend is to compute once, and in order.

It fuses a value into each of its users, and computes it anew for every element of theirs: the slope of a unit for each of a
thousand rows that pass it. It also begins all that does not depend on each other at the same time, which takes the memory
of all. Barriers are no help, since it removes them. The result of a condition is kept in memory, and waits for its
predicate.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

Arrays = TypeVar("Arrays")


@jax.custom_jvp
def stored(arrays: Arrays, after: jax.Array | None = None) -> Arrays:
    """The same arrays, computed before they are used.

    Args:
        arrays: a pytree with at least one.
        after: they, and so what is computed from them, wait for this value.
    """
    if jax.default_backend() != "cpu":
        return arrays
    return _stored(arrays, jax.tree.leaves(arrays)[0] if after is None else after)


@stored.defjvp
def _stored_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return stored(*primals), tangents[0]


@custom_vmap
def _stored(arrays: Arrays, after: jax.Array) -> Arrays:
    if after.size == 0:
        return arrays
    # XLA does not see that this is true. Were both branches the same, it would remove the condition.
    always = jnp.isnan(after.reshape(-1)[0]).astype(jnp.int32) < 2

    def never(arrays: Arrays) -> Arrays:  # nothing is certified by what is not a number
        return jax.tree.map(lambda array: jnp.full_like(array, jnp.nan), arrays)

    return jax.lax.cond(always, lambda arrays: arrays, never, arrays)


@_stored.def_vmap
def _stored_batch(axis_size: int, in_batched: Any, arrays: Arrays, after: jax.Array) -> tuple[Arrays, Any]:
    """One condition for the batch; one for each example would be computed as a choice between both results."""
    del axis_size
    return _stored(arrays, after), in_batched[0]
