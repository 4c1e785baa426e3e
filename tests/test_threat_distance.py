"""Distances to half-spaces within the box: closed forms, linear programs, and what the derivatives must be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from test_threat_hyperplane import MODELS, NORMS, problems, program, reference

from jaxrobust import L1

IMAGE, NORMAL = [[0.1, 0.5, 0.9]], [[2.0, -1.0, 1.0]]


@functools.cache
def compiled(name, bounds, signed):
    return jax.jit(functools.partial(MODELS[name](1.0, bounds).distance, signed=signed))


def distance(name, images, normal, excess, bounds=(0.0, 1.0), signed=True, dtype=jnp.float32):
    return compiled(name, bounds, signed)(*(jnp.asarray(x, dtype) for x in (images, normal, excess)))


@pytest.mark.parametrize(
    ("name", "excess", "boxed", "unboxed"),
    [
        ("Linf", 1.5, 0.8, 0.375),
        ("L2", 1.5, 0.948683, 0.612372),
        ("L1", 1.5, 0.1 + 0.5 + 0.8, 0.75),
        ("L1", 0.7, 0.1 + 0.5, 0.35),
        ("Linf", -1.0, -0.3, -0.25),
        ("L2", -1.0, -np.sqrt(0.36**2 + 0.18**2 + 0.1**2), -1 / np.sqrt(6)),
        ("L1", -1.0, -0.5, -0.5),
        ("Linf", 0.0, 0.0, 0.0),
        ("L2", 0.0, 0.0, 0.0),
        ("L1", 0.0, 0.0, 0.0),
    ],
)
def test_values(name, excess, boxed, unboxed):
    np.testing.assert_allclose(distance(name, IMAGE, NORMAL, [excess]), [boxed], rtol=1e-5)
    np.testing.assert_allclose(distance(name, IMAGE, NORMAL, [excess], bounds=None), [unboxed], rtol=1e-5)
    np.testing.assert_allclose(distance(name, IMAGE, NORMAL, [excess], signed=False), [max(boxed, 0)], rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_infinite_where_the_box_ends_before(name):
    """The pixels can gain 1.6 downwards, and 0.9 * 2 + 0.5 + 0.1 = 2.4 upwards."""
    corner = NORMS[name](np.asarray([0.1, 0.5, 0.9]))
    images, normal = np.repeat(IMAGE, 4, 0), np.repeat(NORMAL, 4, 0)
    found = distance(name, images, normal, [1.7, 1.6, np.inf, 1e30])
    np.testing.assert_allclose(found, [np.inf, corner, np.inf, np.inf], rtol=1e-6)
    inside = distance(name, images, normal, [-2.5, -2.4, -np.inf, -1e30])
    np.testing.assert_allclose(inside, [-NORMS[name](np.asarray([0.9, 0.5, 0.1]))] * 4, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_without_a_normal(name, bounds):
    images, normal = np.repeat(IMAGE, 3, 0), np.zeros((3, 3))
    found = distance(name, images, normal, [0.5, 0.0, -0.5], bounds)
    np.testing.assert_array_equal(found, [np.inf, 0, 0])
    np.testing.assert_array_equal(distance(name, images, normal, [0.5, 0.0, -0.5], bounds, False), [np.inf, 0, 0])


@pytest.mark.parametrize("name", ["Linf", "L1"])
def test_linear_programming(name):
    bounds = (-0.5, 2.0)
    images, normal, excess = problems(0, 60, 7, bounds)
    best = np.array([program(name, *one, bounds) for one in zip(images, normal, excess, strict=True)])
    assert 5 < (np.isfinite(best) & (excess > 0)).sum() < np.sum(excess > 0) < 60
    outside, inside = excess >= 0, (excess < 0) & np.isfinite(best)
    found = np.asarray(distance(name, images, normal, excess, bounds))
    np.testing.assert_allclose(found[outside], best[outside], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(found[inside], -best[inside], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 40, 784])
def test_sorting_and_bisection(name, size):
    images, normal, excess = problems(size, 50, size)
    images, normal, excess = (x.astype(np.float32).astype(np.float64) for x in (images, normal, excess))
    moves = np.stack([reference(name, *one, (0.0, 1.0)) for one in zip(images, normal, excess, strict=True)])
    reached = np.abs((moves * normal).sum(1) + excess) <= 1e-9 * np.abs(excess)
    expected = np.where(excess < 0, -NORMS[name](moves), np.where(reached, NORMS[name](moves), np.inf))
    np.testing.assert_allclose(distance(name, images, normal, excess), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_double_precision(name, float64):
    images, normal, excess = problems(3, 30, 60)
    found = distance(name, images, normal, excess, dtype=jnp.float64)
    assert found.dtype == jnp.float64
    moves = np.stack([reference(name, *one, (0.0, 1.0)) for one in zip(images, normal, excess, strict=True)])
    reached = np.abs((moves * normal).sum(1) + excess) <= 1e-9 * np.abs(excess)
    expected = np.where(excess < 0, -NORMS[name](moves), np.where(reached, NORMS[name](moves), np.inf))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(MODELS)), seed=st.integers(0, 1000))
def test_the_box_only_takes_away(name, seed):
    images, normal, excess = problems(seed, 8, 6)
    boxed, unboxed = (np.asarray(distance(name, images, normal, excess, bounds)) for bounds in ((0.0, 1.0), None))
    outside = excess >= 0
    assert (boxed[outside] >= unboxed[outside] * (1 - 1e-5)).all()
    dual = np.asarray(MODELS[name](1.0).dual_norm(jnp.asarray(normal, jnp.float32)))
    np.testing.assert_allclose((unboxed * dual)[dual > 0], excess[dual > 0], rtol=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(MODELS)), seed=st.integers(0, 1000))
def test_support_at_the_distance(name, seed):
    """At a radius of the distance the half-space is touched: exactly so where the support is exact."""
    images, normal, excess = (jnp.asarray(x, jnp.float32) for x in problems(seed, 8, 6))
    excess = jnp.abs(excess)
    radius = distance(name, images, normal, excess)
    touching = MODELS[name](jnp.where(jnp.isfinite(radius), radius, 10.0))
    gain = np.asarray(touching.support(-normal[:, None], touching.extent(images))[:, 0])
    scale = np.asarray(jnp.abs(normal).sum(-1)) * 1e-5
    reachable = np.asarray(jnp.isfinite(radius))
    assert (gain >= excess - scale)[reachable].all()
    assert (gain < excess + scale)[~reachable].all()
    if name == "Linf":
        np.testing.assert_array_less(np.abs(gain - excess)[reachable], (scale + 1e-12)[reachable])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_derivatives(name, bounds, float64):
    """By all arguments, away from kinks, on both sides of the hyperplane; images by their room alone."""
    rng = np.random.default_rng(1)
    images, normal = (jnp.asarray(x) for x in (rng.uniform(0.1, 0.9, size=(6, 5)), rng.normal(size=(6, 5))))
    reach = np.abs(normal).sum(1)
    excess = jnp.asarray([0.05, -0.05, 0.2, -0.2, 0.35, -0.35]) * reach
    function = jax.jit(MODELS[name](1.0, bounds).distance)
    assert bool(jnp.isfinite(function(images, normal, excess)).all())
    check_grads(function, (images, normal, excess), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "dual"), [("Linf", 4.0), ("L2", np.sqrt(6)), ("L1", 2.0)])
def test_derivative_by_the_excess(name, dual):
    """``1 / ||normal||_q`` without a box, on both sides of the hyperplane and on it; with one, of the free pixels."""

    excess = jnp.asarray([-0.1, 0.0, 0.1, 0.6, 1.4, 1.7])
    images, normal = (jnp.asarray(np.repeat(x, len(excess), 0), jnp.float32) for x in (IMAGE, NORMAL))
    slopes = {}
    for bounds in ((0.0, 1.0), None):
        total = jax.jit(jax.grad(lambda excess, bounds=bounds: distance(name, images, normal, excess, bounds).sum()))
        slopes[bounds] = total(excess)
    np.testing.assert_allclose(slopes[None], np.full(6, 1 / dual), rtol=1e-5)
    # In the box the first pixel is full at 0.6; at 1.4 the second one is as well; nothing reaches 1.7.
    # In l2 the moves are then (0.1, 0.2, 0.2) and (0.1, 0.5, 0.7).
    full = {"Linf": [1 / 2, 1, 0], "L2": [0.2 / np.sqrt(0.01 + 2 * 0.2**2), 0.7 / np.sqrt(0.75), 0], "L1": [1, 1, 0]}[
        name
    ]
    expected = [1 / dual] * 3 + full
    np.testing.assert_allclose(slopes[0.0, 1.0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_derivatives_are_finite(name, bounds):
    """Out of reach, without normals, on the hyperplane and in a corner of the box: 0 where the distance is constant."""
    images = jnp.asarray([[0.1, 0.5, 0.9]] * 6 + [[0.0, 0.0, 1.0]] * 3)
    normal = jnp.asarray([[2.0, -1.0, 1.0]] * 3 + [[0.0, 0.0, 0.0]] * 3 + [[1.0, 0.0, -1.0]] * 3)
    excess = jnp.asarray([1.7, -2.5, 0.0, 1.0, -1.0, 0.0, 1.0, -0.1, 0.0])
    threat = MODELS[name](1.0, bounds)

    def penalty(images, normal, excess):
        found = threat.distance(images, normal, excess)
        unsigned = threat.distance(images, normal, excess, signed=False)
        return (jnp.maximum(0, 1 - found / 0.1) + jnp.maximum(0, 1 - unsigned / 0.1)).sum(), found

    gradients, found = jax.jit(jax.grad(penalty, (0, 1, 2), has_aux=True))(images, normal, excess)
    assert not bool(jnp.isnan(found).any())
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
    assert not gradients[1][3].any()
    assert not gradients[2][3].any()
    if bounds is not None:
        assert found[0] == found[6] == jnp.inf
        assert not any(gradient[jnp.array([0, 6])].any() for gradient in gradients)
        assert not any(gradient[1].any() for gradient in gradients[1:])


def test_l1_ties_follow_together(float64):
    """Pixels with equal normals: the derivative by the excess is that of one of them."""
    images, normal = jnp.full((1, 4), 0.5), jnp.asarray([[3.0, 2.0, 2.0, 2.0]])
    gradient = jax.jit(jax.grad(lambda excess: L1(1.0).distance(images, normal, excess).sum()))(jnp.asarray([2.0]))
    np.testing.assert_allclose(gradient, [0.5])


@pytest.mark.parametrize("name", MODELS)
def test_not_a_number_stays_one(name):
    images, normal = np.repeat(IMAGE, 3, 0), np.repeat(NORMAL, 3, 0)
    normal[1, 1] = np.nan
    for bounds in ((0.0, 1.0), None):
        found = distance(name, images, normal, [np.nan, 0.1, 0.1], bounds)
        np.testing.assert_array_equal(np.isnan(found), [True, True, False])


@pytest.mark.parametrize("name", ["Linf", pytest.param("L2", marks=pytest.mark.slow), "L1"])
def test_vmap_over_half_spaces(name):
    images = problems(8, 6, 10)[0]
    several = [problems(seed, 6, 10)[1:] for seed in (8, 9, 10)]
    normal, excess = (jnp.asarray(np.stack(x, 1), jnp.float32) for x in zip(*several, strict=True))
    function = MODELS[name](1.0).distance
    mapped = jax.vmap(function, (None, 1, 1), 1)
    images = jnp.asarray(images, jnp.float32)
    found = jax.jit(mapped)(images, normal, excess)
    assert found.shape == (6, 3)
    np.testing.assert_allclose(found[:, 1], distance(name, images, normal[:, 1], excess[:, 1]), rtol=1e-5, atol=1e-7)
    by_normal = jax.jit(jax.grad(lambda normal: jnp.tanh(mapped(images, normal, excess)).sum()))(normal)
    single = jax.jit(jax.grad(lambda normal: jnp.tanh(function(images, normal, excess[:, 1])).sum()))(normal[:, 1])
    np.testing.assert_allclose(by_normal[:, 1], single, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_images_keep_their_shape_and_dtype(name):
    images = np.reshape(IMAGE, (1, 1, 3, 1))
    found = distance(name, images, np.reshape(NORMAL, images.shape), [0.5], dtype=jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, distance(name, IMAGE, NORMAL, [0.5], dtype=jnp.bfloat16))
