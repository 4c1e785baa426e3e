"""Input gradients and Hessian-vector products against explicit derivatives of tiny networks."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.curvature import (
    _derivatives,
    input_gradient,
    input_gradient_and_hvp,
    input_hvp,
    value_and_input_gradient,
)

SHAPE, CLASSES = (3, 3, 2), 4
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def network(seed, activation, dtype=np.float64):
    """A convolution and a dense layer; logits are piecewise linear in the image for ReLU."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(2, 2, SHAPE[-1], 5)).astype(dtype)
    bias = rng.normal(size=5).astype(dtype)
    dense = 0.3 * rng.normal(size=(20, CLASSES)).astype(dtype)  # the softmax does not saturate

    def logits_fn(images):
        hidden = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return activation(hidden + bias).reshape(len(images), -1) @ dense

    return logits_fn


def linear_network(seed):
    weights = np.random.default_rng(seed).normal(size=(18, CLASSES)).astype(np.float32)
    return weights, lambda images: images.reshape(len(images), -1) @ weights


def batch(seed, size=3, dtype=np.float64):
    """Images, labels and vectors."""
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.uniform(size=(size, *SHAPE)).astype(dtype))
    vectors = jnp.asarray(rng.normal(size=(size, *SHAPE)).astype(dtype))
    return images, jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32), vectors


# Compiled, since running the operations one by one compiles each of them.
gradient_of = jax.jit(input_gradient, static_argnums=(0, 1))
hvp_of = jax.jit(input_hvp, static_argnums=(0, 1))
both_of = jax.jit(input_gradient_and_hvp, static_argnums=(0, 1))


def explicit_derivatives(logits_fn, images, labels):
    """Gradients ``[batch, d]`` and Hessians ``[batch, d, d]``, one example at a time."""

    def single(flat, label):
        return cross_entropy(logits_fn(flat.reshape(1, *SHAPE)), label[None])[0]

    flat = images.reshape(len(images), -1)
    return [jax.jit(jax.vmap(f(single)))(flat, labels) for f in (jax.jacfwd, jax.hessian)]


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu], ids=["tanh", "relu"])
def test_equal_to_explicit_gradient_and_hessian(float64, activation):
    logits_fn = network(0, activation)
    images, labels, vectors = batch(0)
    gradient, product = both_of(cross_entropy, logits_fn, images, labels, vectors)
    assert gradient.shape == product.shape == images.shape
    gradients, hessians = explicit_derivatives(logits_fn, images, labels)
    np.testing.assert_allclose(np.reshape(gradient, (3, -1)), gradients, rtol=1e-10, atol=1e-14)
    products = np.einsum("nij,nj->ni", hessians, np.reshape(vectors, (3, -1)))
    np.testing.assert_allclose(np.reshape(product, (3, -1)), products, rtol=1e-10, atol=1e-13)
    alone = gradient_of(cross_entropy, logits_fn, images, labels)
    np.testing.assert_allclose(gradient, alone, rtol=1e-12, atol=1e-15)
    alone = hvp_of(cross_entropy, logits_fn, images, labels, vectors)
    np.testing.assert_allclose(product, alone, rtol=1e-12, atol=1e-15)


def test_relu_hessian_is_that_of_the_loss_alone(float64):
    """H = J^T (diag p - p p^T) J where the logits are piecewise linear; not so for a smooth activation."""
    images, labels, vectors = batch(1)

    def errors(activation):
        logits_fn = network(1, activation)
        product = np.asarray(hvp_of(cross_entropy, logits_fn, images, labels, vectors))

        def softmax_and_jacobian(image):
            return jax.nn.softmax(logits_fn(image[None])[0]), jax.jacrev(lambda x: logits_fn(x[None])[0])(image)

        softmax, jacobians = map(np.asarray, jax.jit(jax.vmap(softmax_and_jacobian))(images))
        for n, p in enumerate(softmax):
            jacobian = jacobians[n].reshape(CLASSES, -1)
            middle = np.diag(p) - np.outer(p, p)
            expected = jacobian.T @ middle @ jacobian @ np.ravel(vectors[n])
            yield np.linalg.norm(product[n].ravel() - expected) / np.linalg.norm(expected)

    assert max(errors(jax.nn.relu)) < 1e-12
    assert min(errors(jnp.tanh)) > 1e-2


