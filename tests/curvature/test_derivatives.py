"""Input gradients and Hessian-vector products against explicit derivatives of tiny networks."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.curvature import input_gradient, input_gradient_and_hvp, input_hvp

SHAPE, CLASSES = (3, 3, 2), 4
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def network(seed, activation, dtype=jnp.float64):
    """A convolution and a dense layer; logits are piecewise linear in the image for ReLU."""
    keys = jax.random.split(jax.random.key(seed), 3)
    kernel = jax.random.normal(keys[0], (2, 2, SHAPE[-1], 5), dtype)
    bias = jax.random.normal(keys[1], (5,), dtype)
    dense = 0.3 * jax.random.normal(keys[2], (20, CLASSES), dtype)  # the softmax does not saturate

    def logits_fn(images):
        hidden = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return activation(hidden + bias).reshape(len(images), -1) @ dense

    return logits_fn


def batch(seed, size=3, dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(100 + seed), 3)
    images = jax.random.uniform(keys[0], (size, *SHAPE), dtype)
    labels = jax.random.randint(keys[1], (size,), 0, CLASSES)
    return images, labels, jax.random.normal(keys[2], (size, *SHAPE), dtype)


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
    gradient, product = input_gradient_and_hvp(cross_entropy, logits_fn, images, labels, vectors)
    assert gradient.shape == product.shape == images.shape
    gradients, hessians = explicit_derivatives(logits_fn, images, labels)
    np.testing.assert_allclose(gradient.reshape(3, -1), gradients, rtol=1e-10, atol=1e-14)
    products = jnp.einsum("nij,nj->ni", hessians, vectors.reshape(3, -1))
    np.testing.assert_allclose(product.reshape(3, -1), products, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(gradient, input_gradient(cross_entropy, logits_fn, images, labels))
    np.testing.assert_array_equal(product, input_hvp(cross_entropy, logits_fn, images, labels, vectors))


def test_relu_hessian_is_that_of_the_loss_alone(float64):
    """H = J^T (diag p - p p^T) J where the logits are piecewise linear; not so for a smooth activation."""
    images, labels, vectors = batch(1)

    def errors(activation):
        logits_fn = network(1, activation)
        product = input_hvp(cross_entropy, logits_fn, images, labels, vectors)
        jacobians = jax.jit(jax.vmap(jax.jacrev(lambda image: logits_fn(image[None])[0])))(images)
        for n, p in enumerate(np.asarray(jax.nn.softmax(logits_fn(images)))):
            jacobian = np.asarray(jacobians[n]).reshape(CLASSES, -1)
            middle = np.diag(p) - np.outer(p, p)
            expected = jacobian.T @ middle @ jacobian @ np.asarray(vectors[n]).ravel()
            yield np.linalg.norm(product[n].ravel() - expected) / np.linalg.norm(expected)

    assert max(errors(jax.nn.relu)) < 1e-12
    assert min(errors(jnp.tanh)) > 1e-2


def test_central_differences_of_a_smooth_network(float64):
    logits_fn = network(2, jax.nn.softplus)
    images, labels, vectors = batch(2)
    h = 1e-5
    losses = [cross_entropy(logits_fn(images + sign * h * vectors), labels) for sign in (1, -1)]
    gradients = [
        input_gradient(cross_entropy, logits_fn, images + sign * h * vectors, labels) for sign in (1, -1)
    ]
    gradient, product = input_gradient_and_hvp(cross_entropy, logits_fn, images, labels, vectors)
    slope = (gradient * vectors).sum((1, 2, 3))
    np.testing.assert_allclose(slope, (losses[0] - losses[1]) / (2 * h), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(product, (gradients[0] - gradients[1]) / (2 * h), rtol=1e-6, atol=1e-8)


@hypothesis.given(seed=st.integers(0, 1000), a=st.floats(-3, 3), b=st.floats(-3, 3))
@hypothesis.settings(deadline=None, max_examples=10)
def test_symmetric_and_linear_in_the_vector(seed, a, b):
    with jax.enable_x64(True):
        logits_fn = network(3, jnp.tanh)
        images, labels, v = batch(seed)
        u = batch(seed + 1)[2]
        hvp = jax.jit(lambda w: input_hvp(cross_entropy, logits_fn, images, labels, w))
        hu, hv = hvp(u), hvp(v)
        np.testing.assert_allclose((u * hv).sum((1, 2, 3)), (v * hu).sum((1, 2, 3)), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(hvp(a * u + b * v), a * hu + b * hv, rtol=1e-9, atol=1e-11)
        assert not hvp(jnp.zeros_like(u)).any()


def test_examples_do_not_influence_each_other(float64):
    logits_fn = network(4, jnp.tanh)
    images, labels, vectors = batch(4)
    whole = input_gradient_and_hvp(cross_entropy, logits_fn, images, labels, vectors)
    only = jnp.zeros_like(vectors).at[1].set(vectors[1])
    masked = input_hvp(cross_entropy, logits_fn, images, labels, only)
    np.testing.assert_allclose(masked[1], whole[1][1], rtol=1e-12)
    assert not masked[0].any()
    assert not masked[2].any()
    alone = input_gradient_and_hvp(cross_entropy, logits_fn, images[1:2], labels[1:2], vectors[1:2])
    np.testing.assert_allclose(alone[0][0], whole[0][1], rtol=1e-10)
    np.testing.assert_allclose(alone[1][0], whole[1][1], rtol=1e-10)


def test_linear_loss_has_no_curvature_and_a_constant_network_no_gradient(key):
    images, labels, vectors = batch(5, dtype=jnp.float32)
    weights = jax.random.normal(key, (18, CLASSES))
    linear = lambda images: images.reshape(len(images), -1) @ weights  # noqa: E731
    difference = lambda logits, labels: logits[:, 0] - logits[:, 1]  # noqa: E731
    gradient, product = input_gradient_and_hvp(difference, linear, images, labels, vectors)
    np.testing.assert_allclose(gradient.reshape(3, -1)[0], weights[:, 0] - weights[:, 1], rtol=1e-6)
    assert not product.any()
    constant = lambda images: jnp.zeros((len(images), CLASSES), images.dtype)  # noqa: E731
    for derivative in input_gradient_and_hvp(cross_entropy, constant, images, labels, vectors):
        assert derivative.shape == images.shape
        assert not derivative.any()


@pytest.mark.parametrize("derivative", [input_gradient, input_hvp])
def test_works_compiled_in_single_precision(derivative):
    logits_fn = network(6, jnp.tanh, jnp.float32)
    arguments = batch(6, dtype=jnp.float32)[: 2 if derivative is input_gradient else 3]
    eager = derivative(cross_entropy, logits_fn, *arguments)
    compiled = jax.jit(lambda *args: derivative(cross_entropy, logits_fn, *args))(*arguments)
    assert compiled.dtype == jnp.float32
    np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


def test_documented_number_of_passes(key):
    """A linear network costs one matrix product per pass."""
    images, labels, vectors = batch(7, dtype=jnp.float32)
    weights = jax.random.normal(key, (18, CLASSES))
    logits_fn = lambda images: images.reshape(len(images), -1) @ weights  # noqa: E731

    def passes(function, *arguments):
        return str(jax.make_jaxpr(function)(*arguments)).count("dot_general")

    gradient = lambda x: input_gradient(cross_entropy, logits_fn, x, labels)  # noqa: E731
    pair = lambda x, v: input_gradient_and_hvp(cross_entropy, logits_fn, x, labels, v)  # noqa: E731
    assert passes(gradient, images) == 2
    assert passes(pair, images, vectors) == 4


def test_errors_say_what_is_wanted():
    images, labels, vectors = batch(8, dtype=jnp.float32)
    logits_fn = network(8, jnp.tanh, jnp.float32)
    mean = lambda logits, labels: cross_entropy(logits, labels).mean()  # noqa: E731
    with pytest.raises(ValueError, match="before any mean"):
        input_gradient(mean, logits_fn, images, labels)
    with pytest.raises(TypeError, match="floating point"):
        input_gradient(cross_entropy, logits_fn, jnp.zeros((3, *SHAPE), jnp.uint8), labels)
    with pytest.raises(ValueError, match="shape of the images"):
        input_hvp(cross_entropy, logits_fn, images, labels, vectors[:1])
    with pytest.raises(TypeError, match="dtype of the images"):
        input_hvp(cross_entropy, logits_fn, images, labels, vectors.astype(jnp.float16))
