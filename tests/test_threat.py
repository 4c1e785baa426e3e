import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.optimize import brentq

from jaxrobust import L1, L2, Linf
from jaxrobust.threat import ThreatModel, safe_norm

CLASSES = [Linf, L2, L1]
SHAPE = (6, 3, 4, 1)


def draw(seed, shape=SHAPE, scale=1.0, dtype=np.float32):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), dtype)


def images(seed, shape=SHAPE, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), dtype)


@pytest.mark.parametrize(("threat", "norm", "dual"), [(Linf(1), 4.0, 7.0), (L2(1), 5.0, 5.0), (L1(1), 7.0, 4.0)])
def test_norms(threat, norm, dual):
    x = jnp.asarray([[3.0, -4.0], [0.0, 0.0]])
    np.testing.assert_allclose(threat.norm(x), [norm, 0])
    np.testing.assert_allclose(threat.dual_norm(x), [dual, 0])


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("seed", [0, 1])
def test_steepest_attains_the_dual_norm(make, seed):
    threat, gradient = make(1.0), draw(seed)
    step = threat.steepest(gradient)
    np.testing.assert_allclose((step * gradient).sum((1, 2, 3)), threat.dual_norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(threat.norm(step), 1.0, rtol=1e-5)


@pytest.mark.parametrize("make", CLASSES)
def test_steepest_of_zero_is_zero(make):
    assert not make(1.0).steepest(jnp.zeros(SHAPE)).any()


def test_l1_steepest_takes_the_first_of_ties():
    np.testing.assert_array_equal(L1(1.0).steepest(jnp.asarray([[0.0, -2.0, 2.0]])), [[0, -1, 0]])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    index=st.integers(0, 2),
    eps=st.sampled_from([0.0, 0.05, 0.7, 3.0]),
    seed=st.integers(0, 50),
    boxed=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_projection_is_inside_and_idempotent(index, eps, seed, boxed, scale):
    threat, x = CLASSES[index](eps), images(seed)
    p = draw(seed + 1, scale=scale)
    given_images = x if boxed else None
    once = threat.project(p, given_images)
    assert bool((threat.norm(once) <= eps * (1 + 1e-5) + 1e-6).all())
    if boxed:
        assert bool(((x + once >= -1e-6) & (x + once <= 1 + 1e-6)).all())
    np.testing.assert_allclose(threat.project(once, given_images), once, atol=2e-5 * max(1.0, eps))


# L2 with a box is left out: radial scaling then clipping is not the nearest point, as its docstring says.
@pytest.mark.parametrize(("make", "boxed"), [(Linf, False), (Linf, True), (L2, False), (L1, False), (L1, True)])
@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_projection_is_the_nearest_point(float64, make, boxed, eps):
    # <p - projection, q - projection> <= 0 for every feasible q.
    threat, x, p = make(eps), images(0, dtype=np.float64), draw(1, dtype=np.float64)
    nearest = threat.project(p, x if boxed else None)
    for seed in range(40):
        q = threat.project(draw(100 + seed, scale=0.5, dtype=np.float64), x if boxed else None)
        assert bool((((p - nearest) * (q - nearest)).sum((1, 2, 3)) <= 1e-9).all())


def l1_by_bisection(image, start, eps):
    """The projection of one perturbation onto ball and box, in float64."""
    image, start = np.asarray(image, np.float64), np.asarray(start, np.float64)

    def at(threshold):
        soft = np.sign(start) * np.maximum(np.abs(start) - threshold, 0)
        return np.clip(soft, -image, 1 - image)

    return at(brentq(lambda t: np.abs(at(t)).sum() - eps, 0, np.abs(start).max(), xtol=1e-14, rtol=1e-15))


def test_l1_box_projection_agrees_with_bisection(float64):
    x, p, eps = images(3, dtype=np.float64), draw(4, dtype=np.float64), 1.3
    for image, start, ours in zip(x, p, L1(eps).project(p, x), strict=True):
        np.testing.assert_allclose(ours, l1_by_bisection(image, start, eps), atol=1e-10)


@pytest.mark.parametrize("scale", [0.1, 50.0, 1e3, "mixed"])
@pytest.mark.parametrize("eps", [0.01, 12.0])
def test_l1_projection_in_float32_agrees_with_bisection_in_float64(scale, eps):
    """Sums of sizes 1e5 times the radius would lose it in rounding."""
    rng = np.random.default_rng(2)
    sizes = 10.0 ** rng.uniform(-4, 4, size=(4, 784)) if scale == "mixed" else scale
    p = (rng.normal(size=(4, 784)) * sizes).astype(np.float32)
    x = rng.uniform(size=p.shape).astype(np.float32)
    found = np.asarray(L1(eps).project(jnp.asarray(p), jnp.asarray(x)), np.float64)
    wanted = np.stack([l1_by_bisection(image, start, eps) for image, start in zip(x, p, strict=True)])
    assert np.abs(found).sum(1).max() <= eps * (1 + 1e-5)
    assert np.abs(found - wanted).sum(1).max() <= 1e-4 * eps


def test_l1_projection_in_a_fused_program():
    # XLA may compute the perturbation once for the sort and once for the sum, rounded differently.
    x, step, scale = draw(0, (2000, 16), 0.1), draw(1, (2000, 16)), jnp.float32(0.05)
    pixels = images(2, (2000, 16))
    moved = jax.jit(lambda x, step, scale: L1(1.0).project((pixels + x - pixels) + scale * step, pixels))(
        x, step, scale
    )
    assert float(L1(1.0).norm(moved).max()) <= 1 + 1e-5


def test_l1_projection_where_thresholds_meet_breakpoints():
    # 8-bit pixels and equal steps: many sizes and limits coincide, often at the threshold itself.
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 256, size=(3000, 24)) * rng.integers(0, 2, size=(3000, 24)) / 255).astype(np.float32)
    steps = (rng.integers(-3, 4, size=x.shape) / rng.integers(1, 8, size=(3000, 1))).astype(np.float32)
    p = np.where(rng.uniform(size=x.shape) < 0.5, steps, 1 - x).astype(np.float32)
    eps = rng.choice([0.5, 1.0, 4.0, 12.0], size=3000).astype(np.float32)
    found = np.asarray(L1(jnp.asarray(eps)).project(jnp.asarray(p), jnp.asarray(x)), np.float64)
    clipped = np.clip(p.astype(np.float64), -x, 1 - x.astype(np.float64))
    outside = np.abs(clipped).sum(1) > eps
    assert 500 < outside.sum() < 2900
    np.testing.assert_allclose(np.abs(found).sum(1)[outside], eps[outside], rtol=1e-5)
    np.testing.assert_allclose(found[~outside], clipped[~outside], atol=1e-6)
    for row in np.flatnonzero(outside)[:200]:
        np.testing.assert_allclose(found[row], l1_by_bisection(x[row], p[row], eps[row]), atol=2e-5)


