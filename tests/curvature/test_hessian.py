"""Spectral norms and eigenvalues of input Hessians against dense matrices and closed forms.

Networks that differ in arrays only share their compiled programs, so the activation is chosen by an array as well.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxrobust.curvature._hessian import (
    hessian_eigenpairs,
    hessian_eigenvalues,
    hessian_spectral_norm,
    normalized_curvature,
)
from jaxrobust.losses import cross_entropy

SHAPE, CLASSES, SIZE = (3, 3, 2), 4, 4
FEATURES = math.prod(SHAPE)
ACTIVATIONS = ["tanh", "relu", "linear"]


def flat(images):
    return images.reshape(len(images), -1)


def mlp(activation, first, second, images):
    hidden = flat(images) @ first
    kinds = [jnp.tanh(hidden), jax.nn.relu(hidden), hidden]
    return jnp.einsum("a,anh,hc->nc", activation, jnp.stack(kinds), second)


def network(seed, activation="tanh", dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(FEATURES, 12)) / 2, scale * rng.normal(size=(12, CLASSES)) / 2
    chosen = [name == activation for name in ACTIVATIONS]
    return functools.partial(mlp, *(np.asarray(array, dtype) for array in (chosen, first, second)))


def batch(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(SIZE, *SHAPE)).astype(dtype), rng.integers(0, CLASSES, SIZE).astype(np.int32)


@jax.jit
def logits_of(weights, images):
    return mlp(*weights, images)


@jax.jit
def dense_hessians(weights, images, labels):
    """``[batch, d, d]``, one example at a time."""

    def single(pixels, label):
        return cross_entropy(mlp(*weights, pixels[None]), label[None])[0]

    return jax.vmap(jax.hessian(single))(flat(images), labels)


def hessians(logits_fn, images, labels):
    """NumPy, and their eigenvalues by descending magnitude."""
    found = np.asarray(dense_hessians(logits_fn.args, images, labels))
    values = np.linalg.eigvalsh(found)
    return found, np.take_along_axis(values, np.argsort(-np.abs(values), axis=1), axis=1)


def quadratic(matrices, slope, images):
    """``x^T A x / 2 + b^T x`` as the only logit, with one matrix per example."""
    return (0.5 * jnp.einsum("ni,nij,nj->n", images, matrices, images) + images @ slope)[:, None]


def only_logit(logits, labels):
    del labels
    return logits[:, 0]


def quadratic_problem(eigenvalues, gradient):
    """Loss, network, images and labels: diagonal Hessians, and the same gradient at all images, which are zero."""
    matrices = np.stack([np.diag(np.array(row, float)) for row in eigenvalues])
    logits_fn = functools.partial(quadratic, matrices, np.array(gradient, float))
    return only_logit, logits_fn, np.zeros(matrices.shape[:2]), np.zeros(len(matrices), np.int32)


def scaled_cross_entropy(scale, logits, labels):
    return scale * cross_entropy(logits, labels)


# --- normalised curvature: closed forms ---


def test_logistic_regression(float64, key):
    """C = p_y |w| for every image: g = -(1 - p_y) w and H = p_y (1 - p_y) w w^T."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=5)
    logits_fn = functools.partial(lambda w, images: images @ w, jnp.asarray(np.stack([weights, np.zeros(5)], 1)))
    images, labels = rng.uniform(size=(6, 5)), np.array([0, 0, 0, 1, 1, 1])
    own = 1 / (1 + np.exp(np.where(labels == 0, -1, 1) * (images @ weights)))
    found = normalized_curvature(key, cross_entropy, logits_fn, images, labels)
    slope = (1 - own) * np.linalg.norm(weights)  # |g|, to which 1e-6 is added
    np.testing.assert_allclose(found * (slope + 1e-6) / slope, own * np.linalg.norm(weights), rtol=1e-10)


