"""Methods by name: how intermediate values are bounded, which lines replace activations, how the logits are bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ._activations import Activation, Lines
from ._graph import Node
from ._max_pool import MaxPool, PoolLines
from ._problem import Interval
from ._stored import stored

Slopes = Literal["parallel", "tangent", "adaptive", "midpoint"]
Way = Literal["interval", "backward", "forward"]


class Method(NamedTuple):
    """A way to bound logits.

    Attributes:
        intermediate: how the operands of nonlinear nodes are bounded.
        final: how the logits are.
        slopes: which lines replace activations: parallel ones (Fast-Lin), for S-shaped activations also as tangents
            wherever they touch, lines with slopes of their own (CROWN), or those that are nearest to the activation in the middle of
            the interval, which differ from CROWN's for S-shaped activations only and are mostly tighter.
        optimization_steps: so many steps move the slopes uphill on the bounds, for every row.
    """

    intermediate: Way
    final: Way
    slopes: Slopes = "parallel"
    optimization_steps: int = 0

    def relax(self, node: Node, operand: Interval) -> Lines | PoolLines:
        """Lines of a nonlinear node within the bounds of its operand."""
        operation = node.operation
        if isinstance(operation, MaxPool):
            return operation.lines(*operand)
        assert isinstance(operation, Activation)
        if self.slopes in ("adaptive", "midpoint"):
            lines = operation.crown(*operand, rule="ends" if self.slopes == "adaptive" else "midpoint")
            return stored(lines)
        lines = operation.parallel(*operand, rule="tangent" if self.slopes == "tangent" else "tight")
        slope, lower, upper = stored((lines.lower_slope, lines.lower_intercept, lines.upper_intercept))
        return Lines(slope, lower, slope, upper)


METHODS: dict[str, Method] = {
    "interval": Method("interval", "interval"),
    "fast-lin": Method("backward", "backward"),
    "fast-lin-tangent": Method("backward", "backward", "tangent"),
    "fast-lin-interval": Method("interval", "backward"),
    "crown": Method("backward", "backward", "adaptive"),
    "crown-midpoint": Method("backward", "backward", "midpoint"),
    "crown-interval": Method("interval", "backward", "adaptive"),
    "alpha-crown": Method("backward", "backward", "adaptive", optimization_steps=20),
    "forward": Method("forward", "forward"),
    "forward-backward": Method("forward", "backward"),
    "forward-adaptive": Method("forward", "forward", "adaptive"),
}


def methods_named(names: str | Sequence[str]) -> tuple[Method, ...]:
    """The methods of one or several names.

    Raises:
        ValueError: for an unknown name, or none.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    if not given or any(name not in METHODS for name in given):
        raise ValueError(f"unknown method {names!r}; choose one or several of {', '.join(METHODS)}")
    return tuple(METHODS[name] for name in given)