def test_value_gradient_and_logits_of_one_pass(float64):
    logits_fn = network(0, jnp.tanh)
    images, labels, _ = batch(0)
    both = jax.jit(lambda x: (value_and_input_gradient(cross_entropy, logits_fn, x, labels), logits_fn(x)))
    (values, gradient, logits), expected = both(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-12)
    np.testing.assert_allclose(values, cross_entropy(expected, labels), rtol=1e-12)
    np.testing.assert_allclose(gradient, gradient_of(cross_entropy, logits_fn, images, labels), rtol=1e-12)


def test_all_that_one_pass_gives_can_be_differentiated(float64):
    """By parameters, values and logits as the gradient: here a scale of the logits."""
    logits_fn = network(0, jnp.tanh)
    images, labels, _ = batch(0)

    @jax.jit
    def derivatives(scale):
        def parts(scale):
            found = value_and_input_gradient(cross_entropy, lambda x: scale * logits_fn(x), images, labels)
            return found.values.sum(), jnp.square(found.gradient).sum(), jnp.square(found.logits).sum()

        return parts(scale), jax.jacrev(parts)(scale)

    h = 1e-6
    _, slopes = derivatives(1.0)
    (up, _), (down, _) = derivatives(1.0 + h), derivatives(1.0 - h)
    np.testing.assert_allclose(slopes, np.subtract(up, down) / (2 * h), rtol=1e-7)


