"""Bands, band-limited noise and the accuracy change it causes."""

import functools
import itertools

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import frequency

COUNTS = {
    8: [7] * 4 + [6] * 6,
    28: [79] * 4 + [78] * 6,
    32: [103] * 4 + [102] * 6,
    224: [5018] * 6 + [5017] * 4,
}


@pytest.fixture(scope="module")
def masks():
    return frequency.band_masks(8, 4)


@pytest.fixture(scope="module")
def noises(masks):
    """Noise of variance 4: ``[4 bands, 6 draws, 8, 8, 1]``."""
    return frequency.band_noises(jax.random.key(1), masks, 4.0, 6, (8, 8, 1))


def spectrum(images):
    return scipy.fft.dctn(np.asarray(images), norm="ortho", axes=(-3, -2))


def random_images(*shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def linear_logits(weights, images):
    return images.reshape(images.shape[0], -1) @ weights


@pytest.mark.parametrize("size", COUNTS)
def test_bands_are_disjoint_cover_all_and_have_the_published_counts(size):
    masks = np.asarray(frequency.band_masks(size))
    assert masks.sum(axis=(1, 2)).tolist() == COUNTS[size]
    assert (masks.sum(axis=0) == 1).all()
    assert masks[0, 0, 0]
    assert masks[9, -1, -1]


@pytest.mark.parametrize(("size", "bands"), [((5, 9), 4), (6, 1), (3, 9), ((1, 12), 5)])
def test_bands_rise_with_the_radius(size, bands):
    masks = np.asarray(frequency.band_masks(size, bands))
    height, width = masks.shape[1:]
    radius = np.hypot(np.arange(height)[:, None], np.arange(width))
    assert masks.shape[0] == bands
    assert (masks.sum(axis=0) == 1).all()
    for lower, upper in itertools.pairwise(masks):
        assert radius[lower].max() <= radius[upper].min()


def test_bands_are_asymmetric_exactly_where_a_cut_splits_equal_radii():
    masks = np.asarray(frequency.band_masks(32))
    squared = np.arange(32)[:, None] ** 2 + np.arange(32) ** 2
    ordered, cuts = np.sort(squared, axis=None), np.cumsum(COUNTS[32])[:-1]
    split = {ordered[cut] for cut in cuts if ordered[cut - 1] == ordered[cut]}
    asymmetric = [set(squared[mask != mask.T]) for mask in masks]
    assert set().union(*asymmetric) == split
    assert {117, 369} < split  # 117 = 6^2 + 9^2 ends the first band


def test_published_bands_have_white_noise_of_the_stated_energy(key):
    masks = frequency.band_masks(32)
    noises = frequency.band_noises(key, masks, 0.01, 100, (32, 32, 3))
    assert noises.shape == (10, 100, 32, 32, 3)
    coefficients = np.moveaxis(spectrum(noises), -1, 2).reshape(10, 300, 32, 32)
    for mask, band, count in zip(np.asarray(masks), coefficients, COUNTS[32], strict=True):
        np.testing.assert_allclose(band[:, ~mask], 0, atol=1e-5)
        assert np.square(band).sum() / 300 == pytest.approx(0.01 * count, rel=0.03)
        np.testing.assert_allclose(np.cov(band[:, mask].T), 0.01 * np.eye(count), atol=0.004)


def test_mean_energy_tells_bands_of_103_and_102_coefficients_apart(key):
    masks = frequency.band_masks(32)[3:5]

    @jax.jit
    def total(key):
        return jnp.sum(jnp.square(frequency.band_noises(key, masks, 0.01, 500, (32, 32, 3))), axis=(1, 2, 3, 4))

    energies = sum(np.asarray(total(part)) for part in jax.random.split(key, 8)) / (8 * 500 * 3)
    # The standard error of these means of 12 000 energies is 0.0013.
    np.testing.assert_allclose(energies, [1.03, 1.02], rtol=0, atol=0.004)


def test_noises_of_disjoint_bands_are_orthogonal_and_add_up_to_white_noise(masks, noises):
    flat = np.asarray(noises).reshape(4, 6, 64)
    for lower, upper in itertools.combinations(flat, 2):
        np.testing.assert_allclose((lower * upper).sum(axis=-1), 0, atol=1e-4)
    white = jax.random.split(jax.random.key(1), 6)[2]
    everywhere = frequency.band_noise(white, np.ones((8, 8), bool), 4.0, (8, 8, 1))
    np.testing.assert_allclose(flat.sum(axis=0)[2], np.ravel(everywhere), atol=1e-5)


def test_noises_are_single_draws_of_split_keys(masks, noises):
    single = frequency.band_noise(jax.random.split(jax.random.key(1), 6)[5], masks[2], 4.0, (8, 8, 1))
    np.testing.assert_allclose(noises[2, 5], single, atol=1e-5)
    for one, other in itertools.combinations(np.asarray(noises[2]), 2):
        assert np.abs(one - other).max() > 0.1


def test_variance_scales_the_noise_by_its_root_and_may_be_traced(key, masks):
    noise = jax.jit(functools.partial(frequency.band_noise, key, masks[0], shape=(8, 8, 1)))
    np.testing.assert_allclose(noise(0.09), 0.3 * np.asarray(noise(1.0)), atol=1e-6)
    assert not np.any(noise(0.0))


@pytest.mark.usefixtures("float64")
def test_noise_follows_the_dtype(key, masks):
    default = jax.eval_shape(lambda: frequency.band_noise(key, masks[0], 0.1, (8, 8, 1)))
    assert default.dtype == jnp.float32
    noise = frequency.band_noise(key, masks[0], 0.1, (8, 8, 1), jnp.float64)
    assert noise.dtype == jnp.float64
    np.testing.assert_allclose(spectrum(noise)[~np.asarray(masks[0])], 0, atol=1e-14)


def test_noise_in_a_band_without_weight_changes_nothing(masks, noises):
    weights = np.random.default_rng(1).normal(size=(3, 8, 8))
    weights[:, np.asarray(masks[1])] = 0
    weights = scipy.fft.idctn(weights, norm="ortho", axes=(1, 2)).reshape(3, 64).T.astype(np.float32)
    images = random_images(40, 8, 8, 1)
    predictions = linear_logits(weights, images).argmax(axis=-1)
    labels = np.where(np.arange(40) < 10, 0, predictions)
    clean = predictions == labels
    correct = frequency.noise_correct(functools.partial(linear_logits, weights), images, labels, noises)
    assert correct.shape == (4, 6, 40)
    change = np.asarray(frequency.accuracy_change(clean, correct))
    assert change.shape == (4,)
    assert change[1] == 0
    assert (change[[0, 2, 3]] > 5).all()
    assert (change <= 100).all()


def test_noise_correct_equals_a_plain_loop_and_works_under_jit(noises):
    images, labels = random_images(12, 8, 8, 1), np.arange(12) % 5
    weights = np.random.default_rng(1).normal(size=(64, 5)).astype(np.float32)
    few = np.asarray(noises[0, :3])
    expected = [linear_logits(weights, images + noise).argmax(axis=-1) == labels for noise in few]
    assert 0 < np.mean(expected) < 1
    logits_fn = functools.partial(linear_logits, weights)
    np.testing.assert_array_equal(frequency.noise_correct(logits_fn, images, labels, few), expected)
    jitted = jax.jit(functools.partial(frequency.noise_correct, logits_fn))
    np.testing.assert_array_equal(jitted(images, labels, few), expected)
    one = frequency.noise_correct(logits_fn, images, labels, few[0])
    np.testing.assert_array_equal(one, expected[0])


def test_noisy_images_are_not_clipped():
    def above_three(x):
        return jnp.concatenate([x[:, 0, 0] - 3, 0 * x[:, 0, 0]], axis=-1)

    image, noise = np.ones((1, 1, 1, 1), np.float32), np.full((1, 1, 1), 5, np.float32)
    assert frequency.noise_correct(above_three, image, np.zeros(1, int), noise).all()


def test_constant_classifier_and_zero_noise_change_nothing(key, masks, noises):
    images, labels = random_images(30, 8, 8, 1), np.arange(30) % 3
    constant = np.zeros((64, 3), np.float32)  # the first class wins all ties
    correct = frequency.noise_correct(functools.partial(linear_logits, constant), images, labels, noises)
    assert frequency.accuracy_change(labels == 0, correct).tolist() == [0, 0, 0, 0]
    weights = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    clean = linear_logits(weights, images).argmax(axis=-1) == labels
    assert 0 < np.mean(clean) < 1
    silent = frequency.band_noises(key, masks, 0.0, 6, (8, 8, 1))
    assert not np.any(silent)
    correct = frequency.noise_correct(functools.partial(linear_logits, weights), images, labels, silent)
    assert frequency.accuracy_change(clean, correct).tolist() == [0, 0, 0, 0]


def test_accuracy_change_counts_drops_as_positive_points():
    clean = [True, True, True, False]
    noisy = [[[True, False, False, False], [True, True, True, False]], [[True] * 4, [True] * 4]]
    assert frequency.accuracy_change(clean, noisy).tolist() == [25.0, -25.0]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(1, 1, 1), (3, 2, 7), (2, 5, 3)]), st.data())
