"""Interval bound propagation: every node within a box, computed from the boxes of its operands.

Source: Gowal et al., 2018; the thesis of Liu, Algorithm 3.2. The affine operations before the first nonlinear one are
bounded together, exactly, in every norm.
"""

from __future__ import annotations

from ._affine import Affine
from ._backward import node_bounds, substitute
from ._graph import Graph, Node
from ._problem import Interval, Problem, between
from ._rows import Rows


def node_intervals(graph: Graph, problem: Problem) -> dict[Node, Interval]:
    """Bounds of every node that a nonlinear one, or an affine one behind it, depends on."""
    found: dict[Node, Interval] = {}
    exact = graph.affine_of_image
    needed = {operand for node in graph.nodes if node not in exact for operand in node.operands}
    for node in graph.nodes:
        if node in exact:
            if node in needed:
                found[node] = node_bounds(graph, node, {}, problem, None)
            continue
        operands = [found[operand] for operand in node.operands]
        operation = node.operation
        if isinstance(operation, Affine):
            middle = operation.evaluate(*((lower + upper) / 2 for lower, upper in operands))
            reach = operation.absolute(*((upper - lower) / 2 for lower, upper in operands))
            found[node] = middle - reach, middle + reach
        else:
            assert operation is not None
            found[node] = operation.interval(*operands[0])
    return found


def output_interval(graph: Graph, rows: Rows, intervals: dict[Node, Interval], problem: Problem) -> Interval:
    """Bounds of linear functions of the logits, ``[rows]`` each.

    The rows are merged with the affine operations behind the last nonlinear ones (elision of the last layer).
    """
    found = substitute(graph, graph.output, rows, {})
    lower, upper = found.lower, found.upper
    for node, here in found.rows.items():
        if node is graph.image:
            low, high = problem.lower(here), problem.upper(here)
        else:
            low, high = between(here, *intervals[node])
        lower, upper = lower + low, upper + high
    return lower, upper
