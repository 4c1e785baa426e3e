"""Activations: values of the specification, closed forms, tangency, symmetry, infinite ends, errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _activation_table import S_SHAPED, TABLE
from scipy.optimize import brentq

from jaxrobust.certify import _activations as activations

RELU = [((-1, 3), (0.75, 0, 0.75)), ((-2, 2), (0.5, 0, 1)), ((-3, -1), (0, 0, 0)), ((1, 3), (1, 0, 0))]
# name, ends, (slope, lower intercept, upper intercept) by the tight rule, right tangent point, lower intercept by the seed's rule
CURVES = [
    ("sigmoid", (-2, 1), (0.203952, 0.472593, 0.527407), 0.917774, None),
    ("sigmoid", (-3, -1), (0.110758, 0.340513, 0.379699), 1.929118, None),
    ("sigmoid", (1, 3), (0.110758, 0.620301, 0.659487), 1.929118, None),
    ("sigmoid", (-0.1, 5), (0.101625, 0.485183, 0.677619), 2.042573, 0.322381),
    ("tanh", (-1, 2), (0.575207, -0.204046, 0.204046), 0.778355, None),
    ("tanh", (-2, -0.5), (0.334607, -0.432966, -0.294814), 1.143879, None),
    ("tanh", (0.5, 2), (0.334607, 0.294814, 0.432966), 1.143879, None),
    ("tanh", (-0.1, 3), (0.353136, -0.064354, 0.412081), 1.110611, -0.412081),
    ("arctan", (-1, 2), (0.630849, -0.170433, 0.170433), 0.764961, None),
    ("arctan", (-0.1, 5), (0.288837, -0.070785, 0.550181), 1.569127, -0.550181),
]


def arrays(*values, dtype=jnp.float64):
    return tuple(jnp.asarray(value, dtype) for value in values)


def random_ends(seed, scale=4.0):
    """All of one shape, as each shape is compiled anew."""
    return arrays(*np.sort(np.random.default_rng(seed).uniform(-scale, scale, (2, 400)), axis=0))


def everything(activation, lower, upper):
    lines = [*activation.parallel(lower, upper), *activation.crown(lower, upper)]
    return jnp.stack([*lines, *activation.interval(lower, upper), *activation.slope_range(lower, upper)])


@pytest.mark.parametrize(("ends", "expected"), RELU)
def test_relu_has_the_lines_of_equation_3_4(float64, ends, expected):
    lines = activations.relu.parallel(*arrays(*ends))
    assert lines.upper_slope is lines.lower_slope
    assert tuple(map(float, (lines.lower_slope, lines.lower_intercept, lines.upper_intercept))) == expected


@pytest.mark.parametrize(("name", "ends", "expected", "tangent", "seed_lower"), CURVES)
def test_values_of_the_specification(float64, name, ends, expected, tangent, seed_lower):
    activation = TABLE[name][0]
    lines = activation.parallel(*arrays(*ends))
    assert lines.upper_slope is lines.lower_slope
    np.testing.assert_allclose((lines.lower_slope, lines.lower_intercept, lines.upper_intercept), expected, atol=6e-7)
    np.testing.assert_allclose(activation.critical(lines.lower_slope), (-tangent, tangent), atol=6e-7)
    printed = activation.parallel(*arrays(*ends), rule="tangent")
    np.testing.assert_allclose(printed.upper_intercept, expected[2], atol=6e-7)
    np.testing.assert_allclose(printed.lower_intercept, expected[1] if seed_lower is None else seed_lower, atol=6e-7)


def test_tangent_points_are_those_of_table_3_1(float64):
    (d,) = arrays(np.linspace(0.01, 0.249, 400))
    root = np.sqrt(1 - 4 * d)
    printed = [-np.log((-(2 * d - 1) + sign * root) / (2 * d)) for sign in (1, -1)]
    np.testing.assert_allclose(activations.sigmoid.critical(d), printed, rtol=1e-11)
    root = np.sqrt(1 - d)
    printed = [np.log((-(d - 2) + sign * 2 * root) / d) / 2 for sign in (-1, 1)]
    np.testing.assert_allclose(activations.tanh.critical(d), printed, rtol=1e-11)
    for name, slope, expected in [
        ("sigmoid", 0.1, 2.063437),
        ("sigmoid", 0.2, 0.962424),
        ("tanh", 0.3, 1.209935),
        ("tanh", 0.9, 0.327450),
    ]:
        point = TABLE[name][0].critical(*arrays(slope))[1]
        np.testing.assert_allclose(point, expected, atol=6e-7)
        np.testing.assert_allclose(TABLE[name][0].derivative(point), slope, rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["sigmoid", "tanh", "arctan", "erf", "softplus", "exp", "square", "gelu", "gelu_tanh", "silu"]
)
def test_functions_derivatives_and_points_of_given_slope(float64, name):
    activation, reference = TABLE[name]
    (x,) = arrays(np.linspace(-6, 6, 400))
    np.testing.assert_allclose(activation.function(x), reference(np.asarray(x)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        activation.derivative(x), jax.vmap(jax.grad(activation.function))(x), rtol=1e-9, atol=1e-15
    )
    points = np.stack(activation.critical(activation.derivative(x)))
    # Near an inflection the slope does not tell the point, and need not.
    curvature = np.abs(jax.vmap(jax.grad(activation.derivative))(x))
    assert (np.abs(points - np.asarray(x)).min(0) * curvature < 1e-7).all()


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_inflections_and_minimum(float64, name):
    activation = TABLE[name][0]
    (left, right), (minimum,) = activation.convex, activation.stationary
    second = jax.grad(activation.derivative)
    np.testing.assert_allclose([second(x) for x in (left, right)], 0, atol=1e-12)
    np.testing.assert_allclose(activation.derivative(jnp.asarray(minimum)), 0, atol=1e-12)
    x = np.linspace(-9, 9, 400)
    curvature = np.asarray(jax.vmap(second)(jnp.asarray(x)))
    inside = np.abs(x) < right
    assert (curvature[inside] > 0).all()
    assert (curvature[~inside] < 0).all()


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_reflection_keeps_slopes_and_swaps_lines(float64, name):
    activation = TABLE[name][0]
    lower, upper = random_ends(0)
    total = 1 if name == "sigmoid" else 0  # f(x) + f(-x)

    def check(lines, reflected):
        np.testing.assert_allclose(reflected.lower_slope, lines.upper_slope, rtol=1e-7)
        np.testing.assert_allclose(reflected.lower_intercept, total - lines.upper_intercept, atol=1e-7)
        np.testing.assert_allclose(reflected.upper_intercept, total - lines.lower_intercept, atol=1e-7)

    for rule in ("tight", "tangent"):
        check(activation.parallel(lower, upper, rule), activation.parallel(-upper, -lower, rule))
    for rule in ("ends", "midpoint"):
        check(activation.crown(lower, upper, rule), activation.crown(-upper, -lower, rule))


def test_the_seeds_rule_is_never_tighter_and_up_to_twice_as_wide(float64):
    lower, upper = random_ends(1)
    for name in S_SHAPED[:3]:
        activation = TABLE[name][0]
        tight, printed = activation.parallel(lower, upper), activation.parallel(lower, upper, "tangent")
        ratio = (printed.upper_intercept - printed.lower_intercept) / (tight.upper_intercept - tight.lower_intercept)
        assert ratio.min() > 1 - 1e-9
        assert 1.03 < ratio.mean() < 1.08
        assert 1.8 < ratio.max() < 2 + 1e-9
        assert 0.14 < (ratio > 1 + 1e-6).mean() < 0.25


def test_crown_of_relu_is_adaptive():
    for ends, expected in {
        (-1, 3): (1, 0, 0.75, 0.75),
        (-3, 1): (0, 0, 0.25, 0.75),
        (-2, 2): (1, 0, 0.5, 1),
        (-3, -1): (0, 0, 0, 0),
        (1, 3): (1, 0, 1, 0),
    }.items():
        assert tuple(map(float, activations.relu.crown(*arrays(*ends, dtype=jnp.float32)))) == expected


@pytest.mark.parametrize("name", S_SHAPED)
def test_crown_of_s_shaped_functions(float64, name):
    activation, f = TABLE[name]
    lower, upper = random_ends(2)
    lines = activation.crown(lower, upper)
    slope_of = {
        "sigmoid": lambda x: f(x) * f(-x),
        "tanh": lambda x: 1 - f(x) ** 2,
        "arctan": lambda x: 1 / (1 + x**2),
        "erf": lambda x: 2 / math.sqrt(math.pi) * math.exp(-(x**2)),
    }[name]
    for i, (l, u) in enumerate(zip(lower.tolist()[:100], upper.tolist()[:100], strict=True)):
        chord = (f(u) - f(l)) / (u - l)
        if l >= 0:
            expected = chord, slope_of((l + u) / 2)
        elif u <= 0:
            expected = slope_of((l + u) / 2), chord
        else:
            above = lambda d, l=l: slope_of(d) * (d - l) - (f(d) - f(l))  # noqa: E731
            below = lambda d, u=u: slope_of(d) * (u - d) - (f(u) - f(d))  # noqa: E731
            expected = (
                slope_of(brentq(below, l, 0)) if below(l) < 0 else chord,
                slope_of(brentq(above, 0, u)) if above(u) < 0 else chord,
            )
            np.testing.assert_allclose(lines.lower_slope[i] * u + lines.lower_intercept[i], f(u), atol=1e-9)
            np.testing.assert_allclose(lines.upper_slope[i] * l + lines.upper_intercept[i], f(l), atol=1e-9)
        np.testing.assert_allclose((lines.lower_slope[i], lines.upper_slope[i]), expected, atol=1e-9)


def test_parameters_may_be_arrays_and_traced():
    lower, upper = jnp.asarray([-1.0, -2, 1, -3]), jnp.asarray([2.0, 1, 2, -1])
    leaky = jax.jit(lambda slope: everything(activations.leaky_relu(slope), lower, upper))
    for slope, same in ((0.0, activations.relu), (-1.0, activations.absolute), (2.0, activations.leaky_relu(2.0))):
        np.testing.assert_allclose(leaky(jnp.full(4, slope)), everything(same, lower, upper), atol=1e-6)
    each = [leaky(jnp.full(4, slope)) for slope in (0.25, 2.0, 0.5, -1.0)]
    together = leaky(jnp.asarray([0.25, 2.0, 0.5, -1.0]))
    np.testing.assert_allclose(together, np.diagonal(np.stack(each), axis1=0, axis2=2), atol=1e-6)
    elu = jax.jit(lambda alpha: everything(activations.elu_with_alpha(alpha), lower, upper))
    for alpha in (0.5, 2.0):
        same = activations.elu_with_alpha(alpha)
        np.testing.assert_allclose(elu(jnp.asarray(alpha)), everything(same, lower, upper), atol=1e-6)


def test_images_of_intervals():
    ends = [(-2, 1), (-2, -1), (0.5, 1), (-math.inf, 1), (-1, math.inf), (-math.inf, math.inf)]
    for name, expected in {
        "relu": [(0, 1), (0, 0), (0.5, 1), (0, 1), (0, math.inf), (0, math.inf)],
        "leaky_relu(-0.5)": [(0, 1), (0.5, 1), (0.5, 1), (0, math.inf), (0, math.inf), (0, math.inf)],
        "clip": [(-1, 1), (-1, -1), (0.5, 1), (-1, 1), (-1, 2), (-1, 2)],
        "square": [(0, 4), (1, 4), (0.25, 1), (0, math.inf), (0, math.inf), (0, math.inf)],
        "gelu": [
            (-0.169971, 0.841345),
            (-0.158655, -0.0455003),
            (0.345731, 0.841345),
            (-0.169971, 0.841345),
            (-0.169971, math.inf),
            (-0.169971, math.inf),
        ],
        "tanh": [
            (-0.964028, 0.761594),
            (-0.964028, -0.761594),
            (0.462117, 0.761594),
            (-1, 0.761594),
            (-0.761594, 1),
            (-1, 1),
        ],
    }.items():
        for pair, image in zip(ends, expected, strict=True):
            found = TABLE[name][0].interval(*arrays(*pair, dtype=jnp.float32))
            np.testing.assert_allclose(found, image, atol=2e-6, err_msg=f"{name} {pair}")


@pytest.mark.parametrize(
    ("name", "ends", "expected"),
    [
        ("relu", (-math.inf, 5), (0, 0, 0, 5)),
        ("relu", (-5, math.inf), (1, 0, 1, 5)),
        ("relu", (-math.inf, math.inf), (0, 0, 0, math.inf)),
        ("leaky_relu(0.125)", (-math.inf, 2), (0.125, 0, 0.125, 1.75)),
        ("absolute", (-math.inf, 2), (-1, 0, -1, 4)),
        ("sigmoid", (-math.inf, math.inf), (0, 0, 0, 1)),
        ("tanh", (-math.inf, 0), (0, -1, 0, 0)),
        ("softplus", (0, math.inf), (1, 0, 1, math.log(2))),
        ("silu", (-math.inf, 0), (0, -0.2784645, 0, 0)),
        ("exp", (0, math.inf), (0, 1, 0, math.inf)),
        ("exp", (-math.inf, 0), (0, 0, 0, 1)),
        ("square", (-1, math.inf), (0, 0, 0, math.inf)),
    ],
)
def test_lines_of_unbounded_intervals(name, ends, expected):
    np.testing.assert_allclose(TABLE[name][0].parallel(*arrays(*ends, dtype=jnp.float32)), expected, atol=1e-6)


def test_slope_ranges():
    for name, expected in {
        "relu": [(0, 1), (1, 1), (0, 0)],
        "clip": [(1, 1), (1, 1), (0, 1)],
        "tanh": [(0.070651, 1), (0.419974, 0.786448), (0.070651, 0.419974)],
        "gelu": [(-0.083315, 1.128904), (0.867495, 1.083315), (-0.128904, -0.083315)],
    }.items():
        for ends, slopes in zip([(-1, 2), (0.5, 1), (-2, -1)], expected, strict=True):
            found = TABLE[name][0].slope_range(*arrays(*ends, dtype=jnp.float32))
            np.testing.assert_allclose(found, slopes, atol=2e-6, err_msg=f"{name} {ends}")


@pytest.mark.parametrize("name", ["relu", "sigmoid", "silu"])
def test_slopes_may_have_more_axes_than_the_ends(name):
    lower, upper = jnp.asarray([-1.0, -2, 1, -3]), jnp.asarray([2.0, 1, 2, -1])
    slopes = jnp.linspace(0, 1, 12).reshape(3, 4)
    bounds = jax.jit(TABLE[name][0].with_slopes)
    lines = bounds(slopes, 0.5, lower, upper)
    assert [value.shape for value in lines] == [(3, 4)] * 4
    for i in range(3):
        np.testing.assert_allclose([value[i] for value in lines], bounds(slopes[i], 0.5, lower, upper), atol=1e-6)


@pytest.mark.parametrize("name", ["relu", "tanh", "silu"])
def test_derivatives_by_the_ends_are_those_of_differences(float64, name):
    activation = TABLE[name][0]
    lower, upper = random_ends(3, 3.0)

    def lines(lower, upper):
        ways = (
            activation.parallel(lower, upper),
            activation.crown(lower, upper),
            activation.crown(lower, upper, "midpoint"),
        )
        return jnp.stack([value for way in ways for value in way])

    both = jax.jit(lambda lower, upper, *directions: jax.jvp(lines, (lower, upper), directions))
    step, zero, one = 1e-6, jnp.zeros_like(lower), jnp.ones_like(lower)
    for left, right in ((one, zero), (zero, one)):
        derivative = both(lower, upper, left, right)[1]
        ahead, behind = (both(lower + move * left, upper + move * right, left, right)[0] for move in (step, -step))
        difference = (ahead - behind) / (2 * step)
        smooth = np.abs(difference) < 1e3  # adaptive slopes jump
        assert smooth.mean() > 0.97
        np.testing.assert_allclose(np.where(smooth, derivative, 0), np.where(smooth, difference, 0), atol=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "arctan"])
def test_narrow_intervals_have_the_tangent_and_its_derivatives(name):
    activation, f = TABLE[name]
    lower = jnp.tile(jnp.asarray([-1e4, -3, -0.5, 0, 1e-4, 0.7, 20, 1e4], jnp.float32), 2)

    def line(lower, upper):
        lines = activation.parallel(lower, upper)
        height = lines.lower_slope * lower + lines.lower_intercept
        return jnp.stack([lines.lower_slope, height, lines.upper_intercept - lines.lower_intercept])

    upper = lower.at[8:].add(1e-7)
    values, derivatives = jax.jit(jax.vmap(lambda *ends: (line(*ends), jax.jacrev(line, (0, 1))(*ends))))(lower, upper)
    slope = np.asarray(activation.derivative(lower))
    np.testing.assert_allclose(values, np.stack([slope, f(np.asarray(lower)), 0 * slope], axis=1), atol=1e-6)
    half = np.asarray(jax.vmap(jax.grad(activation.derivative))(lower)) / 2
    np.testing.assert_allclose([part[:, 0] for part in derivatives], [half, half], atol=1e-6)
    # Moving both ends moves the point of contact along the curve.
    np.testing.assert_allclose(derivatives[0][:, 1] + derivatives[1][:, 1], slope, atol=1e-6)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_compiled_derivatives_are_not_made_of_parts_of_several_candidates(name):
    """Both ends of a chord are equal up to rounding, and compiled code may round in several ways."""
    rng = np.random.default_rng(0)
    lower = rng.normal(size=5000) * 3
    width = 10 ** rng.uniform(-8, 1, lower.shape)
    ends, weights = (
        (lower.astype(np.float32), (lower + width).astype(np.float32)),
        rng.normal(size=(2, 5000)).astype(np.float32),
    )

    def total(ends, weights):
        lines = TABLE[name][0].parallel(*ends)
        return (weights[0] * lines.lower_intercept + weights[1] * lines.upper_intercept).sum()

    derivatives = np.asarray(jax.jit(jax.grad(total))(ends, weights))
    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(jax.grad(total))(*jax.tree.map(np.float64, (ends, weights))))
    wide = width > 0.03
    np.testing.assert_allclose(derivatives[:, wide], exact[:, wide], rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(derivatives.sum(0), exact.sum(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["parallel", "crown"])
def test_derivatives_of_relu_where_an_end_is_at_the_kink(method):
    derivatives = jax.jit(jax.jacrev(getattr(activations.relu, method), (0, 1)))
    for ends in ((0.0, 2.0), (-2.0, 0.0), (0.0, 0.0)):
        np.testing.assert_array_equal(derivatives(*ends), np.zeros((4, 2)))


def test_activations_can_be_static_arguments():
    calls = jax.jit(lambda activation, x: activation.function(x), static_argnums=0)
    for name, (activation, reference) in TABLE.items():
        np.testing.assert_allclose(
            calls(activation, jnp.asarray(0.5)), reference(np.float64(0.5)), rtol=1e-6, err_msg=name
        )
    assert activations.clip(0.0, 6.0) is activations.clip(0.0, 6.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: activations.leaky_relu(math.nan), "slope must be finite"),
        (lambda: activations.elu_with_alpha(-1.0), "at least 0"),
        (lambda: activations.elu_with_alpha(np.asarray([1.0, math.inf])), "alpha must be finite"),
        (lambda: activations.clip(1.0, 1.0), "low < high"),
        (lambda: activations.relu.parallel(jnp.zeros(()), jnp.ones(()), "loose"), "choose one of tight, tangent"),
        (lambda: activations.relu.crown(jnp.zeros(()), jnp.ones(()), "tight"), "choose one of ends, midpoint"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