def test_central_differences_of_a_smooth_network(float64):
    logits_fn = network(2, jax.nn.softplus)
    images, labels, vectors = batch(2)
    h = 1e-5
    points = [images + sign * h * vectors for sign in (1, -1)]
    losses = [jax.jit(lambda x: cross_entropy(logits_fn(x), labels))(point) for point in points]
    gradients = [gradient_of(cross_entropy, logits_fn, point, labels) for point in points]
    gradient, product = both_of(cross_entropy, logits_fn, images, labels, vectors)
    slope = np.sum(np.asarray(gradient) * np.asarray(vectors), (1, 2, 3))
    np.testing.assert_allclose(slope, (losses[0] - losses[1]) / (2 * h), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(product, (gradients[0] - gradients[1]) / (2 * h), rtol=1e-6, atol=1e-8)


SMOOTH = network(3, jnp.tanh, np.float32)


@hypothesis.given(seed=st.integers(0, 1000), a=st.floats(-3, 3, width=32), b=st.floats(-3, 3, width=32))
@hypothesis.settings(deadline=None, max_examples=25)
def test_symmetric_and_linear_in_the_vector(seed, a, b):
    images, labels, v = batch(seed, dtype=np.float32)
    u = batch(seed + 1, dtype=np.float32)[2]
    hvp = lambda w: np.asarray(hvp_of(cross_entropy, SMOOTH, images, labels, w))  # noqa: E731
    hu, hv = hvp(u), hvp(v)
    u, v = np.asarray(u), np.asarray(v)
    scale = np.abs(hu).max() + np.abs(hv).max()
    np.testing.assert_allclose(np.sum(u * hv, (1, 2, 3)), np.sum(v * hu, (1, 2, 3)), atol=1e-4 * scale)
    combination = jnp.asarray(np.float32(a) * u + np.float32(b) * v)
    np.testing.assert_allclose(hvp(combination), a * hu + b * hv, atol=1e-5 * scale)
    assert not hvp(jnp.zeros_like(images)).any()


def test_examples_do_not_influence_each_other(float64):
    logits_fn = network(4, jnp.tanh)
    images, labels, vectors = batch(4)
    gradient, product = both_of(cross_entropy, logits_fn, images, labels, vectors)
    only = jnp.asarray(np.asarray(vectors) * np.array([0.0, 1.0, 0.0])[:, None, None, None])
    masked = np.asarray(hvp_of(cross_entropy, logits_fn, images, labels, only))
    np.testing.assert_allclose(masked[1], product[1], rtol=1e-12)
    assert not masked[[0, 2]].any()
    alone = both_of(cross_entropy, logits_fn, images[1:2], labels[1:2], vectors[1:2])
    np.testing.assert_allclose(alone[0][0], gradient[1], rtol=1e-10)
    np.testing.assert_allclose(alone[1][0], product[1], rtol=1e-10)


def test_linear_loss_has_no_curvature_and_a_constant_network_no_gradient():
    images, labels, vectors = batch(5, dtype=np.float32)
    weights, linear = linear_network(5)
    difference = lambda logits, labels: logits[:, 0] - logits[:, 1]  # noqa: E731
    gradient, product = both_of(difference, linear, images, labels, vectors)
    np.testing.assert_allclose(np.ravel(gradient[0]), weights[:, 0] - weights[:, 1], rtol=1e-6)
    assert not np.asarray(product).any()
    constant = lambda images: jnp.zeros((len(images), CLASSES), images.dtype)  # noqa: E731
    for derivative in both_of(cross_entropy, constant, images, labels, vectors):
        assert derivative.shape == images.shape
        assert not np.asarray(derivative).any()


def test_precision_follows_the_images(float64):
    single = both_of(cross_entropy, SMOOTH, *batch(6, dtype=np.float32))
    double = both_of(cross_entropy, network(3, jnp.tanh), *batch(6))
    for low, high in zip(single, double, strict=True):
        assert (low.dtype, high.dtype) == (jnp.float32, jnp.float64)
        np.testing.assert_allclose(low, high, rtol=1e-3, atol=1e-4)


def test_documented_number_of_passes():
    """A linear network costs one matrix product per pass."""
    images, labels, vectors = batch(7, dtype=np.float32)
    logits_fn = linear_network(7)[1]

    def passes(function, *arguments):
        return str(jax.make_jaxpr(function)(*arguments)).count("dot_general")

    gradient = lambda x: input_gradient(cross_entropy, logits_fn, x, labels)  # noqa: E731
    pair = lambda x, v: input_gradient_and_hvp(cross_entropy, logits_fn, x, labels, v)  # noqa: E731
    assert passes(gradient, images) == 2
    assert passes(lambda x: value_and_input_gradient(cross_entropy, logits_fn, x, labels), images) == 2
    assert passes(pair, images, vectors) == 4


def test_errors_say_what_is_wanted():
    images, labels, vectors = batch(8, dtype=np.float32)
    mean = lambda logits, labels: cross_entropy(logits, labels).mean()  # noqa: E731
    with pytest.raises(ValueError, match="before any mean"):
        gradient_of(mean, SMOOTH, images, labels)
    with pytest.raises(ValueError, match="before any mean"):
        value_and_input_gradient(mean, SMOOTH, images, labels)
    with pytest.raises(TypeError, match="floating point"):
        value_and_input_gradient(cross_entropy, SMOOTH, jnp.zeros((3, *SHAPE), jnp.uint8), labels)
    with pytest.raises(TypeError, match="floating point"):
        input_gradient(cross_entropy, SMOOTH, jnp.zeros((3, *SHAPE), jnp.uint8), labels)
    with pytest.raises(ValueError, match="shape of the images"):
        input_hvp(cross_entropy, SMOOTH, images, labels, vectors[:1])
    with pytest.raises(TypeError, match="dtype of the images"):
        input_hvp(cross_entropy, SMOOTH, images, labels, vectors.astype(jnp.float16))


def strided(params, images):
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(images, params[0], (2, 2), "SAME", dimension_numbers=dimensions)
    return jnp.tanh(x).reshape(len(x), -1) @ params[1]


def test_both_orders_of_differentiation_agree(monkeypatch):
    labels = jnp.array([0, 2, 1])

    def penalty(params, images):
        values, gradient, logits = value_and_input_gradient(
            cross_entropy, functools.partial(strided, params), images, labels
        )
        return (jnp.sin(gradient) ** 2).sum() + (values * jnp.array([1.0, 2.0, 3.0])).sum() + jnp.cos(logits).sum()

    def derivatives():
        function = jax.jit(jax.value_and_grad(penalty, (0, 1)))
        vectors = jax.tree.map(jnp.ones_like, strided_params())
        gradient = jax.grad(penalty)
        hessian_product = jax.jvp(lambda p: gradient(p, strided_images()), (strided_params(),), (vectors,))[1]
        return function(strided_params(), strided_images()), hessian_product

    found = derivatives()
    monkeypatch.setattr(_derivatives, "convolves_slowly", lambda jaxpr: False)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(derivatives()), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)


def strided_params():
    return (0.5 * jax.random.normal(jax.random.key(0), (3, 3, 2, 4)), jax.random.normal(jax.random.key(1), (16, 3)))


def strided_images():
    return jax.random.uniform(jax.random.key(2), (3, 4, 4, 2))
