import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data._erasing import _DRAWS, _rectangle, random_erasing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rectangles(shape, area, ratio, count=8000):
    """Top, left, height and width of what is erased; all 0 where nothing is."""
    draws = np.random.default_rng(2).uniform(size=(count, _DRAWS)).astype(np.float32)
    covered = np.asarray(jax.jit(jax.vmap(lambda one: _rectangle(one, *shape, area, ratio)))(draws))
    rows, columns = covered.any(2), covered.any(1)
    np.testing.assert_array_equal(covered.sum((1, 2)), rows.sum(1) * columns.sum(1))  # one rectangle
    return rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)


def test_distribution_of_rectangles():
    shape = (64, 64)
    top, left, height, width = rectangles(shape, (0.02, 1 / 3), (0.3, 1 / 0.3))
    assert (height > 0).all()
    assert max(height.max(), width.max()) < 64

    rng = np.random.default_rng(0)
    area = 64**2 * rng.uniform(0.02, 1 / 3, 100_000)
    ratio = np.exp(rng.uniform(np.log(0.3), -np.log(0.3), 100_000))
    rows, columns = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
    fits = (rows < 64) & (columns < 64)
    quantiles = np.linspace(0.05, 0.95, 10)
    for found, expected in ((height, rows), (width, columns), (height * width, (rows * columns))):
        expected = expected[fits]
        np.testing.assert_allclose(
            np.quantile(found, quantiles), np.quantile(expected, quantiles), atol=0.03 * expected.max()
        )
    for first, length in ((top, height), (left, width)):
        place = (first + 0.5) / (65 - length)
        np.testing.assert_allclose(place.mean(), 0.5, atol=0.015)
        assert place.std() == pytest.approx(12**-0.5, abs=0.01)


def test_ratio_is_height_over_width():
    _, _, height, width = rectangles((60, 60), (0.1, 0.1), (2, 2), count=5)
    np.testing.assert_array_equal(height, 27)  # sqrt(360 * 2) = 26.8
    np.testing.assert_array_equal(width, 13)


def test_an_image_that_nothing_fits_into_stays():
    _, _, height, _ = rectangles((8, 8), (1, 1), (1, 1), count=5)
    np.testing.assert_array_equal(height, 0)


def test_pixel_noise_is_normal_in_normalised_space(key):
    images = jnp.full((64, 32, 32, 3), 2.0)  # noise is never 2 here
    augment = jax.jit(random_erasing(MEAN, STD, probability=1.0, clip=False))
    found = np.asarray(augment(key, images))
    erased = found[(found != 2).any(-1)]
    assert 0.1 < len(erased) / (64 * 32 * 32) < 0.25
    noise = (erased - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.04)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.04)
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(3), atol=0.04)
    assert np.quantile(noise, 0.975) == pytest.approx(1.96, abs=0.06)

    clipped = np.asarray(jax.jit(random_erasing(MEAN, STD, probability=1.0))(key, images))
    np.testing.assert_allclose(clipped[clipped != 2], np.clip(found, 0, 1)[found != 2], atol=1e-6)


def test_constant_mode_gives_the_mean_colour(key):
    images = jnp.zeros((8, 16, 16, 3))
    found = np.asarray(jax.jit(random_erasing(MEAN, STD, probability=1.0, mode="constant"))(key, images))
    colours = np.unique(found.reshape(-1, 3), axis=0)
    np.testing.assert_allclose(colours, [(0, 0, 0), MEAN], rtol=1e-6)


def test_probability_dtype_and_own_keys(key):
    images = jnp.full((2000, 8, 8, 1), 0.25, jnp.float16)
    keys = jax.random.split(key, 2000)
    augment = jax.jit(random_erasing([0.5], [0.25], probability=0.25))
    found = augment(keys, images)
    assert found.dtype == jnp.float16
    assert found.min() >= 0
    assert found.max() <= 1
    assert float((found != images).any((1, 2, 3)).mean()) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(augment(keys[5:9], images[5:9]), found[5:9])


def test_errors(key):
    with pytest.raises(ValueError, match="one number per channel each, got 3 and 1"):
        random_erasing(MEAN, [1])
    with pytest.raises(ValueError, match="probability must lie in"):
        random_erasing(MEAN, STD, probability=-0.1)
    with pytest.raises(ValueError, match="area must be two positive numbers of at most 1"):
        random_erasing(MEAN, STD, area=(0, 0.5))
    with pytest.raises(ValueError, match="ratio must be two positive numbers"):
        random_erasing(MEAN, STD, ratio=(1, float("inf")))
    with pytest.raises(ValueError, match="mode must be one of pixel, constant, got 'rand'"):
        random_erasing(MEAN, STD, mode="rand")
    with pytest.raises(ValueError, match=r"mean and std have 3 channels, the images have shape \(1, 4, 4, 1\)"):
        random_erasing(MEAN, STD)(key, jnp.zeros((1, 4, 4, 1)))
