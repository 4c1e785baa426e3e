"""LLR: local linearity regularisation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.curvature import value_and_input_gradient
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import absolute, per_example

from ._logits import cross_entropy
from ._terms import Terms, along


class _Constants(NamedTuple):
    threat: ThreatModel
    step_size: jax.Array
    labels: jax.Array
    logits_fn: Closure
    images: jax.Array
    values: jax.Array
    gradient: jax.Array


def llr(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    linearity_weight: float = 4.0,
    gradient_weight: float = 3.0,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """Local linearity regularisation: ``loss(x) + lambda |violation(d)| + mu |d . gradient(x)|``, ``[batch]``.

    ``violation(d) = loss(x + d) - loss(x) - d . gradient(x)``, and ``d`` is where its absolute value is largest within the
    threat model, as found by steepest ascent from a random start; for the gradient it is a constant. Source: Qin et al.,
    2019. Cost of the gradient for the parameters: 2 forward and 3 backward passes, and one of each per step.

    Args:
        key: of the random start: one key, or one per example.
        logits_fn: the network in evaluation mode; see :func:`gradient_norm`.
        images: ``[batch, height, width, channels]`` in [0, 1].
        labels: what the loss takes.
        threat: where linearity is wanted.
        steps: of the search.
        step_size: of the search, in the threat model's norm; by default ``2.5 * eps / steps``.
        linearity_weight, gradient_weight: ``lambda`` and ``mu``; 4 and 3 in the publication for CIFAR-10.
        loss: per-example loss.

    Raises:
        ValueError: for fewer than one step, or a step size that is not positive.
    """
    return llr_terms(
        key,
        logits_fn,
        images,
        labels,
        threat,
        steps=steps,
        step_size=step_size,
        linearity_weight=linearity_weight,
        gradient_weight=gradient_weight,
        loss=loss,
    ).total


def llr_terms(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float | None,
    linearity_weight: float,
    gradient_weight: float,
    loss: Loss,
) -> Terms:
    """Loss and penalty."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if isinstance(step_size, (int, float)) and not step_size > 0:
        raise ValueError(f"step_size must be above 0, got {step_size}")
    values, gradient, logits = value_and_input_gradient(loss, logits_fn, images, labels)
    size = jnp.asarray(2.5 * threat.eps / steps if step_size is None else step_size, images.dtype)
    fixed = jax.lax.stop_gradient((Closure(logits_fn), images, values, gradient))
    constants = _Constants(threat, per_example(size, images), labels, *fixed)
    start = threat.sample(example_keys(key, images.shape[0]), images)
    perturbation = jax.lax.stop_gradient(iterate(_ascent(loss), constants, start, steps))
    slope = along(perturbation, gradient)
    bend = loss(logits_fn(images + perturbation), labels) - values - slope
    return Terms(values, linearity_weight * absolute(bend) + gradient_weight * absolute(slope), logits)


@functools.lru_cache
def _ascent(loss: Loss) -> Callable[[_Constants, jax.Array], jax.Array]:
    """One step of the search for the largest violation."""

    def ascend(constants: _Constants, perturbation: jax.Array) -> jax.Array:
        threat, images = constants.threat, constants.images

        def violation(perturbation: jax.Array) -> jax.Array:
            values = loss(constants.logits_fn(images + perturbation), constants.labels)
            return jnp.abs(values - constants.values - along(perturbation, constants.gradient)).sum()

        direction = jax.grad(violation)(perturbation)
        return threat.project(perturbation + constants.step_size * threat.steepest(direction), images)

    return ascend
