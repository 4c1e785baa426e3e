"""Gradient estimators that average, smooth or accumulate the gradients of another one.

Each wraps an inner estimator, :func:`plain` by default, so they combine: the outermost decides last. Transfer attacks are
made of them (model-alignment study, section 3.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.iteration import unroll
from jaxrobust.random import fold_in_each
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import flatten, per_example

from ._gradients import GradientEstimator, LossAndLogits, plain

Estimated = tuple[jax.Array, jax.Array, jax.Array, Any]
TINY = 1e-12


def normalize_mean_abs(gradient: jax.Array) -> jax.Array:
    """Each gradient divided by the mean of its absolute values; zero where it is zero."""
    mean = jnp.abs(flatten(gradient)).mean(-1)
    return gradient / jnp.maximum(per_example(mean, gradient), TINY)


class _LookAhead:
    """A loss at images ahead of the iterate, which it knows."""

    def __init__(self, loss: LossAndLogits, iterate: jax.Array) -> None:
        self._loss, self.iterate = loss, iterate

    def __call__(self, keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._loss(keys, images)


class _Momentum(NamedTuple):
    direction: jax.Array
    inner: Any


def momentum(inner: GradientEstimator | None = None, *, decay: float = 1.0) -> GradientEstimator:
    """Accumulates normalised gradients: ``g <- decay * g + gradient / mean|gradient|`` (MI; Dong et al., 2018)."""
    return nesterov(inner, decay=decay, look_ahead=0.0)


def nesterov(
    inner: GradientEstimator | None = None, *, decay: float = 1.0, look_ahead: float | jax.Array
) -> GradientEstimator:
    """:func:`momentum` with the gradient at ``x + look_ahead * decay * g`` (NI; Lin et al., 2020).

    Args:
        inner: the estimator whose gradients are accumulated.
        decay: of the accumulated direction.
        look_ahead: usually the attack's step size. The point may lie outside ball and box, as published.
    """
    inner = plain() if inner is None else inner
    ahead = not (isinstance(look_ahead, (int, float)) and look_ahead == 0)

    def init(images: jax.Array) -> _Momentum:
        return _Momentum(jnp.zeros_like(images), inner.init(images))

    def estimate(keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: _Momentum) -> Estimated:
        if ahead:
            loss = _LookAhead(loss, images)
            images = images + jnp.asarray(look_ahead, images.dtype) * decay * state.direction
        gradient, values, logits, inner_state = inner.estimate(keys, loss, images, state.inner)
        direction = decay * state.direction + normalize_mean_abs(gradient)
        return direction, values, logits, _Momentum(direction, inner_state)

    return GradientEstimator(init, estimate)


def translation_invariant(
    inner: GradientEstimator | None = None, *, kernel_size: int = 15, width: float = 3.0
) -> GradientEstimator:
    """The gradient smoothed by a Gaussian kernel, channel by channel (TI; Dong et al., 2019).

    The kernel is ``exp(-t^2 / 2)`` at ``kernel_size`` points ``t`` from ``-width`` to ``width`` along both axes,
    normalised to sum 1; pixels outside the image count as zero. It is applied as two products with banded matrices.

    Raises:
        ValueError: for an even or empty kernel.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    inner = plain() if inner is None else inner
    profile = np.exp(-(np.linspace(-width, width, kernel_size) ** 2) / 2) if kernel_size > 1 else np.ones(1)
    profile = profile / profile.sum()

    def banded(size: int, dtype: Any) -> jax.Array:
        offset = np.arange(size)[:, None] - np.arange(size)[None] + kernel_size // 2
        inside = (offset >= 0) & (offset < kernel_size)
        return jnp.asarray(np.where(inside, profile[np.clip(offset, 0, kernel_size - 1)], 0), dtype)

    def estimate(keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: Any) -> Estimated:
        check_grid(images)
        gradient, values, logits, state = inner.estimate(keys, loss, images, state)
        rows, columns = (banded(size, gradient.dtype) for size in images.shape[1:3])
        return jnp.einsum("ij,bjkc,lk->bilc", rows, gradient, columns), values, logits, state

    return GradientEstimator(inner.init, estimate)


