"""Rows of linear functions on a node of the network: the coefficients that backward substitution carries.

``Dense`` rows have a coefficient for every entry of the node. ``Identity`` are those with which substitution begins at a
layer. ``Patches`` are the rows of a feature map whose every position sees a window only, as before the second convolution
of a network: they hold the coefficients in the window, which is a small part of the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._affine import Affine
from ._convolution import is_plain
from ._stored import stored


@dataclass(frozen=True)
class Dense:
    """``[rows, *node]``."""

    values: jax.Array

    def map(self, function: Callable[..., jax.Array], *arrays: jax.Array) -> Dense:
        """``function`` of the coefficients and of arrays shaped as the node, or with rows before."""
        shape = self.values.shape
        # Flat, since XLA's CPU backend is slow to sum over an axis before one of size 1, as gradients do.
        flat = (array.reshape(-1) if array.ndim < len(shape) else array.reshape(shape[0], -1) for array in arrays)
        return Dense(function(self.values.reshape(shape[0], -1), *flat).reshape(shape))

    def dot(self, array: jax.Array) -> jax.Array:
        """The values of the rows at a point, shaped as the node, or at one point for each row, ``[rows]``."""
        rows = self.values.reshape(len(self.values), -1)
        if array.ndim == self.values.ndim:
            return (rows * array.reshape(rows.shape)).sum(-1)
        return jnp.matmul(rows, array.reshape(-1), precision=lax.Precision.HIGHEST)

    def __add__(self, other: Rows) -> Dense:
        """Rows of the same function by another way."""
        return Dense(self.values + other.dense().values)

    def stored(self, after: jax.Array | None = None) -> Dense:
        """The same, computed before it is used, and after another value: see :func:`stored`."""
        rows = self.values.reshape(len(self.values), -1)  # flat, since XLA's CPU backend computes these sooner
        return Dense(stored(rows, after).reshape(self.values.shape))

    def dense(self) -> Dense:
        """The same."""
        return self

    def through(self, operation: Affine) -> tuple[Dense, ...]:
        """Rows on the operands of an affine operation."""
        return tuple(Dense(values) for values in jax.vmap(operation.transpose)(self.values))

    def support(self, support: Callable[..., jax.Array], fields: tuple[jax.Array, ...]) -> jax.Array:
        """``support(normals [rows, features], fields [features])`` of the rows on the image, ``[rows]``."""
        return support(self.values.reshape(len(self.values), -1), tuple(field.reshape(-1) for field in fields))


@dataclass(frozen=True)
class Identity:
    """One row for every entry of a node, which it is equal to.

    As a matrix it would be multiplied by the weights of the layer, at the cost of all else for a network with one.

    Attributes:
        shape, dtype: of the node.
    """

    shape: tuple[int, ...]
    dtype: Any

    def map(self, function: Callable[..., jax.Array], *arrays: jax.Array) -> Dense:
        """See :meth:`Dense.map`."""
        return self.dense().map(function, *arrays)

    def dot(self, array: jax.Array) -> jax.Array:
        """See :meth:`Dense.dot`."""
        return self.dense().dot(array) if array.ndim > len(self.shape) else array.reshape(-1)

    def __add__(self, other: Rows) -> Dense:
        """See :meth:`Dense.__add__`."""
        return self.dense() + other

    def stored(self, after: jax.Array | None = None) -> Dense:
        """See :func:`stored`."""
        return self.dense().stored(after)

    def dense(self) -> Dense:
        """As a matrix."""
        size = math.prod(self.shape)
        return Dense(jnp.eye(size, dtype=self.dtype).reshape(size, *self.shape))

    def through(self, operation: Affine) -> tuple[Rows, ...]:
        """See :meth:`Dense.through`. A constant added leaves it, and a product of matrices makes it their weights."""
        if operation.name in ("add", "add_any") and [aval.shape for aval in operation.operand_avals] == [self.shape]:
            return (self,)
        weights = _weights(operation) if operation.name == "dot_general" else None
        return self.dense().through(operation) if weights is None else (Dense(weights).stored(),)

    def support(self, support: Callable[..., jax.Array], fields: tuple[jax.Array, ...]) -> jax.Array:
        """See :meth:`Dense.support`."""
        return self.dense().support(support, fields)


def _weights(operation: Affine) -> jax.Array | None:
    """The matrix of a product of a vector with a constant, ``[results, *operand]``; ``None`` if the operand is no vector."""
    contracted, (batch, _) = operation.params["dimension_numbers"]
    place = operation.arguments.index(None)
    matrix, (aval,) = operation.arguments[1 - place], operation.operand_avals
    own, others = contracted[place], contracted[1 - place]
    if batch or math.prod(aval.shape[axis] for axis in own) != math.prod(aval.shape):
        return None
    free = [axis for axis in range(matrix.ndim) if axis not in others]
    in_order = [other for _, other in sorted(zip(own, others, strict=True))]
    return matrix.transpose(*free, *in_order).reshape(-1, *aval.shape).astype(aval.dtype)


@dataclass(frozen=True)
class Patches:
    """Rows ``(i, j, r)`` with coefficients in a window at position ``(i, j)`` of a node ``[1, height, width, channels]``.

    The window of ``(i, j)`` begins at ``(i, j) * stride - before``. Coefficients outside the node do not count.

    Attributes:
        values: ``[grid or 1, grid or 1, rows, window, window, channels]``; 1 where they are the same at all positions.
        grid: number of positions, vertically and horizontally.
        stride, before: of the windows.
        shape: of the node.
        inside: whether coefficients outside the node are known to be zero.
    """

    values: jax.Array
    grid: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    shape: tuple[int, ...]
    inside: bool

    @property
    def window(self) -> tuple[int, int]:
        """Its size."""
        return self.values.shape[3], self.values.shape[4]

    def map(self, function: Callable[..., jax.Array], *arrays: jax.Array) -> Patches:
        """See :meth:`Dense.map`; functions keep zero at zero where all arrays are."""
        values = function(self.values, *(self._windows(array)[:, :, None] for array in arrays))
        return replace(self, values=values, inside=True)

    def dot(self, array: jax.Array) -> jax.Array:
        """See :meth:`Dense.dot`."""
        return self._products(lambda rows, field: jnp.matmul(rows, field, precision=lax.Precision.HIGHEST), array)

    def support(self, support: Callable[..., jax.Array], fields: tuple[jax.Array, ...]) -> jax.Array:
        """See :meth:`Dense.support`."""
        return self._products(lambda rows, *fields: support(rows, fields), *fields)

    def __add__(self, other: Rows) -> Rows:
        """See :meth:`Dense.__add__`."""
        if not isinstance(other, Patches) or (self.grid, self.stride) != (other.grid, other.stride):
            return self.dense() + other
        before = (max(self.before[0], other.before[0]), max(self.before[1], other.before[1]))
        ends = tuple(
            max(a + n, b + m)
            for a, n, b, m in zip(
                (-self.before[0], -self.before[1]),
                self.window,
                (-other.before[0], -other.before[1]),
                other.window,
                strict=True,
            )
        )

        def widened(patches: Patches) -> jax.Array:
            pads = [
                (before[axis] - patches.before[axis], ends[axis] + patches.before[axis] - patches.window[axis], 0)
                for axis in (0, 1)
            ]
            return lax.pad(patches.values, jnp.zeros((), patches.values.dtype), [(0, 0, 0)] * 3 + pads + [(0, 0, 0)])

        values = widened(self) + widened(other)
        return replace(self, values=values, before=before, inside=self.inside and other.inside)

    def stored(self, after: jax.Array | None = None) -> Patches:
        """See :meth:`Dense.stored`."""
        rows = self.values.reshape(-1, self.values.shape[-1])
        return replace(self, values=stored(rows, after).reshape(self.values.shape))

    def dense(self) -> Dense:
        """With a coefficient for every entry of the node."""
        rows, channels = self.values.shape[2], self.shape[-1]
        values = self._inside().values
        values = jnp.broadcast_to(values, (*self.grid, *values.shape[2:]))
        high, wide = self._reach()
        out = jnp.zeros((*self.grid, rows, high, wide, channels), values.dtype)
        vertical, horizontal = self._indices()
        i, j, r = (jnp.arange(n) for n in (*self.grid, rows))
        index = (
            i[:, None, None, None, None],
            j[:, None, None, None],
            r[:, None, None],
            vertical[:, None, None, :, None],
            horizontal[:, None, None, :],
        )
        out = out.at[index].set(values)
        low, left = self.before
        out = out[:, :, :, low : low + self.shape[1], left : left + self.shape[2]]
        return Dense(out.reshape(-1, *self.shape))

    def through(self, operation: Affine) -> tuple[Rows, ...]:
        """Rows on the operands: patches if the operation is a convolution or elementwise, else dense ones.

        They become dense as well where a window is as large as the feature map.
        """
        if operation.name == "conv_general_dilated" and operation.arguments[0] is None and is_plain(operation.params):
            patches = self._through_convolution(operation)
            small = patches.window[0] * patches.window[1] < patches.shape[1] * patches.shape[2]
            return (patches if small else patches.dense(),)
        if operation.name in ("add", "sub", "add_any", "neg") and all(
            a.shape == self.shape for a in operation.operand_avals
        ):
            signs = [-1 if operation.name == "neg" else 1, -1 if operation.name == "sub" else 1]
            placed = [sign for sign, a in zip(signs, operation.arguments, strict=False) if a is None]
            return tuple(self if sign == 1 else replace(self, values=-self.values) for sign in placed)
        if operation.name in ("mul", "div") and operation.operand_avals[0].shape == self.shape:
            (factor,) = (a for a in operation.arguments if a is not None)
            factor = 1 / factor if operation.name == "div" else factor
            if factor.ndim == 0 or factor.size == factor.shape[-1]:
                return (replace(self, values=self.values * factor.reshape(-1)),)
            return (self.map(jnp.multiply, jnp.broadcast_to(factor, self.shape)),)
        return self.dense().through(operation)

    def _through_convolution(self, operation: Affine) -> Patches:
        """Each window is the result of a small convolution without padding, whose transpose gives a larger window."""
        params, kernel = operation.params, operation.arguments[1]
        stride, dilation = params["window_strides"], params["rhs_dilation"]
        sizes = [(kernel.shape[axis] - 1) * dilation[axis] + 1 for axis in (0, 1)]
        window = [(n - 1) * s + k for n, s, k in zip(self.window, stride, sizes, strict=True)]
        channels = operation.operand_avals[0].shape[-1]
        values = self._inside().values
        flat = values.reshape(-1, *values.shape[3:])
        operand = jax.ShapeDtypeStruct((len(flat), *window, channels), values.dtype)
        small = replace(operation, params={**params, "padding": ((0, 0), (0, 0))}, operand_avals=(operand,))
        (larger,) = small.transpose(flat)
        low = [pad[0] for pad in operation.params["padding"]]
        return Patches(
            larger.reshape(*values.shape[:3], *window, channels),
            self.grid,
            (self.stride[0] * stride[0], self.stride[1] * stride[1]),
            (self.before[0] * stride[0] + low[0], self.before[1] * stride[1] + low[1]),
            operation.operand_avals[0].shape,
            inside=False,
        )

    def _inside(self) -> Patches:
        """With zeros outside the node."""
        if self.inside:
            return self
        return self.map(jnp.multiply, jnp.ones(self.shape, self.values.dtype))

    def _products(self, product: Callable[..., jax.Array], *fields: jax.Array) -> jax.Array:
        """``product(rows [rows, window], *fields [window])`` at every position; equal rows stay one matrix."""
        positions = self.grid[0] * self.grid[1]
        windows = [self._windows(field).reshape(positions, -1) for field in fields]
        rows = self.values.reshape(*self.values.shape[:3], -1)
        if rows.shape[:2] == (1, 1):
            return jax.vmap(product, (None, *[0] * len(windows)))(rows[0, 0], *windows).reshape(-1)
        rows = jnp.broadcast_to(rows, (*self.grid, *rows.shape[2:])).reshape(positions, *rows.shape[2:])
        return jax.vmap(product)(rows, *windows).reshape(-1)

    def _indices(self) -> tuple[jax.Array, jax.Array]:
        """Where windows lie in the node with a margin, ``[grid, window]`` for each axis."""
        found = [
            jnp.arange(count)[:, None] * step + jnp.arange(size)
            for count, step, size in zip(self.grid, self.stride, self.window, strict=True)
        ]
        return found[0], found[1]

    def _reach(self) -> tuple[int, int]:
        """Height and width of the node with the margin that windows need."""
        needed = [
            max((count - 1) * step + size, before + length)
            for count, step, size, before, length in zip(
                self.grid, self.stride, self.window, self.before, self.shape[1:3], strict=True
            )
        ]
        return needed[0], needed[1]

    def _windows(self, array: jax.Array) -> jax.Array:
        """The windows of an array shaped as the node, zero outside: ``[grid, grid, window, window, channels]``."""
        high, wide = self._reach()
        low, left = self.before
        margin = ((low, high - low - self.shape[1]), (left, wide - left - self.shape[2]), (0, 0))
        padded = jnp.pad(array.reshape(self.shape[1:]), margin)
        vertical, horizontal = self._indices()
        return padded[vertical][:, :, horizontal].transpose(0, 2, 1, 3, 4)


Rows = Dense | Identity | Patches


def identity(shape: tuple[int, ...], dtype: Any) -> Rows:
    """One row for every entry of a node: patches for feature maps."""
    if len(shape) == 4 and shape[0] == 1 and shape[1] * shape[2] > 1:
        values = jnp.eye(shape[3], dtype=dtype).reshape(1, 1, shape[3], 1, 1, shape[3])
        return Patches(values, (shape[1], shape[2]), (1, 1), (0, 0), shape, inside=True)
    return Identity(shape, dtype)


def split(rows: Rows, at_once: int | None) -> list[tuple[Rows, tuple[int, ...]]]:
    """Parts with at most so many rows, or one channel of patches, and the axes before the one along which they are parts.

    Raises:
        ValueError: for less than one row.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"rows_at_once must be at least 1, or None for all rows of a layer, got {at_once}")
    if isinstance(rows, Patches):
        size = rows.values.shape[2] if at_once is None else max(1, at_once // (rows.grid[0] * rows.grid[1]))
        parts = range(0, rows.values.shape[2], size)
        return [(replace(rows, values=rows.values[:, :, i : i + size]), rows.grid) for i in parts]
    if at_once is None:
        return [(rows, ())]
    values = rows.dense().values
    return [(Dense(values[i : i + at_once]), ()) for i in range(0, len(values), at_once)]