def test_l1_projection_has_the_derivative_of_the_projection(float64):
    x, p = images(3, dtype=np.float64), draw(4, dtype=np.float64)
    eps = jnp.asarray([0.7, 1.3] + [50.0] * (len(p) - 2))  # the last ones are inside
    for mode in ("fwd", "rev"):
        check_grads(lambda p, eps: L1(eps).project(p, x), (p, eps), order=1, modes=[mode], atol=1e-5, rtol=1e-5)
        check_grads(lambda p, eps: L1(eps).project(p), (p, eps), order=1, modes=[mode], atol=1e-5, rtol=1e-5)


def test_l1_projection_leaves_what_is_inside():
    p = draw(0, scale=1e-3)
    np.testing.assert_allclose(L1(5.0).project(p), p, atol=1e-8)


@pytest.mark.parametrize(("make", "mean"), [(Linf, 10 / 11), (L2, 10 / 11), (L1, 10 / 11)])
def test_samples_are_uniform_in_the_ball(make, mean, key):
    # A uniform point of a d-dimensional norm ball has norm eps * U^(1/d), with mean d / (d + 1).
    threat = make(0.5, bounds=None)
    points = threat.sample(key, jnp.zeros((4000, 10)))
    norms = np.asarray(threat.norm(points))
    assert norms.max() <= 0.5 * (1 + 1e-5)
    assert abs(norms.mean() / 0.5 - mean) < 0.006
    assert float(jnp.abs(points.mean(0)).max()) < 0.03


@pytest.mark.parametrize("make", CLASSES)
def test_a_sample_depends_on_its_own_key_and_respects_the_box(make, key):
    threat, x, keys = make(2.0), images(0), jax.random.split(key, 6)
    whole = threat.sample(keys, x)
    np.testing.assert_array_equal(threat.sample(keys[2:4], x[2:4]), whole[2:4])
    assert bool(((x + whole >= -1e-6) & (x + whole <= 1 + 1e-6)).all())


@pytest.mark.parametrize("make", CLASSES)
def test_static_traced_vmapped_and_per_example_eps(make):
    p, x, grid = draw(0), images(1), jnp.asarray([0.1, 0.8])
    expected = jnp.stack([make(float(eps)).project(p, x) for eps in grid])
    static = jax.jit(lambda threat, p: threat.project(p, x), static_argnums=0)
    traced = jax.jit(lambda threat, p: threat.project(p, x))
    np.testing.assert_allclose(static(make(0.1), p), expected[0], atol=1e-6)
    np.testing.assert_allclose(traced(make(0.1), p), expected[0], atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda eps: make(eps).project(p, x))(grid), expected, atol=1e-6)
    mixed = make(jnp.asarray([0.1, 0.8, 0.1, 0.8, 0.1, 0.8])).project(p, x)
    np.testing.assert_allclose(mixed[0::2], expected[0][0::2], atol=1e-6)
    np.testing.assert_allclose(mixed[1::2], expected[1][1::2], atol=1e-6)


