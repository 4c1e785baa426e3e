"""Bisection, elementwise."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def last_true(condition: Callable[[jax.Array], jax.Array], start: jax.Array, end: jax.Array) -> jax.Array:
    """The point between ``start`` and ``end`` up to which a condition holds, for each element; ``start`` if it never does.

    There are as many steps as the type has bits of precision. The result is a constant for derivatives only if the arguments
    are, and what the condition holds on to.
    """

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = low / 2 + high / 2
        holds = condition(middle)
        return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

    return jax.lax.fori_loop(0, jnp.finfo(start.dtype).nmant + 1, halve, (start, end))[0]
