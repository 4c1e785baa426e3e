"""FOAR: the worst case of the first-order expansion."""

from __future__ import annotations

from typing import Any

import jax

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.threat import ThreatModel

from ._expansion import Point, expansion_points, expansion_radii, with_radius
from ._logits import cross_entropy
from ._terms import first_order_terms


def foar(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    point: Point = "pgd1",
    point_eps: Any = None,
    penalty_eps: Any = None,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """First-order adversarial regularisation: ``loss(x') + eps ||gradient(x')||_q``, ``[batch]``.

    The largest value of the loss's first-order expansion at ``x'`` over the ball of radius ``eps``; ``q`` is the exponent
    dual to the threat model's. Its gradient for the parameters runs through the input gradient (double backpropagation),
    but not through ``x'``. For ReLU networks see the warning of :func:`gradient_norm`, which is the same at ``"zero"``.

    Source: SOAR study, eq. (3.4) and Table 3.8. It trains for l-infinity only, and leaves open which radius the penalty has
    at the point ``"pgd1"``; here it is ``eps / 2``, as in SOAR.

    Cost: one forward and one backward pass more than a plain loss (its gradient for the parameters: 1 forward, 2
    backward), and one more of each for ``"pgd1"``.

    Args:
        key: for the points ``"rand"`` and ``"pgd1"``: one key, or one per example.
        logits_fn: the network in evaluation mode; see :func:`soar`.
        images: ``[batch, height, width, channels]`` in [0, 1].
        labels: what the loss takes, usually classes ``[batch]``.
        threat: whose radius is to be defended against.
        point: see :func:`expansion_points`.
        point_eps, penalty_eps: radius for the point and in the penalty; by default ``eps / 2`` for both with ``"pgd1"``, else
            ``eps``.
        loss: per-example loss.

    Raises:
        ValueError: for an unknown point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust import Linf
        >>> network = lambda images: images @ jnp.array([[1.0, -1.0], [0.5, 0.0]])
        >>> images, labels = jnp.array([[0.5, 0.5]]), jnp.array([0])
        >>> foar(jax.random.key(0), network, images, labels, Linf(0.1), point="zero").round(4).tolist()
        [0.3076]
    """
    points_eps, penalty_eps = expansion_radii(threat, point, point_eps, penalty_eps)
    points = expansion_points(key, logits_fn, images, labels, with_radius(threat, points_eps), point, loss=loss)
    return first_order_terms(logits_fn, points, labels, with_radius(threat, penalty_eps), loss=loss).total