def test_softmax_of_linear_logits(float64, key):
    """H = W (diag p - p p^T) W^T, positive semidefinite."""
    logits_fn = network(1, "linear")
    weights = np.asarray(logits_fn.args[1] @ logits_fn.args[2])
    images, labels = batch(1)
    found = hessian_eigenvalues(key, cross_entropy, logits_fn, images, labels, k=FEATURES)
    for n, p in enumerate(scipy.special.softmax(logits_of(logits_fn.args, images), -1)):
        expected = weights @ (np.diag(p) - np.outer(p, p)) @ weights.T
        np.testing.assert_allclose(found[n], np.linalg.eigvalsh(expected)[::-1], atol=1e-12)
    assert (np.asarray(found[:, : CLASSES - 1]) > 1e-4).all()
    np.testing.assert_allclose(found[:, CLASSES - 1 :], 0, atol=1e-12)


def test_curvature_scales_with_the_images_and_not_with_the_loss(float64):
    images, labels = batch(2)
    logits_fn = network(2)

    def measure(measured, images=images, logits_fn=logits_fn, scale=1.0):
        loss = functools.partial(scaled_cross_entropy, jnp.asarray(scale))
        # From the gradient, whose direction is the same in any units.
        return np.asarray(measured(None, loss, logits_fn, images, labels, start="gradient", steps=7))

    curvature, norm = measure(normalized_curvature), measure(hessian_spectral_norm)
    std = 0.225
    activation, first, second = logits_fn.args
    pixels = functools.partial(mlp, activation, first / std, second)
    # Up to the summand 1e-6.
    np.testing.assert_allclose(measure(normalized_curvature, std * images, pixels), curvature / std, rtol=1e-5)
    np.testing.assert_allclose(measure(hessian_spectral_norm, std * images, pixels), norm / std**2, rtol=1e-9)
    np.testing.assert_allclose(measure(normalized_curvature, scale=10.0), curvature, rtol=1e-5)
    np.testing.assert_allclose(measure(hessian_spectral_norm, scale=10.0), 10 * norm, rtol=1e-9)


# --- power iteration ---


def test_power_iteration_is_monotone_for_semidefinite_matrices_only(float64, key):
    """What n = 2 and n = 20 steps find of the norm, for 50 random matrices of size 20 of each kind."""
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(50, 20, 20))
    images, labels = np.zeros((50, 20)), np.zeros(50, np.int32)
    counts = [0, 1, 2, 3, 20]

    def shares(matrices):
        norms = np.linalg.norm(matrices, 2, axis=(1, 2))
        logits_fn = functools.partial(quadratic, matrices, np.zeros(20))
        return np.stack(
            [hessian_spectral_norm(key, only_logit, logits_fn, images, labels, steps=n) / norms for n in counts]
        )

    semidefinite, indefinite = shares(roots @ roots.transpose(0, 2, 1)), shares((roots + roots.transpose(0, 2, 1)) / 2)
    for found in (semidefinite, indefinite):
        assert (found <= 1 + 1e-12).all()
        assert (found >= 0).all()
    assert (np.diff(semidefinite, axis=0) >= -1e-12).all()
    assert ((indefinite[2] - indefinite[3]) > 0.05).any()  # opposite eigenvalues cancel
    assert np.median(semidefinite[2]) > 0.7
    assert np.median(semidefinite[-1]) > 0.98
    assert indefinite[2].min() < 0.03
    assert (indefinite[-1] < 0.8).any()


def test_opposite_eigenvalues_cancel_in_the_rayleigh_quotient_but_not_in_lanczos(float64, key):
    """diag(1, -1) and v = (cos a, sin a): |v . H v| = |cos 2a| after any number of steps."""
    arguments = quadratic_problem([[1, -1, 0, 0, 0, 0]] * 3, [math.cos(0.7), math.sin(0.7), 0, 0, 0, 0])
    for steps in (1, 20):
        found = hessian_spectral_norm(None, *arguments, steps=steps, start="gradient")
        np.testing.assert_allclose(found, [abs(math.cos(1.4))] * 3, rtol=1e-12)
    values = hessian_eigenvalues(key, *arguments, k=6)
    np.testing.assert_allclose(np.sort(values[:, :2]), [[-1, 1]] * 3, rtol=1e-12)


