"""Transposes of convolutions with strides, for CPU.

JAX transposes a convolution with stride ``s`` to one of an image with ``s - 1`` zeros between its pixels, which XLA's CPU
backend computes slowly. Pixels of the result that have the same remainder modulo ``s`` are convolutions of the image as
it is: together one convolution with ``s * s`` times the channels, whose pixels are then put in order. The same sums, in
half the time. The derivative by the kernel would be a convolution with a kernel as large as the image, which is slow too; so
it is that of the same sums as products of matrices. The derivative by the image is the convolution itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._stored import stored

NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def is_plain(params: dict[str, Any]) -> bool:
    """Whether a convolution has images as NHWC, kernels as HWIO, and no gaps in its input."""
    numbers = params["dimension_numbers"]
    layout = (tuple(numbers.lhs_spec), tuple(numbers.rhs_spec), tuple(numbers.out_spec))
    return layout == NHWC and set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1


def interleaves(params: dict[str, Any]) -> bool:
    """Whether :func:`transpose_by_interleaving` is the better way."""
    strides = params["window_strides"]
    return (
        jax.default_backend() == "cpu" and is_plain(params) and max(strides) > 1 and set(params["rhs_dilation"]) == {1}
    )


def transpose_by_interleaving(
    params: dict[str, Any], kernel: jax.Array, operand: jax.ShapeDtypeStruct, cotangent: jax.Array
) -> jax.Array:
    """The transpose of a convolution by its images.

    Args:
        params: of ``conv_general_dilated_p``.
        kernel: ``[height, width, channels / groups, outputs]``.
        operand: shape of the images, ``[batch, height, width, channels]``.
        cotangent: ``[batch, height, width, outputs]``.
    """

    @jax.custom_jvp
    def transposed(kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
        return stored(_interleaved(params, kernel, operand.shape, cotangent, _full_convolution))

    @transposed.defjvp
    def derivative(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        (kernel, cotangent), (kernel_tangent, cotangent_tangent) = primals, tangents

        def convolution(images: jax.Array) -> jax.Array:
            return lax.conv_general_dilated_p.bind(images, kernel, **params)

        (by_cotangent,) = jax.linear_transpose(convolution, operand)(cotangent_tangent)
        by_kernel = _interleaved(params, kernel_tangent, operand.shape, cotangent, _sum_of_products)
        return transposed(kernel, cotangent), by_cotangent + by_kernel

    return transposed(kernel, cotangent)


def _interleaved(
    params: dict[str, Any],
    kernel: jax.Array,
    shape: tuple[int, ...],
    cotangent: jax.Array,
    convolve: Callable[[jax.Array, jax.Array, int], jax.Array],
) -> jax.Array:
    """``convolve(images, kernel, groups)`` is at all positions where the two overlap."""
    (s, t), groups = params["window_strides"], params["feature_group_count"]
    high, wide, inputs, outputs = kernel.shape
    rows, columns = -(-high // s), -(-wide // t)
    kernel = jnp.pad(kernel, ((0, rows * s - high), (0, columns * t - wide), (0, 0), (0, 0)))
    # Offsets in the kernel are a quotient and a remainder; remainders become channels, next to those of their group.
    parts = kernel.reshape(rows, s, columns, t, inputs, groups, outputs // groups)[::-1, :, ::-1]
    parts = parts.transpose(0, 2, 6, 5, 1, 3, 4).reshape(rows, columns, outputs // groups, groups * s * t * inputs)
    found = convolve(cotangent, parts, groups)
    batch, m, n, _ = found.shape
    found = found.reshape(batch, m, n, groups, s, t, inputs).transpose(0, 1, 4, 2, 5, 3, 6)
    found = found.reshape(batch, m * s, n * t, groups * inputs)
    # Position p of the images is position p + padding here.
    crops = [
        (-low, low + length - size)
        for (low, _), length, size in zip(params["padding"], shape[1:3], found.shape[1:3], strict=True)
    ]
    return lax.pad(found, jnp.zeros((), found.dtype), [(0, 0, 0), *((low, high, 0) for low, high in crops), (0, 0, 0)])


def _full_convolution(images: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    """With all positions where images and kernel overlap."""
    return lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        [(size - 1, size - 1) for size in kernel.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )


def _sum_of_products(images: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    """The same as a sum over the kernel's pixels, so that its transpose by the kernel is a matrix product for each."""
    rows, columns = kernel.shape[:2]
    grouped = images.reshape(*images.shape[:3], groups, -1)

    def placed(i: int, j: int) -> jax.Array:
        part = kernel[i, j].reshape(kernel.shape[2], groups, -1)
        values = jnp.einsum("bmngi,igo->bmngo", grouped, part, precision=lax.Precision.HIGHEST)
        pads = [(0, 0), (rows - 1 - i, i), (columns - 1 - j, j), (0, 0)]
        return jnp.pad(values.reshape(*images.shape[:3], -1), pads)

    first, *others = itertools.starmap(placed, itertools.product(range(rows), range(columns)))
    return sum(others, first)
