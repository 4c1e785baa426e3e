"""Activation functions with kinks, where the derivative jumps."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._activation import Activation
from ._chord import chord, relu_chord


def _at_zero(slope: jax.Array) -> tuple[jax.Array, ...]:
    return (jnp.zeros_like(slope),)


def _number(name: str, value: Any) -> float | None:
    """A parameter as a number, ``None`` if it is traced or an array.

    Raises:
        ValueError: for values that are not finite.
    """
    if isinstance(value, jax.core.Tracer):
        return None
    if not np.isfinite(np.asarray(value)).all():
        raise ValueError(f"{name} must be finite, got {value}")
    return float(np.asarray(value).reshape(())) if np.size(value) == 1 and np.ndim(value) == 0 else None


relu = Activation(
    "relu",
    jax.nn.relu,
    lambda x: jnp.where(x >= 0, 1, 0).astype(x.dtype),
    _at_zero,
    secant=relu_chord,
)
absolute = Activation(
    "absolute",
    jnp.abs,
    lambda x: jnp.where(x >= 0, 1, -1).astype(x.dtype),
    _at_zero,
    ends=(-1.0, 1.0),
    stationary=(0.0,),
    secant=lambda lower, upper: 2 * relu_chord(lower, upper) - 1,
)


def leaky_relu(slope: Any) -> Activation:
    """``x`` where it is positive, ``slope x`` elsewhere; with an array of slopes, PReLU.

    Slopes above 1 make it concave and negative ones make it decrease on the left; both are allowed.

    Args:
        slope: a number, or an array, possibly traced, that broadcasts to the shape of the ends of the intervals.

    Raises:
        ValueError: for slopes that are not finite.

    Example:
        >>> leaky_relu(0.1).parallel(jnp.asarray(-1.0), jnp.asarray(1.0)).upper_intercept.round(4).tolist()
        0.45
    """
    number = _number("slope", slope)

    def of(x: jax.Array) -> jax.Array:
        return jnp.asarray(slope, x.dtype)

    def secant(lower: jax.Array, upper: jax.Array) -> jax.Array:
        return of(lower) + (1 - of(lower)) * relu_chord(lower, upper)

    # A concave kink is at the right end of the convex part.
    right = jnp.where(jnp.asarray(slope) <= 1, math.inf, 0.0) if number is None else math.inf if number <= 1 else 0.0
    return Activation(
        "leaky_relu",
        lambda x: jnp.where(x >= 0, x, of(x) * x),
        lambda x: jnp.where(x >= 0, 1, of(x)),
        _at_zero,
        convex=(-math.inf, right),
        ends=(slope if number is None else number, 1.0),
        stationary=() if number is not None and number >= 0 else (0.0,),
        secant=secant,
    )


def elu_with_alpha(alpha: Any) -> Activation:
    """``x`` where it is positive, ``alpha (exp(x) - 1)`` elsewhere.

    Args:
        alpha: at least 0; a number, or an array, possibly traced, that broadcasts to the shape of the ends of the intervals.

    Raises:
        ValueError: for values that are negative or not finite.

    Example:
        >>> elu_with_alpha(2.0).interval(jnp.asarray(-jnp.inf), jnp.asarray(1.0))[0].tolist()
        -2.0
    """
    number = _number("alpha", alpha)
    if not isinstance(alpha, jax.core.Tracer) and (np.asarray(alpha) < 0).any():
        raise ValueError(f"alpha must be at least 0, where ELU increases, got {alpha}")

    def of(x: jax.Array) -> jax.Array:
        return jnp.asarray(alpha, x.dtype)

    def secant(lower: jax.Array, upper: jax.Array) -> jax.Array:
        positive = relu_chord(lower, upper)
        negative = chord(jnp.expm1, jnp.exp, jnp.minimum(lower, 0), jnp.minimum(upper, 0))
        return positive + (1 - positive) * of(lower) * negative

    def critical(slope: jax.Array) -> tuple[jax.Array, ...]:
        tiny = float(jnp.finfo(slope.dtype).tiny)
        return jnp.zeros_like(slope), jnp.log(jnp.maximum(slope, tiny)) - jnp.log(jnp.maximum(of(slope), tiny))

    right = jnp.where(jnp.asarray(alpha) <= 1, math.inf, 0.0) if number is None else math.inf if number <= 1 else 0.0
    return Activation(
        "elu",
        lambda x: jax.nn.elu(x, of(x)),
        lambda x: jnp.where(x > 0, 1, of(x) * jnp.exp(jnp.minimum(x, 0))),
        critical,
        convex=(-math.inf, right),
        secant=secant,
    )


elu = elu_with_alpha(1.0)


@functools.lru_cache
def clip(low: float, high: float) -> Activation:
    """``x`` between two values, and the nearer of them outside: ``clip(-1, 1)`` is hard tanh, ``clip(0, 6)`` ReLU6.

    Args:
        low: the smallest value.
        high: the largest, above ``low``.

    Raises:
        ValueError: for values that are not finite, or not in this order.

    Example:
        >>> clip(-1.0, 1.0).parallel(jnp.asarray(-3.0), jnp.asarray(1.0)).lower_slope.tolist()
        0.5
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"clip needs finite low < high, got {low} and {high}")
    return Activation(
        f"clip({low}, {high})",
        lambda x: jnp.clip(x, low, high),
        lambda x: jnp.where((x >= low) & (x <= high), 1, 0).astype(x.dtype),
        lambda slope: (jnp.full_like(slope, low), jnp.full_like(slope, high)),
        convex=(-math.inf, (low + high) / 2),
        ends=(0.0, 0.0),
        secant=lambda lower, upper: relu_chord(lower - low, upper - low) - relu_chord(lower - high, upper - high),
    )
