import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust.data._resized_crop import _resize_weights, _window, random_resized_crop

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


weights_of = jax.jit(_resize_weights, static_argnums=(2, 3, 4))


def windows(height, width, count=20_000, scale=SCALE, ratio=RATIO, keys=None):
    keys = jax.random.split(jax.random.key(1), count) if keys is None else keys
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(_window(key, height, width, scale, ratio))))
    return np.asarray(draw(keys)).T


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("start", "length", "size"), [(0, 30, 30), (7, 19, 8), (3, 6, 17), (29, 1, 4), (0, 30, 1)])
def test_resizing_is_that_of_pil_after_cutting(interpolation, start, length, size):
    values = np.random.default_rng(0).uniform(size=(30, 5)).astype(np.float32)
    cut = Image.fromarray(values[start : start + length])
    expected = np.asarray(cut.resize((5, size), FILTERS[interpolation]))
    weights = weights_of(start, length, 30, size, interpolation)
    np.testing.assert_allclose(weights @ values, expected, atol=2e-6)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(np.asarray(weights), np.s_[start : start + length], axis=1), 0)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_whole_augmentation_is_crop_and_resize(interpolation, key):
    images = np.random.default_rng(0).uniform(size=(3, 20, 26, 2)).astype(np.float32)
    keys = jax.random.split(key, 3)
    found = jax.jit(random_resized_crop(11, interpolation=interpolation))(keys, images)
    for image, window, result in zip(images, windows(20, 26, keys=keys).T, np.asarray(found), strict=True):
        top, left, height, width = window
        for channel in range(2):
            cut = Image.fromarray(image[top : top + height, left : left + width, channel])
            expected = np.clip(np.asarray(cut.resize((11, 11), FILTERS[interpolation])), 0, 1)
            np.testing.assert_allclose(result[..., channel], expected, atol=5e-6)


def test_shape_dtype_and_range(key):
    images = (jax.random.uniform(key, (6, 10, 13, 3)) > 0.5).astype(jnp.float16)
    found = jax.jit(random_resized_crop(7))(key, images)
    assert found.shape == (6, 7, 7, 3)
    assert found.dtype == jnp.float16
    assert found.min() == 0
    assert found.max() == 1


def test_whole_image_at_its_own_size_is_unchanged(key):
    images = jax.random.uniform(key, (2, 9, 9, 3))
    augment = jax.jit(random_resized_crop(9, scale=(1, 1), ratio=(1, 1)))
    np.testing.assert_allclose(augment(key, images), images, atol=1e-6)


def test_distribution_of_windows():
    """At 400 by 400 pixels rounding is small; what does not fit is drawn again."""
    top, left, height, width = windows(400, 400)
    assert ((top >= 0) & (left >= 0) & (top + height <= 400) & (left + width <= 400)).all()
    share, log_ratio = height * width / 400**2, np.log(width / height)

    rng = np.random.default_rng(0)
    area = rng.uniform(0.08, 1, 200_000)
    logs = rng.uniform(math.log(3 / 4), math.log(4 / 3), 200_000)
    fits = (area * np.exp(np.abs(logs)) <= 1).nonzero()[0]
    quantiles = np.linspace(0.02, 0.98, 25)
    for found, expected in ((share, area[fits]), (log_ratio, logs[fits])):
        np.testing.assert_allclose(np.quantile(found, quantiles), np.quantile(expected, quantiles), atol=0.012)
    # The place is uniform among the 401 - height (or width) possible ones.
    for first, length in ((top, height), (left, width)):
        place = (first + 0.5) / (401 - length)
        np.testing.assert_allclose(np.quantile(place[length < 350], quantiles), quantiles, atol=0.015)


def test_a_single_pixel_wide_range_gives_every_place_equally_often():
    top, left, height, width = windows(4, 4, scale=(0.25, 0.25), ratio=(1, 1))
    assert (height == 2).all()
    assert (width == 2).all()
    counts = np.bincount(top * 3 + left, minlength=9)
    np.testing.assert_allclose(counts / counts.sum(), 1 / 9, atol=0.01)


@pytest.mark.parametrize(
    ("shape", "ratio", "expected"),
    [
        ((10, 100), (3 / 4, 4 / 3), (0, 43, 10, 13)),
        ((100, 10), (3 / 4, 4 / 3), (43, 0, 13, 10)),
        ((10, 12), (0.1, 0.1), (0, 5, 10, 1)),
    ],
)
def test_central_window_if_nothing_fits(shape, ratio, expected):
    """A window as large as a long image fits in no shape that is allowed."""
    found = windows(*shape, count=20, scale=(1, 1), ratio=ratio)
    np.testing.assert_array_equal(found, np.broadcast_to(np.array(expected)[:, None], (4, 20)))


def test_augmentation_depends_on_the_examples_own_key(key):
    images = jax.random.uniform(key, (10, 8, 8, 3))
    keys = jax.random.split(key, 10)
    augment = jax.jit(random_resized_crop(6))
    np.testing.assert_allclose(augment(keys[4:7], images[4:7]), augment(keys, images)[4:7], atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        random_resized_crop(0)
    with pytest.raises(ValueError, match="scale must be two positive numbers of at most 1, the smaller first"):
        random_resized_crop(8, scale=(0.5, 1.5))
    with pytest.raises(ValueError, match=r"ratio must be two positive numbers, the smaller first, got \(2, 1\)"):
        random_resized_crop(8, ratio=(2, 1))
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic, got 'area'"):
        random_resized_crop(8, interpolation="area")
