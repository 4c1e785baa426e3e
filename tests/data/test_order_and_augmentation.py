import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust import data
from jaxrobust.data._augment import _rotate

rotate = jax.jit(_rotate)


def test_each_epoch_is_another_permutation():
    orders = [data.epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(50))
    for first, second in itertools.combinations(orders, 2):
        assert (first != second).any()
    np.testing.assert_array_equal(orders[0], data.epoch_order(50, 0, 0))


def test_last_partial_batch():
    full, rest = data.epoch_batches(10, 4, 0, 0)
    assert full.shape == (2, 4)
    assert rest.shape == (2,)
    assert sorted([*full.ravel(), *rest]) == list(range(10))
    assert data.epoch_batches(10, 4, 0, 0, drop_last=True)[1] is None
    assert data.epoch_batches(8, 4, 0, 0)[1] is None
    assert [data.steps_per_epoch(10, 4, drop) for drop in (False, True)] == [3, 2]


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_iterator_continues_anywhere(start):
    images, labels = np.arange(10, dtype=np.float32)[:, None], np.arange(10)

    def batches(start_step):
        return list(data.batches(images, labels, 4, seed=0, epochs=2, start_step=start_step))

    whole, tail = batches(0), batches(start)
    assert len(whole) == 6
    for expected, found in zip(whole[start:], tail, strict=True):
        np.testing.assert_array_equal(expected["labels"], found["labels"])
        np.testing.assert_array_equal(found["images"][:, 0], found["labels"])


def test_iterator_follows_epoch_batches():
    images, labels = np.zeros((10, 1)), np.arange(10)
    found = [batch["labels"] for batch in data.batches(images, labels, 4, seed=3, epochs=1)]
    full, rest = data.epoch_batches(10, 4, 3, 0)
    for expected, batch in zip([*full, rest], found, strict=True):
        np.testing.assert_array_equal(labels[expected], batch)


def test_iterator_errors():
    with pytest.raises(ValueError, match="differ in length: 3 and 2"):
        data.batches(np.zeros((3, 1)), np.zeros(2), 2, seed=0, epochs=1)
    with pytest.raises(ValueError, match="no batch of 5"):
        data.batches(np.zeros((3, 1)), np.zeros(3), 5, seed=0, epochs=1, drop_last=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        data.epoch_batches(3, 0, 0, 0)


IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(40, 6, 6, 1)), jnp.float32)


def test_flip_mirrors_about_half(key):
    flipped = data.random_flip(key, IMAGES)
    same, mirrored = (np.isclose(flipped, other).all((1, 2, 3)) for other in (IMAGES, IMAGES[:, :, ::-1]))
    assert (same ^ mirrored).all()
    assert 8 < mirrored.sum() < 32


def test_crop_shifts_with_zeros(key):
    cropped = np.asarray(data.random_crop(key, IMAGES, padding=2))
    assert cropped.shape == IMAGES.shape
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for image, source in zip(cropped, padded, strict=True):
        windows = [source[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
        assert any(np.array_equal(image, window) for window in windows)
    np.testing.assert_array_equal(data.random_crop(key, IMAGES, padding=0), IMAGES)


@pytest.mark.parametrize("degrees", [-150.0, -90.0, -33.0, -15.0, 0.0, 2.5, 15.0, 90.0])
@pytest.mark.parametrize("shape", [(32, 32, 3), (10, 14, 3)])
def test_rotation_is_that_of_pil(degrees, shape):
    """Nearest neighbour, zeros outside. PIL computes in fixed point, which may decide a tie otherwise."""
    image = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.NEAREST))
    found = np.asarray(rotate(image, np.float32(np.radians(degrees))))
    assert found.dtype == np.uint8
    assert (found != expected).any(-1).sum() <= 2


def test_rotation_is_random_within_the_limit(key):
    """A bright pixel on the right of the centre tells the angle."""
    images = np.zeros((200, 65, 65, 1), np.float32)
    images[:, 32, 62] = 1
    rows, columns = np.nonzero(np.asarray(jax.jit(data.random_rotation(15))(key, images))[..., 0])[1:]
    angles = np.degrees(np.arctan2(32.0 - rows, columns - 32.0))
    assert np.abs(angles).max() < 16
    assert angles.min() < -12
    assert angles.max() > 12
    assert abs(angles.mean()) < 2


def test_rotation_limits(key):
    np.testing.assert_array_equal(jax.jit(data.random_rotation(0))(key, IMAGES), IMAGES)
    assert jax.eval_shape(data.random_rotation(90), key, IMAGES.astype(jnp.float16)).dtype == jnp.float16
    for degrees in (-1, 181):
        with pytest.raises(ValueError, match=r"degrees must lie in \[0, 180\]"):
            data.random_rotation(degrees)


@pytest.mark.parametrize(
    "augment",
    [
        data.random_flip,
        data.random_crop,
        data.random_rotation(15),
        data.compose(data.random_flip, data.random_crop, data.random_rotation(15)),
    ],
)
def test_augmentation_depends_on_the_examples_own_key(augment, key):
    keys = jax.random.split(key, 40)
    whole = jax.jit(augment)(keys, IMAGES)
    np.testing.assert_array_equal(augment(keys[5:9], IMAGES[5:9]), whole[5:9])
