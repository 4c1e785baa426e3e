"""Exact answers for small piecewise linear networks: a proof or a counterexample, by mixed-integer programming."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, is_traced
from jaxrobust.progress import ProgressBar
from jaxrobust.threat import L1, Extent, Linf, NonUniform, ThreatModel

from ._backward import substitute
from ._ball import Ball
from ._certified import ROUNDING, rounding
from ._exact_search import Search
from ._graph import Graph
from ._methods import METHODS, Method, methods_named
from ._network_checks import check
from ._per_image import margin_specification, per_image
from ._piecewise_linear import piecewise_linear
from ._problem import Interval, Problem
from ._rows import Dense
from ._solve import operand_bounds

TOLERANCE = 1e-5
"""Margins up to here count as adversarial in proofs, and counterexamples are looked for below minus this.

HiGHS holds constraints to 1e-7 and binary variables to 1e-6. It is more where a quarter of :data:`ROUNDING` of the largest logit
is: that is what a network's own rounding may do, without that of bounds.
"""


class ExactStatus(enum.IntEnum):
    """What is known of an image.

    Attributes:
        VERIFIED: no perturbation changes its label.
        FALSIFIED: one does, and here it is.
        TIMEOUT: the time was over.
        NUMERICAL: the solver's answer lies within its tolerances: the smallest margin is about zero.
    """

    VERIFIED = 0
    FALSIFIED = 1
    TIMEOUT = 2
    NUMERICAL = 3


class ExactResult(NamedTuple):
    """Arrays on the host, with a row for each image.

    Attributes:
        status: int ``[n]``, see :class:`ExactStatus`.
        radius: ``[n]``, proved: no image nearer than this is classified as another class than the label. It is ``threat.eps`` for
            verified images; with ``minimum_norm`` the distance of the nearest adversarial example for falsified ones, up to the
            solver's tolerances; else what was known when the search ended.
        distance: ``[n]``, of the counterexample, ``inf`` where there is none: the nearest adversarial example is not
            farther. In the threat model's norm, as ``radius``.
        counterexamples: ``[n, *image]``, in ball and box; the image itself where there is none.
        binaries: int ``[n]``, units that may switch in the ball; 0 where no program was solved.
        seconds: ``[n]``, spent on mixed-integer programming.
    """

    status: np.ndarray
    radius: np.ndarray
    distance: np.ndarray
    counterexamples: np.ndarray
    binaries: np.ndarray
    seconds: np.ndarray


def exact(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    minimum_norm: bool = False,
    method: str | Sequence[str] = "crown",
    falsify: jax.Array | None = None,
    time_limit: float = 60.0,
    workers: int | None = None,
    progress: bool | None = None,
) -> ExactResult:
    """Decide for each image whether a perturbation changes its label, by a proof or a counterexample.

    For small networks of ReLU, leaky ReLU, absolute value and max pooling between affine layers. What CROWN certifies, class
    by class, and what ``falsify`` breaks is settled; for every other class a mixed-integer program looks for the point of the
    ball where it comes closest to the label, or for the nearest one where it wins. The time grows exponentially with the units
    that may switch within the ball: some 50 take seconds, a few hundred may take for ever.

    Counterexamples are checked by running ``logits_fn``. Proofs hold in floating point, with the tolerances of HiGHS (1e-7 for
    constraints, 1e-6 for binary variables): a verified image has no perturbation with a margin below
    :data:`SOLVER_TOLERANCE` (or a few hundred roundings of its logits, if that is more), to be on the safe side.
    The exactness of radii is this margin divided by the margin's slope.

    Runs on the host; inside ``jit`` it is an error.

    Args:
        logits_fn: images ``[batch, ...]`` to logits ``[batch, classes]``, see :func:`certified`.
        images: ``[n, ...]``, floating point, in the threat model's box: [0, 1] unless it says otherwise.
        labels: int ``[n]``.
        threat: ``Linf``, ``L1``, or ``NonUniform`` of these.
        minimum_norm: whether to find the nearest adversarial example in the ball instead of any. Takes longer, above all where
            the ball is large; ``falsify`` makes it smaller.
        method: which bounds of the values inside the network the programs start from, one or several of :data:`METHODS`.
        falsify: adversarial images of an attack, shaped as ``images``. Those in ball and box that are misclassified are
            counterexamples; others are ignored.
        time_limit: seconds for each image.
        workers: images solved at the same time; by default one per core.
        progress: show a progress bar; by default when the output is a terminal.

    Raises:
        UnsupportedOperation: for a network that is not piecewise linear, naming the operation.
        ValueError: for other norms, networks that are too large, and what :func:`certified` refuses.

    Source:
        Tjeng et al., 2019, "Evaluating robustness of neural networks with mixed integer programming".

    Example:
        >>> logits_fn = lambda x: jax.nn.relu(x) @ jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> images, labels = jnp.array([[0.8, 0.2], [0.5, 0.8]]), jnp.array([0, 1])
        >>> found = exact(logits_fn, images, labels, Linf(0.2), minimum_norm=True)
        >>> [ExactStatus(status).name for status in found.status], found.radius.round(3).tolist()
        (['VERIFIED', 'FALSIFIED'], [0.2, 0.15])
    """
    if is_traced(logits_fn, images, labels, threat):
        raise ValueError(
            "exact runs a solver on the host, so it cannot be part of a jitted function: call it outside jit"
        )
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    norm, methods = _norm(threat), methods_named(method)
    if not time_limit > 0 or (workers is not None and workers < 1):
        raise ValueError(f"time_limit and workers must be positive, got {time_limit} and {workers}")
    if falsify is not None and jnp.shape(falsify) != images.shape:
        raise ValueError(f"falsify must have the shape of the images, {images.shape}, got {jnp.shape(falsify)}")
    check(logits_fn, images, labels, threat)
    closure = Closure(logits_fn)
    network = piecewise_linear(closure, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype))
    balls = _balls(images, threat, norm)
    distance, counterexamples = _known(closure, images, labels, threat, balls, falsify)
    if minimum_norm:
        balls = [ball.shrunk(d * (1 + 1e-6)) for ball, d in zip(balls, distance, strict=True)]
    radii = np.array([ball.radius for ball in balls])
    within = dataclasses.replace(threat, eps=jnp.asarray(radii, images.dtype))  # type: ignore[type-var]
    found = jax.device_get(_certificates(closure, images, labels, within, methods))
    searches = [
        Search(
            network,
            ball,
            [(lower[i].reshape(-1), upper[i].reshape(-1)) for lower, upper in found.bounds],
            int(labels[i]),
            found.distances[i].astype(np.float64),
            float(distance[i]),
            max(TOLERANCE, float(found.rounding[i]) / 4),
            minimum_norm,
        )
        for i, ball in enumerate(balls)
    ]
    todo = [i for i, search in enumerate(searches) if search.is_open]
    lock, double = Lock(), images.dtype == jnp.float64

    def run(i: int) -> None:
        def is_adversarial(image: np.ndarray) -> bool:
            with lock, jax.enable_x64(double):  # programs for several devices must not overlap
                return int(_classes(closure, image.reshape(1, *images.shape[1:]))[0]) != int(labels[i])

        searches[i].run(time_limit, is_adversarial)

    _together(run, todo, workers, progress)
    for i in todo:
        if (image := searches[i].counterexample) is not None:
            counterexamples[i] = image.reshape(images.shape[1:])
    return ExactResult(
        np.array([_status(search) for search in searches], np.int64),
        np.array([search.proved for search in searches]),
        np.array([search.distance for search in searches]),
        counterexamples,
        np.array([search.binaries for search in searches]),
        np.array([search.seconds for search in searches]),
    )


def _status(search: Search) -> ExactStatus:
    if search.distance < math.inf:
        return ExactStatus.FALSIFIED
    if search.verified:
        return ExactStatus.VERIFIED
    return ExactStatus.TIMEOUT if search.timed_out else ExactStatus.NUMERICAL


def _norm(threat: Any) -> float:
    kind = threat.kind if isinstance(threat, NonUniform) else type(threat)
    if kind not in (Linf, L1):
        raise ValueError(
            f"exact answers are known for Linf and L1, and NonUniform of these, got {kind.__name__}: the solver's constraints "
            "are linear. Use certified() and radius(), or a ball that holds this one"
        )
    return math.inf if kind is Linf else 1.0


def _balls(images: jax.Array, threat: Any, norm: float) -> list[Ball]:
    of_unit = dataclasses.replace(threat, eps=1.0)
    (low, high, _), (_, _, scale) = jax.device_get(_extents(images, threat, of_unit))
    pixels, radii = np.asarray(images), np.broadcast_to(np.asarray(threat.eps, np.float64), len(images))

    def of(i: int) -> Ball:
        least, most, unit = (x[i].astype(np.float64).reshape(-1) for x in (low, high, scale))
        return Ball(pixels[i].reshape(-1), least, most, unit, norm, float(radii[i]), threat.bounds)

    return [of(i) for i in range(len(images))]


@jax.jit
def _extents(images: jax.Array, *threats: ThreatModel) -> tuple[Extent, ...]:
    return tuple(threat.extent(images) for threat in threats)


def _known(
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
    wrong = np.asarray(_classes(logits_fn, images) != labels)
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
def _classes(logits_fn: Closure, images: jax.Array) -> jax.Array:
    return logits_fn(images).argmax(-1)


class _Certificates(NamedTuple):
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
def _certificates(
    logits_fn: Closure, images: jax.Array, labels: jax.Array, threat: ThreatModel, methods: tuple[Method, ...]
) -> _Certificates:
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
    return _Certificates(bounds, jnp.where(others, distances, jnp.inf), safe)


def _intersection(intervals: Sequence[Interval]) -> Interval:
    lower, upper = zip(*intervals, strict=True)
    return jnp.stack(lower).max(0), jnp.stack(upper).min(0)


def _widened(interval: Interval) -> Interval:
    """By what rounding may have cost."""
    lower, upper = interval
    largest = jnp.maximum(jnp.maximum(jnp.abs(lower).max(), jnp.abs(upper).max()), 1)
    reach = ROUNDING * float(jnp.finfo(lower.dtype).eps) * largest
    return lower - reach, upper + reach


def _together(run: Callable[[int], None], todo: list[int], workers: int | None, progress: bool | None) -> None:
    """Run searches at the same time: the solver computes outside Python's lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers or cores)
    with ProgressBar(len(todo), show=progress, text="exact") as bar:
        try:
            for done, future in enumerate(as_completed([pool.submit(run, i) for i in todo]), 1):
                future.result()
                bar.update(done, "exact")
        finally:
            pool.shutdown(cancel_futures=True)
