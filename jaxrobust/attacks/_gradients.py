"""Gradient estimators: how an iterative attack obtains the gradient of its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

LossAndLogits = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""Keys ``[batch]`` and images to (loss ``[batch]``, logits ``[batch, classes]``). Only randomised classifiers use keys."""


class Estimate(Protocol):
    """``estimate(keys, loss, images, state) -> (gradient, loss [batch], logits [batch, classes], state)``."""

    def __call__(
        self, keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
        """Estimate the gradient of each example's loss with respect to its own image."""
        ...


class GradientEstimator(NamedTuple):
    """A pair of pure functions, as an Optax transformation is.

    ``init(images) -> state`` and ``estimate(keys, loss, images, state)``, see :class:`Estimate`; ``keys`` holds one
    fresh key per example and step. Estimators that need no memory return ``()`` as their state.
    """

    init: Callable[[jax.Array], Any]
    estimate: Estimate


def plain() -> GradientEstimator:
    """The gradient itself: one forward and one backward pass per step."""
    return GradientEstimator(init=lambda images: (), estimate=_plain)


def _plain(
    keys: jax.Array, loss: LossAndLogits, images: jax.Array, state: Any
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    def total(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        # Each loss depends on its own image alone, so the gradient of the sum holds all the gradients.
        values, logits = loss(keys, images)
        return values.sum(), (values, logits)

    gradient, (values, logits) = jax.grad(total, has_aux=True)(images)
    return gradient, values, logits, state
