"""Activations: every line is a bound, as tight as its slope allows, in single and double precision, with finite derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _activation_table import S_SHAPED, TABLE
from hypothesis import given, settings
from hypothesis import strategies as st

INTERVALS, POINTS = 400, 201
ROUNDING = 16
"""What a line may pass the function by, in units of the precision of its type times the largest of its terms on the interval."""


def lines_of(activation, lower, upper, slopes):
    """Every kind of line."""
    found = {
        "tight": activation.parallel(lower, upper),
        "ends": activation.crown(lower, upper),
        "slopes": activation.with_slopes(*slopes, lower, upper),
    }
    if activation.s_shaped:
        found["tangent"] = activation.parallel(lower, upper, "tangent")
        found["midpoint"] = activation.crown(lower, upper, "midpoint")
    return found


@functools.cache
def compiled(name):
    """Compiled if there are loops, which would otherwise be compiled at every call."""
    activation = TABLE[name][0]
    function = functools.partial(lines_of, activation)
    return function if activation.convex == (-np.inf, np.inf) else jax.jit(function)


def in_double_precision(name, lower, upper, slopes):
    with jax.enable_x64(True):
        lines = compiled(name)(jnp.asarray(lower), jnp.asarray(upper), tuple(map(jnp.asarray, slopes)))
    return {kind: type(line)(*map(np.asarray, line)) for kind, line in lines.items()}


def intervals(rng, count, dtype):
    """Ends from near zero to saturation, widths from 0 and 1e-8 to 1e4; and slopes within and outside the useful range."""
    middle = rng.normal(size=count) * 10 ** rng.uniform(-3, 1, count)
    half = 10 ** rng.uniform(-8, rng.choice([0, 1, 4]), count) / 2
    half[: count // 20] = 0
    middle[-count // 20 :] *= 100
    slopes = rng.normal(size=(2, count)) * 10 ** rng.uniform(-3, 0.3, (2, count))
    return (middle - half).astype(dtype), (middle + half).astype(dtype), tuple(slopes.astype(dtype))


def grid(lower, upper, points=POINTS):
    """Points of each interval, and more of them around zero where it is wide, ``[points, intervals]``, in double precision."""
    lower, upper = lower.astype(np.float64), upper.astype(np.float64)
    t = np.linspace(0, 1, points)[:, None]
    near = np.clip(np.linspace(-8, 8, points)[:, None], lower, upper)
    return np.concatenate([np.clip(lower + t * (upper - lower), lower, upper), near])


def excess(line, x, value, dtype):
    """By how much the lines of one kind pass the function, in units of rounding."""
    parts = [np.asarray(part, np.float64) for part in line]
    worst = 0.0
    for sign, slope, intercept in ((1, *parts[:2]), (-1, *parts[2:])):
        finite = np.isfinite(intercept)
        assert (finite | (sign * intercept < 0)).all()
        passed = sign * (slope * x + np.where(finite, intercept, 0) - value)
        size = (np.abs(value) + np.abs(slope * x)).max(0) + np.finfo(dtype).tiny / np.finfo(dtype).eps
        worst = max(worst, (np.where(finite, passed, 0) / size).max() / np.finfo(dtype).eps)
    return worst


@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_all_lines_are_bounds_in_double_precision(name, seed):
    lower, upper, slopes = intervals(np.random.default_rng(seed), INTERVALS, np.float64)
    x = grid(lower, upper)
    for kind, line in in_double_precision(name, lower, upper, slopes).items():
        assert excess(line, x, TABLE[name][1](x), np.float64) < ROUNDING, kind


EXTREMES = np.asarray(
    [-np.inf, -1e30, -1e10, -1e4, -50, -1, -1e-7, -1e-30, 0, 1e-30, 1e-7, 1, 50, 1e4, 1e10, 1e30, np.inf]
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("relu", "sigmoid", "gelu") else pytest.mark.slow) for name in TABLE],
)
def test_all_lines_are_bounds_with_finite_derivatives_in_single_precision(name):
    activation, reference = TABLE[name]
    lower, upper, slopes = intervals(np.random.default_rng(0), 1000, np.float32)
    extremes = np.asarray([(l, u) for l in EXTREMES for u in EXTREMES if l <= u], np.float32)
    lower[: len(extremes)], upper[: len(extremes)] = extremes.T

    def total(lower, upper, slopes):
        lines = lines_of(activation, lower, upper, slopes)
        values = [value for kind in lines.values() for value in kind]
        values += [*activation.interval(lower, upper), *activation.slope_range(lower, upper)]
        return sum(jnp.where(jnp.isfinite(value), value, 0).sum() for value in values), lines

    gradients, lines = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
        jnp.asarray(lower), jnp.asarray(upper), tuple(map(jnp.asarray, slopes))
    )
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))
    far = np.finfo(np.float32).max
    x = grid(np.clip(lower, -far, far), np.clip(upper, -far, far))
    value = reference(x)
    checked = np.isfinite(value).all(0)
    assert checked.mean() > 0.9
    for kind, line in lines.items():
        assert all(part.dtype == np.float32 for part in line)
        assert np.isfinite([line.lower_slope, line.upper_slope]).all(), kind
        assert not np.isnan([line.lower_intercept, line.upper_intercept]).any(), kind
        parts = [np.asarray(part)[checked] for part in line]
        assert excess(parts, x[:, checked], value[:, checked], np.float32) < ROUNDING, kind
    point = (lower == upper) & (np.abs(lower) < 50)
    for kind in ("tight", "ends"):
        line = [np.asarray(part)[point] for part in lines[kind]]
        size = 1 + np.abs(reference(lower[point])) + np.abs(line[0] * lower[point])
        np.testing.assert_array_less(np.abs(line[1] - line[3]), 1e-6 * size)


@pytest.mark.parametrize("name", TABLE)
def test_lines_are_as_tight_as_their_slopes_allow(name):
    rng = np.random.default_rng(0)
    lower, upper = np.sort(rng.uniform(-5, 5, (2, INTERVALS)), axis=0)
    lines = in_double_precision(name, lower, upper, tuple(rng.uniform(-0.5, 1.5, (2, INTERVALS))))
    x = grid(lower, upper)[:POINTS]
    value = TABLE[name][1](x)
    # Between points of the grid the function differs from it by less than its second difference.
    between = np.abs(np.diff(value, 2, axis=0)).max(0) + 1e-12
    for kind, line in lines.items():
        if kind != "tangent":
            smallest, largest = (value - line.lower_slope * x).min(0), (value - line.upper_slope * x).max(0)
            assert (np.abs(smallest - line.lower_intercept) <= between).all(), kind
            assert (np.abs(largest - line.upper_intercept) <= between).all(), kind
    chord = (value[-1] - value[0]) / (upper - lower)
    np.testing.assert_allclose(lines["tight"].lower_slope, chord, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", TABLE)
def test_no_line_is_nearer_to_the_curve_at_the_midpoint(name):
    rng = np.random.default_rng(1)
    lower, upper = np.sort(rng.uniform(-5, 5, (2, INTERVALS)), axis=0)

    def heights(line):
        middle = (lower + upper) / 2
        return line.lower_slope * middle + line.lower_intercept, line.upper_slope * middle + line.upper_intercept

    for _ in range(5):
        lines = in_double_precision(name, lower, upper, tuple(rng.uniform(-1, 2, (2, INTERVALS))))
        below, above = heights(lines.pop("midpoint" if name in S_SHAPED else "ends"))
        for kind, line in lines.items():
            other_below, other_above = heights(line)
            assert (other_below <= below + 1e-9).all(), kind
            assert (other_above >= above - 1e-9).all(), kind
