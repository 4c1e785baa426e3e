"""CURE: curvature regularisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.curvature import input_gradient, value_and_input_gradient
from jaxrobust.threat import safe_norm
from jaxrobust.threat._base import flatten

from ._logits import cross_entropy
from ._terms import Terms, along, scaled


def cure(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    *,
    step: float = 1.5,
    weight: float = 4.0,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """Curvature regularisation: ``loss(x) + weight * ||gradient(x + step v) - gradient(x)||_2^2``, ``[batch]``.

    ``v`` is the sign of the gradient, scaled to Euclidean length 1, and a constant; where the gradient is zero, so is ``v``.
    Source: Moosavi-Dezfooli et al., 2019. Cost of the gradient for the parameters: 2 forward and 3 backward passes.

    Args:
        logits_fn: the network in evaluation mode; see :func:`gradient_norm`.
        images: ``[batch, height, width, channels]`` in [0, 1].
        labels: what the loss takes.
        step: Euclidean length of the finite difference; the publication raises it to 1.5 over the first epochs.
        weight: of the penalty, 4 in the publication for CIFAR-10.
        loss: per-example loss.

    Raises:
        ValueError: if the step is not positive.
    """
    if not step > 0:
        raise ValueError(f"step must be above 0, got {step}")
    return cure_terms(logits_fn, images, labels, step=step, weight=weight, loss=loss).total


def cure_terms(
    logits_fn: LogitsFn, images: jax.Array, labels: jax.Array, *, step: float, weight: float, loss: Loss
) -> Terms:
    """Loss and penalty."""
    values, gradient, logits = value_and_input_gradient(loss, logits_fn, images, labels)
    sign = jnp.sign(jax.lax.stop_gradient(gradient))
    length = safe_norm(flatten(sign))
    moved = images + scaled(sign, step / jnp.where(length > 0, length, 1))
    difference = input_gradient(loss, logits_fn, moved, labels) - gradient
    return Terms(values, jnp.asarray(weight, values.dtype) * along(difference, difference), logits)
