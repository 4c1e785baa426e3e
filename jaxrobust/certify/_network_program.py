"""A network on a norm ball as a mixed-integer linear program.

Source: Tjeng et al., 2019, "Evaluating robustness of neural networks with mixed integer programming"; section
8.8 of the verification study. A value that may be on either side of a kink is split into its positive and its negative part, one of which
is zero; a binary variable says which. Bounds make that linear, and the tighter they are the faster the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse

from ._ball import Ball
from ._mixed_integer import Program, Solution
from ._piecewise_linear import Affine, Kinks, PiecewiseLinear, Windows

HostInterval = tuple[np.ndarray, np.ndarray]


class Values(NamedTuple):
    """Affine functions of the variables: ``matrix @ variables + constant``, ``[entries, capacity]`` and ``[entries]``."""

    matrix: Any
    constant: np.ndarray


class NetworkProgram:
    """The values of a network at all points of a ball.

    Args:
        network: its matrices.
        ball: how the image may move.
        bounds: of the operand of each layer, valid in the ball, ``[entries]`` each.
        minimum_norm: whether the nearest point is wanted, not any.
    """

    def __init__(
        self, network: PiecewiseLinear, ball: Ball, bounds: Sequence[HostInterval], *, minimum_norm: bool
    ) -> None:
        operations = [layer.operation for layer in network.layers]
        entries = sum(len(lower) for lower, _ in bounds)
        pooled = sum(operation.entries.size for operation in operations if isinstance(operation, Windows))
        self._program = Program(1 + 2 * ball.image.size + 3 * entries + 2 * pooled)
        self._ball, self._minimum_norm = ball, minimum_norm
        self._unit = np.where(ball.scale > 0, ball.scale * ball.radius, 1)
        # The distance in units of the radius; for l-infinity without it, bounds of the pixels are all there is.
        needed = int(minimum_norm or ball.norm == 1)
        self._distance = self._program.variables(np.zeros(needed), np.ones(needed))
        self._change = self._moves()
        values = [Values(self._change, ball.image.astype(np.float64))]
        for layer, (lower, upper) in zip(network.layers, bounds, strict=True):
            operand = self._affine(layer.operand, values)
            if isinstance(layer.operation, Kinks):
                values.append(self._kinks(operand, lower, upper, layer.operation.slope.astype(np.float64)))
            else:
                values.append(self._windows(operand, lower, upper, layer.operation.entries))
        self._logits = self._affine(network.logits, values)

    @property
    def binaries(self) -> int:
        """How many binary variables there are."""
        return self._program.binaries

    def solve(
        self, label: int, other: int, margin: float, *, within: float, seconds: float, pattern: np.ndarray | None = None
    ) -> Solution:
        """Look for a point where the logit of the label exceeds that of another class by ``margin`` at most.

        Args:
            label, other: classes.
            margin: of the logits.
            within: largest distance of the point, if the distance is minimised.
            seconds: when to give up.
            pattern: the variables of a solution whose sides of kinks are kept.

        Returns:
            The solution; its bound is one of the distance if that is minimised.
        """
        row = self._logits.matrix[[label]] - self._logits.matrix[[other]]
        found = self._program.minimize(
            self._program.rows(self._distance) if self._minimum_norm else row,
            row,
            margin - (self._logits.constant[label] - self._logits.constant[other]),
            seconds=seconds,
            any_point=not self._minimum_norm,
            upper={int(self._distance[0]): within / self._ball.radius} if self._minimum_norm else None,
            pattern=pattern,
        )
        return found._replace(bound=found.bound * self._ball.radius if self._minimum_norm else -math.inf)

    def image(self, variables: np.ndarray) -> np.ndarray:
        """The image at a point."""
        return self._ball.at(self._change[:, : len(variables)] @ variables)

    def _moves(self) -> sparse.csr_array:
        """How far each pixel moves. In the program it is measured in units of its largest move in the ball alone."""
        program, ball = self._program, self._ball
        low, high = ball.low / self._unit, ball.high / self._unit
        moving = np.flatnonzero(ball.scale > 0)
        if ball.norm == math.inf:
            moves = program.rows(program.variables(low, high))
            for distance in self._distance:
                lengths = program.rows(np.full(len(moving), distance))
                program.constrain(moves[moving] - lengths, -np.inf, 0)
                program.constrain(moves[moving] + lengths, 0, np.inf)
        else:
            up = program.rows(program.variables(np.zeros_like(high), high))
            down = program.rows(program.variables(np.zeros_like(low), -low))
            total = sparse.csr_array(np.ones((1, len(moving)))) @ (up + down)[moving]
            program.constrain(total - program.rows(self._distance), -np.inf, 0)
            moves = up - down
        return sparse.csr_array(sparse.diags_array(self._unit) @ moves)

    def _affine(self, affine: Affine, values: list[Values]) -> Values:
        matrix = self._program.placed(len(affine.offset), np.zeros(0, int), np.zeros(0, int))
        constant = affine.offset
        for source, weights in affine.weights.items():
            matrix = matrix + weights @ values[source].matrix
            constant = constant + weights @ values[source].constant
        return Values(matrix, constant)

    def _kinks(self, operand: Values, lower: np.ndarray, upper: np.ndarray, slope: np.ndarray) -> Values:
        """``max(x, 0) + slope min(x, 0)``.

        ``x = a - r`` with ``0 <= a <= upper s`` and ``0 <= r <= -lower (1 - s)``.
        """
        program, size = self._program, len(lower)
        positive = np.flatnonzero(upper > 0)
        negative = np.flatnonzero((lower < 0) & ((upper > 0) | (slope != 0)))
        mixed = np.flatnonzero((lower < 0) & (upper > 0))
        above = program.placed(size, positive, program.variables(np.maximum(lower, 0)[positive], upper[positive]))
        below = program.placed(size, negative, program.variables(np.maximum(-upper, 0)[negative], -lower[negative]))
        used = np.union1d(positive, negative)
        self._equal((operand.matrix - above + below)[used], -operand.constant[used])
        switches = program.variables(np.zeros(len(mixed)), np.ones(len(mixed)), integer=True)
        program.constrain(above[mixed] - program.rows(switches, upper[mixed]), -np.inf, 0)
        program.constrain(below[mixed] - program.rows(switches, lower[mixed]), -np.inf, -lower[mixed])
        return Values(above - sparse.diags_array(slope) @ below, np.zeros(size))

    def _windows(self, operand: Values, lower: np.ndarray, upper: np.ndarray, windows: np.ndarray) -> Values:
        """The largest value of each window.

        It is at least each value, and at most the chosen one: ``largest <= x_k + (others' upper - lower_k) (1 - s_k)``, where
        the ``s_k`` add up to 1. Values that are never the largest are left out.
        """
        program, size = self._program, windows.shape[1]
        low = np.where(windows >= 0, lower[windows], -np.inf)
        high = np.where(windows >= 0, upper[windows], -np.inf)
        surest = low.argmax(0)
        candidate = high > low.max(0)
        candidate[surest, np.arange(size)] = True
        needed = np.unique(windows[candidate])
        inputs = program.placed(len(lower), needed, program.variables(lower[needed], upper[needed]))
        self._equal((operand.matrix - inputs)[needed], -operand.constant[needed])
        largest = program.rows(program.variables(low.max(0), high.max(0)))
        alone = candidate.sum(0) == 1
        self._equal((largest - inputs[windows[surest, np.arange(size)]])[alone], np.zeros(alone.sum()))
        place, window = np.nonzero(candidate & ~alone)
        excess = largest[window] - inputs[windows[place, window]]
        program.constrain(excess, 0, np.inf)
        ordered = np.sort(high, 0)
        of_others = np.where(place == high.argmax(0)[window], ordered[len(windows) - 2, window], ordered[-1, window])
        reach = np.maximum(of_others - low[place, window], 0)
        chosen = program.rows(program.variables(np.zeros(len(place)), np.ones(len(place)), integer=True))
        program.constrain(excess + sparse.diags_array(reach) @ chosen, -np.inf, reach)
        members = sparse.csr_array((np.ones(len(place)), (window, np.arange(len(place)))), (size, len(place)))
        self._equal((members @ chosen)[~alone], np.ones((~alone).sum()))
        return Values(largest, np.zeros(size))

    def _equal(self, matrix: Any, values: np.ndarray) -> None:
        self._program.constrain(matrix, values, values)
