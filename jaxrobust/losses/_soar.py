"""SOAR: an upper estimate of the worst case of the second-order expansion."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.curvature import input_gradient, input_hvp, value_and_input_gradient
from jaxrobust.random import example_keys, fold_in_each
from jaxrobust.threat import ThreatModel, safe_norm
from jaxrobust.threat._base import flatten

from ._expansion import Point, expansion_points, expansion_radii, with_radius
from ._logits import cross_entropy
from ._terms import Terms, along, scaled

Product = Literal["finite_difference", "exact"]
_PENALTY_FOLD = 2**31 - 2  # folded into the keys for the penalty; those for the point are used as they are


def soar(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    point: Point = "pgd1",
    point_eps: Any = None,
    penalty_eps: Any = None,
    product: Product = "finite_difference",
    step: float = 0.01,
    samples: int = 1,
    clip: float | None = 10.0,
    weight: float = 1.0,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """Second-order adversarial regularisation: ``loss(x') + R(x')``, ``[batch]``.

    With ``g`` and ``A`` gradient and Hessian of the loss at ``x'``, ``H = [[A, g], [g^T, 1]]`` and ``z ~ N(0, I)`` of one
    entry more than the image,

        ``R = (rho^2 + 1) / 2 * ||H z||_2``,

    where ``rho`` is the radius of the Euclidean ball around the threat model's: ``sqrt(d) eps`` for l-infinity, ``eps`` for l2.
    The expectation of ``R - 1/2`` estimates how much the second-order expansion at ``x'`` can rise within the ball.

    Source: SOAR study, eq. (3.12), (3.14), Algorithm 3.1. What to know about it:

    * It is an estimate and no bound, although Proposition 3.3.1 says so: ``E ||H z||`` is at most, not at least, the
      Frobenius norm ``||H||_F``, and may be a factor ``sqrt(2 / pi)`` below it. :func:`second_order_bound` has the bound.
    * It rewards certainty: where the network is sure, ``g`` and ``A`` vanish, ``R`` is noise without a gradient, and at the
      points ``"zero"`` and ``"rand"`` training learns to mask its gradients. Judge the result by AutoAttack or transfer.
    * The two products differ for networks with kinks. A finite difference of gradients steps across kinks of ReLU and so
      sees their curvature; the exact product does not, at any step. For smooth networks they agree up to ``O(step)``. In
      float32 the step should not be smaller than 0.01.
    * In expectation it is at least ``(rho^2 + 1) / 2 * sqrt(2 / pi)``, whatever the network.
    * All lengths are in units of the pixel range [0, 1], and ``d`` counts all entries of an image, its channels too.

    The input gradient of an example must not depend on the others: use batch norm with its running statistics.

    Cost of the gradient for the parameters, as published: 3 forward and 4 backward passes with ``"pgd1"`` and one sample.

    Args:
        key: one key, or one per example; examples have their own random vectors.
        logits_fn: the network in evaluation mode.
        images: ``[batch, height, width, channels]`` in [0, 1].
        labels: what the loss takes, usually classes ``[batch]``.
        threat: whose radius is to be defended against.
        point: see :func:`expansion_points`.
        point_eps, penalty_eps: radius for the point and in the penalty; by default ``eps / 2`` for both with ``"pgd1"``, else
            ``eps``.
        product: how ``A z`` is computed: the published difference of two gradients, or ``jvp`` of ``grad``.
        step: Euclidean length of the finite difference.
        samples: random vectors per example, over which ``R`` is averaged.
        clip: upper limit of each ``R``, whose gradient is zero there; ``None`` for none. Published as "clipping of 10".
        weight: of the penalty, 1 in the text.
        loss: per-example loss.

    Raises:
        ValueError: for an unknown point or product, a step, clip or number of samples that is not positive.

    Example:
        >>> from jaxrobust import Linf
        >>> network = lambda images: images @ jnp.array([[1.0, -1.0], [0.5, 0.0]])
        >>> images, labels = jnp.array([[0.5, 0.5]]), jnp.array([0])
        >>> soar(jax.random.key(0), network, images, labels, Linf(0.1)).shape
        (1,)
    """
    points_eps, penalty_eps = expansion_radii(threat, point, point_eps, penalty_eps)
    keys = example_keys(key, images.shape[0])
    points = expansion_points(keys, logits_fn, images, labels, with_radius(threat, points_eps), point, loss=loss)
    return soar_terms(
        fold_in_each(keys, _PENALTY_FOLD),
        logits_fn,
        points,
        labels,
        with_radius(threat, penalty_eps),
        product=product,
        step=step,
        samples=samples,
        clip=clip,
        weight=weight,
        loss=loss,
    ).total


def soar_penalty(
    key: jax.Array,
    logits_fn: LogitsFn,
    points: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    product: Product = "finite_difference",
    step: float = 0.01,
    samples: int = 1,
    clip: float | None = 10.0,
    weight: float = 1.0,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """The penalty ``R`` of :func:`soar` alone, at given points, ``[batch]``; ``threat.eps`` is the radius in it."""
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
    ).penalty


def soar_terms(
    key: jax.Array,
    logits_fn: LogitsFn,
    points: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    product: Product,
    step: float,
    samples: int,
    clip: float | None,
    weight: float,
    loss: Loss,
) -> Terms:
    """Loss and penalty at given points."""
    if product not in get_args(Product):
        raise ValueError(f"unknown product {product!r}; choose one of {', '.join(get_args(Product))}")
    for name, value in (("step", step), ("samples", samples), ("clip", clip)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    values, gradient, logits = value_and_input_gradient(loss, logits_fn, points, labels)
    coefficient = (jnp.square(threat.l2_radius(points)) + 1) / 2

    def hessian_product(vectors: jax.Array) -> jax.Array:
        if product == "exact":
            return input_hvp(loss, logits_fn, points, labels, vectors)
        length = safe_norm(flatten(vectors))
        shifted = points + scaled(vectors, step / length)
        difference = input_gradient(loss, logits_fn, shifted, labels) - gradient
        return scaled(difference, length / step)

    def penalty(keys: jax.Array) -> jax.Array:
        vectors, last = _vectors(keys, points)
        image_part = hessian_product(vectors) + scaled(gradient, last)
        last_part = along(gradient, vectors) + last
        product_and_last = jnp.concatenate([flatten(image_part), last_part[:, None]], axis=1)
        value = coefficient * safe_norm(product_and_last)
        return value if clip is None else jnp.where(value >= clip, clip, value)  # not a number stays one

    keys = example_keys(key, points.shape[0])
    if samples == 1:
        penalties = penalty(keys)
    else:
        each = jax.vmap(fold_in_each, (None, 0))(keys, jnp.arange(samples))
        penalties = jax.vmap(penalty)(each).mean(0)
    return Terms(values, jnp.asarray(weight, values.dtype) * penalties, logits)


def _vectors(keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``z`` of each example: its entries for the image, shaped as the images, and the last one, ``[batch]``."""
    features = math.prod(images.shape[1:])
    draws = jax.vmap(lambda key: jax.random.normal(key, (features + 1,), images.dtype))(keys)
    return draws[:, :-1].reshape(images.shape), draws[:, -1]