def check_grid(images: jax.Array) -> None:
    """Raise unless images have height, width and channels."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape [batch, height, width, channels], got {images.shape}")


def _mean(count: int, one: Callable[[jax.Array, Any], Estimated], state: Any) -> Estimated:
    """The mean gradient of ``one(number, state)`` over ``count`` numbers; loss, logits and state are the last one's."""
    total, values, logits, state = one(jnp.zeros((), jnp.int32), state)
    if count == 1:
        return total, values, logits, state

    def add(number: jax.Array, carry: Any) -> Any:
        total, _, _, state = carry
        gradient, values, logits, state = one(number, state)
        return total + gradient, values, logits, state

    carry = (total, values, logits, state)
    total, values, logits, state = jax.lax.fori_loop(1, count, add, carry, unroll=unroll(count - 1))
    return total / count, values, logits, state


def scale_invariant(inner: GradientEstimator | None = None, *, copies: int = 5) -> GradientEstimator:
    """The mean gradient over the images divided by 1, 2, 4, ... (SI; Lin et al., 2020).

    Loss and logits are those of the images themselves. Cost: ``copies`` times the inner estimator's.

    Raises:
        ValueError: for less than one copy.
    """
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}")
    inner = plain() if inner is None else inner

    def estimate(keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: Any) -> Estimated:
        def one(number: jax.Array, state: Any) -> Estimated:
            # The last one is the image itself.
            scale = jnp.exp2((number + 1 - copies).astype(images.dtype))
            return inner.estimate(
                fold_in_each(keys, number), lambda keys, images: loss(keys, scale * images), images, state
            )

        return _mean(copies, one, state)

    return GradientEstimator(inner.init, estimate)


class _Variance(NamedTuple):
    variance: jax.Array
    inner: Any


