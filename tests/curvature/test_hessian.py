"""Spectral norms and eigenvalues of input Hessians against dense matrices and closed forms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.curvature._hessian import (
    hessian_eigenpairs,
    hessian_eigenvalues,
    hessian_spectral_norm,
    normalized_curvature,
)
from jaxrobust.losses import cross_entropy

SHAPE, CLASSES = (3, 3, 2), 4
FEATURES = math.prod(SHAPE)
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def flat(images):
    return images.reshape(len(images), -1)


def mlp(activation, weights, images):
    first, second = weights
    return activation(flat(images) @ first) @ second


def network(seed, activation=jnp.tanh, dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(FEATURES, 12)) / 2, scale * rng.normal(size=(12, CLASSES)) / 2)
    return functools.partial(mlp, activation, jax.tree.map(lambda array: jnp.asarray(array, dtype), weights))


def linear(weights, images):
    return flat(images) @ weights


def batch(seed, size=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.uniform(size=(size, *SHAPE)), dtype)
    return images, jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def dense_hessians(logits_fn, weights, images, labels):
    """``[batch, d, d]``, one example at a time."""

    def single(pixels, label):
        return cross_entropy(logits_fn(weights, pixels.reshape(1, *SHAPE)), label[None])[0]

    return jax.vmap(jax.hessian(single))(flat(images), labels)


def hessians(network, images, labels):
    """NumPy, and their eigenvalues by descending magnitude."""
    found = np.asarray(
        dense_hessians(functools.partial(network.func, *network.args[:-1]), network.args[-1], images, labels)
    )
    values = np.linalg.eigvalsh(found)
    return found, np.take_along_axis(values, np.argsort(-np.abs(values), axis=1), axis=1)


def quadratic(matrices, images):
    """``x^T A x / 2`` as the only logit, with one matrix per example."""
    return 0.5 * jnp.einsum("ni,nij,nj->n", images, matrices, images)[:, None]


def only_logit(logits, labels):
    del labels
    return logits[:, 0]


# --- normalised curvature: closed forms ---


def test_logistic_regression(float64, key):
    """C = p_y |w| for every image: g = -(1 - p_y) w and H = p_y (1 - p_y) w w^T."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=FEATURES)
    logits_fn = functools.partial(linear, jnp.asarray(np.stack([weights, np.zeros(FEATURES)], 1)))
    images, labels = batch(0)
    labels = labels % 2
    scores = np.asarray(flat(images)) @ weights
    own = 1 / (1 + np.exp(np.where(np.asarray(labels) == 0, -scores, scores)))
    for start in ("random", "gradient"):
        found = normalized_curvature(key, cross_entropy, logits_fn, images, labels, start=start)
        # H = p_y (1 - p_y) w w^T has rank one, and 1e-6 is added to the gradient's length.
        slope = (1 - own) * np.linalg.norm(weights)
        np.testing.assert_allclose(found * (slope + 1e-6) / slope, own * np.linalg.norm(weights), rtol=1e-10)


def test_softmax_of_linear_logits(float64, key):
    """H = W (diag p - p p^T) W^T, positive semidefinite."""
    weights = np.random.default_rng(1).normal(size=(FEATURES, CLASSES))
    logits_fn = functools.partial(linear, jnp.asarray(weights))
    images, labels = batch(1)
    found = hessian_eigenvalues(key, cross_entropy, logits_fn, images, labels, k=FEATURES)
    for n, p in enumerate(np.asarray(jax.nn.softmax(logits_fn(images)))):
        expected = weights @ (np.diag(p) - np.outer(p, p)) @ weights.T
        np.testing.assert_allclose(found[n], np.linalg.eigvalsh(expected)[::-1], atol=1e-12)
    assert (np.asarray(found) > -1e-12).all()
    assert (np.asarray(found[:, : CLASSES - 1]) > 1e-3).all()
    np.testing.assert_allclose(found[:, CLASSES - 1 :], 0, atol=1e-12)


