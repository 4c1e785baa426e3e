"""What the regularisers of input derivatives share."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.curvature import value_and_input_gradient
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import per_example


class Terms(NamedTuple):
    """The parts of a regularised loss, which training reports one by one.

    Attributes:
        loss: weighted loss of each example, ``[batch]``.
        penalty: weighted penalty of each example, ``[batch]``.
        logits: ``[batch, classes]``, where the loss was taken.
    """

    loss: jax.Array
    penalty: jax.Array
    logits: jax.Array

    @property
    def total(self) -> jax.Array:
        """What is minimised, ``[batch]``."""
        return self.loss + self.penalty


def first_order_terms(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    loss_weight: Any = 1.0,
    penalty_weight: Any = 1.0,
    scale: jax.typing.ArrayLike | None = None,
    loss: Loss,
) -> Terms:
    """``loss_weight * loss`` and ``penalty_weight * eps * ||scale * gradient||``, the norm dual to the threat model's."""
    values, gradient, logits = value_and_input_gradient(loss, logits_fn, images, labels)
    if scale is not None:
        gradient = gradient * jnp.asarray(scale, gradient.dtype)
    penalty = jnp.asarray(threat.eps, values.dtype) * threat.dual_norm(gradient)
    return Terms(
        jnp.asarray(loss_weight, values.dtype) * values, jnp.asarray(penalty_weight, values.dtype) * penalty, logits
    )


def along(vectors: jax.Array, others: jax.Array) -> jax.Array:
    """Inner product of each pair, ``[batch]``."""
    return (vectors * others).reshape(vectors.shape[0], -1).sum(-1)


def scaled(vectors: jax.Array, factors: jax.Array) -> jax.Array:
    """Each vector times a factor of its own, ``[batch]``."""
    return vectors * per_example(factors, vectors)