Form = Literal["augmented", "rescaled", "separate"]


def second_order_bound(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    form: Form = "augmented",
    loss: Loss = cross_entropy,
) -> jax.Array:
    """Upper bound on the loss's second-order expansion within the threat model's ball, ``[batch]``.

    With ``g`` and ``A`` gradient and Hessian of the loss at the images and ``rho`` the radius of the Euclidean ball around
    the threat model's (``sqrt(d) eps`` for l-infinity):

    * ``"augmented"``: ``loss + (rho^2 + 1) / 2 * ||H||_F - 1/2`` with ``||H||_F^2 = ||A||_F^2 + 2 ||g||^2 + 1``: what the SOAR
      study's Proposition 3.3.1 is meant to say, and true, with the Frobenius norm in place of ``E ||H z||``.
    * ``"rescaled"``: ``loss + rho sqrt(rho^2 ||A||_F^2 + 2 ||g||^2)``; it tends to the loss as ``rho`` does to 0.
    * ``"separate"``: ``loss + rho ||g|| + rho^2 / 2 * ||A||_F``.

    None of them bounds the loss itself, of which the expansion is a part: this is no certificate. For training see
    :func:`soar`, whose penalty estimates the first.

    Cost: one Hessian-vector product for every entry of an image, all at once: for small images.

    Args:
        logits_fn: the network in evaluation mode.
        images: ``[batch, height, width, channels]`` in [0, 1]; the expansion is about them.
        labels: what the loss takes.
        threat: within which ball.
        form: which bound.
        loss: per-example loss.

    Raises:
        ValueError: for an unknown form.

    Example:
        >>> from jaxrobust import L2
        >>> squared = lambda logits, labels: 0.5 * (logits[:, 0] - labels) ** 2  # 2 is its largest value in the ball
        >>> network = lambda images: images @ jnp.full((4, 1), 0.5)
        >>> images = jnp.full((1, 4), 0.5)
        >>> second_order_bound(network, images, jnp.zeros(1), L2(1.0), loss=squared).tolist()
        [2.0]
    """
    if form not in get_args(Form):
        raise ValueError(f"unknown form {form!r}; choose one of {', '.join(get_args(Form))}")
    values, gradient, _ = value_and_input_gradient(loss, logits_fn, images, labels)
    basis = jnp.eye(math.prod(images.shape[1:]), dtype=images.dtype).reshape(-1, *images.shape[1:])

    def column(vector: jax.Array) -> jax.Array:
        return input_hvp(loss, logits_fn, images, labels, jnp.broadcast_to(vector, images.shape))

    hessian = safe_norm(jax.vmap(column)(basis).swapaxes(0, 1).reshape(images.shape[0], -1))
    slope, rho = safe_norm(flatten(gradient)), threat.l2_radius(images)
    if form == "augmented":
        frobenius = safe_norm(jnp.stack([hessian, slope, slope, jnp.ones_like(slope)], -1))
        return values + (jnp.square(rho) + 1) / 2 * frobenius - 0.5
    if form == "rescaled":
        return values + rho * safe_norm(jnp.stack([rho * hessian, slope, slope], -1))
    return values + rho * slope + jnp.square(rho) / 2 * hessian
