"""Backward substitution: linear functions of a node as linear functions of the image.

Source: Fast-Lin (Weng et al., 2018), CROWN (Zhang et al., 2018); the thesis of Liu, Algorithm 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._activations import Lines
from ._affine import Affine
from ._graph import Graph, Node
from ._max_pool import PoolLines
from ._problem import Interval, Problem, between
from ._rows import Dense, Rows, identity, split

Relaxation = Mapping[Node, Lines | PoolLines]
"""Linear bounds of each nonlinear node as functions of its operand."""


class Substituted(NamedTuple):
    """``rows(image) + lower <= function <= rows(image) + upper``.

    Attributes:
        rows: on the image, or on several nodes where the substitution stopped.
        lower, upper: ``[rows]``. ``upper`` holds only if all lines of the relaxation are parallel.
    """

    rows: dict[Node, Rows]
    lower: jax.Array
    upper: jax.Array


def substitute(graph: Graph, node: Node, rows: Rows, relaxation: Relaxation) -> Substituted:
    """Replace nodes by their operands, from ``node`` back to the image, or to nonlinear nodes without a relaxation."""
    pending: dict[Node, Rows] = {node: rows}
    stopped: dict[Node, Rows] = {}
    lower = upper = jnp.zeros((), node.aval.dtype)
    for current in reversed(graph.before(node)):
        if (here := pending.pop(current, None)) is None:
            continue
        operation = current.operation
        if operation is None or (current.is_nonlinear and current not in relaxation):
            stopped[current] = here
            continue
        if isinstance(operation, Affine):
            offset = here.dot(operation.offset()) if operation.has_offset else 0
            lower, upper, operands = lower + offset, upper + offset, here.through(operation)
        else:
            lines = relaxation[current]
            if isinstance(lines, PoolLines):
                operand, low, high = _through_pool(here, lines)
            else:
                operand, low, high = _through_activation(here, lines)
            lower, upper, operands = lower + low, upper + high, (operand,)
        for target, part in zip(current.operands, operands, strict=True):
            pending[target] = pending[target] + part if target in pending else part
    return Substituted(stopped, lower, upper)


def _through_activation(rows: Rows, lines: Lines) -> tuple[Rows, jax.Array, jax.Array]:
    lower, upper = between(rows, lines.lower_intercept, lines.upper_intercept)
    if lines.lower_slope is lines.upper_slope:
        return rows.map(jnp.multiply, lines.lower_slope).stored(), lower, upper

    def slopes(a: jax.Array, lower_slope: jax.Array, upper_slope: jax.Array) -> jax.Array:
        return jnp.where(a > 0, lower_slope, upper_slope) * a

    return rows.map(slopes, lines.lower_slope, lines.upper_slope).stored(), lower, upper


def _through_pool(rows: Rows, lines: PoolLines) -> tuple[Rows, jax.Array, jax.Array]:
    dense = rows.dense()

    def back(a: jax.Array) -> jax.Array:
        below = lines.pool.transpose(lines.lower, jnp.maximum(a, 0))
        return below + lines.pool.transpose(lines.upper, jnp.minimum(a, 0))

    lower = dense.map(lambda a: jnp.minimum(a, 0)).dot(lines.offset)
    upper = dense.map(lambda a: jnp.maximum(a, 0)).dot(lines.offset)
    return Dense(jax.vmap(back)(dense.values)), lower, upper


def is_parallel(lines: Lines | PoolLines) -> bool:
    """Whether lower and upper lines have a common slope, so that one substitution bounds both sides."""
    return isinstance(lines, Lines) and lines.lower_slope is lines.upper_slope


def bounds(
    graph: Graph, node: Node, rows: Rows, relaxation: Relaxation, problem: Problem, after: jax.Array | None = None
) -> Interval:
    """Lower and upper bounds of linear functions of a node, ``[rows]`` each.

    One side waits for the other, and both for ``after``: at the same time they would take twice the memory.
    """
    found = substitute(graph, node, rows if after is None else rows.stored(after), relaxation)
    on_image = found.rows[graph.image]
    lower = problem.lower(on_image) + found.lower
    if all(is_parallel(relaxation[other]) for other in graph.before(node) if other.is_nonlinear):
        return lower, problem.upper(on_image) + found.upper
    negative = substitute(graph, node, rows.map(jnp.negative).stored(after=lower), relaxation)
    return lower, -(problem.lower(negative.rows[graph.image]) + negative.lower)


def node_bounds(graph: Graph, node: Node, relaxation: Relaxation, problem: Problem, at_once: int | None) -> Interval:
    """Lower and upper bounds of all entries of a node.

    Args:
        graph, node: of the network.
        relaxation: of all nonlinear nodes that it depends on.
        problem: the image.
        at_once: so many rows at a time at most, to bound memory; of feature maps at least one channel.
    """
    parts: list[Interval] = []
    done = None
    for rows, leading in split(identity(node.shape, node.aval.dtype), at_once):
        low, high = bounds(graph, node, rows, relaxation, problem, done)
        parts.append((low.reshape(*leading, -1), high.reshape(*leading, -1)))
        done = high
    lower, upper = (jnp.concatenate(side, -1).reshape(node.shape) for side in zip(*parts, strict=True))
    return lower, upper
