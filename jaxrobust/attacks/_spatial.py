"""Rotations and translations as an attack."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxrobust import losses
from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys, typed_key, uniform
from jaxrobust.threat import Bounds
from jaxrobust.threat._base import flatten

from ._loop import _Best, _better, misclassified
from ._types import Attack, check_inputs

Mode = Literal["grid", "random"]


class _Constants(NamedTuple):
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    # [1 or batch, transformations, 3]: angle in radians, pixels down, pixels to the right.
    transformations: jax.Array


class _State(NamedTuple):
    number: jax.Array
    best: _Best


def _transform(image: jax.Array, transformation: jax.Array) -> jax.Array:
    """Rotate ``[height, width, channels]`` counter-clockwise around its centre, then shift it; zeros come in."""
    height, width, _ = image.shape
    angle, down, right = transformation
    centre = (height - 1) / 2, (width - 1) / 2
    # Where each pixel of the result comes from: first the shift is undone, then the rotation. Rows count downwards.
    row = jnp.arange(height, dtype=image.dtype)[:, None] - centre[0] - down
    column = jnp.arange(width, dtype=image.dtype) - centre[1] - right
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    source = [centre[0] + cosine * row + sine * column, centre[1] - sine * row + cosine * column]
    return jax.vmap(lambda channel: map_coordinates(channel, source, order=1), in_axes=2, out_axes=2)(image)


@functools.lru_cache(maxsize=32)
def _make_step(bounds: Bounds) -> Callable[[_Constants, _State], _State]:
    def step(constants: _Constants, state: _State) -> _State:
        images, transformations = constants.images, constants.transformations[:, state.number]
        moved = jax.vmap(_transform)(images, jnp.broadcast_to(transformations, (images.shape[0], 3)))
        moved = moved if bounds is None else jnp.clip(moved, *bounds)
        return _State(state.number + 1, _better(state.best, _judge(constants, moved)))

    return step


def _judge(constants: _Constants, images: jax.Array) -> _Best:
    logits = constants.logits_fn(images)
    loss = losses.cross_entropy(logits, constants.labels).astype(images.dtype)
    return _Best(flatten(images), misclassified(logits, constants.labels), loss)


@jax.jit
def _start(constants: _Constants) -> _State:
    return _State(jnp.zeros((), jnp.int32), _judge(constants, constants.images))


@jax.jit
def _finish(images: jax.Array, wrong: jax.Array, best: _Best) -> jax.Array:
    return jnp.where(wrong[:, None], flatten(images), best.adversarial).reshape(images.shape)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(key: jax.Array, images: jax.Array, samples: int, largest: tuple[float, float, float]) -> jax.Array:
    units = jax.vmap(lambda key: uniform(key, (samples, 3), images.dtype, -1, 1))(example_keys(key, images.shape[0]))
    return units * jnp.asarray(largest, images.dtype)


def _grid(counts: tuple[int, int, int], largest: tuple[float, float, float]) -> np.ndarray:
    axes = [
        np.linspace(-size, size, count) if count > 1 else [0.0] for count, size in zip(counts, largest, strict=True)
    ]
    return np.asarray(list(itertools.product(*axes)))[None]


def spatial(
    *,
    max_rotation: float = 30.0,
    max_translation: float = 3.0,
    mode: Mode = "grid",
    grid: tuple[int, int, int] = (31, 5, 5),
    samples: int = 10,
    bounds: Bounds = (0.0, 1.0),
) -> Attack:
    """The worst of many rotations and translations of each image.

    Per example a misclassified image before others, then the one of highest cross-entropy, among the image itself and
    its transformations: a rotation about the centre, then a shift, with bilinear interpolation and zeros coming in from
    outside. There is no norm ball, and the result usually differs from the image also where it is not misclassified.
    An image that is misclassified as it is returned unchanged. Source: Engstrom et al., 2019.

    Cost: one forward pass for each transformation and one more; 776 with the default grid. No backward pass.

    Args:
        max_rotation: largest angle in degrees, in both directions.
        max_translation: largest shift in pixels, in both directions of both axes.
        mode: ``"grid"`` for all combinations of evenly spaced values, the same for every example; ``"random"`` for
            ``samples`` uniform draws for each example.
        grid: numbers of angles, of vertical and of horizontal shifts. Odd numbers contain the image itself; one
            means that this is not varied.
        samples: random transformations for each example.
        bounds: pixel range that the result is clipped to, or ``None``. The zeros come in whatever it is.

    Raises:
        ValueError: for an unknown mode, negative limits, counts below 1, or images that are not
            ``[batch, height, width, channels]``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> logits_fn = lambda images: images[:, 0, 0, :] @ jnp.array([[1.0, 0.0]]) + jnp.array([0.0, 0.5])
        >>> images = jnp.zeros((1, 3, 3, 1)).at[0, 0, 0].set(1.0)
        >>> attack = spatial(max_rotation=90, max_translation=0, grid=(3, 1, 1))
        >>> attack(jax.random.key(0), logits_fn, images, jnp.array([0]))[0, :, :, 0].round(2).tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if max_rotation < 0 or max_translation < 0:
        raise ValueError(
            f"max_rotation and max_translation must be at least 0, got {max_rotation} and {max_translation}"
        )
    if len(grid) != 3 or min(grid) < 1 or samples < 1:
        raise ValueError(
            f"grid must hold three numbers of at least 1 and samples be at least 1, got {grid} and {samples}"
        )
    largest = (float(np.deg2rad(max_rotation)), float(max_translation), float(max_translation))

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        if images.ndim != 4:
            raise ValueError(f"rotations need images [batch, height, width, channels], got shape {images.shape}")
        if mode == "grid":
            transformations = jnp.asarray(_grid(grid, largest), images.dtype)
        else:
            transformations = _draw(typed_key(key), images, samples, largest)
        constants = _Constants(Closure(logits_fn), images, labels, transformations)
        start = _start(constants)
        state = iterate(_make_step(bounds), constants, start, transformations.shape[1])
        return _finish(images, start.best.success, state.best)

    return attack