def test_accuracy_change_lies_within_a_hundred_points(shape, data):
    clean, noisy = data.draw(arrays.arrays(bool, shape[-1])), data.draw(arrays.arrays(bool, shape))
    change = np.asarray(frequency.accuracy_change(clean, noisy))
    assert change.shape == shape[:1]
    assert (np.abs(change) <= 100).all()
    np.testing.assert_allclose(change, 100 * (clean.mean() - noisy.mean(axis=(1, 2))), atol=1e-4)
    assert (np.abs(change) == 100).tolist() == [(clean != draws).all() and len(set(clean)) == 1 for draws in noisy]


def test_both_extremes_of_the_accuracy_change_are_attained(noises):
    def is_noisy(x):
        disturbed = jnp.abs(x).sum(axis=(1, 2)) > 0
        return jnp.concatenate([~disturbed, disturbed], axis=-1).astype(jnp.float32)

    images = np.zeros((5, 8, 8, 1), np.float32)
    for label, change in ((0, 100), (1, -100)):
        labels = np.full(5, label)
        clean = is_noisy(images).argmax(axis=-1) == labels
        correct = frequency.noise_correct(is_noisy, images, labels, noises)
        assert frequency.accuracy_change(clean, correct).tolist() == [change] * 4


def test_errors(key):
    mask, images = np.ones((4, 4), bool), np.zeros((2, 4, 4, 1), np.float32)
    labels, noises = np.zeros(2, int), np.zeros((3, 4, 4, 1), np.float32)

    def correct(images, labels, noises):
        return frequency.noise_correct(lambda x: x, images, labels, noises)

    for call, error, message in [
        (lambda: frequency.band_masks(3, 10), ValueError, "from 1 to 9"),
        (lambda: frequency.band_masks(3, 0), ValueError, "from 1 to 9"),
        (lambda: frequency.band_masks((0, 3)), ValueError, "size"),
        (lambda: frequency.band_noise(key, mask, 1.0, (4, 5, 1)), ValueError, "mask"),
        (lambda: frequency.band_noise(key, mask, 1.0, (4, 4)), ValueError, "mask"),
        (lambda: frequency.band_noise(key, mask, -1.0, (4, 4, 1)), ValueError, "variance"),
        (lambda: frequency.band_noise(key, np.ones((4, 4)), 1.0, (4, 4, 1)), TypeError, "boolean"),
        (lambda: frequency.band_noises(key, mask, 1.0, 2, (4, 4, 1)), ValueError, "bands, height"),
        (lambda: frequency.band_noises(key, mask[None], 1.0, 0, (4, 4, 1)), ValueError, "draws"),
        (lambda: frequency.band_noises(key, mask[None], -1.0, 2, (4, 4, 1)), ValueError, "variance"),
        (lambda: correct(images[0], labels, noises), ValueError, "batch"),
        (lambda: correct(images, labels[:1], noises), ValueError, "labels"),
        (lambda: correct(images, labels, noises[:, :3]), ValueError, "one image"),
        (lambda: correct(images.astype(int), labels, noises), TypeError, "images must be floating"),
        (lambda: correct(images, labels, noises.astype(int)), TypeError, "noises must be floating"),
        (lambda: frequency.accuracy_change(labels == 0, labels == 0), ValueError, "draws"),
        (lambda: frequency.accuracy_change(labels == 0, np.ones((2, 3), bool)), ValueError, "draws"),
    ]:
        with pytest.raises(error, match=message):
            call()
