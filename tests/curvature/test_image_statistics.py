"""Input gradients beside the image, and their statistics (gradient-norm study, 2.5 to 2.8 and 7.3; SOAR, 3.F)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrobust.curvature import (
    channel_gradient_statistics,
    common_mode_ratio,
    conditional_norms,
    confidence,
    gradient_count,
    gradient_map,
    input_gradient,
    log_correlation,
    saliency,
)
from jaxrobust.edges import oriented_energy
from jaxrobust.losses import cross_entropy

SHAPE, CLASSES, SIZE = (5, 4, 3), 4, 60


@functools.cache
def network(dtype=np.float64):
    rng = np.random.default_rng(0)
    first = 0.3 * rng.normal(size=(SIZE, 8)).astype(dtype)
    second = rng.normal(size=(8, CLASSES)).astype(dtype)
    return lambda images: jax.nn.softplus(images.reshape(len(images), -1) @ first) @ second


def examples(dtype=np.float64, size=3):
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.uniform(size=(size, *SHAPE)).astype(dtype))
    return images, jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32)


def class_gradients(logits_fn, images):
    """``[batch, classes, height, width, channels]``, one image at a time."""
    return np.asarray(jax.jit(jax.vmap(jax.jacrev(lambda image: logits_fn(image[None])[0])))(images))


# Compiled, since running the operations one by one compiles each of them.
saliency_of = jax.jit(saliency, static_argnums=0)
gradient_map_of = jax.jit(gradient_map, static_argnums=(0, 1))
gradient_of = jax.jit(input_gradient, static_argnums=(0, 1))
ratio_of = jax.jit(common_mode_ratio, static_argnums=0)
correlation_of = jax.jit(log_correlation)


def test_saliency_and_gradient_map(float64):
    images, labels = examples()
    gradients = class_gradients(network(), images)
    found = saliency_of(network(), images, labels)
    np.testing.assert_allclose(found, np.abs(gradients[np.arange(3), labels]).max(-1), rtol=1e-12)
    errors = np.asarray(jax.nn.softmax(network()(images))) - np.eye(CLASSES)[labels]
    expected = np.abs(np.einsum("nk,nkhwc->nhwc", errors, gradients)).sum(-1)
    np.testing.assert_allclose(gradient_map_of(cross_entropy, network(), images, labels), expected, rtol=1e-10)


def test_log_correlation_is_that_of_pearson(float64):
    rng = np.random.default_rng(2)
    edges, other = rng.uniform(0.01, 1, (2, 6, 5)), rng.uniform(0.01, 1, (2, 6, 5))
    found = correlation_of(jnp.asarray(edges), jnp.asarray(other), clamp=0.3)
    for value, first, second in zip(found, edges, other, strict=True):
        expected = scipy.stats.pearsonr(np.log(np.maximum(first, 0.3)).ravel(), np.log(second).ravel()).statistic
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_log_correlation_is_invariant_to_powers_unless_the_clamp_acts(float64):
    """7.3.24: the square root of the energy does not matter, and neither does sum or mean over channels."""
    images, labels = examples()
    energy = oriented_energy(images, preset="thesis", radius=2) + 0.01  # no pixel below the clamp
    gradient = gradient_map_of(cross_entropy, network(), images, labels)
    expected = correlation_of(energy, gradient)
    assert not np.isnan(expected).any()
    np.testing.assert_allclose(correlation_of(jnp.sqrt(energy), gradient), expected, rtol=1e-10)
    np.testing.assert_allclose(correlation_of(30 * energy**2, gradient / 3), expected, rtol=1e-10)
    np.testing.assert_allclose(correlation_of(energy, energy**0.7), 1, rtol=1e-10)
    clamped = correlation_of(energy, gradient, clamp=0.02)  # above the corners
    assert (np.abs(clamped - expected) > 1e-4).all()


def test_log_correlation_at_zeros_and_constants():
    energy = jnp.asarray(np.random.default_rng(3).uniform(size=(2, 4, 4)).astype(np.float32)).at[0, 0, 0].set(0)
    gradient = energy.at[0, 0, 0].set(0)
    expected = scipy.stats.pearsonr(
        np.log(np.maximum(energy[0], 1e-3)).ravel(), np.log(np.maximum(gradient[0], np.finfo(np.float32).tiny)).ravel()
    ).statistic
    np.testing.assert_allclose(correlation_of(energy, gradient), [expected, 1], rtol=1e-5)
    # A constant has no correlation: 0.1 is no binary fraction, so its mean over 16 pixels may round.
    assert np.isnan(correlation_of(jnp.full_like(energy, 0.1), gradient)).all()
    assert np.isnan(correlation_of(energy, jnp.zeros_like(energy))).all()


def test_common_mode_ratio(float64):
    images, labels = examples()
    gradients = class_gradients(network(), images).reshape(3, CLASSES, SIZE)
    expected = np.linalg.norm(gradients.mean(1), axis=1) / np.linalg.norm(gradients[np.arange(3), labels], axis=1)
    np.testing.assert_allclose(ratio_of(network(), images, labels), expected, rtol=1e-12)
    # Centred logits have no common mode; one that is large is all there is.
    centred = lambda x: network()(x) - network()(x).mean(1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(ratio_of(centred, images, labels), 0, atol=1e-14)
    common = lambda x: network()(x) + 1e4 * jnp.square(x).sum((1, 2, 3))[:, None]  # noqa: E731
    np.testing.assert_allclose(ratio_of(common, images, labels), 1, atol=1e-3)
    # Unrelated gradients of equal length.
    pixels = lambda x: x.reshape(len(x), -1)[:, :CLASSES]  # noqa: E731
    np.testing.assert_allclose(ratio_of(pixels, images, labels), CLASSES**-0.5, rtol=1e-12)


def test_gradients_of_all_classes_cannot_align_with_one_map(float64):
    """7.3.26: the score identity, for the loss; the same for centred logits."""
    images, _ = examples()
    probabilities = np.asarray(jax.nn.softmax(network()(images)))
    of_class = jax.jit(lambda k: input_gradient(cross_entropy, network(), images, jnp.full(3, k, jnp.int32)))
    gradients = np.stack([of_class(k) for k in range(CLASSES)], 1)
    weighted = np.einsum("nk,nk...->n...", probabilities, gradients)
    np.testing.assert_allclose(weighted, 0, atol=1e-14 * np.abs(gradients).max() + 1e-15)
    of_logits = class_gradients(network(), images)
    centred = of_logits - of_logits.mean(1, keepdims=True)
    np.testing.assert_allclose(centred.sum(1), 0, atol=1e-14)
    assert np.abs(of_logits.sum(1)).max() > 0.1


def test_gradient_count():
    """SOAR, 7.5.4: none for a constant network, all for a linear softmax with moderate logits."""
    images, labels = examples(np.float32)
    weights = np.random.default_rng(4).normal(size=(SIZE, CLASSES)).astype(np.float32)
    linear = lambda x: 0.1 * (x.reshape(len(x), -1) @ weights)  # noqa: E731
    constant = lambda x: jnp.zeros((len(x), CLASSES))  # noqa: E731
    for logits_fn, expected in ((constant, 0), (linear, SIZE)):
        gradients = gradient_of(cross_entropy, logits_fn, images, labels)
        np.testing.assert_array_equal(gradient_count(gradients), expected)
    np.testing.assert_array_equal(gradient_count(gradients, threshold=1e3), 0)
    # A linear network that is sure of its answers has none either: the count does not show masking.
    sure = lambda x: linear(x) + 40 * jax.nn.one_hot(labels, CLASSES)  # noqa: E731
    np.testing.assert_array_equal(gradient_count(gradient_of(cross_entropy, sure, images, labels)), 0)


def test_confidence():
    logits = jnp.asarray([[0.0, 0.0, 0.0, 0.0], [900.0, 0.0, 0.0, 0.0], [np.log(3), 0.0, 0.0, 0.0]], jnp.float32)
    np.testing.assert_allclose(confidence(logits), [0.25, 1, 0.5], rtol=1e-6)


# PGD-10 accuracy in %, E[L1], E[L1 | attack fails], E[L1 | attack succeeds], as printed in Table 4.1.
TABLE_4_1 = {
    "ResNet-50 natural": (0.66, 273.4139, 115.6848, 274.4619),
    "ResNet-50 adversarial": (39.97, 1.7784, 0.3684, 2.7172),
    "Swin-B natural": (2.77, 147.8595, 23.6523, 151.3980),
    "Swin-B adversarial": (59.27, 1.1708, 0.3437, 2.3742),
    "Swin-L natural": (2.12, 113.6367, 15.7218, 115.7575),
    "Swin-L adversarial": (61.27, 1.4062, 0.3036, 3.1503),
}


@pytest.mark.parametrize("row", TABLE_4_1.values(), ids=TABLE_4_1)
def test_published_norms_satisfy_total_expectation(row):
    """Clean errors therefore count as success of the attack. Our means of such a population are the printed ones."""
    percent, mean, fails, succeeds = row
    robust = np.arange(10_000) < round(100 * percent)
    found = conditional_norms(np.where(robust, fails, succeeds), robust)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(found[1:], (fails, succeeds, percent / 100), rtol=1e-12)


def test_conditional_norms():
    rng = np.random.default_rng(5)
    norms, robust = rng.exponential(size=500).astype(np.float32), rng.uniform(size=500) < 0.3
    found = conditional_norms(jnp.asarray(norms), jnp.asarray(robust))
    share = found.robust_accuracy
    np.testing.assert_allclose(found.mean, share * found.attack_fails + (1 - share) * found.attack_succeeds, rtol=1e-12)
    np.testing.assert_allclose(found.attack_fails, norms[robust].mean(), rtol=1e-6)
    never = conditional_norms(norms, np.zeros(500, bool))
    assert np.isnan(never.attack_fails)
    assert never.mean == never.attack_succeeds


def test_channel_statistics():
    rng = np.random.default_rng(6)
    gradients = rng.normal(size=(2, 5, 4, 3)) * np.array([1.0, 1e-10, 1e-3])
    gradients[0, :2, :, 1] = 0
    edges = np.linspace(-14, 2, 33)
    found = channel_gradient_statistics(gradients, quantiles=(0.01, 0.5, 0.9), log10_edges=edges)
    assert found.quantiles.shape == (4, 3)
    for row, values in enumerate([gradients, *np.moveaxis(gradients, -1, 0)]):
        values = np.abs(values)
        np.testing.assert_allclose(found.quantiles[row], np.quantile(values, (0.01, 0.5, 0.9)), rtol=1e-12)
        np.testing.assert_allclose(found.zeros[row], np.mean(values == 0))
        np.testing.assert_allclose(found.below[row], [np.mean(values < 1e-9), np.mean(values < 1e-10)])
        assert found.histogram[row].sum() == np.sum(values > 0)
    np.testing.assert_allclose(found.zeros, [8 / 120, 0, 8 / 40, 0])
    np.testing.assert_array_equal(found.histogram[0], found.histogram[1:].sum(0))
    assert found.below[2, 0] > 0.9
    assert not found.below[[1, 3]].any()
    assert channel_gradient_statistics(gradients.astype(np.float32)).histogram is None


def test_errors_say_what_is_wanted():
    images, labels = examples(np.float32)
    maps = jnp.ones((3, 5, 4))
    for function in (saliency, functools.partial(gradient_map, cross_entropy)):
        with pytest.raises(ValueError, match=r"\[batch, height, width, channels\]"):
            function(network(np.float32), images.reshape(3, -1), labels)
        with pytest.raises(TypeError, match="floating point"):
            function(network(np.float32), images.astype(jnp.uint8), labels)
    with pytest.raises(TypeError, match="floating point"):
        common_mode_ratio(network(np.float32), images.astype(jnp.uint8), labels)
    with pytest.raises(ValueError, match="the same shape"):
        log_correlation(maps, images)
    with pytest.raises(ValueError, match="clamp must be above 0"):
        log_correlation(maps, maps, clamp=0)
    with pytest.raises(ValueError, match="n at least 1"):
        conditional_norms([1.0, 2.0], [True])
    with pytest.raises(ValueError, match="must be boolean"):
        conditional_norms([1.0, 2.0], [1, 0])
    with pytest.raises(ValueError, match=r"\[n, height, width, channels\]"):
        channel_gradient_statistics(np.ones((3, 4)))
