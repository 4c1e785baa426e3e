import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxrobust.attacks._spatial import _transform, spatial

SHAPE, BATCH, CLASSES = (6, 5, 2), 7, 4


def linear(parameters, images):
    weights, bias = parameters
    return images.reshape(images.shape[0], -1) @ weights + bias


@pytest.fixture(scope="module")
def problem():
    """The last image is misclassified."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(np.prod(SHAPE), CLASSES)), jnp.float32)
    logits_fn = functools.partial(linear, (weights, jnp.zeros(CLASSES)))
    labels = logits_fn(images).argmax(-1).at[-1].add(1) % CLASSES
    return images, labels, logits_fn


@pytest.mark.parametrize("size", [4, 5])
def test_quarter_turns_are_those_of_numpy(size):
    image = np.random.default_rng(size).uniform(size=(size, size, 2)).astype(np.float32)
    for turns in (-2, -1, 1, 2):
        turned = _transform(jnp.asarray(image), jnp.asarray([turns * np.pi / 2, 0, 0], jnp.float32))
        np.testing.assert_allclose(turned, np.rot90(image, turns), atol=1e-5)


def test_shifts_let_zeros_in():
    image = np.random.default_rng(0).uniform(size=SHAPE).astype(np.float32)
    for down, right in ((0, 0), (2, 0), (0, -1), (-3, 4), (6, 0)):
        expected = ndimage.shift(image, (down, right, 0), order=0, mode="constant")
        shifted = _transform(jnp.asarray(image), jnp.asarray([0, down, right], jnp.float32))
        np.testing.assert_array_equal(shifted, expected)
    half = _transform(jnp.asarray(image), jnp.asarray([0, 0.5, 0], jnp.float32))
    above = np.concatenate([np.zeros_like(image[:1]), image[:-1]])
    np.testing.assert_allclose(half, (image + above) / 2, atol=1e-6)


def rotate_then_shift(image, angle, down, right):
    """The same by SciPy: it wants the matrix and offset from the result's coordinates to those of the source."""
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.asarray([[cosine, sine], [-sine, cosine]])
    centre = (np.asarray(image.shape[:2]) - 1) / 2
    offset = centre - matrix @ (centre + np.asarray([down, right]))
    channels = [
        ndimage.affine_transform(image[..., channel], matrix, offset, order=1, mode="grid-constant")
        for channel in range(image.shape[-1])
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_worst_of_the_grid_is_that_of_brute_force(scale, problem, key):
    images, labels, logits_fn = problem
    weights, bias = logits_fn.args[0]
    # A constant in favour of the label leaves some images without a misclassified transformation.
    logits_fn = functools.partial(linear, (weights, bias + scale * jnp.asarray([3.0, 2.0, 1.0, 0.0])))
    labels = logits_fn(images).argmax(-1).at[-1].add(1) % CLASSES
    attack = spatial(max_rotation=40, max_translation=1.5, grid=(5, 3, 2))
    adversarial = np.asarray(attack(key, logits_fn, images, labels))
    angles, downs = np.deg2rad([-40, -20, 0, 20, 40]), [-1.5, 0, 1.5]
    outcomes = []
    for index, (image, label) in enumerate(zip(np.asarray(images), np.asarray(labels), strict=True)):
        candidates = [image] + [rotate_then_shift(image, *way) for way in itertools.product(angles, downs, [-1.5, 1.5])]
        logits = np.asarray(logits_fn(jnp.asarray(np.stack(candidates), jnp.float32)))
        wrong = logits.argmax(-1) != label
        loss = np.log(np.exp(logits).sum(-1)) - logits[:, label]
        best = 0 if wrong[0] else max(range(len(candidates)), key=lambda k: (wrong[k], loss[k]))
        outcomes.append(bool(wrong[best]))
        np.testing.assert_allclose(adversarial[index], candidates[best], atol=1e-5)
    np.testing.assert_array_equal(adversarial[-1], images[-1])
    assert outcomes[-1]
    assert all(outcomes) if scale < 1 else not all(outcomes)


def test_the_image_itself_where_nothing_is_varied(problem, key):
    images, labels, logits_fn = problem
    for attack in (
        spatial(grid=(1, 1, 1)),
        spatial(max_rotation=0, max_translation=0, mode="random", samples=2),
    ):
        np.testing.assert_array_equal(attack(key, logits_fn, images, labels), images)


def test_random_transformations(problem, key):
    images, labels, logits_fn = problem
    attack = spatial(mode="random", samples=8, max_rotation=20, max_translation=1)
    keys = jax.random.split(key, BATCH)
    adversarial = attack(keys, logits_fn, images, labels)
    np.testing.assert_array_equal(attack(keys, logits_fn, images, labels), adversarial)
    again = attack(keys[::-1], logits_fn, images[::-1], labels[::-1])
    np.testing.assert_array_equal(again[::-1], adversarial)
    part = jax.jit(lambda keys, images, labels: attack(keys, logits_fn, images, labels))
    np.testing.assert_allclose(part(keys[2:4], images[2:4], labels[2:4]), adversarial[2:4], atol=1e-5)
    before, after = (logits_fn(x).argmax(-1) != labels for x in (images, adversarial))
    assert bool((after >= before).all())
    assert int(after.sum()) > int(before.sum())


def test_zeros_come_in_whatever_the_bounds_are(problem, key):
    images, _, logits_fn = problem
    images = 1 + images
    labels = logits_fn(images).argmax(-1)
    attack = functools.partial(spatial, max_rotation=0, max_translation=6, grid=(1, 2, 1))  # all shifted out
    free = attack(bounds=None)(key, logits_fn, images, labels)
    moved = (free != images).any((1, 2, 3))
    assert bool(moved.any())
    assert not free[moved].any()
    clipped = attack(bounds=(1.0, 2.0))(key, logits_fn, images, labels)
    assert float(clipped.min()) >= 1


def constant_or_broken(images):
    logits = jnp.zeros((images.shape[0], 3), images.dtype)
    return jnp.where(images.reshape(images.shape[0], -1)[:, :1] == 0.25, jnp.nan, logits)


def test_nothing_to_find_in_one_pixel_and_float64(float64, key):
    images = jnp.full((2, 1, 1, 1), 0.5, jnp.float64).at[1].set(0.25)
    adversarial = spatial(grid=(3, 3, 3))(key, constant_or_broken, images, jnp.zeros(2, int))
    assert adversarial.dtype == jnp.float64
    np.testing.assert_array_equal(adversarial, images)


def test_bad_arguments_say_what_to_do(key):
    with pytest.raises(ValueError, match="grid, random"):
        spatial(mode="all")
    with pytest.raises(ValueError, match="max_rotation"):
        spatial(max_rotation=-1)
    with pytest.raises(ValueError, match="three numbers"):
        spatial(grid=(3, 3))
    with pytest.raises(ValueError, match="height, width, channels"):
        spatial()(key, constant_or_broken, jnp.zeros((2, 4)), jnp.zeros(2, jnp.int32))
