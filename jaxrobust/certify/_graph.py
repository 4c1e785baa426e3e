"""A network as a graph of affine and nonlinear nodes, for a batch of one image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax

from ._activations import Activation
from ._affine import Affine
from ._max_pool import MaxPool

Operation = Affine | MaxPool | Activation


@dataclass(frozen=True, eq=False)
class Node:
    """A value that depends on the image.

    Attributes:
        operation: what it is; ``None`` for the image itself.
        operands: the nodes that it is computed from.
        aval: shape and dtype, for a batch of one image.
    """

    operation: Operation | None
    operands: tuple[Node, ...]
    aval: jax.ShapeDtypeStruct

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, for a batch of one image."""
        return self.aval.shape

    @property
    def is_nonlinear(self) -> bool:
        """Whether bounds of its operand are needed."""
        return isinstance(self.operation, (MaxPool, Activation))


@dataclass(frozen=True, eq=False)
class Graph:
    """The nodes that the logits of one image depend on.

    Attributes:
        nodes: operands before users; the first is the image, the last the output.
    """

    nodes: tuple[Node, ...]

    @property
    def image(self) -> Node:
        """What the network sees, ``[1, ...]``."""
        return self.nodes[0]

    @property
    def output(self) -> Node:
        """The logits, ``[classes]``."""
        return self.nodes[-1]

    @cached_property
    def nonlinear(self) -> tuple[Node, ...]:
        """Nodes whose operand has to be bounded, in order."""
        return tuple(node for node in self.nodes if node.is_nonlinear)

    @cached_property
    def affine_of_image(self) -> frozenset[Node]:
        """The nodes before the first nonlinear ones: affine functions of the image."""
        found: set[Node] = set()
        for node in self.nodes:
            if not node.is_nonlinear and all(operand in found for operand in node.operands):
                found.add(node)
        return frozenset(found)

    def before(self, node: Node) -> tuple[Node, ...]:
        """The node and all that it depends on, in order."""
        needed = {node}
        for other in reversed(self.nodes):
            if other in needed:
                needed.update(other.operands)
        return tuple(other for other in self.nodes if other in needed)


def graph_of(output: Node) -> Graph:
    """The graph that ends in a node, without recursion: networks may be deep."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(output, False)]
    while stack:
        node, complete = stack.pop()
        if complete:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((operand, False) for operand in node.operands)
    return Graph(tuple(order))
