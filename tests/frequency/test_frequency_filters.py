"""Energy and frequency filters: published counts, symmetries, projections."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import frequency

PERCENTS = (10, 30, 50, 70, 90)

ENERGY_COUNTS = {
    8: (57, 45, 32, 19, 7),
    28: (705, 549, 392, 235, 79),
    32: (921, 717, 512, 307, 103),
    224: (45158, 35123, 25088, 15053, 5018),
}
RADIUS_COUNTS = {
    28: (704, 547, 390, 234, 75),
    32: (921, 713, 510, 304, 102),
    224: (45143, 35118, 25064, 15050, 5005),
}


def random_images(*shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize("size", ENERGY_COUNTS)
def test_energy_mask_keeps_the_published_counts(size):
    rng = np.random.default_rng(size)
    distinct = rng.permutation(np.arange(1, size * size + 1)) * rng.choice([-1, 1], size * size)
    coefficients = jnp.asarray(distinct.reshape(size, size, 1), jnp.float32)
    masks = jax.jit(jax.vmap(frequency.energy_mask, in_axes=(None, 0)))(coefficients, jnp.asarray(PERCENTS))
    assert tuple(masks.sum(axis=(1, 2)).tolist()) == ENERGY_COUNTS[size]


@pytest.mark.parametrize("percent", [0.5, 10, 33.3, 50, 99.9])
def test_energy_mask_is_above_the_interpolated_percentile(percent):
    coefficients = frequency.dct2(random_images(2, 8, 6, 3) - 0.5)
    magnitudes = np.abs(np.asarray(coefficients)).mean(axis=-1)
    threshold = np.percentile(magnitudes.astype(np.float64), percent, axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(frequency.energy_mask(coefficients, percent), magnitudes > threshold)


def test_energy_mask_removes_all_that_equals_the_percentile():
    coefficients = jnp.asarray([[3.0, 1.0], [1.0, 1.0]])[..., None]
    assert frequency.energy_mask(coefficients, 10).tolist() == [[True, False], [False, False]]


def test_energy_mask_is_shared_by_channels():
    coefficients = jnp.asarray([[[9.0, 0.0], [1.0, 1.0]], [[0.0, 5.0], [2.0, -2.0]]])
    assert frequency.energy_mask(coefficients, 50).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("size", RADIUS_COUNTS)
def test_radius_rule_keeps_the_counts_of_the_released_scan(size):
    scan = jax.jit(frequency.frequency_mask, static_argnums=(0, 2))
    masks = [scan(size, percent, "radius") for percent in PERCENTS]
    assert tuple(int(mask.sum()) for mask in masks) == RADIUS_COUNTS[size]
    for mask in masks:
        np.testing.assert_array_equal(mask, mask.T)


def test_radius_rule_keeps_whole_radii():
    mask = np.asarray(frequency.frequency_mask(8, 40, "radius"))
    radius = np.hypot(np.arange(8)[:, None], np.arange(8))
    assert radius[mask].max() < radius[~mask].min()


@pytest.mark.parametrize("size", [8, 28, 32, 224])
def test_count_rule_is_near_the_wanted_share(size):
    for percent in PERCENTS:
        kept = int(frequency.frequency_mask(size, percent).sum())
        assert kept == size * size - size * size * percent // 100
        if size >= 28:
            assert kept / size**2 == pytest.approx(1 - percent / 100, rel=0.01)


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("rule", ["count", "radius"])
def test_frequency_masks_are_nested_low_pass_masks(rule, size):
    percents = [0, 0.01, 1, 10, 30, 50, 70, 90, 99, 99.9, 99.9999999]
    masks = [np.asarray(frequency.frequency_mask(size, percent, rule)) for percent in percents]
    assert masks[0].all()
    for wider, narrower in itertools.pairwise(masks):
        assert narrower[0, 0]
        assert not (narrower & ~wider).any()
    assert masks[-1].sum() == 1
    # The inequality as printed would do the opposite: keep the last coefficient and remove [0, 0].
    assert not any(mask[-1, -1] for mask in masks[3:])


def test_radial_order_is_stable_and_sorted_in_rectangles():
    order = frequency.radial_order((5, 7))
    row, column = np.divmod(order, 7)
    squared = row**2 + column**2
    assert sorted(order.tolist()) == list(range(35))
    assert (np.diff(squared) >= 0).all()
    assert (np.diff(order)[np.diff(squared) == 0] > 0).all()


@pytest.mark.parametrize("rule", ["count", "radius"])
def test_traced_percent_gives_the_same_filters(rule):
    images = random_images(2, 8, 6, 3)
    by_energy = jax.jit(frequency.filter_by_energy)
    by_frequency = jax.jit(lambda x, percent: frequency.filter_by_frequency(x, percent, rule))
    for percent in (0.0, 12.5, 50.0, 95.0):
        np.testing.assert_allclose(by_energy(images, percent), frequency.filter_by_energy(images, percent), atol=1e-6)
        np.testing.assert_allclose(
            by_frequency(images, percent), frequency.filter_by_frequency(images, percent, rule), atol=1e-6
        )


def test_filters_delete_the_masked_coefficients_and_nothing_else():
    images = random_images(2, 8, 6, 3)
    coefficients = frequency.dct2(images)
    for filtered, mask in [
        (frequency.filter_by_energy(images, 70), frequency.energy_mask(coefficients, 70)),
        (frequency.filter_by_frequency(images, 70), frequency.frequency_mask((8, 6), 70)),
        (frequency.filter_by_frequency(images, 70, "radius"), frequency.frequency_mask((8, 6), 70, "radius")),
    ]:
        expected = np.where(np.asarray(mask)[..., None], coefficients, 0)
        np.testing.assert_allclose(frequency.dct2(filtered), expected, atol=2e-6)


@pytest.mark.parametrize("size", [6, 28])
@pytest.mark.parametrize("rule", ["count", "radius"])
@settings(max_examples=10, deadline=None)
@given(st.floats(0, 99.9), st.floats(0, 99.9), st.integers(0, 2**31 - 1))
def test_frequency_filter_is_a_projection(rule, size, percent, other, seed):
    x, y = np.random.default_rng(seed).random((2, size, size, 1), dtype=np.float32)

    def filtered(image, percent=percent):
        return np.asarray(frequency.filter_by_frequency(image, percent, rule))

    once = filtered(x)
    np.testing.assert_allclose(filtered(once), once, atol=5e-6)
    np.testing.assert_allclose(filtered(2 * x - 3 * y), 2 * once - 3 * filtered(y), atol=2e-5)
    assert np.linalg.norm(once) <= np.linalg.norm(x) * (1 + 1e-6)
    assert np.linalg.norm(frequency.filter_by_energy(x, percent)) <= np.linalg.norm(x) * (1 + 1e-6)
    # The constant part stays, and of two filters the narrower one has the last word.
    np.testing.assert_allclose(once.mean(), x.mean(), rtol=1e-5)
    np.testing.assert_allclose(filtered(once, other), filtered(x, max(percent, other)), atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.floats(2, 99), st.integers(0, 2**31 - 1))
def test_energy_filter_is_the_best_approximation_of_its_count(percent, seed):
    image = np.random.default_rng(seed).random((6, 6, 1), dtype=np.float32)
    coefficients = frequency.dct2(image)
    kept = int(np.sum(frequency.energy_mask(coefficients, percent)))
    low_pass = np.zeros((36, 1), dtype=np.float32)
    low_pass[frequency.radial_order(6)[:kept]] = 1
    by_frequency = frequency.idct2(low_pass.reshape(6, 6, 1) * np.asarray(coefficients))
    by_energy = frequency.filter_by_energy(image, percent)
    assert np.linalg.norm(image - by_energy) <= np.linalg.norm(image - by_frequency) + 1e-5


def test_filters_commute_with_the_horizontal_flip():
    images = random_images(2, 8, 6, 3)
    by_radius = functools.partial(frequency.filter_by_frequency, rule="radius")
    for filtered in (frequency.filter_by_energy, frequency.filter_by_frequency, by_radius):
        for percent in (10, 60, 95):
            flipped = filtered(images[:, :, ::-1], percent)
            np.testing.assert_allclose(flipped, filtered(images, percent)[:, :, ::-1], atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (2, 28, 28, 1)])
def test_energy_mask_ignores_the_horizontal_flip(shape):
    images = np.random.default_rng(0).random(shape)
    coefficients, flipped = frequency.dct2(images), frequency.dct2(images[:, :, ::-1])
    assert np.abs(flipped - coefficients).max() > 0.1
    np.testing.assert_allclose(np.abs(flipped), np.abs(coefficients), rtol=0, atol=1e-13)
    for percent in (0.5, *PERCENTS, 99):
        mask = frequency.energy_mask(coefficients, percent)
        np.testing.assert_array_equal(frequency.energy_mask(flipped, percent), mask)


def test_constant_images_pass_the_filters():
    images = np.zeros((2, 8, 6, 3), np.float32)
    images[0] = 0.7
    for percent in (10, 50, 95):
        np.testing.assert_allclose(frequency.filter_by_energy(images, percent), images, atol=1e-6)
        np.testing.assert_allclose(frequency.filter_by_frequency(images, percent), images, atol=1e-6)


def test_nothing_removed_returns_the_very_images():
    images = random_images(2, 8, 6, 3)
    np.testing.assert_array_equal(frequency.filter_by_energy(images, 0), images)
    np.testing.assert_array_equal(frequency.filter_by_frequency(images, 0), images)
    np.testing.assert_array_equal(frequency.filter_by_frequency(images, 0, "radius"), images)


def test_vanishing_percentage_removes_the_smallest_coefficient_only():
    images = random_images(1, 6, 6, 1)
    coefficients = frequency.dct2(images)
    assert np.sum(frequency.energy_mask(coefficients, 1e-3)) == 35
    distance = np.linalg.norm(images - frequency.filter_by_energy(images, 1e-3))
    assert distance == pytest.approx(np.abs(coefficients).min(), abs=1e-6)


@pytest.mark.usefixtures("float64")
def test_double_precision_is_kept():
    images = np.random.default_rng(0).random((2, 6, 6, 1))
    filtered = frequency.filter_by_energy(images, 50)
    assert filtered.dtype == jnp.float64
    kept = np.asarray(frequency.energy_mask(frequency.dct2(images), 50))
    np.testing.assert_allclose(np.asarray(frequency.dct2(filtered))[~kept], 0, atol=1e-14)


@pytest.mark.parametrize("percent", [-1, 100, 120, float("nan")])
def test_percentages_out_of_range(percent):
    images = random_images(1, 4, 4, 1)
    for call in (
        lambda: frequency.filter_by_energy(images, percent),
        lambda: frequency.filter_by_frequency(images, percent),
        lambda: frequency.energy_mask(images, percent),
        lambda: frequency.frequency_mask(4, percent, "radius"),
    ):
        with pytest.raises(ValueError, match="percentage removed"):
            call()


def test_other_errors():
    with pytest.raises(ValueError, match="unknown rule 'area'"):
        frequency.frequency_mask(4, 10, "area")
    with pytest.raises(ValueError, match="size"):
        frequency.radial_order((4, 0))
    with pytest.raises(ValueError, match="channel axis"):
        frequency.filter_by_energy(jnp.zeros((4, 4)), 10)
    with pytest.raises(TypeError, match="floating point"):
        frequency.filter_by_frequency(jnp.zeros((4, 4, 1), jnp.uint8), 10)
