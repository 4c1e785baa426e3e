"""Activations: every line is a bound, as tight as its slope allows, in single and double precision, with finite derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _activation_table import S_SHAPED, TABLE
from hypothesis import given, settings
from hypothesis import strategies as st

INTERVALS, POINTS = 400, 301
ROUNDING = 16
"""What a line may miss by, in units of the precision of its type times the size of its terms."""


def lines_of(activation, lower, upper, slopes):
    """Every kind of line."""
    found = {
        "tight": activation.parallel(lower, upper),
        "ends": activation.crown(lower, upper),
        "slopes": activation.with_slopes(*slopes, lower, upper),
    }
    if activation.s_shaped:
        found["seed"] = activation.parallel(lower, upper, "seed")
        found["midpoint"] = activation.crown(lower, upper, "midpoint")
    return found


@functools.cache
def compiled(name):
    """All lines."""
    return jax.jit(functools.partial(lines_of, TABLE[name][0]))


@functools.cache
def compiled_gradient(name):
    """All lines, and a sum of everything with its derivatives by the ends and the slopes."""
    activation = TABLE[name][0]

    def total(lower, upper, slopes):
        lines = lines_of(activation, lower, upper, slopes)
        values = [value for kind in lines.values() for value in kind]
        values += [*activation.interval(lower, upper), *activation.slope_range(lower, upper)]
        return sum(jnp.where(jnp.isfinite(value), value, 0).sum() for value in values), lines

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))


def in_double_precision(name, lower, upper, slopes):
    with jax.enable_x64(True):
        lines = compiled(name)(lower, upper, slopes)
    return {kind: type(line)(*map(np.asarray, line)) for kind, line in lines.items()}


def intervals(seed, dtype):
    """Ends from near zero to saturation, widths from 0 and 1e-8 to 1e4; and slopes within and outside the useful range."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=INTERVALS) * 10 ** rng.uniform(-3, 1, INTERVALS)
    half = 10 ** rng.uniform(-8, rng.choice([0, 1, 4]), INTERVALS) / 2
    half[: INTERVALS // 20] = 0
    middle[-INTERVALS // 20 :] *= 100
    lower, upper = (middle - half).astype(dtype), (middle + half).astype(dtype)
    slopes = rng.normal(size=(2, INTERVALS)) * 10 ** rng.uniform(-3, 0.3, (2, INTERVALS))
    return lower, upper, tuple(slopes.astype(dtype))


def grid(lower, upper, points=POINTS):
    """Points of each interval, denser around zero where it is wide, ``[points, intervals]``, in double precision."""
    lower, upper = lower.astype(np.float64), upper.astype(np.float64)
    t = np.linspace(0, 1, points)[:, None]
    near = np.clip(np.linspace(-8, 8, points)[:, None], lower, upper)
    return np.concatenate([np.clip(lower + t * (upper - lower), lower, upper), near])


def misses(line, x, value, dtype):
    """By how much the lines of one kind pass the function, in units of rounding."""
    parts = [np.asarray(part, np.float64) for part in line]
    worst = 0.0
    for sign, slope, intercept in ((1, *parts[:2]), (-1, *parts[2:])):
        with np.errstate(invalid="ignore"):
            passed = sign * (slope * x + intercept - value)
        size = np.abs(value) + np.abs(slope * x) + np.finfo(dtype).tiny
        finite = np.isfinite(intercept)
        assert (finite | (sign * intercept < 0)).all()
        worst = max(worst, (np.where(finite, passed, 0) / size).max() / np.finfo(dtype).eps)
    return worst


@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_all_lines_are_bounds(name, seed):
    for dtype in (np.float64, np.float32):
        lower, upper, slopes = intervals(seed, dtype)
        x = grid(lower, upper)
        value = TABLE[name][1](x)
        if dtype == np.float64:
            lines = in_double_precision(name, lower, upper, slopes)
        else:
            gradients, lines = compiled_gradient(name)(lower, upper, slopes)
            assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))
        for kind, line in lines.items():
            assert line.lower_slope.dtype == dtype
            assert misses(line, x, value, dtype) < ROUNDING, (kind, dtype)


@pytest.mark.parametrize("name", TABLE)
def test_extreme_intervals_give_no_nan_and_finite_derivatives(name):
    ends = np.asarray(
        [-np.inf, -1e30, -1e10, -1e4, -50, -1, -1e-7, -1e-30, 0, 1e-30, 1e-7, 1, 50, 1e4, 1e10, 1e30, np.inf]
    )
    pairs = np.asarray([(l, u) for l in ends for u in ends if l <= u])
    pairs = np.concatenate([pairs, np.tile([[0.0, 0.0]], (INTERVALS - len(pairs), 1))]).astype(np.float32)
    slopes = tuple(np.random.default_rng(0).normal(size=(2, INTERVALS)).astype(np.float32))
    gradients, lines = compiled_gradient(name)(*pairs.T, slopes)
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))
    for kind, line in lines.items():
        assert np.isfinite([line.lower_slope, line.upper_slope]).all(), kind
        assert (line.lower_intercept < np.inf).all(), kind
        assert (line.upper_intercept > -np.inf).all(), kind


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
        if kind != "seed":
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


def test_lines_of_a_point_are_the_tangent():
    x = np.linspace(-3.1, 3, INTERVALS).astype(np.float32)
    zeros = np.zeros((2, INTERVALS), np.float32)
    for name in (*S_SHAPED, "softplus", "gelu", "silu"):
        activation = TABLE[name][0]
        _, lines = compiled_gradient(name)(x, x, tuple(zeros))
        for kind in ("tight", "ends"):
            line = lines[kind]
            np.testing.assert_allclose(line.lower_slope, activation.derivative(x), atol=1e-6)
            np.testing.assert_allclose(line.lower_intercept, line.upper_intercept, atol=1e-6)
            np.testing.assert_allclose(line.lower_slope * x + line.lower_intercept, activation.function(x), atol=1e-6)
