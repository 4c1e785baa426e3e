"""Small random networks that between them have every layer and activation that can be bounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

IMAGE = (6, 6, 2)
CLASSES = 3


class Network(NamedTuple):
    """``init(key) -> parameters`` and ``apply(parameters, images) -> logits``."""

    init: Callable
    apply: Callable

    def bound(self, key):
        return partial(self.apply, self.init(key))


def conv(x, kernel, stride=1, padding="SAME", groups=1, dilation=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def normal(key, *shapes, scale=1.0):
    keys = jax.random.split(key, len(shapes))
    sizes = [max(1, shape[0] if len(shape) < 3 else shape[0] * shape[1] * shape[2]) for shape in shapes]
    return [scale * jax.random.normal(k, s) / n**0.5 for k, s, n in zip(keys, shapes, sizes, strict=True)]


def max_pool(x, size, stride, padding):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def average_pool(x, size, stride, padding):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, padding) / size**2


def mlp(*activations, width=8):
    """Dense layers with these activations between them."""
    inputs = IMAGE[0] * IMAGE[1] * IMAGE[2]

    def init(key):
        sizes = [inputs, *[width] * len(activations), CLASSES]
        shapes = list(pairwise(sizes))
        return normal(key, *shapes, *[(m,) for _, m in shapes], scale=1.5)

    def apply(parameters, images):
        x, layers = images.reshape(len(images), -1), len(activations) + 1
        for i in range(layers):
            x = x @ parameters[i] + parameters[layers + i]
            x = activations[i](x) if i < len(activations) else x
        return x

    return Network(init, apply)


def _residual():
    def init(key):
        shapes = [(3, 3, 2, 4), (3, 3, 4, 4), (4,), (4,), (1, 1, 2, 4), (36, CLASSES)]
        return normal(key, *shapes, scale=1.5)

    def apply(parameters, images):
        first, second, mean, scale, skip, last = parameters
        x = (images - 0.4) / jnp.array([0.5, 0.25])
        y = conv(x, first, stride=2)
        y = (y - mean) * lax.rsqrt(scale**2 + 0.5) * (1 + mean) + scale  # batch norm with running statistics
        y = jax.nn.relu(y)
        y = conv(y, second) + conv(x, skip, stride=2, padding="VALID")
        y = jax.nn.relu(y)
        return y.transpose(0, 3, 1, 2).reshape(len(images), -1) @ last

    return Network(init, apply)


def _pooling():
    def init(key):
        return normal(key, (2, 2, 1, 4), (2, 2, 4, 4), (4, CLASSES), (4,), scale=1.5)

    def apply(parameters, images):
        first, second, last, slopes = parameters
        x = conv(images, first, padding=((1, 0), (0, 1)), groups=2)
        x = jnp.where(x > 0, x, slopes * x)  # PReLU
        x = max_pool(x, 2, 2, "VALID")
        x = conv(x, second, dilation=2, padding=((1, 1), (1, 1)))
        x = jax.nn.leaky_relu(x, 0.2)
        x = average_pool(x, 2, 1, "SAME")
        return x.max((1, 2)) @ last

    return Network(init, apply)


NETWORKS = {
    "residual": _residual(),
    "pooling": _pooling(),
    "relu": mlp(jax.nn.relu, jax.jit(jax.nn.relu)),
    "s-shaped": mlp(jax.nn.sigmoid, jnp.tanh, jnp.arctan),
    "smooth": mlp(jax.nn.softplus, jax.nn.silu),
    "gelu": mlp(partial(jax.nn.gelu, approximate=False), jax.nn.gelu),
    "kinked": mlp(jax.nn.relu6, jax.nn.elu, lambda x: jnp.maximum(0.25, jnp.abs(x))),
}
