"""Operator norms of convolutions with zero padding and strides."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxrobust.random import normal

from ._layers import Conv, Pair
from ._norms import windows_per_pixel

MAX_ITERATIONS = 1000


@jax.jit
def max_norm(conv: Conv) -> jax.Array:
    """Norm for p = infinity: the largest row sum of absolute values of the convolution's matrix.

    Attained if one window lies inside the image, an upper bound otherwise.
    """
    return jnp.abs(conv.kernel).sum((0, 1, 2)).max()


@jax.jit
def sum_norm(conv: Conv) -> jax.Array:
    """Norm for p = 1: the largest column sum of absolute values.

    A pixel meets only those entries of the kernel whose offsets have its own remainder by the stride; for
    stride 1 that is the whole kernel. Attained if the image is large enough for one pixel to meet all of
    them, an upper bound otherwise.
    """
    height, width, inputs, outputs = conv.kernel.shape
    rows, columns = conv.strides
    padded = jnp.pad(conv.kernel, ((0, -height % rows), (0, -width % columns), (0, 0), (0, 0)))
    phases = padded.reshape(-1, rows, padded.shape[1] // columns, columns, inputs, outputs)
    return jnp.abs(phases).sum((0, 2, 5)).max()


@jax.jit
def reshaped_bound(conv: Conv) -> jax.Array:
    """Upper bound on the 2-norm: ``sqrt(m) * ||K||_2``.

    ``K`` is the kernel as ``[height * width * inputs, outputs]``. The convolution is ``K^T`` applied to every
    window of the image, and the windows together hold every pixel at most ``m`` times, ``m = height * width``
    for stride 1. Without the factor it is no bound.
    """
    kernel = conv.kernel
    count = windows_per_pixel((kernel.shape[0], kernel.shape[1]), conv.strides)
    return math.sqrt(count) * jnp.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), ord=2)


@jax.jit
def fourier_bound(conv: Conv) -> jax.Array:
    """Upper bound on the 2-norm: the norm of the periodic convolution on a grid with room for the padding.

    On a grid of at least ``size + kernel size - 1`` points nothing wraps around, so the convolution with zero
    padding is the periodic one restricted to inputs that vanish outside the image and to some of the outputs;
    neither restriction increases the norm. The periodic convolution multiplies frequency ``w`` by the matrix
    ``K(w)`` (inputs x outputs), hence its norm is the largest singular value over all frequencies. Strides
    keep a part of the outputs, so the bound for stride 1 would stay valid. The exact norm is smaller:
    frequencies that differ by multiples of ``grid / stride`` become one and their outputs add up, so it is
    that of their stacked matrices divided by ``sqrt(vertical stride * horizontal stride)``.

    Memory and time grow with grid points x inputs x outputs.
    """
    height, width, inputs, outputs = conv.kernel.shape
    rows, columns = conv.strides
    # The grid is a multiple of the stride; these are the frequencies that remain different.
    grid_rows = -(-(conv.input_shape[0] + height - 1) // rows)
    grid_columns = -(-(conv.input_shape[1] + width - 1) // columns)
    spectrum = jnp.fft.fft2(conv.kernel, s=(rows * grid_rows, columns * grid_columns), axes=(0, 1))
    spectrum = spectrum.reshape(rows, grid_rows, columns, grid_columns, inputs, outputs)
    stacked = spectrum.transpose(1, 3, 0, 2, 4, 5).reshape(-1, rows * columns * inputs, outputs)
    return jnp.linalg.norm(stacked, ord=2, axis=(-2, -1)).max() / math.sqrt(rows * columns)


def power_iteration(key: jax.Array, conv: Conv, tolerance: float) -> jax.Array:
    """The 2-norm of the convolution itself, approached from below.

    Every step applies the convolution and its transpose to one image, until the estimate grows by less than
    ``tolerance`` (relative) or ``MAX_ITERATIONS`` are done. The steps are compiled, the loop is in Python:
    this is a measurement, and XLA runs convolutions slowly inside ``lax`` loops on CPU.
    """
    shape = (1, *conv.input_shape, conv.kernel.shape[2])
    vector = normal(key, shape, conv.kernel.dtype)
    if isinstance(vector, jax.core.Tracer) or isinstance(conv.kernel, jax.core.Tracer):
        raise ValueError(
            "power iteration stops by the values it finds and cannot run inside jit, grad or vmap; "
            'use convolution="fourier" or "reshaped" there'
        )
    estimate = 0.0
    for _ in range(MAX_ITERATIONS):
        previous = estimate
        vector, norm = _power_step(conv.kernel, vector, conv.strides, conv.padding)
        estimate = float(norm)
        if not estimate - previous > tolerance * estimate:  # written so that NaN stops as well
            break
    return norm


@partial(jax.jit, static_argnames=("strides", "padding"))
def _power_step(
    kernel: jax.Array, vector: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> tuple[jax.Array, jax.Array]:
    """``v -> A^T u``, ``u = A v / ||A v||``; the norm of ``A^T u`` is a lower bound of that of ``A``."""

    def convolve(image: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            window_strides=strides,
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )

    output, transpose = jax.vjp(convolve, vector / _positive_norm(vector))
    (vector,) = transpose(output / _positive_norm(output))
    return vector, jnp.linalg.norm(vector)


def _positive_norm(array: jax.Array) -> jax.Array:
    """Euclidean norm of all entries, 1 for the zero array."""
    norm = jnp.sqrt(jnp.sum(jnp.square(array)))
    return jnp.where(norm > 0, norm, 1)
