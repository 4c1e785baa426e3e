"""Bounds of linear functions of one image's logits, by any method."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._activations import Lines
from ._backward import Relaxation, node_bounds, substitute
from ._forward import interval, node_functions, output_functions
from ._graph import Graph, Node
from ._interval import node_intervals, output_interval
from ._max_pool import PoolLines
from ._methods import Method
from ._problem import Interval, Problem
from ._rows import Rows


class LowerFunction(NamedTuple):
    """``normals(image) + offsets``, a lower bound of each row."""

    normals: Rows
    offsets: jax.Array


class Solver:
    """What a method needs to know of the values inside the network, computed once for all rows.

    Args:
        graph: the network.
        problem: the image.
        method: how to bound.
        rows_at_once: so many entries of a layer at a time at most.
    """

    def __init__(self, graph: Graph, problem: Problem, method: Method, rows_at_once: int | None) -> None:
        self._graph, self._problem, self._method = graph, problem, method
        self._relaxation: Relaxation = {}
        if method.final == "interval":
            self._intervals = node_intervals(graph, problem)
        elif method.final == "forward":
            self._functions = node_functions(graph, problem, method.relax)
        else:
            self._relaxation = relaxation(graph, problem, method, rows_at_once)

    def lower_function(self, rows: Rows) -> LowerFunction:
        """A linear function of the image below each row.

        Raises:
            ValueError: for interval bounds, which are no such functions.
        """
        if self._method.final == "interval":
            raise ValueError(
                'interval bounds are no linear functions of the image; choose another method, such as "crown"'
            )
        if self._method.final == "forward":
            low, _ = output_functions(self._graph, rows, self._functions, self._problem)
            return LowerFunction(low.rows, low.offset)
        found = substitute(self._graph, self._graph.output, rows, self._relaxation)
        return LowerFunction(found.rows[self._graph.image], found.lower)

    def interval(self, rows: Rows) -> Interval:
        """Lower and upper bounds of each row, ``[rows]``."""
        if self._method.final == "interval":
            return output_interval(self._graph, rows, self._intervals, self._problem)
        low, high = self.lower_function(rows), self.lower_function(rows.map(jnp.negative))
        return self.smallest(low), -self.smallest(high)

    def lower(self, rows: Rows) -> jax.Array:
        """Lower bounds of each row alone, ``[rows]``."""
        if self._method.final == "interval":
            return self.interval(rows)[0]
        return self.smallest(self.lower_function(rows))

    def smallest(self, function: LowerFunction) -> jax.Array:
        """The smallest values of linear functions, ``[rows]``."""
        return self._problem.lower(function.normals) + function.offsets


def operand_bounds(graph: Graph, problem: Problem, method: Method, rows_at_once: int | None) -> tuple[Interval, ...]:
    """Bounds of the operand of each nonlinear node, in order."""
    if method.intermediate == "interval":
        intervals = node_intervals(graph, problem)
        return tuple(intervals[node.operands[0]] for node in graph.nonlinear)
    if method.intermediate == "forward":
        functions = node_functions(graph, problem, method.relax)
        operands = (node.operands[0] for node in graph.nonlinear)
        return tuple(interval(functions[operand], problem, operand.shape) for operand in operands)
    lines: dict[Node, Lines | PoolLines] = {}
    found: dict[Node, Interval] = {}
    for node in graph.nonlinear:
        (operand,) = node.operands
        if operand not in found:
            found[operand] = node_bounds(graph, operand, lines, problem, rows_at_once)
        lines[node] = method.relax(node, found[operand])
    return tuple(found[node.operands[0]] for node in graph.nonlinear)


def relaxation(graph: Graph, problem: Problem, method: Method, rows_at_once: int | None) -> Relaxation:
    """The method's lines of each nonlinear node."""
    bounded = operand_bounds(graph, problem, method, rows_at_once)
    return {node: method.relax(node, operand) for node, operand in zip(graph.nonlinear, bounded, strict=True)}
