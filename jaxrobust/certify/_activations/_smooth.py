"""Smooth activation functions.

The points where a derivative has a given value are known in closed form except for GELU and SiLU. Closed forms are written so
that they do not cancel and stay finite for every slope; where no such point exists they return any.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ._activation import Activation, Function
from ._search import last_true


def _positive(slope: jax.Array, largest: float) -> jax.Array:
    """The slope, within what a derivative takes as values."""
    return jnp.clip(slope, float(jnp.finfo(slope.dtype).tiny), largest)


def _both(point: jax.Array) -> tuple[jax.Array, ...]:
    return -point, point


# --- S-shaped


def _sigmoid_critical(slope: jax.Array) -> tuple[jax.Array, ...]:
    """``2 artanh(s)`` with ``s = sqrt(1 - 4 d)``, Table 3.1 without its cancellations, as ``(1 - s) (1 + s) = 4 d``."""
    d = _positive(slope, 0.25)
    return _both(2 * jnp.log1p(jnp.sqrt(1 - 4 * d)) - jnp.log(4 * d))


def _tanh_critical(slope: jax.Array) -> tuple[jax.Array, ...]:
    """``artanh(sqrt(1 - d))``."""
    d = _positive(slope, 1.0)
    return _both(jnp.log1p(jnp.sqrt(1 - d)) - jnp.log(d) / 2)


def _arctan_critical(slope: jax.Array) -> tuple[jax.Array, ...]:
    return _both(jnp.sqrt(1 / _positive(slope, 1.0) - 1))


_ERF_SLOPE = 2 / math.sqrt(math.pi)


def _erf_critical(slope: jax.Array) -> tuple[jax.Array, ...]:
    return _both(jnp.sqrt(jnp.maximum(-jnp.log(_positive(slope, _ERF_SLOPE) / _ERF_SLOPE), 0)))


def _s_shaped(
    name: str, function: Function, derivative: Function, critical: Callable[[jax.Array], tuple[jax.Array, ...]]
) -> Activation:
    return Activation(name, function, derivative, critical, convex=(-math.inf, 0.0), ends=(0.0, 0.0), s_shaped=True)


sigmoid = _s_shaped("sigmoid", jax.nn.sigmoid, lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x), _sigmoid_critical)
tanh = _s_shaped("tanh", jnp.tanh, lambda x: 4 * jax.nn.sigmoid(2 * x) * jax.nn.sigmoid(-2 * x), _tanh_critical)
arctan = _s_shaped("arctan", jnp.arctan, lambda x: 1 / (1 + x * x), _arctan_critical)
erf = _s_shaped("erf", jax.lax.erf, lambda x: _ERF_SLOPE * jnp.exp(-x * x), _erf_critical)


# --- Convex


def _logit(slope: jax.Array) -> tuple[jax.Array, ...]:
    d = _positive(slope, 1 - float(jnp.finfo(slope.dtype).epsneg))
    return (jnp.log(d) - jnp.log1p(-d),)


softplus = Activation("softplus", jax.nn.softplus, jax.nn.sigmoid, _logit)
exp = Activation(
    "exp",
    jnp.exp,
    jnp.exp,
    lambda slope: (jnp.log(_positive(slope, math.inf)),),
    ends=(0.0, math.inf),
    reach=lambda info: (-math.sqrt(float(info.max)) / 4, 0.9 * math.log(float(info.max))),
)
square = Activation(
    "square",
    jnp.square,
    lambda x: 2 * x,
    lambda slope: (slope / 2,),
    ends=(-math.inf, math.inf),
    stationary=(0.0,),
    secant=lambda lower, upper: lower + upper,
)


# --- GELU and SiLU: x/2 plus an even function, convex between two inflections, decreasing up to a minimum left of zero

_STRAIGHT = 750.0
"""Beyond this they are 0 or x, in double precision as well."""


def _bent(name: str, function: Function, derivative: Function, inflection: float, minimum: float) -> Activation:
    def critical(slope: jax.Array) -> tuple[jax.Array, ...]:
        """The derivative falls from 0, rises between the inflections to more than 1, and falls to 1."""
        starts = jnp.asarray([-_STRAIGHT, -inflection, inflection], slope.dtype)
        ends = jnp.asarray([-inflection, inflection, _STRAIGHT], slope.dtype)
        falls = jnp.asarray([1.0, -1.0, 1.0], slope.dtype)
        starts, ends, falls = (
            jnp.broadcast_to(x.reshape(3, *[1] * slope.ndim), (3, *slope.shape)) for x in (starts, ends, falls)
        )
        found = last_true(lambda x: falls * (derivative(x) - slope) > 0, starts, ends)
        return tuple(found)

    return Activation(name, function, derivative, critical, convex=(-inflection, inflection), stationary=(minimum,))


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_derivative(x: jax.Array) -> jax.Array:
    return jax.lax.erfc(-x * math.sqrt(0.5)) / 2 + x * jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _cubic(x: jax.Array) -> jax.Array:
    """What the approximate GELU is a sigmoid of. Cubes of large numbers would overflow; the sigmoid is 0 or 1 long before."""
    inside = jnp.clip(x, -_STRAIGHT, _STRAIGHT)
    return math.sqrt(8 / math.pi) * (inside + 0.044715 * inside**3)


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(_cubic(x))  # (1 + tanh(y)) / 2 is sigmoid(2 y)


def _gelu_tanh_derivative(x: jax.Array) -> jax.Array:
    inside = jnp.clip(x, -_STRAIGHT, _STRAIGHT)
    rate = math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * inside**2)
    return jax.nn.sigmoid(_cubic(x)) * (1 + inside * rate * jax.nn.sigmoid(-_cubic(x)))


def _silu_derivative(x: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(x) * (1 + x * jax.nn.sigmoid(-x))


gelu = _bent("gelu", _gelu, _gelu_derivative, math.sqrt(2), -0.7517915246935645)
gelu_tanh = _bent("gelu_tanh", _gelu_tanh, _gelu_tanh_derivative, 1.4185040087908284, -0.7524614220710163)
silu = _bent("silu", jax.nn.silu, _silu_derivative, 2.3993572805154677, -1.2784645427610738)