def variance_tuning(
    inner: GradientEstimator | None = None,
    *,
    threat: ThreatModel,
    samples: int = 5,
    beta: float = 1.5,
    around: Literal["iterate", "look_ahead"] = "iterate",
) -> GradientEstimator:
    """The gradient ``h`` plus what the last step's gradients around the image had beyond ``h`` (VT; Wang and He, 2021).

    ``h + v`` is returned, and ``v <- mean_i gradient(x + r_i) - h`` with ``r_i`` uniform in the ball of radius
    ``beta * eps``, not confined to the box. Cost: ``samples + 1`` times the inner estimator's.

    Args:
        inner: the estimator of ``h`` and of the gradients around.
        threat: norm and radius of the neighbourhood.
        samples: neighbours per step; 20 in the publication, 5 in its widespread implementations.
        beta: radius of the neighbourhood in units of ``eps``; 0 gives ``v = 0``.
        around: inside :func:`nesterov`, whether neighbours lie around the iterate or around the point ahead.

    Raises:
        ValueError: for less than one sample or an unknown ``around``.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if around not in ("iterate", "look_ahead"):
        raise ValueError(f"around must be 'iterate' or 'look_ahead', got {around!r}")
    inner = plain() if inner is None else inner
    unbounded: Any = dataclasses.replace(threat, eps=beta * threat.eps, bounds=None)  # type: ignore[type-var]

    def init(images: jax.Array) -> _Variance:
        return _Variance(jnp.zeros_like(images), inner.init(images))

    def estimate(keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: _Variance) -> Estimated:
        gradient, values, logits, inner_state = inner.estimate(fold_in_each(keys, 0), loss, images, state.inner)
        centre = loss.iterate if around == "iterate" and isinstance(loss, _LookAhead) else images

        def one(number: jax.Array, inner_state: Any) -> Estimated:
            own = fold_in_each(keys, number + 1)
            neighbours = centre + unbounded.sample(fold_in_each(own, 0), centre)
            return inner.estimate(fold_in_each(own, 1), loss, neighbours, inner_state)

        mean, *_ = _mean(samples, one, inner_state)
        return gradient + state.variance, values, logits, _Variance(mean - gradient, inner_state)

    return GradientEstimator(init, estimate)


def expectation_over_transformation(
    transform: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    *,
    samples: int = 20,
    inner: GradientEstimator | None = None,
) -> GradientEstimator:
    """The mean gradient over random transformations, or over the draws of a randomised classifier (Athalye et al., 2018).

    Loss and logits are those of the last draw alone, as in AutoAttack. Cost: ``samples`` times the inner estimator's.

    Args:
        transform: ``(key, image) -> image`` for one image ``[height, width, channels]``, differentiable; it is mapped over
            the batch, with a fresh key for each example and draw. ``None`` for a :class:`Randomized` classifier, which
            gets fresh keys for every draw.
        samples: draws per gradient.
        inner: the estimator that is averaged.

    Raises:
        ValueError: for less than one sample.

    Example:
        >>> import jax
        >>> from jaxrobust import Linf, attacks
        >>> def shifted(key, image):
        ...     return jnp.roll(image, jax.random.randint(key, (), -1, 2), axis=0)
        >>> attack = attacks.pgd(
        ...     Linf(0.1), steps=3, gradient=attacks.expectation_over_transformation(shifted, samples=4))
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> attack(jax.random.key(0), logits_fn, jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])).shape
        (2, 2, 2, 1)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    inner = plain() if inner is None else inner

    def estimate(keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: Any) -> Estimated:
        def one(number: jax.Array, state: Any) -> Estimated:
            own = fold_in_each(keys, number)

            def transformed(keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
                moved = images if transform is None else jax.vmap(transform)(fold_in_each(own, 0), images)
                return loss(keys, moved)

            return inner.estimate(fold_in_each(own, 1), transformed, images, state)

        return _mean(samples, one, state)

    return GradientEstimator(inner.init, estimate)


def diverse_inputs(
    inner: GradientEstimator | None = None, *, probability: float = 0.5, rate: float = 0.9
) -> GradientEstimator:
    """The gradient through a random resize and zero padding of the image (DI; Xie et al., 2019).

    With the given probability an image of side ``s`` is resized bilinearly to a side drawn from ``int(rate * s) .. s - 1``
    and put at a random place of a black image of side ``s``; otherwise it stays. The gradient flows back through the
    resizing. Each example has a draw of its own, where widespread implementations make one for the batch.

    Raises:
        ValueError: for a probability outside [0, 1] or a rate outside (0, 1).
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie between 0 and 1, got {rate}")
    inner = plain() if inner is None else inner

    def estimate(keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: Any) -> Estimated:
        check_grid(images)
        draws = jax.vmap(lambda key: jax.random.uniform(key, (4,), images.dtype))(fold_in_each(keys, 0))
        rows, columns = (
            _resize_and_pad(draws[:, 1], draws[:, 2 + axis], size, rate) for axis, size in enumerate(images.shape[1:3])
        )

        def transformed(keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            resized = jnp.einsum("bij,bjkc,blk->bilc", rows, images, columns)
            return loss(keys, jnp.where(per_example(draws[:, 0] < probability, images), resized, images))

        return inner.estimate(fold_in_each(keys, 1), transformed, images, state)

    return GradientEstimator(inner.init, estimate)


def _resize_and_pad(size_draw: jax.Array, offset_draw: jax.Array, size: int, rate: float) -> jax.Array:
    """Matrices ``[batch, size, size]`` that resize an axis and put the result at an offset; the draws are uniform."""
    dtype = size_draw.dtype
    smallest = max(int(size * rate), 1)
    side = smallest + jnp.floor(size_draw * (size - smallest))
    offset = jnp.floor(offset_draw * (size - side))
    position = jnp.arange(size, dtype=dtype) - offset[:, None]
    # Half-pixel centres without anti-aliasing; beyond the outermost centres the edge pixel.
    source = jnp.clip((position + 0.5) * (size / side)[:, None] - 0.5, 0, size - 1)
    weights = jnp.maximum(1 - jnp.abs(source[:, :, None] - jnp.arange(size, dtype=dtype)), 0)
    inside = (position >= 0) & (position < side[:, None])
    return jnp.where(inside[:, :, None], weights, 0)