def test_power_iteration_reaches_the_norm_of_a_network(float64, key):
    for activation in ("tanh", "relu"):
        logits_fn = network(4, activation)
        images, labels = batch(4)
        exact = np.abs(hessians(logits_fn, images, labels)[1][:, 0])
        found = np.asarray(hessian_spectral_norm(key, cross_entropy, logits_fn, images, labels, steps=300))
        assert (found <= exact * (1 + 1e-12)).all()
        np.testing.assert_allclose(found, exact, rtol=1e-3)


# --- Lanczos ---


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_eigenpairs_of_dense_hessians(float64, key, activation):
    logits_fn = network(5, activation)
    images, labels = batch(5)
    dense, exact = hessians(logits_fn, images, labels)
    scale = np.abs(exact[:, :1])
    found = hessian_eigenpairs(key, cross_entropy, logits_fn, images, labels, k=FEATURES)
    assert found.eigenvectors.shape == (SIZE, FEATURES, *SHAPE)
    values, vectors = np.asarray(found.eigenvalues), np.asarray(found.eigenvectors).reshape(SIZE, FEATURES, -1)
    np.testing.assert_allclose(np.sort(values) / scale, np.sort(exact) / scale, atol=1e-12)
    assert (np.diff(np.abs(values)) <= 1e-12).all()  # by magnitude
    products = vectors @ vectors.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(FEATURES), products.shape), atol=1e-12)
    residual = np.einsum("nij,nkj->nki", dense, vectors) - values[..., None] * vectors
    np.testing.assert_allclose(residual / scale[..., None], 0, atol=1e-12)

    few = np.asarray(hessian_eigenvalues(key, cross_entropy, logits_fn, images, labels, k=3, iterations=6))
    assert (np.abs(few[:, 0]) <= scale[:, 0] * (1 + 1e-12)).all()
    if activation == "relu":  # of rank 3: six iterations go beyond the invariant subspace
        assert (np.linalg.matrix_rank(dense, tol=1e-10) <= CLASSES - 1).all()
        np.testing.assert_allclose(few / scale, exact[:, :3] / scale, atol=1e-12)
        np.testing.assert_allclose(values[:, CLASSES - 1 :] / scale, 0, atol=1e-12)
    else:
        assert (exact.min(1) < 0).all()  # indefinite
        np.testing.assert_allclose(few[:, 0], exact[:, 0], rtol=0.2)


def test_repeated_and_zero_eigenvalues(float64, key):
    """Every direction is an eigenvector, or the Hessian is zero: the iteration starts anew in each step."""
    expected = [[3, 3, 3, 3, 3, 3], [2, 2, 2, -1, -1, 0], [0, 0, 0, 0, 0, 0]]
    found = hessian_eigenpairs(key, *quadratic_problem(expected, [1, 0, 0, 0, 0, 0]), k=6)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12)
    products = np.einsum("nki,nli->nkl", found.eigenvectors, found.eigenvectors)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(6), (3, 6, 6)), atol=1e-12)


def test_examples_do_not_mix(float64, key):
    """With a key of its own, an example gets the same numbers in another order and beside others."""
    logits_fn = network(7)
    images, labels = batch(7)
    keys = jax.random.split(key, SIZE)
    measures = [
        functools.partial(hessian_eigenvalues, k=FEATURES),
        functools.partial(hessian_eigenvalues, k=3, iterations=6),
        functools.partial(hessian_spectral_norm, steps=300),
    ]
    for measure in measures:
        whole = np.asarray(measure(keys, cross_entropy, logits_fn, images, labels))
        for order in ([2, 0, 3, 1], [2, 2, 2, 2]):
            order = np.array(order)
            again = measure(keys[order], cross_entropy, logits_fn, images[order], labels[order])
            np.testing.assert_allclose(again, whole[order], rtol=1e-9, atol=1e-12)


