"""What is known of images before anything is solved: how they may move, adversarial examples, and what bounds rule out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.iteration import Closure
from jaxrobust.threat import L1, Extent, Linf, NonUniform, ThreatModel

from ._backward import substitute
from ._ball import Ball
from ._certified import ROUNDING, rounding
from ._graph import Graph
from ._methods import METHODS, Method
from ._per_image import margin_specification, per_image
from ._problem import Interval, Problem
from ._rows import Dense
from ._solve import operand_bounds


def _norm(threat: Any) -> float:
    kind = threat.kind if isinstance(threat, NonUniform) else type(threat)
    if kind not in (Linf, L1):
        raise ValueError(
            f"exact answers are known for Linf and L1, and NonUniform of these, got {kind.__name__}: the solver's constraints "
            "are linear. Use certified() and radius(), or a ball that holds this one"
        )
    return math.inf if kind is Linf else 1.0


def balls_around(images: jax.Array, threat: Any) -> list[Ball]:
    """The sets of perturbations, one per image.

    Raises:
        ValueError: for norms that are not piecewise linear.
    """
    norm, of_unit = _norm(threat), dataclasses.replace(threat, eps=1.0)
    (low, high, _), (_, _, scale) = jax.device_get(_extents(images, threat, of_unit))
    pixels, radii = np.asarray(images), np.broadcast_to(np.asarray(threat.eps, np.float64), len(images))

    def of(i: int) -> Ball:
        least, most, unit = (x[i].astype(np.float64).reshape(-1) for x in (low, high, scale))
        return Ball(pixels[i].reshape(-1), least, most, unit, norm, float(radii[i]), threat.bounds)

    return [of(i) for i in range(len(images))]


@jax.jit
def _extents(images: jax.Array, *threats: ThreatModel) -> tuple[Extent, ...]:
    return tuple(threat.extent(images) for threat in threats)


def known_examples(
    logits_fn: Closure,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    balls: list[Ball],
    falsify: jax.Array | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the adversarial examples that are there already, and these."""
    distance, counterexamples = np.full(len(images), math.inf), np.array(images)
    if falsify is not None:
        candidates = jnp.asarray(falsify, images.dtype)
        for i in np.flatnonzero(_broken(logits_fn, images, labels, threat, candidates)):
            counterexamples[i] = candidates[i]
            distance[i] = balls[i].distance(counterexamples[i].reshape(-1))
    wrong = np.asarray(classes(logits_fn, images) != labels)
    distance[wrong], counterexamples[wrong] = 0, np.asarray(images)[wrong]
    return distance, counterexamples


@jax.jit
def _broken(
    logits_fn: Closure, images: jax.Array, labels: jax.Array, threat: ThreatModel, candidates: jax.Array
) -> jax.Array:
    """Which candidates are misclassified, and in ball and box up to rounding."""
    perturbation = candidates - images
    outside = jnp.abs(threat.project(perturbation, images) - perturbation).reshape(len(images), -1).max(-1)
    rounding = 4 * float(jnp.finfo(images.dtype).eps) * jnp.maximum(jnp.abs(images).max(), 1)
    return (outside <= rounding) & (logits_fn(candidates).argmax(-1) != labels)


@jax.jit
def classes(logits_fn: Closure, images: jax.Array) -> jax.Array:
    """What images are classified as, ``[n]``."""
    return logits_fn(images).argmax(-1)


class Certificates(NamedTuple):
    """What bounds say, a row for each image.

    Attributes:
        bounds: of the operand of each nonlinear node, widened by rounding.
        distances: to the half-spaces of the classes, ``[n, classes]``; ``inf`` for the label.
        rounding: of margins, ``[n]``.
    """

    bounds: tuple[Interval, ...]
    distances: jax.Array
    rounding: jax.Array


@partial(jax.jit, static_argnums=4)
def certificates(
    logits_fn: Closure, images: jax.Array, labels: jax.Array, threat: ThreatModel, methods: tuple[Method, ...]
) -> Certificates:
    """CROWN's half-spaces, from the best of the methods' bounds of the values inside the network."""

    def compute(graph: Graph, problem: Problem, rows: Dense) -> tuple[tuple[Interval, ...], jax.Array, jax.Array]:
        candidates = [operand_bounds(graph, problem, method, None) for method in methods]
        bounds = tuple(_widened(_intersection(intervals)) for intervals in zip(*candidates, strict=True))
        nodes = zip(graph.nonlinear, bounds, strict=True)
        relaxation = {node: METHODS["crown"].relax(node, operand) for node, operand in nodes}
        found = substitute(graph, graph.output, rows, relaxation)
        normals = found.rows[graph.image].dense()
        return bounds, normals.values[:, 0], normals.dot(problem.image) + found.lower

    bounds, normals, margins = per_image(logits_fn, images, threat, partial(margin_specification, labels), compute)
    safe = rounding(logits_fn(images))
    distance = partial(threat.distance, signed=False)
    distances = jax.vmap(distance, (None, 1, 1), 1)(images, normals, margins - safe[:, None])
    others = labels[:, None] != jnp.arange(margins.shape[-1], dtype=labels.dtype)
    return Certificates(bounds, jnp.where(others, distances, jnp.inf), safe)


def _intersection(intervals: Sequence[Interval]) -> Interval:
    lower, upper = zip(*intervals, strict=True)
    return jnp.stack(lower).max(0), jnp.stack(upper).min(0)


def _widened(interval: Interval) -> Interval:
    """By what rounding may have cost."""
    lower, upper = interval
    largest = jnp.maximum(jnp.maximum(jnp.abs(lower).max(), jnp.abs(upper).max()), 1)
    reach = ROUNDING * float(jnp.finfo(lower.dtype).eps) * largest
    return lower - reach, upper + reach
