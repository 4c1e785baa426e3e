"""The largest of several values that lie in windows of an array."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Maximum over windows.

    Attributes:
        windows: ``(values, fill) -> [window, *output]``, linear for ``fill = 0``: what each window holds, and ``fill`` where
            a window reaches over the edge.
        aval: shape and dtype of the operand.
    """

    windows: Callable[[jax.Array, float], jax.Array]
    aval: jax.ShapeDtypeStruct

    def interval(self, lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The largest lower and the largest upper bound."""
        return self.windows(lower, -jnp.inf).max(0), self.windows(upper, -jnp.inf).max(0)

    def lines(self, lower: jax.Array, upper: jax.Array) -> PoolLines:
        """Linear bounds, valid where the operand lies within its bounds.

        From below the maximum is at least the value with the largest lower bound. From above it is at most
        ``max(x, c)``, where ``x`` is the value with the largest upper bound and ``c`` bounds all others; this convex function
        lies below its chord.
        """
        low, high = self.windows(lower, -jnp.inf), self.windows(upper, -jnp.inf)
        below = jax.nn.one_hot(low.argmax(0), len(low), dtype=low.dtype, axis=0)
        first = jax.nn.one_hot(high.argmax(0), len(high), dtype=high.dtype, axis=0)
        others = jnp.where(first > 0, -jnp.inf, high).max(0)
        largest = high.max(0)
        at_least = jnp.where(first > 0, low, -jnp.inf).max(0)
        kink = jnp.maximum(at_least, others)
        width = largest - at_least
        slope = jnp.where(others > at_least, (largest - kink) / jnp.where(width > 0, width, 1), 1)
        intercept = jnp.where(others > at_least, kink - slope * at_least, 0)
        return PoolLines(self, below, first * slope, intercept)

    def weighted(self, weights: jax.Array, values: jax.Array) -> jax.Array:
        """The sum of what each window holds, times ``weights``, ``[window, *output]``."""
        return (weights * self.windows(values, 0.0)).sum(0)

    def transpose(self, weights: jax.Array, cotangent: jax.Array) -> jax.Array:
        """The transpose of :meth:`weighted` by the values."""
        return jax.linear_transpose(partial(self.weighted, weights), self.aval)(cotangent)[0]


@dataclass(frozen=True)
class PoolLines:
    """Linear bounds of a maximum: weights of what the windows hold, ``[window, *output]``, and the upper bound's offset."""

    pool: MaxPool
    lower: jax.Array
    upper: jax.Array
    offset: jax.Array


def reduce_window_windows(
    dimensions: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> Callable[[jax.Array, float], jax.Array]:
    """The windows of ``lax.reduce_window``, one strided slice per position in the window."""

    def windows(values: jax.Array, fill: float) -> jax.Array:
        padded = lax.pad(values, jnp.asarray(fill, values.dtype), [(low, high, 0) for low, high in padding])
        reach = [(size - 1) * step + 1 for size, step in zip(dimensions, dilation, strict=True)]
        counts = [(n - r) // s + 1 for n, r, s in zip(padded.shape, reach, strides, strict=True)]
        offsets: list[tuple[int, ...]] = [()]
        for size, step in zip(dimensions, dilation, strict=True):
            offsets = [(*start, step * i) for start in offsets for i in range(size)]
        return jnp.stack(
            [
                lax.slice(
                    padded,
                    start,
                    [o + (n - 1) * s + 1 for o, n, s in zip(start, counts, strides, strict=True)],
                    strides,
                )
                for start in offsets
            ]
        )

    return windows


def axes_windows(axes: tuple[int, ...], shape: tuple[int, ...]) -> Callable[[jax.Array, float], jax.Array]:
    """One window over whole axes, as in a maximum over all positions."""
    kept = tuple(axis for axis in range(len(shape)) if axis not in axes)

    def windows(values: jax.Array, fill: float) -> jax.Array:
        del fill
        return values.transpose(*axes, *kept).reshape(-1, *(shape[axis] for axis in kept))

    return windows