# --- single precision and degenerate cases ---


@pytest.mark.parametrize(
    ("activation", "scale"),
    [("tanh", 1.0), ("relu", 1.0), ("linear", 0.0), ("relu", 1e4)],
    ids=["tanh", "relu", "constant network", "saturated logits"],
)
def test_single_precision(key, activation, scale):
    """Right to rounding errors, and no NaN where the classifier is constant, or sure to the last bit."""
    logits_fn = network(6, activation, np.float32, scale)
    images, labels = batch(6, dtype=np.float32)
    images[0], images[1] = 0.5, 0.0  # constant images
    if scale != 1:
        labels = np.asarray(logits_of(logits_fn.args, images)).argmax(-1).astype(np.int32)
    arguments = (key, cross_entropy, logits_fn, images, labels)
    values, vectors = hessian_eigenpairs(*arguments, k=5)
    norms = [hessian_spectral_norm(*arguments, start=start) for start in ("random", "gradient")]
    curvature = normalized_curvature(*arguments)
    for array in (values, vectors, *norms, curvature):
        assert array.dtype == jnp.float32
        assert np.isfinite(array).all()
    np.testing.assert_allclose(np.linalg.norm(vectors.reshape(SIZE, 5, -1), axis=-1), 1, rtol=1e-5)
    if scale == 1:
        with jax.enable_x64(True):
            double = functools.partial(mlp, *(array.astype(np.float64) for array in logits_fn.args))
            exact = np.abs(hessians(double, images.astype(np.float64), labels)[1])
        np.testing.assert_allclose(np.abs(values), exact[:, :5], atol=1e-5 * exact.max())
        assert (np.stack(norms) <= exact[:, 0] + 1e-5 * exact.max()).all()
    elif scale == 0:
        assert not np.asarray(values).any()
        assert not np.stack([*norms, curvature]).any()


def test_vanishing_gradient_with_curvature(float64, key):
    """At the minimum of a quadratic the gradient gives no direction; a random one does."""
    arguments = quadratic_problem([[4, 4, 4, 4, 4, 4]] * 3, [0, 0, 0, 0, 0, 0])
    assert not np.asarray(hessian_spectral_norm(None, *arguments, start="gradient")).any()
    np.testing.assert_allclose(hessian_spectral_norm(key, *arguments), [4] * 3, rtol=1e-12)
    np.testing.assert_allclose(normalized_curvature(key, *arguments), [4e6] * 3, rtol=1e-12)


# --- how it runs ---


def test_one_image_and_a_convolutional_network_inside_and_outside_of_jit(key):
    rng = np.random.default_rng(9)
    kernel = jnp.asarray(rng.normal(size=(2, 2, 2, CLASSES)), jnp.float32)

    def convolutional(images):
        layout = ("NHWC", "HWIO", "NHWC")
        return jnp.tanh(jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout)).sum(
            (1, 2)
        )

    images, labels = (array[:1] for array in batch(9, np.float32))

    def measure(images):
        return hessian_spectral_norm(key, cross_entropy, convolutional, images, labels, steps=2)

    np.testing.assert_allclose(jax.jit(measure)(images), measure(images), rtol=1e-4)


def test_errors_say_what_is_wanted(key):
    logits_fn = network(10, dtype=np.float32)
    images, labels = batch(10, dtype=np.float32)
    arguments = (cross_entropy, logits_fn, images, labels)
    with pytest.raises(ValueError, match=r'pass key=jax.random.key\(0\), or start="gradient"'):
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
        hessian_spectral_norm(key, lambda *pair: cross_entropy(*pair).mean(), *arguments[1:])
    with pytest.raises(TypeError, match="floating point"):
        hessian_spectral_norm(key, cross_entropy, logits_fn, jnp.zeros((4, *SHAPE), jnp.uint8), labels)
