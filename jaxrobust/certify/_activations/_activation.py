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
ParallelRule = Literal["tight", "tangent"]
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


def _between(point: jax.Array, lower: jax.Array | float, upper: jax.Array | float) -> jax.Array:
    """The nearest point of an interval: outside it moves with the end, inside and at the ends it stays where it is."""
    return jnp.where(point < lower, lower, jnp.where(point > upper, upper, point))


class _Ends(NamedTuple):
    """Ends of an interval as finite numbers, and whether they stand for infinite ones."""

    low: jax.Array
    high: jax.Array
    no_left: jax.Array
    no_right: jax.Array

    def part(self, low: jax.Array, high: jax.Array) -> _Ends:
        """A part of the interval."""
        return _Ends(low, high, self.no_left & (low <= self.low), self.no_right & (high >= self.high))


def _within_root_of_largest(info: jnp.finfo) -> tuple[float, float]:
    size = math.sqrt(float(info.max)) / 4
    return -size, size


@dataclass(frozen=True, eq=False)
class Activation:
    """An elementwise function with its linear bounds on intervals ``lower <= x <= upper``.

    All methods work elementwise on arrays of any shape and floating-point type, broadcast their arguments, and can be jitted,
    vmapped and differentiated; derivatives are finite everywhere, also where ``lower == upper`` and in saturation.
    Positions of tangent points are constants for derivatives. That is exact: an intercept is an extremum over the position.

    Bounds are exact up to rounding: a line passes the function by a few times the type's precision at most, relative to the
    largest ``|f(x)| + |slope x|`` on the interval. Tangent points, in closed form or from bisection, need not be exact: an
    error ``e`` of the position raises a minimum by ``f'' e^2 / 2``, which is less than rounding, and the ends of the interval
    are compared as well.

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
        ends, flat = self._ends(lower, upper), jnp.zeros_like(lower)
        if not self.stationary:  # increasing
            smallest = self._intercept(flat, ends.part(ends.low, ends.low), (), highest=False)
            return smallest, self._intercept(flat, ends.part(ends.high, ends.high), (), highest=True)
        points = tuple(_between(jnp.full_like(lower, point), ends.low, ends.high) for point in self.stationary)
        smallest = self._intercept(flat, ends, points, highest=False)
        return smallest, self._intercept(flat, ends, points, highest=True)

    def parallel(self, lower: jax.Array, upper: jax.Array, rule: ParallelRule = "tight") -> Lines:
        """Lines of one common slope, that of the chord between the ends: Fast-Lin for ReLU, (3.4); (3.5) for sigmoid and tanh.

        Args:
            lower: lower end of the interval.
            upper: upper end, at least ``lower``.
            rule: for S-shaped functions on both sides of zero. ``"tight"`` moves the lines to the nearest point of the curve on
                the interval, ``"tangent"`` to the tangent points, as (3.5) is printed, even if they are outside.

        Raises:
            ValueError: for an unknown rule.

        Source: verification study, section 3.1.1.

        Example:
            >>> from jaxrobust.certify._activations import relu
            >>> [float(value) for value in relu.parallel(jnp.asarray(-1.0), jnp.asarray(3.0))]
            [0.75, 0.0, 0.75, 0.75]
        """
        _check_rule(rule, get_args(ParallelRule))
        ends = self._ends(lower, upper)
        slope = self._chord(ends)
        within = ends.low, ends.high
        if rule == "tangent" and self.s_shaped:
            mixed = (lower < 0) & (upper > 0)
            least, greatest = self.reach(jnp.finfo(lower.dtype))
            within = jnp.where(mixed, least, ends.low), jnp.where(mixed, greatest, ends.high)
        return self._lines(slope, slope, ends, within)

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
        ends = self._ends(lower, upper)
        below = above = ends.low / 2 + ends.high / 2
        if rule == "ends" and self.s_shaped:
            mixed = (lower < 0) & (upper > 0)
            below, above = jnp.where(mixed, ends.high, below), jnp.where(mixed, ends.low, above)
        return self._lines(*self._slopes_nearest_at(below, above, ends), ends, (ends.low, ends.high))

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
        ends = self._ends(lower, upper)
        return self._lines(lower_slope, upper_slope, ends, (ends.low, ends.high))

    def slope_range(self, lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest slope of the function on the interval: outside, no slope is of use.

        For ReLU 0 and 1 where it is unstable.
        """
        ends = self._ends(lower, upper)
        slopes = [self.derivative(x) for x in (ends.low, ends.high, *self._convex_part(ends))]
        return functools.reduce(jnp.minimum, slopes), functools.reduce(jnp.maximum, slopes)

    def chord(self, lower: jax.Array, upper: jax.Array) -> jax.Array:
        """Slope of the chord; the slope far out where an end is infinite, or 0 where that is infinite."""
        return self._chord(self._ends(lower, upper))

    def _ends(self, lower: jax.Array, upper: jax.Array) -> _Ends:
        least, greatest = self.reach(jnp.finfo(lower.dtype))
        low, high = (_between(x, least, greatest) for x in (lower, upper))
        return _Ends(low, high, lower <= least, upper >= greatest)

    def _chord(self, ends: _Ends) -> jax.Array:
        if self.secant is not None:
            slope = self.secant(ends.low, ends.high)
        else:
            slope = chord(self.function, self.derivative, ends.low, ends.high)
        slopes = (jnp.asarray(end, slope.dtype) for end in self.ends)
        left, right = (jnp.where(jnp.isfinite(end), end, 0) for end in slopes)
        return jnp.where(ends.no_left, left, jnp.where(ends.no_right, right, slope))

    def _convex_part(self, ends: _Ends) -> _Pair:
        left, right = (_between(jnp.asarray(edge, ends.low.dtype), ends.low, ends.high) for edge in self.convex)
        return left, right

    def _lines(self, lower_slope: jax.Array, upper_slope: jax.Array, ends: _Ends, within: _Pair) -> Lines:
        """Lines that touch the curve at the ends of the interval, or between two other ends."""
        shape = jnp.broadcast_shapes(*map(jnp.shape, (lower_slope, upper_slope, *ends)))
        parallel, dtype = upper_slope is lower_slope, ends.low.dtype
        below = jnp.broadcast_to(jnp.asarray(lower_slope, dtype), shape)
        above = below if parallel else jnp.broadcast_to(jnp.asarray(upper_slope, dtype), shape)
        # One call for both slopes: it may hold a loop.
        slopes = jax.lax.stop_gradient(below[None] if parallel else jnp.stack([below, above]))
        points = self.critical(slopes)
        touching = [tuple(_between(point[i], *within) for point in points) for i in range(len(slopes))]
        lower_intercept = self._intercept(below, ends, touching[0], highest=False)
        return Lines(below, lower_intercept, above, self._intercept(above, ends, touching[-1], highest=True))

    def _intercept(self, slope: jax.Array, ends: _Ends, points: tuple[jax.Array, ...], *, highest: bool) -> jax.Array:
        """Smallest or largest ``f(x) - slope x`` among both ends and some points."""
        choose = jnp.maximum if highest else jnp.minimum
        candidates = jnp.broadcast_arrays(*points, ends.low, ends.high, slope)[:-1]
        values, size = [], jnp.zeros_like(slope)
        for x in map(jax.lax.stop_gradient, candidates):
            height, fall = self.function(x), jax.lax.stop_gradient(slope) * x
            values.append(height - fall)
            size = jnp.maximum(size, jnp.abs(height) + jnp.abs(fall))

        # Both ends of a chord have the same value, but for rounding, and so has the point where a line from an end touches the
        # curve. XLA may compute values anew in each place where it uses them, and round in another way. For derivatives, a
        # candidate therefore has to be better by more than that: else they could be made of parts of several.
        margin = (16 if highest else -16) * jnp.finfo(slope.dtype).eps * size
        best, chosen = values[0], jnp.zeros(slope.shape, jnp.int32)
        for index, other in enumerate(values[1:], 1):
            better = other > best + margin if highest else other < best + margin
            best, chosen = jnp.where(better, other, best), jnp.where(better, index, chosen)
        x = jax.lax.select_n(chosen, *candidates)
        value = self.function(x) - slope * x
        value += jax.lax.stop_gradient(functools.reduce(choose, values) - value)
        left, right = (jnp.asarray(end, slope.dtype) for end in self.ends)
        unbounded_left = ends.no_left & (slope > left if highest else slope < left)
        unbounded_right = ends.no_right & (slope < right if highest else slope > right)
        return jnp.where(unbounded_left | unbounded_right, jnp.inf if highest else -jnp.inf, value)

    def _slopes_nearest_at(self, below: jax.Array, above: jax.Array, ends: _Ends) -> _Pair:
        """Slopes of the line under the function that is nearest to it at ``below``, and of that over it, nearest at ``above``.

        They support the convex and the concave envelope there. The convex one follows the curve in its convex part from ``start`` to
        ``end``, with lines to the ends of the interval; if these points are in the wrong order the chord is all of it. The
        concave one follows the curve up to ``start`` and from ``end`` on, with a line between. For none of the functions here
        does that line leave both ends of the interval, so each point is where a line from an end of the interval touches the curve.
        """
        low, high, *_ = ends
        left, right = self._convex_part(ends)
        concave_left, concave_right = self._concave_sides()
        start, end = (low, low), (high, high)  # of the convex envelope, of the concave one
        if concave_left:
            start = self._touching_points((low, high), (left, low), (right, left), sign=-1)
        if concave_right:
            end = self._touching_points((high, low), (left, right), (right, high), sign=1)

        chord_above = self._chord(ends.part(start[1], end[1]))
        upper_slope = jnp.where((above < start[1]) | (above > end[1]), self.derivative(above), chord_above)
        lower_slope = self.derivative(below)
        if concave_left:
            lower_slope = jnp.where(below < start[0], self._chord(ends.part(low, start[0])), lower_slope)
        if concave_right:
            lower_slope = jnp.where(below > end[0], self._chord(ends.part(end[0], high)), lower_slope)
        if concave_left or concave_right:
            lower_slope = jnp.where(start[0] >= end[0], self._chord(ends), lower_slope)
        return lower_slope, upper_slope

    @property
    def is_convex(self) -> bool:
        """Whether it is convex everywhere, as far as that is known before it is traced."""
        return not any(self._concave_sides())

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
