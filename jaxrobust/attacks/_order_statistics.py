"""Order statistics without sorting, which is slow on CPU and needless on accelerators."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.threat._hyperplane import row_sum

COUNTING = 8
"""Passes that only count, before those that look for the next value as well, which take three times as long."""


class _Bracket(NamedTuple):
    """What is known, ``[batch]`` each: ``low <= answer <= high``, and how many values lie below these two, as floats."""

    low: jax.Array
    high: jax.Array
    below_low: jax.Array
    below_high: jax.Array


def threshold_at_rank(values: jax.Array, rank: jax.Array) -> jax.Array:
    """What to compare each row with to select the value at position ``rank`` in ascending order and all above; ``[batch]``.

    For the result ``t``, ``values >= t`` holds for that value, for all that are at least as large, and for no other.
    Each pass counts what lies below a guess between the two bounds and moves one of them there. Guesses take the
    logarithm of the number above to be linear, as for exponential tails, and every fourth one halves the interval. A
    guess with ``rank`` values below it is an answer. The later passes move a bound on to the next value that occurs, so
    that rows with ties end as well.

    Args:
        values: ``[batch, features]``, not negative; rows with NaN get NaN. At least float32, in which they are counted.
        rank: ``[batch]`` integers in ``0 .. features - 1``.

    Example:
        >>> values = jnp.array([[3.0, 1.0, 2.0, 2.0]])
        >>> (values >= threshold_at_rank(values, jnp.array([2]))[:, None]).tolist()
        [[True, False, True, True]]
    """
    features, dtype = values.shape[1], values.dtype
    rank = rank.astype(dtype)
    wanted = jnp.log(features - rank)

    def guess(bracket: _Bracket, number: jax.Array) -> jax.Array:
        low, high, below_low, below_high = bracket
        at_low, at_high = (jnp.log(features - below + 0.5) for below in (below_low, below_high))
        share = jnp.clip((at_low - wanted) / jnp.maximum(at_low - at_high, 1e-6), 0.02, 0.98)
        between = low + jnp.where(number % 4 == 3, 0.5, share) * (high - low)
        return jnp.where((low < between) & (between < high), between, high)

    def narrow(bracket: _Bracket, number: jax.Array, to_values: bool) -> tuple[_Bracket, jax.Array]:
        low, high, below_low, below_high = bracket
        middle = guess(bracket, number)
        below = values < middle[:, None]
        count = row_sum(below.astype(dtype))
        new_low = new_high = middle
        if to_values:
            new_low = jnp.where(below, jnp.inf, values).min(-1)
            new_high = jnp.where(below, values, -jnp.inf).max(-1)
        undecided, exact = low < high, count == rank
        up, down = undecided & (count <= rank), undecided & (count >= rank)
        return _Bracket(
            jnp.where(up, jnp.where(exact, middle, new_low), low),
            jnp.where(down, jnp.where(exact, middle, new_high), high),
            jnp.where(up, count, below_low),
            jnp.where(down, count, below_high),
        ), number + 1

    def search(bracket: _Bracket, number: jax.Array, to_values: bool) -> tuple[_Bracket, jax.Array]:
        return jax.lax.while_loop(
            lambda state: (state[0].low < state[0].high).any() & (to_values | (state[1] < COUNTING)),
            lambda state: narrow(*state, to_values),
            (bracket, number),
        )

    zero, high = jnp.zeros_like(rank), values.max(-1)
    bracket = _Bracket(jnp.where(jnp.isnan(high), high, 0), high, zero, jnp.full_like(rank, features))
    counted = search(bracket, jnp.zeros((), jnp.int32), to_values=False)
    return search(*counted, to_values=True)[0].low
