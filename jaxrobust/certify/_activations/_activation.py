"""What all activation functions have in common: from a few facts about a function to lines that bound it.

Every line is made in two steps: first its slope, then the tightest intercept for that slope. The second step is the same for
all functions and all slopes, so whatever the first one does, the lines are bounds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from ._chord import chord
from ._search import last_true

_Pair = tuple[jax.Array, jax.Array]
Function = Callable[[jax.Array], jax.Array]
ParallelRule = Literal["tight", "seed"]
CrownRule = Literal["ends", "midpoint"]

_FAR = 2.0**13
"""CROWN's tangent points are looked for up to here; farther out the functions are as good as straight."""


class Lines(NamedTuple):
    """``lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept`` for all ``x`` of an interval.

    All have the shape of the interval's ends. Lines of a common slope hold one array twice: ``lower_slope is upper_slope``.
    An intercept is infinite where no line of that slope is a bound, which happens on unbounded intervals only.
    """

    lower_slope: jax.Array
    lower_intercept: jax.Array
    upper_slope: jax.Array
    upper_intercept: jax.Array


def _check_rule(rule: str, rules: tuple[str, ...]) -> None:
    if rule not in rules:
        raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(rules)}")


def _within_root_of_largest(info: jnp.finfo) -> tuple[float, float]:
    size = math.sqrt(float(info.max)) / 4
    return -size, size


