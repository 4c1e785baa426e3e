"""FOAR and SOAR: the worst case of a Taylor expansion of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxrobust import losses
from jaxrobust.attacks import Loss
from jaxrobust.losses._expansion import expansion_radii, with_radius
from jaxrobust.losses._soar import soar_terms
from jaxrobust.losses._terms import Terms, first_order_terms
from jaxrobust.threat import ThreatModel

from .._state import Apply
from ._base import AdversarialObjective, Batch, crafting, evaluated
from ._penalties import regularized

TermsAtPoints = Callable[[jax.Array, Any, jax.Array, jax.Array, ThreatModel], Terms]
"""``(key, logits_fn, points, labels, threat of the penalty) -> Terms``."""


def foar(
    threat: ThreatModel,
    *,
    point: losses.Point = "pgd1",
    point_eps: Any = None,
    penalty_eps: Any = None,
    loss: Loss = losses.cross_entropy,
) -> AdversarialObjective:
    """The mean of :func:`jaxrobust.losses.foar`, whose arguments these are.

    The point is found first, and is no part of what is differentiated. The network is in evaluation mode throughout:
    running statistics are used and never updated, and nothing is dropped, as the input gradient of one example must not
    depend on others. Metrics: ``loss``, of which ``penalty`` is a part, and ``robust_accuracy``, at the points
    (``accuracy`` for ``point="zero"``, where they are the images).
    """

    def terms(key: jax.Array, logits_fn: Any, points: jax.Array, labels: jax.Array, threat: ThreatModel) -> Terms:
        del key
        return first_order_terms(logits_fn, points, labels, threat, loss=loss)

    return _expansion(terms, threat, point, point_eps, penalty_eps, loss, None)


def soar(
    threat: ThreatModel,
    *,
    point: losses.Point = "pgd1",
    point_eps: Any = None,
    penalty_eps: Any = None,
    product: losses.Product = "finite_difference",
    step: float = 0.01,
    samples: int = 1,
    clip: float | None = 10.0,
    weight: float = 1.0,
    loss: Loss = losses.cross_entropy,
) -> AdversarialObjective:
    """The mean of :func:`jaxrobust.losses.soar`, whose arguments these are; read there what it does and does not promise.

    As published it starts from a network trained by :func:`standard`, with a small learning rate, and without batch
    norm. The point is found first, and is no part of what is differentiated. The network is in evaluation mode
    throughout, see :func:`foar`. Metrics: ``loss``, of which ``penalty`` is a part, ``clipped``, the share of examples
    whose penalty is at its limit and has no gradient, and ``robust_accuracy``, at the points (``accuracy`` for
    ``point="zero"``).
    """

    def terms(key: jax.Array, logits_fn: Any, points: jax.Array, labels: jax.Array, threat: ThreatModel) -> Terms:
        return soar_terms(
            key,
            logits_fn,
            points,
            labels,
            threat,
            product=product,
            step=step,
            samples=samples,
            clip=clip,
            weight=weight,
            loss=loss,
        )

    limit = None if clip is None else clip * weight
    return _expansion(terms, threat, point, point_eps, penalty_eps, loss, limit)


def _expansion(
    terms: TermsAtPoints,
    threat: ThreatModel,
    point: losses.Point,
    point_eps: Any,
    penalty_eps: Any,
    loss: Loss,
    limit: float | None,
) -> AdversarialObjective:
    """Points first, then the terms about them."""
    points_eps, terms_eps = expansion_radii(threat, point, point_eps, penalty_eps)
    at_points, within = with_radius(threat, points_eps), with_radius(threat, terms_eps)

    def find(key: jax.Array, logits_fn: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.expansion_points(key, logits_fn, images, labels, at_points, point, loss=loss)

    def value(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Terms:
        return terms(key, evaluated(apply, variables), batch["adversarial"], batch["labels"], within)

    name = "accuracy" if point == "zero" else "robust_accuracy"
    return AdversarialObjective(crafting(find, "running"), regularized(value, accuracy_name=name, limit=limit))
