"""MMR: a hinge on the distances to the faces of the linear region, and to the decision boundaries within it."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.certify import UnsupportedOperation, margin_specification
from jaxrobust.certify._activations import Activation, Lines
from jaxrobust.certify._backward import substitute
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._per_image import per_image
from jaxrobust.certify._piecewise_linear import KINKED
from jaxrobust.certify._problem import Problem
from jaxrobust.certify._rows import Dense, Rows, identity
from jaxrobust.iteration import Closure
from jaxrobust.threat import Extent, ThreatModel
from jaxrobust.threat._base import absolute
from jaxrobust.threat._hyperplane import row_sum

from ._hinge import class_distances, hinge, of_worst_classes


def mmr(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    boundary_gamma: Any,
    decision_gamma: Any,
    boundaries: Any = 0.02,
    decisions: int | None = None,
) -> jax.Array:
    """Maximum margin regularisation of linear regions, without the loss that it is added to, ``[batch]``.

    A ReLU network is linear in a region around each image. With pre-activations ``v_j`` of the hidden units and their gradients
    ``V_j`` there, and in the norm dual to the threat model's,

        ``mean max(0, 1 - d_j / boundary_gamma)`` over the nearest boundaries of units, ``d_j = |v_j| / ||V_j||``, plus
        ``mean max(0, 1 - D_i / decision_gamma)`` over the nearest wrong classes, ``D_i = (z_y - z_i) / ||Z_y - Z_i||``, signed.

    Neither the threat model's radius nor its box is used. It is a number per image and no certificate. Source: Croce,
    Andriushchenko and Hein, 2019.

    Cost: the gradients of all hidden units, as matrices ``[units, pixels]`` per image.

    Args:
        logits_fn: a network of affine layers and ReLU, leaky ReLU or the absolute value, in evaluation mode.
        images: ``[batch, ...]``.
        labels: int ``[batch]``.
        threat: the norm.
        boundary_gamma: the distance to units' boundaries from which on nothing is to be gained; may be traced.
        decision_gamma: the same for decision boundaries.
        boundaries: how many units' boundaries count: a number, or a share of all hidden units; may be traced. The published
            code lowers the share from 0.1 to 0.02 during training.
        decisions: how many classes count. By default all, and the mean is over all classes, the label's term being 0, as in
            the published code.

    Raises:
        UnsupportedOperation: for networks that are not piecewise linear, or have max pooling.
        ValueError: for a gamma that is not positive, or a number or share of nothing.

    Example:
        >>> from jaxrobust import Linf
        >>> weight = jnp.array([[1.0, 1.0], [1.0, -1.0]])
        >>> network = lambda images: jax.nn.relu(images @ weight.T) @ weight.T
        >>> images, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])  # units change at 0.5, so does the class
        >>> mmr(network, images, labels, Linf(0.1), boundary_gamma=1.0, decision_gamma=2.0, boundaries=2).tolist()
        [0.875]
    """
    for name, gamma in (("boundary_gamma", boundary_gamma), ("decision_gamma", decision_gamma)):
        if isinstance(gamma, (int, float, np.number)) and not gamma > 0:
            raise ValueError(f"{name} must be above 0, got {gamma}; it is a distance in the threat model's norm")
    nothing = isinstance(boundaries, int) and boundaries < 1
    if nothing or (isinstance(boundaries, float) and not 0 < boundaries <= 1):
        raise ValueError(f"boundaries must be a whole number, at least 1, or a share in (0, 1], got {boundaries}")
    if decisions is not None and decisions < 1:
        raise ValueError(f"decisions must be at least 1, got {decisions}; it is a number of classes")
    unit = dataclasses.replace(threat, eps=1.0, bounds=None)  # type: ignore[type-var]
    region = _region(Closure(logits_fn), images, labels, unit)
    return _penalty(region, images, labels, unit, boundary_gamma, decision_gamma, boundaries, decisions)


class LinearRegion(NamedTuple):
    """What the network is around each image.

    Attributes:
        boundaries: distance to the hyperplane where each hidden unit changes, ``[batch, units]``; infinite if there is none.
        normals: gradients of the margins ``z_y - z_i``, ``[batch, classes, pixels]``.
        margins: ``[batch, classes]``.
    """

    boundaries: jax.Array
    normals: jax.Array
    margins: jax.Array


@jax.jit
def _region(logits_fn: Closure, images: jax.Array, labels: jax.Array, unit: ThreatModel) -> LinearRegion:
    """The linear region; ``unit`` is the threat model with radius 1 and no box, whose support is the dual norm."""

    def compute(graph: Graph, problem: Problem, specification: Dense) -> LinearRegion:
        lines: dict[Node, Any] = {}
        values: dict[Node, jax.Array] = {}
        distances = []

        def linear(node: Node, rows: Rows) -> tuple[Rows, jax.Array]:
            """A function of a node, as one of the image, and its value."""
            found = substitute(graph, node, rows, lines)
            on_image = found.rows[graph.image]
            return on_image, on_image.dot(problem.image) + found.lower

        for node in graph.nonlinear:
            activation, (operand,) = node.operation, node.operands
            if not isinstance(activation, Activation) or activation.name not in KINKED:
                name = activation.name if isinstance(activation, Activation) else "max pooling"
                raise UnsupportedOperation(
                    f"MMR is for networks that are linear up to ReLU, leaky ReLU and absolute values; this one has {name}. "
                    "losses.per knows other activations and max pooling"
                )
            if operand not in values:
                rows, value = linear(operand, identity(operand.shape, operand.aval.dtype))
                norm = rows.support(
                    lambda normals, ball: problem.support(normals, Extent(*ball)), tuple(problem.extent)
                )
                safe = jnp.where(norm > 0, norm, 1)
                distances.append(jnp.where(norm > 0, absolute(value) / safe, jnp.inf))
                values[operand] = value.reshape(operand.shape)
            slope = jnp.broadcast_to(activation.derivative(values[operand]), operand.shape)
            none = jnp.zeros_like(slope)
            lines[node] = Lines(slope, none, slope, none)
        rows, margins = linear(graph.output, specification)
        boundaries = jnp.concatenate(distances) if distances else jnp.zeros((0,), margins.dtype)
        return LinearRegion(boundaries, rows.dense().values.reshape(len(margins), -1), margins)

    return per_image(logits_fn, images, unit, partial(margin_specification, labels), compute)


@partial(jax.jit, static_argnums=7)
def _penalty(
    region: LinearRegion,
    images: jax.Array,
    labels: jax.Array,
    unit: ThreatModel,
    boundary_gamma: Any,
    decision_gamma: Any,
    boundaries: Any,
    decisions: int | None,
) -> jax.Array:
    classes, units = region.margins.shape[-1], region.boundaries.shape[-1]
    to_classes = hinge(class_distances(unit, images, region.normals, region.margins), decision_gamma)
    worst = classes if decisions is None else min(decisions, classes)
    decision = of_worst_classes(to_classes, labels, worst) / worst
    if not units:
        return decision
    count = _count(boundaries, units, images.dtype)
    return sum_of_largest(hinge(region.boundaries, boundary_gamma), count) / count + decision


def _count(boundaries: Any, units: int, dtype: Any) -> jax.Array:
    """How many of the units count, a whole number as a scalar of a floating type."""
    number = jnp.asarray(boundaries)
    if jnp.issubdtype(number.dtype, jnp.floating):
        number = jnp.round(number * units)
    return jnp.clip(number.astype(dtype), 1, units)


def sum_of_largest(values: jax.Array, count: jax.Array) -> jax.Array:
    """Sum of the ``count`` largest of values in [0, 1], ``[batch, features]`` to ``[batch]``; ``count`` may be traced.

    It is ``min_t count t + sum max(0, value - t)``. Bisection finds ``t``, which derivatives pass by, without sorting.

    Example:
        >>> sum_of_largest(jnp.array([[0.5, 0.25, 0.75, 0.0]]), jnp.array(2.0)).tolist()
        [1.25]
    """
    constant = jax.lax.stop_gradient(values)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        enough = row_sum((constant > middle[:, None]).astype(values.dtype)) >= count
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    ends = jnp.zeros_like(values[:, 0]), jnp.ones_like(values[:, 0])
    threshold, _ = jax.lax.fori_loop(0, jnp.finfo(values.dtype).nmant + 2, halve, ends)
    above = values - threshold[:, None]
    return count * threshold + row_sum(jnp.where(above > 0, above, 0))