@dataclass(frozen=True, eq=False)
class Activation:
    """An elementwise function with its linear bounds on intervals ``lower <= x <= upper``.

    All methods work elementwise on arrays of any shape and floating-point type, broadcast their arguments, and can be jitted,
    vmapped and differentiated; derivatives are finite everywhere, also where ``lower == upper`` and in saturation.
    Positions of tangent points are constants for derivatives. That is exact: an intercept is an extremum over the position.

    Bounds are exact up to rounding: a line passes the function by a few times the type's precision at most, relative to
    ``|f(x)| + |slope x|``. Tangent points, in closed form or from bisection, need not be exact: an error ``e`` of the position
    raises a minimum by ``f'' e^2 / 2``, which is less than rounding, and the ends of the interval are compared as well.

    Ends beyond ``reach`` (about 1e18 in single precision, 80 for ``exp``) count as infinite. Unbounded intervals have finite
    lines where there are any: slopes of chords are then those of the function far out, 0 or 1 for ReLU. Otherwise the
    intercept is ``-inf`` or ``inf``, never NaN.

    The function is convex on one interval, which may be empty or everything, and concave to its left and right.

    Objects are compared by identity; those with numbers as parameters can be static arguments of ``jit``.

    Attributes:
        name: for messages.
        function: ``f``, elementwise.
        derivative: ``f'``; at a kink one of the slopes there.
        critical: a slope to all points where ``f'`` passes it, kinks included; points too many do not matter.
        convex: left and right end of the interval where ``f`` is convex.
        ends: slopes of ``f`` at minus and plus infinity.
        stationary: where ``f`` has an extremum; empty for increasing functions.
        s_shaped: whether ``f`` is smooth, increasing, convex left of zero and concave right of it: sigmoid and its kind.
        secant: ``(f(upper) - f(lower)) / (upper - lower)``, for functions where :func:`chord` is not accurate.
        reach: from ``finfo`` of a type to the arguments from which on they count as infinite.
    """

    name: str
    function: Function
    derivative: Function
    critical: Callable[[jax.Array], tuple[jax.Array, ...]]
    convex: tuple[Any, Any] = (-math.inf, math.inf)
    ends: tuple[Any, Any] = (0.0, 1.0)
    stationary: tuple[float, ...] = ()
    s_shaped: bool = False
    secant: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    reach: Callable[[jnp.finfo], tuple[float, float]] = _within_root_of_largest

    def interval(self, lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest value on the interval; infinite where the interval and the function are."""
        flat = jnp.zeros_like(lower)
        if not self.stationary:
            smallest = self._intercept(flat, lower, lower, (), highest=False)
            return smallest, self._intercept(flat, upper, upper, (), highest=True)
        low, high = self._finite(lower), self._finite(upper)
        points = tuple(jnp.clip(jnp.full_like(low, point), low, high) for point in self.stationary)
        smallest = self._intercept(flat, lower, upper, points, highest=False)
        return smallest, self._intercept(flat, lower, upper, points, highest=True)

    def parallel(self, lower: jax.Array, upper: jax.Array, rule: ParallelRule = "tight") -> Lines:
        """Lines of one common slope, that of the chord between the ends: Fast-Lin for ReLU, (3.4); (3.5) for sigmoid and tanh.

        Args:
            lower: lower end of the interval.
            upper: upper end, at least ``lower``.
            rule: for S-shaped functions on both sides of zero. ``"tight"`` moves the lines to the nearest point of the curve on
                the interval, ``"seed"`` to the tangent points, as (3.5) is printed, even if they are outside.

        Raises:
            ValueError: for an unknown rule.

        Source: verification study, section 3.1.1.

        Example:
            >>> from jaxrobust.certify._activations import relu
            >>> [float(value) for value in relu.parallel(jnp.asarray(-1.0), jnp.asarray(3.0))]
            [0.75, 0.0, 0.75, 0.75]
        """
        _check_rule(rule, get_args(ParallelRule))
        slope = self.chord(lower, upper)
        if rule == "tight" or not self.s_shaped:
            return self.with_slopes(slope, slope, lower, upper)
        mixed = (lower < 0) & (upper > 0)
        within = jnp.where(mixed, -jnp.inf, lower), jnp.where(mixed, jnp.inf, upper)
        return self._lines(slope, slope, lower, upper, within)

    def crown(self, lower: jax.Array, upper: jax.Array, rule: CrownRule = "ends") -> Lines:
        """Lines of separate slopes.

        Both lines are as near to the curve at the midpoint as a bound can be, so the areas between line and curve are smallest:
        where the function is convex the chord above and the tangent at the midpoint below, where it is concave the other way
        round. For ReLU that is the adaptive choice, a lower slope of 1 if ``upper >= -lower``, else 0.

        Args:
            lower: lower end of the interval.
            upper: upper end, at least ``lower``.
            rule: for S-shaped functions on both sides of zero. With ``"ends"``, as published, the line above is the one through the
                left end that touches the curve right of zero, or the chord if there is none; below, the same from the right end.
                ``"midpoint"`` makes no exception for them; on wide intervals its lines are much nearer to the curve.

        Raises:
            ValueError: for an unknown rule.

        Source: Zhang et al., 2018, Efficient neural network robustness certification with general activation functions, table 2.

        Example:
            >>> from jaxrobust.certify._activations import relu
            >>> [float(value) for value in relu.crown(jnp.asarray(-1.0), jnp.asarray(3.0))]
            [1.0, 0.0, 0.75, 0.75]
        """
        _check_rule(rule, get_args(CrownRule))
        low, high = self._finite(lower), self._finite(upper)
        below = above = low / 2 + high / 2
        if rule == "ends" and self.s_shaped:
            mixed = (lower < 0) & (upper > 0)
            below, above = jnp.where(mixed, high, below), jnp.where(mixed, low, above)
        slopes = self._slopes_nearest_at(below, above, lower, upper)
        return self.with_slopes(*slopes, lower, upper)

    def with_slopes(self, lower_slope: jax.Array, upper_slope: jax.Array, lower: jax.Array, upper: jax.Array) -> Lines:
        """The tightest lines of given slopes: intercepts are the smallest and the largest value of ``f(x) - slope x``.

        Args:
            lower_slope: any slope; may have more leading axes than the ends.
            upper_slope: any slope.
            lower: lower end of the interval.
            upper: upper end.

        Returns:
            The lines, broadcast to a common shape.
        """
        return self._lines(lower_slope, upper_slope, lower, upper, (lower, upper))

    def slope_range(self, lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest slope of the function on the interval: outside, no slope is of use.

        For ReLU 0 and 1 where it is unstable.
        """
        low, high = self._finite(lower), self._finite(upper)
        edges = (jnp.clip(jnp.asarray(edge, low.dtype), low, high) for edge in self.convex)
        slopes = [self.derivative(x) for x in (low, high, *edges)]
        return functools.reduce(jnp.minimum, slopes), functools.reduce(jnp.maximum, slopes)

    def chord(self, lower: jax.Array, upper: jax.Array) -> jax.Array:
        """Slope of the chord; the slope far out where an end is infinite, or 0 where that is infinite."""
        low, high = self._finite(lower), self._finite(upper)
        if self.secant is not None:
            slope = self.secant(low, high)
        else:
            slope = chord(self.function, self.derivative, low, high)
        no_left, no_right = self._infinite(lower, upper)
        ends = (jnp.asarray(end, slope.dtype) for end in self.ends)
        left, right = (jnp.where(jnp.isfinite(end), end, 0) for end in ends)
        return jnp.where(no_left, left, jnp.where(no_right, right, slope))

    def _finite(self, x: jax.Array) -> jax.Array:
        return jnp.clip(x, *self.reach(jnp.finfo(x.dtype)))

    def _infinite(self, lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether the interval is unbounded on the left and on the right."""
        least, greatest = self.reach(jnp.finfo(lower.dtype))
        return lower <= least, upper >= greatest

    def _lines(
        self,
        lower_slope: jax.Array,
        upper_slope: jax.Array,
        lower: jax.Array,
        upper: jax.Array,
        within: tuple[jax.Array, jax.Array],
    ) -> Lines:
        """Lines that touch the curve at the ends of the interval or at a point ``within`` other ends."""
        shape = jnp.broadcast_shapes(*map(jnp.shape, (lower_slope, upper_slope, lower, upper)))
        parallel = upper_slope is lower_slope
        below = jnp.broadcast_to(jnp.asarray(lower_slope, lower.dtype), shape)
        above = below if parallel else jnp.broadcast_to(jnp.asarray(upper_slope, lower.dtype), shape)
        left, right = map(self._finite, within)
        # One call for both: it may hold a loop.
        points = self.critical(jax.lax.stop_gradient(below if parallel else jnp.stack([below, above])))
        # The ends are not constants here: a point at an end moves with it, whichever of the two is the extremum.
        points = tuple(jnp.clip(point, left, right) for point in points)
        touching_below = points if parallel else tuple(point[0] for point in points)
        touching_above = points if parallel else tuple(point[1] for point in points)
        return Lines(
            below,
            self._intercept(below, lower, upper, touching_below, highest=False),
            above,
            self._intercept(above, lower, upper, touching_above, highest=True),
        )

    def _intercept(
        self, slope: jax.Array, lower: jax.Array, upper: jax.Array, points: tuple[jax.Array, ...], *, highest: bool
    ) -> jax.Array:
        """Smallest or largest ``f(x) - slope x`` among both ends and some points."""
        values = [self.function(x) - slope * x for x in (self._finite(lower), self._finite(upper), *points)]
        value = functools.reduce(jnp.maximum if highest else jnp.minimum, values)
        no_left, no_right = self._infinite(lower, upper)
        left, right = (jnp.asarray(end, slope.dtype) for end in self.ends)
        unbounded_left = no_left & (slope > left if highest else slope < left)
        unbounded_right = no_right & (slope < right if highest else slope > right)
        return jnp.where(unbounded_left | unbounded_right, jnp.inf if highest else -jnp.inf, value)

    def _slopes_nearest_at(
        self, below: jax.Array, above: jax.Array, lower: jax.Array, upper: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Slopes of the line under the function that is nearest to it at ``below``, and of that over it, nearest at ``above``.

        They support the convex and the concave envelope there. The convex one follows the curve in its convex part from ``start`` to
        ``end``, with lines to the ends of the interval; if these points are in the wrong order the chord is all of it. The
        concave one follows the curve up to ``start`` and from ``end`` on, with a line between. For none of the functions here
        does that line leave both ends of the interval, so each point is where a line from an end of the interval touches the curve.
        """
        low, high = self._finite(lower), self._finite(upper)
        left, right = (jnp.clip(jnp.asarray(edge, low.dtype), low, high) for edge in self.convex)
        concave_left, concave_right = self._concave_sides()
        start, end = (low, low), (high, high)  # of the convex envelope, of the concave one
        if concave_left:
            start = self._touching_points((low, high), (left, low), (right, left), sign=-1)
        if concave_right:
            end = self._touching_points((high, low), (left, right), (right, high), sign=1)

        upper_slope = jnp.where(
            (above < start[1]) | (above > end[1]), self.derivative(above), self.chord(start[1], end[1])
        )
        lower_slope = self.derivative(below)
        if concave_left or concave_right:
            lower_slope = jnp.where(below < start[0], self.chord(lower, start[0]), lower_slope)
            lower_slope = jnp.where(below > end[0], self.chord(end[0], upper), lower_slope)
            lower_slope = jnp.where(start[0] >= end[0], self.chord(lower, upper), lower_slope)
        return lower_slope, upper_slope

    def _concave_sides(self) -> tuple[bool, bool]:
        """Whether there may be concave parts on the left and on the right of the convex one."""
        left, right = self.convex
        return not (isinstance(left, float) and left == -math.inf), not (isinstance(right, float) and right == math.inf)

    def _touching_points(self, anchors: _Pair, left: _Pair, right: _Pair, *, sign: int) -> _Pair:
        """Where between ``left`` and ``right`` the line from an anchor touches the curve, or the end nearest to such a point.

        There ``f'(x) (x - anchor) - (f(x) - f(anchor))`` is zero; times ``sign`` it falls from left to right. By the derivative of
        implicit functions, the slope's derivative is that of the chord from the anchor to a constant point.
        """
        anchor, start, end = (jax.lax.stop_gradient(jnp.stack(pair)) for pair in (anchors, left, right))
        start, end = (jnp.clip(x, -_FAR, _FAR) for x in (start, end))
        height = self.function(anchor)

        def before(x: jax.Array) -> jax.Array:
            return sign * (self.derivative(x) * (x - anchor) - (self.function(x) - height)) > 0

        found = last_true(before, start, end)
        points = jnp.where(before(end), jnp.stack(right), jnp.where(before(start), found, jnp.stack(left)))
        return points[0], points[1]
