"""Upper bounds on the Lipschitz constant of a network by products of layer norms, and what they certify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar, get_args

import jax
import jax.numpy as jnp

from ._convolution import fourier_bound, max_norm, power_iteration, reshaped_bound, sum_norm
from ._layers import AveragePool, BatchNorm, Conv, Dense, Elementwise, Layer, MaxPool, Residual, Scale
from ._norms import average_pool_norm, batch_norm_norm, dense_norm, max_pool_norm, scale_norm

ConvolutionNorm = Literal["power_iteration", "fourier", "reshaped"]
LayerWithKernel = TypeVar("LayerWithKernel", Dense, Conv)


def layer_norm(
    layer: Layer,
    p: float = 2,
    *,
    convolution: ConvolutionNorm = "power_iteration",
    key: jax.Array | None = None,
    tolerance: float = 1e-6,
) -> jax.Array:
    """Lipschitz constant of one layer from l_p to l_p, or an upper bound on it.

    * Dense: largest singular value (p = 2), largest sum of ``|W|`` over the weights of one output (infinity)
      or of one input (1).
    * Convolution: largest sum of ``|K|`` over an output channel (infinity) or an input channel (1) [3].
    * Max pool: ``m^(1/p)``, with ``m`` the largest number of windows that cover one pixel, 1 without overlap.
    * Average pool of ``n`` pixels: 1 (infinity), ``m / n`` (1), ``1 / sqrt(n)`` without overlap (2) [2].
    * Scale, batch normalisation, activation: largest absolute slope.
    * Residual block: ``L(shortcut) + L(branch)``.

    The 2-norm of a convolution, with its padding and strides and on images of its ``input_shape``, is one of

    * ``"power_iteration"``: the norm itself, approached from below; with the default tolerance the estimate
      was within 3e-4 (relative) of the norm for layers of 1 to 64 channels on 8 to 32 pixels. Not an upper
      bound in the strict sense, and not for use inside ``jit``.
    * ``"fourier"``: an upper bound (up to rounding), the norm of the periodic convolution on a grid enlarged
      by the kernel. Usually within a few per cent of the norm; the one to certify with.
    * ``"reshaped"``: an upper bound, ``sqrt(m)`` times the spectral norm of the kernel as a matrix
      ``[height * width * inputs, outputs]``. Cheap and loose, by up to a factor of ``sqrt(m)``.

    In this order none is smaller than the one before.

    Source: optimizer-robustness study, eq. (4.20), which takes layers in isolation and leaves the rules for
    strides, pools and residual blocks open. Departures:

    1. Power iteration runs until the estimate grows by less than ``tolerance``, at most 1000 times, and not
       50 to 100 times, after which it may still be 0.4 % short on images of 28 x 28.
    2. Average pools may overlap: ``prod_axes sqrt(sum_r c_r^2) / k``, with ``c_r`` the number of the ``k``
       cells of a window whose offset has remainder ``r`` by the stride. Attained in the limit of large
       images.
    3. With strides, the 1-norm of a convolution and the reshaped bound count only the windows that one pixel
       is part of.

    Args:
        layer: description of the layer.
        p: 1, 2 or infinity (``math.inf``).
        convolution: how the 2-norm of convolutions is obtained; no influence on anything else.
        key: random key of the start vectors of power iteration, needed for nothing else.
        tolerance: relative growth of the estimate at which power iteration stops.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: for another ``p`` or ``convolution``, a kernel of the wrong shape, a missing key, or power
            iteration inside ``jit``.
        TypeError: for a kernel that is not float32 or float64, or an unknown kind of layer.

    Example:
        >>> import jax.numpy as jnp
        >>> dense = Dense(jnp.array([[3.0, -1.0], [0.0, 2.0]]))
        >>> [float(layer_norm(dense, p)) for p in (1, math.inf)]
        [4.0, 3.0]
    """
    _check_p(p)
    if convolution not in get_args(ConvolutionNorm):
        choices = ", ".join(get_args(ConvolutionNorm))
        raise ValueError(f"unknown convolution norm {convolution!r}; choose one of {choices}")
    match layer:
        case Dense():
            return dense_norm(_checked(layer, 2).kernel, p)
        case Conv():
            return _conv_norm(_checked(layer, 4), p, convolution, key, tolerance)
        case MaxPool():
            return jnp.asarray(max_pool_norm(layer, p))
        case AveragePool():
            return jnp.asarray(average_pool_norm(layer, p))
        case Scale():
            return scale_norm(layer)
        case BatchNorm():
            return batch_norm_norm(layer)
        case Elementwise():
            return jnp.asarray(layer.constant)
        case Residual():
            paths = [
                lipschitz_upper_bound(path, p, convolution=convolution, key=_fold(key, index), tolerance=tolerance)
                for index, path in enumerate((layer.shortcut, layer.branch))
            ]
            return paths[0] + paths[1]
    raise TypeError(f"unknown kind of layer {type(layer).__name__}; use those of jaxrobust.curvature")


def layer_norms(
    layers: Sequence[Layer],
    p: float = 2,
    *,
    convolution: ConvolutionNorm = "power_iteration",
    key: jax.Array | None = None,
    tolerance: float = 1e-6,
) -> list[jax.Array]:
    """:func:`layer_norm` of every layer of a network, for reports; a residual block is one layer.

    For very deep networks add up the logarithms of these; their product may overflow.
    """
    return [
        layer_norm(layer, p, convolution=convolution, key=_fold(key, index), tolerance=tolerance)
        for index, layer in enumerate(layers)
    ]


def lipschitz_upper_bound(
    layers: Sequence[Layer],
    p: float = 2,
    *,
    convolution: ConvolutionNorm = "power_iteration",
    key: jax.Array | None = None,
    tolerance: float = 1e-6,
) -> jax.Array:
    """Upper bound on the Lipschitz constant of a network from l_p to l_p: the product of its layer norms.

    ``||f(a) - f(b)||_p <= L ||a - b||_p`` for all inputs, with ``L = prod_i L_i`` and ``L_i`` of
    :func:`layer_norm`, whose arguments and errors these are. Input: images as the first layer takes them (put
    normalisation in as ``Scale(1 / std)`` for a bound per unit of pixel range). Output: logits. The bound is
    usually far from tight; it is for comparing networks of one architecture.

    Source: optimizer-robustness study, eq. (4.20).

    Args:
        layers: the network in the order of computation.
        p: 1, 2 or infinity.
        convolution: see :func:`layer_norm`; with ``"power_iteration"`` the result is a bound up to the small
            shortfall of the iteration.
        key: random key, needed for convolutions with ``p=2`` and power iteration.
        tolerance: see :func:`layer_norm`.

    Returns:
        Scalar; 1 for no layers.

    Example:
        >>> import jax.numpy as jnp
        >>> network = [Dense(2.0 * jnp.eye(3)), Elementwise(), Residual((), (Dense(-0.5 * jnp.eye(3)),))]
        >>> lipschitz_upper_bound(network).item()
        3.0
    """
    norms = layer_norms(layers, p, convolution=convolution, key=key, tolerance=tolerance)
    return jnp.asarray(math.prod(norms, start=1.0))


def certified_radius(margins: jax.Array, lipschitz: jax.Array | float, p: float = 2) -> jax.Array:
    """Radius within which no perturbation changes the decision: ``margin / (2^(1 - 1/p) L)``.

    The difference of two logits is ``2^(1/q)``-Lipschitz as a function of the logits, ``1/p + 1/q = 1``: the
    factor is ``sqrt(2)`` for p = 2, 2 for p = infinity and 1 for p = 1.

    Source: Tsuzuku et al. (2018), for p = 2.

    Args:
        margins: ``[batch]``, logit of the true class minus the largest other logit.
        lipschitz: upper bound on the network's Lipschitz constant from l_p to l_p.
        p: 1, 2 or infinity.

    Returns: ``[batch]``, the l_p radius in units of the input, 0 for misclassified examples. All points
        closer than the radius are classified correctly.

    Raises:
        ValueError: for another ``p``.

    Example:
        >>> import jax.numpy as jnp
        >>> certified_radius(jnp.array([3.0, -1.0]), 2.0, p=math.inf).tolist()
        [0.75, 0.0]
    """
    _check_p(p)
    return jnp.where(margins > 0, margins / (2 ** (1 - 1 / p) * lipschitz), 0)


def _conv_norm(
    conv: Conv, p: float, convolution: ConvolutionNorm, key: jax.Array | None, tolerance: float
) -> jax.Array:
    if p == 1:
        return sum_norm(conv)
    if p == math.inf:
        return max_norm(conv)
    if convolution == "fourier":
        return fourier_bound(conv)
    if convolution == "reshaped":
        return reshaped_bound(conv)
    if key is None:
        raise ValueError("power iteration starts at random: pass a key, for example key=jax.random.key(0)")
    return power_iteration(key, conv, tolerance)


def _checked(layer: LayerWithKernel, axes: int) -> LayerWithKernel:
    """The layer with a JAX array as its kernel."""
    name, kernel = type(layer).__name__, jnp.asarray(layer.kernel)
    if kernel.ndim != axes or not kernel.size:
        raise ValueError(f"the kernel of {name} needs {axes} axes, none of length 0; got {kernel.shape}")
    if kernel.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"the kernel of {name} must be float32 or float64, got {kernel.dtype}; convert it")
    return replace(layer, kernel=kernel)


def _check_p(p: float) -> None:
    if p not in (1, 2, math.inf):
        raise ValueError(f"p must be 1, 2 or infinity (math.inf), got {p!r}")


def _fold(key: jax.Array | None, index: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, index)