def test_curvature_scales_with_the_images_and_not_with_the_loss(float64, key):
    logits_fn = network(2)
    images, labels = batch(2)
    options = {"start": "gradient", "steps": 7}  # the direction is the same in any units
    curvature = np.asarray(normalized_curvature(None, cross_entropy, logits_fn, images, labels, **options))
    norm = np.asarray(hessian_spectral_norm(None, cross_entropy, logits_fn, images, labels, **options))
    slope = norm / curvature  # |g| + 1e-6

    std = 0.225
    pixels = lambda images: logits_fn(images / std)  # noqa: E731
    scaled = normalized_curvature(None, cross_entropy, pixels, std * images, labels, **options)
    np.testing.assert_allclose(scaled, curvature / std, rtol=1e-5)  # up to the summand 1e-6

    tenfold = lambda logits, labels: 10 * cross_entropy(logits, labels)  # noqa: E731
    unscaled = normalized_curvature(None, tenfold, logits_fn, images, labels, **options)
    np.testing.assert_allclose(unscaled, 10 * norm / (10 * (slope - 1e-6) + 1e-6), rtol=1e-10)


# --- power iteration ---


def test_power_iteration_is_monotone_for_semidefinite_matrices_only(float64, key):
    """What n = 2 and n = 20 steps find of the norm, for 50 random matrices of size 20 of each kind."""
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(50, 20, 20))
    symmetric = (roots + roots.transpose(0, 2, 1)) / 2
    semidefinite = roots @ roots.transpose(0, 2, 1)
    images, labels = jnp.asarray(rng.uniform(size=(50, 20))), jnp.zeros(50, jnp.int32)
    counts = [0, 1, 2, 3, 5, 10, 20]

    def shares(matrices):
        norms = np.linalg.norm(matrices, 2, axis=(1, 2))
        logits_fn = functools.partial(quadratic, jnp.asarray(matrices))
        return np.stack(
            [hessian_spectral_norm(key, only_logit, logits_fn, images, labels, steps=steps) / norms for steps in counts]
        )

    definite, indefinite = shares(semidefinite), shares(symmetric)
    for found in (definite, indefinite):
        assert (found <= 1 + 1e-12).all()
        assert (found >= 0).all()
    assert (np.diff(definite, axis=0) >= -1e-12).all()
    assert (np.diff(indefinite, axis=0) < -0.05).any()
    two, twenty = counts.index(2), counts.index(20)
    assert np.median(definite[two]) > 0.7
    assert np.median(definite[twenty]) > 0.98
    assert indefinite[two].min() < 0.05  # opposite eigenvalues cancel
    assert np.median(indefinite[twenty]) < 0.95


def test_opposite_eigenvalues_cancel_in_the_rayleigh_quotient_but_not_in_lanczos(float64):
    """diag(1, -1) and v = (cos a, sin a): v . H v = cos 2a after any number of steps."""
    images, labels = jnp.asarray([[math.cos(0.7), -math.sin(0.7)]]), jnp.zeros(1, jnp.int32)
    logits_fn = functools.partial(quadratic, jnp.diag(jnp.array([1.0, -1.0]))[None])  # gradient (cos, sin)
    for steps in (0, 1, 20):
        found = hessian_spectral_norm(None, only_logit, logits_fn, images, labels, steps=steps, start="gradient")
        np.testing.assert_allclose(found, abs(math.cos(1.4)), rtol=1e-12)
    values = hessian_eigenvalues(jax.random.key(0), only_logit, logits_fn, images, labels, k=2)
    np.testing.assert_allclose(np.sort(values[0]), [-1, 1], rtol=1e-12)


def test_power_iteration_reaches_the_norm_of_a_network(float64, key):
    for activation in ACTIVATIONS.values():
        logits_fn = network(4, activation)
        images, labels = batch(4)
        exact = np.abs(hessians(logits_fn, images, labels)[1][:, 0])
        found = np.asarray(hessian_spectral_norm(key, cross_entropy, logits_fn, images, labels, steps=300))
        assert (found <= exact * (1 + 1e-12)).all()
        np.testing.assert_allclose(found, exact, rtol=1e-3)


