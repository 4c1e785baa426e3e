"""Bounds of networks: closed forms, identities, soundness."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _certify_networks import CLASSES, IMAGE, NETWORKS, conv, mlp
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import L1, L2, Linf, NonUniform, certify
from jaxrobust.certify._methods import METHODS
from jaxrobust.iteration import Closure

LINEAR = [name for name in METHODS if name != "interval"]
WEIGHT = jnp.array([[1.0, 1.0], [1.0, -1.0]])
ROOT = 2**0.5


def toy(images):
    """Two units in each of two layers, both with the weights [[1, 1], [1, -1]]."""
    return jax.nn.relu(images @ WEIGHT.T) @ WEIGHT.T


def bounds(logits_fn, images, threat, method, specification=None):
    if method == "interval":
        return certify.interval_bounds(logits_fn, images, threat, specification)
    found = certify.linear_bounds(logits_fn, images, threat, method=method, specification=specification)
    return certify.Bounds(found.lower, found.upper)


def threat_named(name, eps, key):
    if name == "non-uniform":
        return NonUniform(Linf, eps * jax.random.uniform(key, IMAGE), bounds=(0.0, 1.0))
    return {"linf": Linf, "l2": L2, "l1": L1, "free l2": partial(L2, bounds=None)}[name](eps)


def numbers(found):
    return tuple(side.item() for side in found)


# --- Closed forms (specification 7.2)


@pytest.mark.parametrize(
    ("threat", "method", "lower", "upper"),
    [
        (Linf, "fast-lin", [0, -2.25], [4.5, 2.25]),
        (Linf, "interval", [0, -3], [6, 3]),
        (L2, "fast-lin", [0, -2.0606602], [4.1213203, 2.0606602]),
        (L2, "interval", [0, -2.4142136], [4.8284271, 2.4142136]),
    ],
)
def test_two_layers_by_hand(threat, method, lower, upper):
    found = bounds(toy, jnp.array([[1.0, 0.0]]), threat(1.0, bounds=None), method)
    np.testing.assert_allclose(found.lower[0], lower, atol=1e-6)
    np.testing.assert_allclose(found.upper[0], upper, atol=1e-6)


@pytest.mark.parametrize(
    ("threat", "slope", "margin"), [(Linf, 1.5, -1.5), (L2, (1 + ROOT) / ROOT, -1 / ROOT), (L1, 2.0, 0.0)]
)
def test_margins_of_two_layers_by_hand(threat, slope, margin):
    images, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    ball = threat(1.0, bounds=None)
    spaces = certify.half_spaces(toy, images, labels, ball)
    np.testing.assert_allclose(spaces.normals[0, 1], [slope, -slope], atol=1e-6)
    np.testing.assert_allclose(spaces.margins[0], [0, slope], atol=1e-6)
    np.testing.assert_allclose(certify.margins(toy, images, labels, ball, method="fast-lin")[0], [0, margin], atol=1e-6)


def test_neither_intervals_nor_lines_are_always_better():
    image, ball = jnp.zeros((1, 1)), Linf(1.0, bounds=None)

    def relu(x):
        return jax.nn.relu(x @ jnp.ones((1, 1)))

    def difference(x):
        return jax.nn.relu(x @ jnp.ones((1, 2)) + 2.0) @ jnp.array([[1.0], [-1.0]])

    assert numbers(bounds(relu, image, ball, "interval")) == (0, 1)
    assert numbers(bounds(relu, image, ball, "fast-lin")) == (-0.5, 1)
    assert numbers(bounds(difference, image, ball, "interval")) == (-2, 2)
    assert numbers(bounds(difference, image, ball, "fast-lin")) == (0, 0)


@pytest.mark.parametrize("method", ["interval", "crown", "alpha-crown", "forward"])
def test_a_pool_by_hand(method):
    """The maximum of x in [-1, 1] and y in [0, 1]: between 0, or y, and 1."""
    image, ball = jnp.array([[0.0, 0.5]]), NonUniform(Linf, jnp.array([1.0, 0.5]), bounds=None)
    found = bounds(lambda x: x.max(1, keepdims=True), image, ball, method)
    assert numbers(found) == (0, 1)


@pytest.mark.parametrize("threat", [Linf, L2, L1])
@pytest.mark.parametrize("method", ["interval", "crown", "forward"])
def test_affine_networks_are_exact(threat, method, key):
    """A convolution, a mean, a product: the bounds are the logits plus or minus the dual norm of their gradient."""
    kernel, weight = jax.random.normal(key, (3, 3, 2, 4)), jax.random.normal(key, (4, CLASSES))

    def affine(images):
        return conv((images - 0.25) / 0.5, kernel, stride=2).mean((1, 2)) @ weight + 1.0

    images, ball = jax.random.uniform(key, (2, *IMAGE)), threat(0.25, bounds=None)
    found = bounds(affine, images, ball, method)
    gradients = jax.vmap(jax.jacobian(lambda image: affine(image[None])[0]))(images)
    reach = 0.25 * jax.vmap(ball.dual_norm)(gradients)
    np.testing.assert_allclose(found.lower, affine(images) - reach, atol=1e-5)
    np.testing.assert_allclose(found.upper, affine(images) + reach, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "smooth"])
@pytest.mark.parametrize("method", ["interval", "fast-lin", "forward"])
def test_a_radius_of_zero_gives_the_logits(name, method, key):
    logits_fn, images = NETWORKS[name].bound(key), jax.random.uniform(key, (2, *IMAGE))
    found = bounds(logits_fn, images, Linf(0.0), method)
    for side in found:
        np.testing.assert_allclose(side, logits_fn(images), atol=2e-5)


def test_without_unstable_units_the_half_spaces_are_the_gradients(key, float64):
    logits_fn = NETWORKS["relu"].bound(key)
    images, labels = jax.random.uniform(key, (3, *IMAGE), jnp.float64), jnp.array([0, 1, 2])
    logits_fn = partial(logits_fn.func, [leaf.astype(jnp.float64) for leaf in logits_fn.args[0]])
    spaces = certify.half_spaces(logits_fn, images, labels, L2(1e-6))

    def gaps(image, label):
        logits = logits_fn(image[None])[0]
        return logits[label] - logits

    np.testing.assert_allclose(spaces.normals, jax.vmap(jax.jacobian(gaps))(images, labels), atol=1e-9)
    np.testing.assert_allclose(spaces.margins, jax.vmap(gaps)(images, labels), atol=1e-9)


# --- Identities


def test_with_one_hidden_layer_intermediate_bounds_do_not_matter(key):
    """So that L-PER and I-PER are the same."""
    logits_fn, images = mlp(jax.nn.relu).bound(key), jax.random.uniform(key, (3, *IMAGE))
    linear, interval = (
        certify.half_spaces(logits_fn, images, jnp.array([0, 1, 2]), Linf(0.1), method=method)
        for method in ("fast-lin", "fast-lin-interval")
    )
    for ours, theirs in zip(linear, interval, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method", ["interval", "fast-lin", "crown", "forward"])
def test_margins_are_never_looser_than_the_difference_of_logit_bounds(method, key):
    logits_fn, images, labels = NETWORKS["relu"].bound(key), jax.random.uniform(key, (8, *IMAGE)), jnp.arange(8) % 3
    found = bounds(logits_fn, images, Linf(0.05), method)
    lower = certify.margins(logits_fn, images, labels, Linf(0.05), method=method)
    label = labels[:, None]
    apart = jnp.take_along_axis(found.lower, label, 1) - found.upper
    assert (lower >= jnp.where(label == jnp.arange(3), 0, apart) - 1e-5).all()
    assert (jnp.take_along_axis(lower, label, 1) == 0).all()


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("method", ["interval", "fast-lin"])
def test_equal_radii_are_one_radius(kind, method, key):
    logits_fn, images = NETWORKS["residual"].bound(key), jax.random.uniform(key, (2, *IMAGE))
    uniform = bounds(logits_fn, images, kind(0.05), method)
    same = bounds(logits_fn, images, NonUniform(kind, jnp.full(IMAGE, 0.05)), method)
    for ours, theirs in zip(same, uniform, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_intervals_grow_with_every_radius(key):
    logits_fn, images = NETWORKS["relu"].bound(key), jax.random.uniform(key, (4, *IMAGE))
    radii = 0.1 * jax.random.uniform(key, IMAGE)
    more = jnp.where(jax.random.bernoulli(key, 0.2, IMAGE), 0.05, 0)
    small, large = (certify.interval_bounds(logits_fn, images, NonUniform(Linf, r)) for r in (radii, radii + more))
    assert (large.lower <= small.lower + 1e-6).all()
    assert (large.upper >= small.upper - 1e-6).all()


@pytest.mark.parametrize("name", ["relu", pytest.param("residual", marks=pytest.mark.slow)])
def test_chunks_of_rows_change_nothing(name, key):
    logits_fn, images = NETWORKS[name].bound(key), jax.random.uniform(key, (2, *IMAGE))
    whole, parts = (
        certify.linear_bounds(logits_fn, images, Linf(0.1), method="crown", rows_at_once=rows) for rows in (None, 7)
    )
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_convolutions_are_bounded_as_the_matrices_that_they_are(key):
    """Patches, strides, padding and shortcuts against the same network with every affine part as one matrix."""
    network = NETWORKS["residual"]
    parameters, images = network.init(key), jax.random.uniform(key, (2, *IMAGE))
    first, second, mean, scale, skip, last = parameters

    def before(x):
        x = (x.reshape(1, *IMAGE) - 0.4) / jnp.array([0.5, 0.25])
        y = (conv(x, first, stride=2) - mean) * jax.lax.rsqrt(scale**2 + 0.5) * (1 + mean) + scale
        return y.ravel(), conv(x, skip, stride=2, padding="VALID").ravel()

    def between(hidden):
        return conv(hidden.reshape(1, 3, 3, 4), second).ravel()

    def after(hidden):
        return hidden.reshape(1, 3, 3, 4).transpose(0, 3, 1, 2).reshape(-1) @ last

    zero, hidden = jnp.zeros(72), jnp.zeros(36)
    (w1, wskip), w2, w3 = jax.jacobian(before)(zero), jax.jacobian(between)(hidden), jax.jacobian(after)(hidden)
    b1, bskip = before(zero)

    def dense(images):
        x = images.reshape(len(images), -1)
        hidden = jax.nn.relu(x @ w1.T + b1)
        return jax.nn.relu(hidden @ w2.T + x @ wskip.T + bskip) @ w3.T

    logits_fn = partial(network.apply, parameters)
    np.testing.assert_allclose(dense(images), logits_fn(images), atol=1e-5)
    for method in ("interval", "fast-lin", "crown"):
        # Intervals of the sum are computed term by term in the one and the other.
        for ours, theirs in zip(
            bounds(logits_fn, images, L2(0.2), method), bounds(dense, images, L2(0.2), method), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


# --- Soundness


def _extremes(key, logits_fn, images, threat, samples=24):
    """Smallest and largest logits of random points of the set, of its ends along random directions, and of attacked ones."""

    def of_one(key):
        inside, direction, row = jax.random.split(key, 3)
        steep = threat.project(threat.eps * threat.steepest(jax.random.normal(direction, images.shape)), images)
        weights = jax.random.normal(row, (CLASSES,))
        gradient = jax.grad(lambda x: (logits_fn(x) @ weights).sum())(images)
        attacked = threat.project(threat.eps * threat.steepest(gradient), images)
        points = jnp.stack([threat.sample(inside, images), steep, attacked])
        return jax.vmap(lambda p: logits_fn(images + p))(points)

    logits = jax.vmap(of_one)(jax.random.split(key, samples))
    return logits.min((0, 1)), logits.max((0, 1))


def check_soundness(name, threat_name, method, seed, eps):
    """Eight images and three networks: no point leaves its bounds by more than rounding."""
    keys = jax.random.split(jax.random.key(seed), 3)
    images = jax.random.uniform(keys[0], (8, *IMAGE))
    threat = threat_named(threat_name, eps, keys[1])
    for key in jax.random.split(keys[2], 3):
        logits_fn = NETWORKS[name].bound(key)
        found = bounds(logits_fn, images, threat, method)
        lowest, highest = _compiled_extremes(key, Closure(logits_fn), images, threat)
        margin = 1e-5 * (1 + jnp.maximum(jnp.abs(found.lower), jnp.abs(found.upper)))
        assert (found.lower <= lowest + margin).all()
        assert (highest <= found.upper + margin).all()


_compiled_extremes = jax.jit(_extremes)
DEFAULT = [
    ("residual", "l2", "fast-lin"),
    ("residual", "l1", "crown"),
    ("pooling", "linf", "interval"),
    ("pooling", "non-uniform", "fast-lin"),
    ("s-shaped", "free l2", "crown"),
    ("gelu", "linf", "crown-interval"),
]


@pytest.mark.parametrize(("name", "threat", "method"), DEFAULT)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), eps=st.floats(1e-3, 0.5))
def test_no_perturbation_leaves_the_bounds(name, threat, method, seed, eps):
    check_soundness(name, threat, method, seed, eps)


BALLS = ("linf", "l2", "l1", "non-uniform", "free l2")
# Every network and every ball with every method, and every network with every ball.
PAIRS = [
    (name, BALLS[(i + j) % len(BALLS)], method)
    for i, name in enumerate(NETWORKS)
    for j, method in enumerate(METHODS)
    if method != "alpha-crown"  # of margins, see test_certify_certified.py
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "threat", "method"), PAIRS)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), eps=st.floats(1e-3, 1.0))
def test_no_perturbation_leaves_any_bounds(name, threat, method, seed, eps):
    check_soundness(name, threat, method, seed, eps)


@pytest.mark.parametrize(("name", "method"), [("residual", "crown"), ("pooling", "fast-lin"), ("gelu", "forward")])
def test_the_linear_functions_hold_at_every_point(name, method, key):
    """Not only their extremes."""
    logits_fn, images, threat = NETWORKS[name].bound(key), jax.random.uniform(key, (4, *IMAGE)), L2(0.3)
    found = certify.linear_bounds(logits_fn, images, threat, method=method)
    for sample_key in jax.random.split(key, 20):
        points = images + threat.sample(sample_key, images)
        logits = logits_fn(points)
        for sign, normals, offsets in (
            (1, found.lower_normals, found.lower_offsets),
            (-1, found.upper_normals, found.upper_offsets),
        ):
            assert (sign * (logits - (jnp.einsum("bkhwc,bhwc->bk", normals, points) + offsets)) > -1e-4).all()


# --- Errors


def test_mistakes_are_named(key):
    logits_fn, images = NETWORKS["relu"].bound(key), jnp.zeros((2, *IMAGE))
    with pytest.raises(ValueError, match="unknown method 'crow'; choose"):
        certify.linear_bounds(logits_fn, images, Linf(0.1), method="crow")
    with pytest.raises(ValueError, match="no linear functions"):
        certify.linear_bounds(logits_fn, images, Linf(0.1), method="interval")
    with pytest.raises(ValueError, match=r"\[rows, 3\]"):
        certify.interval_bounds(logits_fn, images, Linf(0.1), jnp.ones((2, 4)))
