"""Forward propagation of linear bounds: every node between two linear functions of the image.

It costs one pass over the network, with as many columns as the image has pixels, and is looser than backward substitution:
residual terms are bounded at every layer instead of once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._activations import Lines
from ._affine import Affine
from ._backward import is_parallel, substitute
from ._graph import Graph, Node
from ._max_pool import PoolLines
from ._problem import Interval, Problem
from ._rows import Dense, Rows


class Between(NamedTuple):
    """``middle - reach <= node <= middle + reach`` with ``middle`` and ``reach`` affine in the image.

    Attributes:
        middle, reach: coefficients ``[pixels, *node]``; ``reach`` is ``None`` where both sides have the same.
        middle_offset, reach_offset: ``[*node]``.
    """

    middle: jax.Array
    middle_offset: jax.Array
    reach: jax.Array | None
    reach_offset: jax.Array

    def side(self, sign: int) -> tuple[Rows, jax.Array]:
        """Rows on the image, and offsets, of the lower (-1) or upper (1) function."""
        columns = self.middle if self.reach is None else self.middle + sign * self.reach
        return Dense(columns), self.middle_offset + sign * self.reach_offset


def node_functions(
    graph: Graph, problem: Problem, relax: Callable[[Node, Interval], Lines | PoolLines]
) -> dict[Node, Between]:
    """The functions of every node.

    Args:
        graph: of the network.
        problem: the image.
        relax: ``(nonlinear node, bounds of its operand) -> lines``.
    """
    found: dict[Node, Between] = {}
    for node in graph.nodes:
        operation, operands = node.operation, [found[operand] for operand in node.operands]
        if operation is None:
            size = math.prod(node.shape)
            identity = jnp.eye(size, dtype=node.aval.dtype).reshape(size, *node.shape)
            zero = jnp.zeros(node.shape, node.aval.dtype)
            found[node] = Between(identity, zero, None, zero)
        elif isinstance(operation, Affine):
            found[node] = _through_affine(operation, operands)
        else:
            lines = relax(node, interval(operands[0], problem, node.operands[0].shape))
            found[node] = _through_lines(lines, operands[0])
    return found


def interval(functions: Between, problem: Problem, shape: tuple[int, ...]) -> Interval:
    """The smallest and largest values of a node between its functions."""
    sides = []
    for sign, extreme in ((-1, problem.lower), (1, problem.upper)):
        rows, offset = functions.side(sign)
        sides.append(extreme(_by_entry(rows, problem)).reshape(shape) + offset)
    return sides[0], sides[1]


def _by_entry(columns: Rows, problem: Problem) -> Rows:
    """``[pixels, *node]`` as one row for every entry of the node."""
    values = columns.dense().values
    return Dense(values.reshape(len(values), -1).T.reshape(-1, *problem.image.shape))


def _through_affine(operation: Affine, operands: list[Between]) -> Between:
    middle = jax.vmap(operation.linear)(*(operand.middle for operand in operands))
    offset = operation.evaluate(*(operand.middle_offset for operand in operands))
    reach_offset = operation.absolute(*(operand.reach_offset for operand in operands))
    if all(operand.reach is None for operand in operands):
        return Between(middle, offset, None, reach_offset)
    reaches = (jnp.zeros_like(o.middle) if o.reach is None else o.reach for o in operands)
    return Between(middle, offset, jax.vmap(operation.absolute)(*reaches), reach_offset)


def _through_lines(lines: Lines | PoolLines, operand: Between) -> Between:
    if isinstance(lines, PoolLines):
        return _through_pool(lines, operand)
    if is_parallel(lines) and operand.reach is None:
        slope = lines.lower_slope
        low, high = lines.lower_intercept, lines.upper_intercept
        offset = slope * operand.middle_offset + (low + high) / 2
        return Between(slope * operand.middle, offset, None, jnp.abs(slope) * operand.reach_offset + (high - low) / 2)
    reach = jnp.zeros_like(operand.middle) if operand.reach is None else operand.reach
    sides = []
    for sign, slope, intercept in (
        (-1, lines.lower_slope, lines.lower_intercept),
        (1, lines.upper_slope, lines.upper_intercept),
    ):
        # A line that falls is largest where the operand is smallest.
        columns = slope * operand.middle + sign * jnp.abs(slope) * reach
        offset = slope * operand.middle_offset + sign * jnp.abs(slope) * operand.reach_offset + intercept
        sides.append((columns, offset))
    return _from_sides(*sides)


def _through_pool(lines: PoolLines, operand: Between) -> Between:
    """The weights of both lines are at least 0, so lower functions go into the lower one."""
    sides = []
    for sign, weights, offset in ((-1, lines.lower, 0), (1, lines.upper, lines.offset)):
        columns, added = operand.side(sign)
        pooled = jax.vmap(partial(lines.pool.weighted, weights))(columns.dense().values)
        sides.append((pooled, lines.pool.weighted(weights, added) + offset))
    return _from_sides(*sides)


def _from_sides(low: tuple[jax.Array, jax.Array], high: tuple[jax.Array, jax.Array]) -> Between:
    (below, below_offset), (above, above_offset) = low, high
    return Between(
        (below + above) / 2, (below_offset + above_offset) / 2, (above - below) / 2, (above_offset - below_offset) / 2
    )


class Function(NamedTuple):
    """A linear function of the image per row: ``rows`` and ``offset`` ``[rows]``."""

    rows: Rows
    offset: jax.Array


def output_functions(
    graph: Graph, rows: Rows, functions: dict[Node, Between], problem: Problem
) -> tuple[Function, Function]:
    """Lower and upper functions of linear functions of the logits, merged with the last affine operations."""
    found = substitute(graph, graph.output, rows, {})
    middle: Rows | None = None
    reach: jax.Array | None = None
    offset, reach_offset = found.lower, jnp.zeros_like(found.lower)
    for node, here in found.rows.items():
        flat = here.dense().values.reshape(len(here.dense().values), -1)
        given = functions[node]
        columns = given.middle.reshape(len(given.middle), -1)
        part = Dense((flat @ columns.T).reshape(-1, *problem.image.shape))
        middle = part if middle is None else middle + part
        offset = offset + flat @ given.middle_offset.reshape(-1)
        reach_offset = reach_offset + jnp.abs(flat) @ given.reach_offset.reshape(-1)
        if given.reach is not None:
            wide = (jnp.abs(flat) @ given.reach.reshape(len(columns), -1).T).reshape(-1, *problem.image.shape)
            reach = wide if reach is None else reach + wide
    assert middle is not None
    if reach is None:
        return Function(middle, offset - reach_offset), Function(middle, offset + reach_offset)
    values = middle.dense().values
    return Function(Dense(values - reach), offset - reach_offset), Function(
        Dense(values + reach), offset + reach_offset
    )