@pytest.mark.parametrize("make", CLASSES)
def test_vmap_over_a_further_axis(make):
    p = draw(0, shape=(2, *SHAPE))
    threat = make(0.3)
    expected = jnp.stack([threat.project(p[0]), threat.project(p[1])])
    np.testing.assert_allclose(jax.vmap(threat.project)(p), expected, atol=1e-6)


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("method", ["norm", "dual_norm", "steepest", "project"])
def test_gradients_at_zero_are_finite(make, method):
    function = getattr(make(0.5), method)
    gradient = jax.grad(lambda p: function(p).sum())(jnp.zeros((2, 5)))
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("method", ["norm", "dual_norm"])
def test_norms_have_no_derivative_at_zero(make, method):
    # Of a coordinate that is zero, and of a vector that is: |x| has 0 there, as sign(0) = 0.
    p = jnp.asarray([[0.0, 3.0, -4.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-0.0, 0.0, -0.0, 0.0]])
    gradient = np.asarray(jax.grad(lambda p: getattr(make(0.5), method)(p).sum())(p))
    assert not gradient[1:].any()
    assert not gradient[0, [0, 3]].any()
    sums = (make, method) in ((L1, "norm"), (Linf, "dual_norm"))
    expected = {L2: [0.6, -0.8]}.get(make, [1, -1] if sums else [0, -1])
    np.testing.assert_allclose(gradient[0, 1:3], expected, rtol=1e-6)


def test_l2_radius():
    """Of the smallest Euclidean ball around the norm ball: by its corners, which lie at ``sqrt(d) eps`` for l-infinity."""
    x, radii = jnp.zeros((2, 3, 4, 1)), jnp.asarray([0.1, 0.2])
    for make, factor in ((Linf, np.sqrt(12)), (L2, 1.0), (L1, 1.0)):
        single, each = make(0.1).l2_radius(x), make(radii).l2_radius(x)
        assert (single.shape, each.shape) == ((), (2,))
        np.testing.assert_allclose(single, 0.1 * factor, rtol=1e-6)
        np.testing.assert_allclose(each, factor * radii, rtol=1e-6)
        # The longest point of the ball is a corner, or a unit step.
        far = make(0.1).steepest(jnp.ones_like(x))
        np.testing.assert_allclose(0.1 * L2(1.0).norm(far), single, rtol=1e-6)
    np.testing.assert_allclose(Linf(8 / 255).l2_radius(jnp.zeros((1, 32, 32, 3))), 1.73884, rtol=1e-5)
    assert Linf(0.1).l2_radius(jnp.zeros((1, 2), jnp.float16)).dtype == jnp.float16


def test_safe_norm_at_the_extremes():
    x = jnp.asarray([[0.0, 0.0], [1e30, 1e30], [jnp.inf, 1.0], [1e-30, 0.0]])
    values = np.asarray(safe_norm(x))
    np.testing.assert_allclose(values, [0, np.sqrt(2) * 1e30, np.inf, 1e-30], rtol=1e-6)
    assert safe_norm(jnp.zeros((2, 0))).tolist() == [0, 0]
    assert np.isnan(safe_norm(jnp.asarray([[jnp.nan, 1.0], [0.0, jnp.nan]]))).all()
    gradient = jax.grad(lambda v: safe_norm(v).sum())(jnp.asarray([[0.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_allclose(gradient, [[0, 0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("make", CLASSES)
def test_value_semantics(make):
    assert make(0.5) == make(0.5)
    assert hash(make(0.5)) == hash(make(0.5))
    assert make(0.5) != make(0.6)
    assert isinstance(make(0.5), ThreatModel)


@pytest.mark.parametrize("make", CLASSES)
def test_dtype_is_kept(float64, make):
    p = draw(0, dtype=np.float64)
    assert make(0.5).project(p, images(0, dtype=np.float64)).dtype == jnp.float64
    assert make(0.5).norm(p).dtype == jnp.float64


@pytest.mark.parametrize("make", CLASSES)
def test_errors(make):
    with pytest.raises(ValueError, match="eps must be finite and at least 0, got -1"):
        make(-1)
    with pytest.raises(ValueError, match="got nan"):
        make(float("nan"))
    with pytest.raises(TypeError, match="eps must be a number"):
        make("8/255")
    with pytest.raises(ValueError, match="bounds must be"):
        make(0.1, bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"shape \[batch\]"):
        make(jnp.ones(4)).project(jnp.zeros((3, 2)))


def test_pixels_outside_the_box_by_a_rounding_stay_put():
    x = jnp.asarray([[1.0 + 1e-7, -1e-7]])
    for threat in (Linf(0.1), L2(0.1), L1(0.1)):
        np.testing.assert_allclose(threat.project(jnp.zeros((1, 2)), x), 0.0, atol=2e-7)


def test_partial_application_as_static_value():
    run = jax.jit(functools.partial(lambda threat, p: threat.project(p), Linf(0.25)))
    assert float(run(jnp.ones((1, 1)))[0, 0]) == 0.25
