"""Slopes of chords: differences of nearly equal numbers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Function = Callable[[jax.Array], jax.Array]


def chord(function: Function, derivative: Function, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """``(f(upper) - f(lower)) / (upper - lower)`` of a smooth function.

    On narrow intervals the derivative at the midpoint is more accurate, and so is its derivative. It misses by
    ``f''' width^2 / 24``, the quotient by rounding over width; both are equal near the cube root of the precision.
    """
    width, size = upper - lower, jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    narrow = width <= float(jnp.finfo(width.dtype).eps) ** (1 / 3) * (1 + size)
    quotient = (function(upper) - function(lower)) / jnp.where(narrow, 1, width)
    return jnp.where(narrow, derivative(lower / 2 + upper / 2), quotient)


def relu_chord(lower: jax.Array, upper: jax.Array) -> jax.Array:
    """Slope of ReLU's chord, from 0 to 1, accurate however narrow the interval is.

    Its derivative grows as 1 over the width; below the root of the smallest number, intervals count as on one side of zero.
    """
    width = upper - lower
    unstable = (lower < 0) & (upper > 0) & (width > 4 * float(jnp.finfo(width.dtype).tiny) ** 0.5)
    slope = jnp.where(unstable, upper, 0) / jnp.where(unstable, width, 1)
    return jnp.where(unstable | (upper <= 0), slope, 1)
