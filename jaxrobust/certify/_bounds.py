"""Bounds of linear functions of the logits, over all perturbations of a threat model."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure
from jaxrobust.threat import ThreatModel

from ._alpha import optimized_functions
from ._graph import Graph
from ._methods import Method, methods_named
from ._per_image import per_image
from ._problem import Problem
from ._rows import Dense
from ._solve import Solver


class Bounds(NamedTuple):
    """``lower <= specification @ logits <= upper``, ``[batch, rows]`` each."""

    lower: jax.Array
    upper: jax.Array


class LinearBounds(NamedTuple):
    """``<lower_normals, x> + lower_offsets <= specification @ logits(x) <= <upper_normals, x> + upper_offsets``.

    Attributes:
        lower, upper: ``[batch, rows]``, the smallest and largest values of these functions.
        lower_normals, upper_normals: ``[batch, rows, *image]``.
        lower_offsets, upper_offsets: ``[batch, rows]``.
    """

    lower: jax.Array
    upper: jax.Array
    lower_normals: jax.Array
    lower_offsets: jax.Array
    upper_normals: jax.Array
    upper_offsets: jax.Array


def interval_bounds(
    logits_fn: LogitsFn, images: jax.Array, threat: ThreatModel, specification: jax.Array | None = None
) -> Bounds:
    """Bounds by interval bound propagation (IBP): one pass through the network with boxes.

    Args:
        logits_fn: images ``[batch, ...]`` to logits ``[batch, classes]``, see :func:`linear_bounds`.
        images: ``[batch, ...]``, floating point, in the threat model's box ([0, 1] unless it says otherwise).
        threat: the set of perturbations.
        specification: linear functions of the logits, ``[rows, classes]`` or ``[batch, rows, classes]``; by default the
            logits themselves. They are merged with the last affine operations, which is tighter than applying them to
            bounds of the logits.

    Raises:
        UnsupportedOperation: naming what the network does that cannot be bounded, and in which layer.
        ValueError: for shapes that do not fit.

    Source:
        Gowal et al., 2018; the thesis of Liu, equation (3.8) and Algorithm 3.2.

    Example:
        >>> from jaxrobust import Linf
        >>> relu = lambda x: jax.nn.relu(x @ jnp.ones((1, 1)))
        >>> jax.tree.map(lambda x: x.tolist(), interval_bounds(relu, jnp.zeros((1, 1)), Linf(1.0, bounds=None)))
        Bounds(lower=[[0.0]], upper=[[1.0]])
    """
    return _interval_bounds(Closure(logits_fn), images, threat, specification)


@jax.jit
def _interval_bounds(
    logits_fn: Closure, images: jax.Array, threat: ThreatModel, specification: jax.Array | None
) -> Bounds:
    (method,) = methods_named("interval")

    def compute(graph: Graph, problem: Problem, rows: Dense) -> Bounds:
        return Bounds(*Solver(graph, problem, method, None).interval(rows))

    return per_image(logits_fn, images, threat, specification, compute)


def linear_bounds(
    logits_fn: LogitsFn,
    images: jax.Array,
    threat: ThreatModel,
    *,
    method: str = "crown",
    specification: jax.Array | None = None,
    rows_at_once: int | None = None,
) -> LinearBounds:
    """Two linear functions of the image that hold each row of ``specification @ logits`` between them.

    The network may be any function: its jaxpr is interpreted. Known are affine layers (dense, convolution, average
    pooling, inference batch norm, residual connections, reshaping), max pooling, and the usual activations.

    Args:
        logits_fn: images ``[batch, ...]`` to logits ``[batch, classes]``; examples must not depend on each other, and it must
            not draw random numbers. Bind parameters by ``functools.partial``, then new ones do not compile again.
        images: ``[batch, ...]``, floating point, in the threat model's box ([0, 1] unless it says otherwise).
        threat: the set of perturbations.
        method: how slopes are chosen and intermediate values bounded, see :data:`METHODS`; not ``"interval"``.
        specification: linear functions of the logits, ``[rows, classes]`` or ``[batch, rows, classes]``; by default the
            logits themselves.
        rows_at_once: limits how many entries of a layer are bounded at a time, which bounds memory.

    Raises:
        UnsupportedOperation: naming what the network does that cannot be bounded, and in which layer.
        ValueError: for an unknown method, or shapes that do not fit.

    Source:
        Weng et al., 2018 (Fast-Lin); Zhang et al., 2018 (CROWN); the thesis of Liu, equations (3.3) to (3.7) and
        Algorithm 3.1.

    Example:
        >>> from jaxrobust import Linf
        >>> relu = lambda x: jax.nn.relu(x @ jnp.ones((1, 1)))
        >>> found = linear_bounds(relu, jnp.zeros((1, 1)), Linf(1.0, bounds=None), method="fast-lin")
        >>> found.lower.tolist(), found.upper.tolist()
        ([[-0.5]], [[1.0]])
    """
    (chosen,) = methods_named(method)
    compute = _optimized_bounds if chosen.optimization_steps else _linear_bounds
    return compute(Closure(logits_fn), images, threat, specification, chosen, rows_at_once)


@partial(jax.jit, static_argnums=(4, 5))
def _linear_bounds(
    logits_fn: Closure,
    images: jax.Array,
    threat: ThreatModel,
    specification: jax.Array | None,
    method: Method,
    rows_at_once: int | None,
) -> LinearBounds:
    def compute(graph: Graph, problem: Problem, rows: Dense) -> LinearBounds:
        solver = Solver(graph, problem, method, rows_at_once)
        low, high = solver.lower_function(rows), solver.lower_function(Dense(-rows.values))
        lower, upper = solver.smallest(low), -solver.smallest(high)
        below, above = low.normals.dense().values[:, 0], high.normals.dense().values[:, 0]
        return LinearBounds(lower, upper, below, low.offsets, -above, -high.offsets)

    return per_image(logits_fn, images, threat, specification, compute)


def _optimized_bounds(
    logits_fn: Closure,
    images: jax.Array,
    threat: ThreatModel,
    specification: jax.Array | None,
    method: Method,
    rows_at_once: int | None,
) -> LinearBounds:
    if specification is None:
        (_, classes) = jax.eval_shape(logits_fn, images).shape
        specification = jnp.eye(classes, dtype=images.dtype)
    rows = specification.shape[-2]
    both = jnp.concatenate([specification, -specification], -2)
    lower, normals, offsets = optimized_functions(logits_fn, images, threat, both, method, rows_at_once)
    return LinearBounds(
        lower[:, :rows], -lower[:, rows:], normals[:, :rows], offsets[:, :rows], -normals[:, rows:], -offsets[:, rows:]
    )