# --- Lanczos ---


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_eigenpairs_of_dense_hessians(float64, key, activation):
    logits_fn = network(5, ACTIVATIONS[activation])
    images, labels = batch(5)
    dense, exact = hessians(logits_fn, images, labels)
    scale = np.abs(exact[:, :1])
    everything = hessian_eigenpairs(key, cross_entropy, logits_fn, images, labels, k=FEATURES)
    values, vectors = np.asarray(everything.eigenvalues), np.asarray(everything.eigenvectors).reshape(4, FEATURES, -1)
    assert everything.eigenvectors.shape == (4, FEATURES, *SHAPE)
    np.testing.assert_allclose(np.sort(values) / scale, np.sort(exact) / scale, atol=1e-12)
    assert (np.diff(np.abs(values)) <= 1e-12).all()  # by magnitude
    np.testing.assert_allclose(vectors @ vectors.transpose(0, 2, 1), np.tile(np.eye(FEATURES), (4, 1, 1)), atol=1e-12)
    residual = np.einsum("nij,nkj->nki", dense, vectors) - values[..., None] * vectors
    np.testing.assert_allclose(residual / scale[..., None], 0, atol=1e-12)

    few = np.asarray(hessian_eigenvalues(key, cross_entropy, logits_fn, images, labels, k=3, iterations=6))
    assert (np.abs(few[:, 0]) <= scale[:, 0] * (1 + 1e-12)).all()
    if activation == "relu":  # rank 3: six iterations go beyond the invariant subspace
        assert (np.linalg.matrix_rank(dense, tol=1e-10) <= CLASSES - 1).all()
        np.testing.assert_allclose(few / scale, exact[:, :3] / scale, atol=1e-12)
        np.testing.assert_allclose(values[:, CLASSES - 1 :] / scale, 0, atol=1e-12)
    else:
        assert (exact.min(1) < 0).all()  # indefinite
        np.testing.assert_allclose(few[:, 0], exact[:, 0], rtol=0.2)


def test_single_precision(key):
    for activation in ACTIVATIONS.values():
        logits_fn = network(6, activation, np.float32)
        images, labels = batch(6, dtype=np.float32)
        exact = hessians(logits_fn, images, labels)[1]
        found = hessian_eigenvalues(key, cross_entropy, logits_fn, images, labels, k=5)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(np.abs(found), np.abs(exact[:, :5]), atol=1e-5 * np.abs(exact).max())


def test_repeated_eigenvalues(float64, key):
    """Every direction is an eigenvector: the iteration starts anew in each step."""
    matrices = np.stack([3 * np.eye(6), np.diag([2.0, 2, 2, -1, -1, 0])])
    logits_fn = functools.partial(quadratic, jnp.asarray(matrices))
    images, labels = jnp.ones((2, 6)), jnp.zeros(2, jnp.int32)
    found = hessian_eigenpairs(key, only_logit, logits_fn, images, labels, k=6)
    np.testing.assert_allclose(found.eigenvalues, [[3] * 6, [2, 2, 2, -1, -1, 0]], atol=1e-12)
    vectors = np.asarray(found.eigenvectors)
    np.testing.assert_allclose(vectors @ vectors.transpose(0, 2, 1), np.tile(np.eye(6), (2, 1, 1)), atol=1e-12)


def test_examples_do_not_mix(float64, key):
    """Each example has its own key: alone, in another order and beside others it gets the same numbers."""
    logits_fn = network(7)
    images, labels = batch(7)
    keys = jax.random.split(key, 4)
    measures = [
        functools.partial(hessian_eigenvalues, k=3, iterations=5),
        functools.partial(hessian_spectral_norm, steps=3),
    ]
    for measure in measures:
        whole = np.asarray(measure(keys, cross_entropy, logits_fn, images, labels))
        order = np.array([2, 0, 3, 1])
        again = measure(keys[order], cross_entropy, logits_fn, images[order], labels[order])
        np.testing.assert_allclose(again, whole[order], rtol=1e-10)
        alone = measure(keys[2:3], cross_entropy, logits_fn, images[2:3], labels[2:3])
        np.testing.assert_allclose(alone, whole[2:3], rtol=1e-9)


# --- degenerate cases ---


