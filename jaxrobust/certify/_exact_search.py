"""The search of one image: one mixed-integer program for each class that bounds do not rule out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from ._ball import Ball
from ._mixed_integer import TIMEOUT, Solution
from ._network_program import HostInterval, NetworkProgram
from ._piecewise_linear import PiecewiseLinear

IsAdversarial = Callable[[np.ndarray], bool]


class Search:
    """What is known of an image, and how more is found out.

    Args:
        network: as matrices.
        ball: how the image may move.
        bounds: of the operands of its layers in the ball.
        label: class of the image.
        certified: how near to the image each class is ruled out, ``[classes]``; ``inf`` for the label.
        distance: of an adversarial example that is known already, or ``inf``.
        tolerance: margins to which the solver is exact.
        minimum_norm: whether to look for the nearest adversarial example.

    Attributes:
        distance: of the nearest adversarial example known.
        counterexample: that example, ``[pixels]``, if it was found here.
        timed_out: whether the time was over before the end.
        binaries: number of binary variables, if a program was made.
        seconds: how long it took.
    """

    def __init__(
        self,
        network: PiecewiseLinear,
        ball: Ball,
        bounds: Sequence[HostInterval],
        label: int,
        certified: np.ndarray,
        distance: float,
        tolerance: float,
        minimum_norm: bool,
    ) -> None:
        self._network, self._ball, self._bounds, self._label = network, ball, bounds, label
        self._ruled_out = np.minimum(certified, ball.radius)
        self._tolerance, self._minimum_norm = tolerance, minimum_norm
        self.distance = distance
        self.counterexample: np.ndarray | None = None
        self.timed_out, self.binaries, self.seconds = False, 0, 0.0

    @property
    def proved(self) -> float:
        """No image nearer than this has another label."""
        return min(float(self._ruled_out.min()), self.distance)

    @property
    def verified(self) -> bool:
        """Whether there is no adversarial example in the ball."""
        return self.distance == math.inf and self.proved == self._ball.radius

    @property
    def is_open(self) -> bool:
        """Whether there is something to find out."""
        if self.distance < math.inf and not self._minimum_norm:
            return False
        return self.proved < min(self._ball.radius, self.distance)

    def run(self, time_limit: float, is_adversarial: IsAdversarial) -> None:
        """Go through the classes, those that come nearest first.

        Args:
            time_limit: seconds for all of them.
            is_adversarial: whether the network misclassifies an image, ``[pixels]``.
        """
        start = time.monotonic()
        program = NetworkProgram(self._network, self._ball, self._bounds, minimum_norm=self._minimum_norm)
        self.binaries = program.binaries

        def solve(other: int, margin: float, pattern: np.ndarray | None = None) -> Solution:
            left = time_limit - (time.monotonic() - start)
            found = TIMEOUT
            if left > 0:
                within = min(self._ball.radius, self.distance)
                found = program.solve(self._label, other, margin, within=within, seconds=left, pattern=pattern)
            self.timed_out |= found.status == "timeout"
            return found

        for other in np.argsort(self._ruled_out, kind="stable"):
            if self._ruled_out[other] < self._ball.radius and self.is_open:
                self._rule_out(int(other), program, solve, is_adversarial)
        self.seconds = time.monotonic() - start

    def _rule_out(
        self, other: int, program: NetworkProgram, solve: Callable[..., Solution], is_adversarial: IsAdversarial
    ) -> None:
        """Find out whether, or how near, a class can be reached."""
        limit = min(self._ball.radius, self.distance)
        found = solve(other, self._tolerance)
        if found.status == "infeasible":
            self._ruled_out[other] = limit
        elif self._minimum_norm:
            self._ruled_out[other] = min(max(self._ruled_out[other], found.bound), limit)
        for point in self._points(found, partial(solve, other, -self._tolerance)):
            image = program.image(point)
            if is_adversarial(image):
                self.distance, self.counterexample = self._ball.distance(image), image
                return

    def _points(self, found: Solution, again: Callable[..., Solution]) -> Iterator[np.ndarray]:
        """Points that should be adversarial, nearest first; the first of them is so up to the tolerance only."""
        if found.variables is None:
            return
        yield found.variables
        for pattern in (found.variables, None):
            if (point := again(pattern=pattern).variables) is not None:
                yield point
