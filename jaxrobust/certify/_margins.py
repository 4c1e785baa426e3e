"""Lower bounds of the margins between the logit of the label and those of the other classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure
from jaxrobust.threat import ThreatModel

from ._alpha import Functions, optimized_functions
from ._graph import Graph
from ._methods import Method, methods_named
from ._per_image import margin_specification, per_image
from ._problem import Problem
from ._rows import Dense
from ._solve import Solver


def margins(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: str | Sequence[str] = "crown",
    rows_at_once: int | None = None,
) -> jax.Array:
    """Lower bounds of ``z_y - z_i`` over all perturbations, ``[batch, classes]``; 0 in the column of the label.

    An image whose other margins are all positive keeps its label. The function is pure and, but for ``"alpha-crown"``,
    differentiable in the images, the threat model's radius and the parameters that ``logits_fn`` closes over, so it is also
    what certified training minimises: ``losses.cross_entropy(-margins, labels)`` bounds the worst case's cross-entropy.

    Args:
        logits_fn, images, threat, rows_at_once: see :func:`linear_bounds`.
        labels: int ``[batch]``.
        method: a name of :data:`METHODS`, or several, of whose bounds the best is taken for each margin.

    Raises:
        UnsupportedOperation, ValueError: see :func:`linear_bounds`.

    Source:
        The thesis of Liu, section 3.1.2 (elision of the last layer) and equation (3.12).

    Example:
        >>> from jaxrobust import Linf
        >>> weight = jnp.array([[1.0, -1.0], [1.0, 1.0]])
        >>> logits_fn = partial(lambda w, x: x @ w, weight)
        >>> margins(logits_fn, jnp.array([[0.5, 0.5]]), jnp.array([0]), Linf(0.125), method="fast-lin").tolist()
        [[0.0, 0.75]]
    """
    arguments = Closure(logits_fn), images, labels, threat
    found = [
        _optimized(*arguments, chosen, rows_at_once).lower
        if chosen.optimization_steps
        else _margins(*arguments, chosen, rows_at_once)
        for chosen in methods_named(method)
    ]
    return reduce(jnp.maximum, found)


def _optimized(
    logits_fn: Closure,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    method: Method,
    rows_at_once: int | None,
) -> Functions:
    logits = jax.eval_shape(logits_fn, images)
    specification = margin_specification(labels, logits.shape[-1], logits.dtype)
    return optimized_functions(logits_fn, images, threat, specification, method, rows_at_once)


@partial(jax.jit, static_argnums=(4, 5))
def _margins(
    logits_fn: Closure,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    method: Method,
    rows_at_once: int | None,
) -> jax.Array:
    def compute(graph: Graph, problem: Problem, rows: Dense) -> jax.Array:
        return Solver(graph, problem, method, rows_at_once).lower(rows)

    return per_image(logits_fn, images, threat, partial(margin_specification, labels), compute)


class HalfSpaces(NamedTuple):
    """``z_y - z_i >= margins_i + <normals_i, x' - x>`` for all images ``x'`` that the threat model allows.

    Attributes:
        normals: ``[batch, classes, *image]``.
        margins: the functions' values at the images themselves, ``[batch, classes]``. Both are 0 for the label.
    """

    normals: jax.Array
    margins: jax.Array


def half_spaces(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: str = "fast-lin",
    rows_at_once: int | None = None,
) -> HalfSpaces:
    """The half-spaces, one per class, in which the label is safe: a polyhedral envelope of the decision region.

    Args:
        logits_fn, images, labels, threat, rows_at_once: see :func:`margins`.
        method: a method that gives linear functions, so not ``"interval"``. ``"fast-lin"`` is the study's LA-inspired choice
            for ReLU, sigmoid, tanh and arctan, ``"fast-lin-interval"`` the one inspired by IBP.

    Source:
        The thesis of Liu, equation (3.12): ``U_i`` are the normals, ``p_i`` is ``margins_i - <U_i, x>``.
    """
    (chosen,) = methods_named(method)
    arguments = Closure(logits_fn), images, labels, threat, chosen, rows_at_once
    if not chosen.optimization_steps:
        return _half_spaces(*arguments)
    _, normals, offsets = _optimized(*arguments)
    return HalfSpaces(normals, jnp.einsum("bk...,b...->bk", normals, images, precision="highest") + offsets)


@partial(jax.jit, static_argnums=(4, 5))
def _half_spaces(
    logits_fn: Closure,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    method: Method,
    rows_at_once: int | None,
) -> HalfSpaces:
    def compute(graph: Graph, problem: Problem, rows: Dense) -> HalfSpaces:
        normals, offsets = Solver(graph, problem, method, rows_at_once).lower_function(rows)
        return HalfSpaces(normals.dense().values[:, 0], normals.dot(problem.image) + offsets)

    return per_image(logits_fn, images, threat, partial(margin_specification, labels), compute)