def degenerate():
    linear_weights = jnp.asarray(np.random.default_rng(8).normal(size=(FEATURES, CLASSES)), jnp.float32)
    confident = functools.partial(linear, 1e4 * linear_weights)
    return {
        "constant network": (cross_entropy, functools.partial(linear, 0 * linear_weights)),
        "linear loss": (only_logit, functools.partial(linear, linear_weights)),
        "saturated logits": (cross_entropy, confident),
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("size", [1, 3])
def test_no_nan_without_curvature(key, case, size):
    loss, logits_fn = degenerate()[case]
    images, labels = batch(8, size, np.float32)
    images = images.at[0].set(0.5)  # a constant image
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)  # sure and right, where logits are saturated
    values, vectors = hessian_eigenpairs(key, loss, logits_fn, images, labels, k=3)
    norms = [hessian_spectral_norm(key, loss, logits_fn, images, labels, start=s) for s in ("random", "gradient")]
    curvatures = [normalized_curvature(key, loss, logits_fn, images, labels, start=s) for s in ("random", "gradient")]
    for array in (values, vectors, *norms, *curvatures):
        assert np.isfinite(array).all()
    np.testing.assert_allclose(np.linalg.norm(vectors.reshape(size, 3, -1), axis=-1), 1, rtol=1e-5)
    for array in (values, *norms):
        np.testing.assert_allclose(array, 0, atol=1e-6)


def test_vanishing_gradient_with_curvature(float64, key):
    """At the minimum of |x|^2 the gradient gives no direction; a random one does."""
    logits_fn = functools.partial(quadratic, 4 * jnp.eye(5)[None])
    images, labels = jnp.zeros((1, 5)), jnp.zeros(1, jnp.int32)
    assert hessian_spectral_norm(None, only_logit, logits_fn, images, labels, start="gradient").item() == 0
    np.testing.assert_allclose(hessian_spectral_norm(key, only_logit, logits_fn, images, labels), 4, rtol=1e-12)
    np.testing.assert_allclose(normalized_curvature(key, only_logit, logits_fn, images, labels), 4e6, rtol=1e-12)


# --- how it runs ---


def test_a_convolutional_network_inside_and_outside_of_jit(key):
    rng = np.random.default_rng(9)
    kernel = jnp.asarray(rng.normal(size=(2, 2, 2, 3)), jnp.float32)
    dense = jnp.asarray(rng.normal(size=(12, CLASSES)) / 4, jnp.float32)

    def convolutional(images):
        layout = ("NHWC", "HWIO", "NHWC")
        return (
            flat(jnp.tanh(jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout)))
            @ dense
        )

    images, labels = batch(9, 2, np.float32)
    measures = [
        lambda images: hessian_eigenvalues(key, cross_entropy, convolutional, images, labels, k=1, iterations=6),
        lambda images: normalized_curvature(key, cross_entropy, convolutional, images, labels, steps=3),
    ]
    for measure in measures:
        np.testing.assert_allclose(jax.jit(measure)(images), measure(images), rtol=1e-4)


def test_errors_say_what_is_wanted(key):
    logits_fn = network(10, dtype=np.float32)
    images, labels = batch(10, dtype=np.float32)
    arguments = (cross_entropy, logits_fn, images, labels)
    with pytest.raises(ValueError, match='pass key=jax.random.key.0., or start="gradient"'):
        hessian_spectral_norm(None, *arguments)
    with pytest.raises(ValueError, match="unknown start 'ones'"):
        normalized_curvature(key, *arguments, start="ones")
    with pytest.raises(ValueError, match="steps must be at least 0"):
        hessian_spectral_norm(key, *arguments, steps=-1)
    with pytest.raises(ValueError, match="k must be from 1 to 18"):
        hessian_eigenvalues(key, *arguments, k=19)
    with pytest.raises(ValueError, match="iterations must be from k = 3 to 18"):
        hessian_eigenvalues(key, *arguments, k=3, iterations=2)
    with pytest.raises(ValueError, match="before any mean"):
        hessian_eigenvalues(key, lambda *pair: cross_entropy(*pair).mean(), *arguments[1:], k=1)
    with pytest.raises(TypeError, match="floating point"):
        hessian_spectral_norm(key, cross_entropy, logits_fn, jnp.zeros((4, *SHAPE), jnp.uint8), labels)
