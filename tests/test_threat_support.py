"""What perturbations can change: of each pixel, and of linear functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust import L1, L2, Linf
from jaxrobust.iteration import equations
from jaxrobust.threat import Extent

MODELS = {"Linf": Linf, "L2": L2, "L1": L1}


def problem(seed, batch=3, rows=4, features=6, dtype=np.float32):
    """Images, some of their pixels on the edge of the box, and normals, some of their entries zero."""
    rng = np.random.default_rng(seed)
    images = np.clip(rng.uniform(-0.3, 1.3, size=(batch, features)), 0, 1)
    normals = rng.normal(size=(batch, rows, features)) * rng.integers(0, 2, size=(rows, features))
    return jnp.asarray(images, dtype), jnp.asarray(normals, dtype)


@pytest.mark.parametrize("name", MODELS)
def test_extent(name):
    images = jnp.asarray([[[0.0, 0.25], [0.5, 1.0]], [[1.0 + 1e-7, -1e-7], [0.9, 0.1]]])
    low, high, radii = MODELS[name](jnp.asarray([0.5, 0.125])).extent(images)
    np.testing.assert_allclose(low, [[[0, -0.25], [-0.5, -0.5]], [[-0.125, 0], [-0.125, -0.1]]], atol=2e-7)
    np.testing.assert_allclose(high, [[[0.5, 0.5], [0.5, 0]], [[0, 0.125], [0.1, 0.125]]], atol=2e-7)
    np.testing.assert_array_equal(radii, np.broadcast_to([[[0.5]], [[0.125]]], images.shape))
    assert bool((low <= 0).all() & (high >= 0).all())
    unboxed = MODELS[name](0.25, bounds=None).extent(images)
    assert isinstance(unboxed, Extent)
    for field, sign in zip(unboxed, (-1, 1, 1), strict=True):
        np.testing.assert_array_equal(field, np.full(images.shape, sign * 0.25))


def test_values():
    """By hand. The second pixel is at its end, so that the box allows little: 2 * 0.25 + 0 + 1 * 0.5 for eps = 1."""
    images, normals = jnp.asarray([[0.75, 0.0, 0.5]]), jnp.asarray([[[2.0, -3.0, -1.0]]])
    for make, eps, expected, unboxed in (
        (Linf, 0.375, 2 * 0.25 + 0.375, 6 * 0.375),
        (L2, 0.125, 2 * 0.125 + 0.125, np.sqrt(14) / 8),
        (L2, 1.0, 1.0, np.sqrt(14)),
        (L1, 0.25, 0.75, 0.75),
        (L1, 1.0, 1.0, 3.0),
    ):
        for bounds, value in (((0.0, 1.0), expected), (None, unboxed)):
            threat = make(eps, bounds)
            np.testing.assert_allclose(threat.support(normals, threat.extent(images)), [[value]], rtol=1e-6)


@functools.cache
def compiled(name, bounds):
    """Support and what perturbations gain, those of the steepest step, of a long one and of a random one."""

    def run(eps, key, images, normals):
        threat = MODELS[name](eps, bounds)

        def gains(normal):
            pushes = (eps * threat.steepest(normal), 1e6 * normal, threat.sample(key, images))
            return jnp.stack([(threat.project(push, images) * normal).sum(-1) for push in pushes], -1)

        dual_norms = jax.vmap(threat.dual_norm, 1, 1)(normals)
        return threat.support(normals, threat.extent(images)), dual_norms, jax.vmap(gains, 1, 1)(normals)

    return jax.jit(run)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_no_perturbation_gains_more(name, bounds):
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(eps=st.sampled_from([0.0, 0.02, 0.3, 4.0]), seed=st.integers(0, 100))
    def one(eps, seed):
        found = compiled(name, bounds)(eps, jax.random.key(seed), *problem(seed))
        bound, dual_norms, gains = (np.asarray(x) for x in found)
        assert (gains <= bound[..., None] * (1 + 1e-5) + 1e-5).all()
        assert (bound <= eps * dual_norms + 1e-5).all()
        if name == "Linf":  # attained by the long step
            np.testing.assert_allclose(bound, gains[..., 1], atol=1e-5)
        if bounds is None:
            np.testing.assert_allclose(bound, eps * dual_norms, atol=1e-5)

    one()


@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_leading_axes(name):
    threat, (images, normals) = MODELS[name](0.3), problem(0)
    extent = threat.extent(images)
    whole = threat.support(normals, extent)
    assert whole.shape == (3, 4)
    one = threat.support(normals[1], Extent(*(field[1] for field in extent)))
    np.testing.assert_allclose(one, whole[1], atol=1e-6)
    four = threat.support(normals[None, :, None], Extent(*(field[None, :, None] for field in extent)))
    np.testing.assert_allclose(four[0, :, 0], whole, atol=1e-6)


@pytest.mark.parametrize("name", ["Linf", "L2"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_rows_that_all_examples_share_are_not_copied(name, bounds):
    threat, (images, normals) = MODELS[name](0.3, bounds), problem(1)

    def support(image, eps):
        own = MODELS[name](eps, bounds)
        return own.support(normals[0], Extent(*(field[0] for field in own.extent(image[None]))))

    mapped = jax.vmap(support, (0, None))
    expected = threat.support(jnp.broadcast_to(normals[:1], normals.shape), threat.extent(images))
    np.testing.assert_allclose(jax.jit(mapped)(images, 0.3), expected, atol=1e-6)
    for function in (mapped, jax.grad(lambda images, eps: mapped(images, eps).sum())):
        shapes = [
            out.aval.shape for equation in equations(jax.make_jaxpr(function)(images, 0.3)) for out in equation.outvars
        ]
        assert all(np.prod(shape) < normals.size for shape in shapes)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_derivatives(name, bounds, float64):
    images, normals = problem(2, dtype=np.float64)
    images = 0.1 + 0.8 * images  # derivatives at the edge of the box are one-sided

    def support(normals, images, eps):
        threat = MODELS[name](eps, bounds)
        return threat.support(normals, threat.extent(images))

    # The derivative by an entry that is zero is one-sided as well, and left out.
    @jax.jit
    def masked(nonzero, images, eps):
        return support(jnp.where(normals == 0, 0, nonzero), images, eps)

    for eps in (0.05, 0.31, jnp.asarray([0.05, 0.31, 1.7])):
        check_grads(masked, (normals, images, jnp.asarray(eps)), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_derivatives_where_there_are_none(name, bounds):
    """Of zero normals, and with no radius: 0, never NaN."""
    images, normals = problem(3)
    normals = normals.at[:, 1].set(0)

    def support(normals, eps):
        threat = MODELS[name](eps, bounds)
        return threat.support(normals, threat.extent(images)).sum()

    by_normals, _ = jax.grad(support, (0, 1))(normals, 0.3)
    assert bool(jnp.isfinite(by_normals).all())
    if bounds is None:
        assert not by_normals[normals == 0].any()
    for normals_, eps in ((normals, 0.0), (jnp.zeros_like(normals), 0.3)):
        gradients = jax.grad(support, (0, 1))(normals_, eps)
        assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
        if eps == 0:
            assert not gradients[0].any()


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_kept(name):
    threat, (images, normals) = MODELS[name](0.3), problem(4, dtype=jnp.bfloat16)
    found = jax.eval_shape(lambda: threat.support(normals, threat.extent(images)))
    assert found.dtype == jnp.bfloat16
