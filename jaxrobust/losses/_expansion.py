"""The points about which FOAR and SOAR expand the loss."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.curvature import input_gradient
from jaxrobust.random import example_keys
from jaxrobust.threat import ThreatModel

from ._logits import cross_entropy
from ._terms import scaled

Point = Literal["zero", "rand", "pgd1"]
AnyThreat = TypeVar("AnyThreat", bound=ThreatModel)


def with_radius(threat: AnyThreat, eps: Any) -> AnyThreat:
    """The threat model with another radius."""
    return dataclasses.replace(threat, eps=eps)  # type: ignore[type-var]


def check_point(point: str) -> None:
    """Raise ``ValueError`` for an unknown point."""
    if point not in get_args(Point):
        raise ValueError(f"unknown point {point!r}; choose one of {', '.join(get_args(Point))}")


def expansion_radii(threat: ThreatModel, point: Point, point_eps: Any, penalty_eps: Any) -> tuple[Any, Any]:
    """Radius for the point and radius for the penalty, with the text's values in place of ``None``.

    PGD1 moves by half the radius and leaves the other half to the expansion; the other points leave all of it.

    Raises:
        ValueError: for an unknown point.
    """
    check_point(point)
    eps = threat.eps / 2 if point == "pgd1" else threat.eps
    return eps if point_eps is None else point_eps, eps if penalty_eps is None else penalty_eps


def expansion_points(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    point: Point = "pgd1",
    *,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """Where FOAR and SOAR expand the loss, within ``threat.eps`` of the images; constants for any gradient.

    * ``"zero"``: the images.
    * ``"rand"``: a random point of the ball.
    * ``"pgd1"``: a random point of the ball, then one steepest step of length ``threat.eps``, projected onto ball and box
      (Algorithm 3.1, lines 5 and 6, of the SOAR study, which does not clip to the box). Its result is that of
      :func:`jaxrobust.attacks.fgsm` with a random start, except for the random numbers.

    Args:
        key: one key, or one per example.
        logits_fn: the network; see :func:`soar`.
        images: ``[batch, height, width, channels]`` in [0, 1].
        labels: what the loss takes.
        threat: its radius is that of the points; the text passes half of the radius to defend against.
        point: kind of point.
        loss: that the step increases.

    Returns:
        Array with the shape and dtype of ``images``.

    Raises:
        ValueError: for an unknown point.
    """
    check_point(point)
    if point == "zero":
        return jax.lax.stop_gradient(images)
    start = threat.sample(example_keys(key, images.shape[0]), images)
    if point == "pgd1":
        gradient = input_gradient(loss, logits_fn, images + start, labels)
        eps = jnp.broadcast_to(jnp.asarray(threat.eps, images.dtype), images.shape[:1])
        start = threat.project(start + scaled(threat.steepest(gradient), eps), images)
    return jax.lax.stop_gradient(threat.clip(images + start))
