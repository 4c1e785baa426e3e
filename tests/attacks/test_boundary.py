import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L1, L2, Linf
from jaxrobust.attacks._boundary import Start, _initial, _judge, _record, begin, boundary

SHAPE, BATCH = (2, 2, 2), 6
attack = functools.partial(boundary, steps=1500, tries=30)


def linear(parameters, images):
    """Two classes, separated by a plane."""
    weights, bias = parameters
    score = images.reshape(images.shape[0], -1) @ weights + bias
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def plane(bounds, dtype=np.float32):
    """Images around the middle of the box, the last one misclassified, and their distances to the plane."""
    low, high = bounds
    rng = np.random.default_rng(0)
    images = low + (high - low) * rng.uniform(0.3, 0.7, size=(BATCH, *SHAPE))
    weights = rng.normal(size=8)
    bias = -weights.sum() * (low + high) / 2
    score = images.reshape(BATCH, -1) @ weights + bias
    labels = (score > 0).astype(int)
    distances = np.abs(score) / np.linalg.norm(weights)
    labels[-1], distances[-1] = 1 - labels[-1], 0
    logits_fn = functools.partial(linear, (jnp.asarray(weights, dtype), jnp.asarray(bias, dtype)))
    return jnp.asarray(images, dtype), jnp.asarray(labels), logits_fn, distances


def check(threat, key, images, labels, logits_fn, distances):
    found = jax.tree.map(np.asarray, attack(threat).minimum_norm(key, logits_fn, images, labels))
    assert found.success.all()
    # The walk ends less than 0.2 per cent above, of which the overshoot is 0.01 per cent.
    np.testing.assert_allclose(found.distances, distances, rtol=2e-3)
    assert (found.distances >= distances * (1 - 1e-5)).all()
    np.testing.assert_array_equal(found.images[-1], images[-1])
    np.testing.assert_array_equal(found.images, np.clip(found.images, *(threat.bounds or (None, None))))
    assert found.images.dtype == found.distances.dtype == images.dtype

    adversarial = attack(threat)(key, logits_fn, images, labels)
    inside = found.distances <= threat.eps
    assert 1 < inside.sum() < BATCH
    np.testing.assert_array_equal(adversarial, np.where(inside[:, None, None, None], found.images, images))
    np.testing.assert_array_equal(logits_fn(adversarial).argmax(-1) != labels, inside)


def test_reaches_the_distance_to_the_plane(key):
    images, labels, logits_fn, distances = plane((0.0, 1.0))
    check(L2(float(np.median(distances)) + 0.01), key, images, labels, logits_fn, distances)


def test_reaches_the_distance_to_the_plane_without_a_box(float64, key):
    images, labels, logits_fn, distances = plane((-1.0, 3.0), np.float64)
    check(L2(float(np.median(distances)) + 0.01, bounds=None), key, images, labels, logits_fn, distances)


def test_same_in_any_order_and_for_half_a_batch_inside_jit(key):
    images, labels, logits_fn, _ = plane((0.0, 1.0))
    keys = jax.random.split(key, BATCH)
    run = attack(L2(1.0)).minimum_norm
    whole = run(keys, logits_fn, images, labels)
    again = run(keys[::-1], logits_fn, images[::-1], labels[::-1])
    np.testing.assert_array_equal(again.images[::-1], whole.images)
    compiled = jax.jit(lambda keys, images, labels: run(keys, logits_fn, images, labels))
    half = compiled(keys[3:], images[3:], labels[3:])
    np.testing.assert_allclose(half.distances, whole.distances[3:], rtol=2e-3)


def test_start_from_given_images(key):
    images, labels, logits_fn, distances = plane((0.0, 1.0))
    opposite = images[jnp.asarray([int(jnp.argmax(labels[:-1] != label)) for label in labels])]

    def start(key, logits_fn, images, labels):
        return opposite

    problem, first = begin(L2(1.0), key, logits_fn, images, labels, tries=0, start=start)
    assert bool(first.found.all())
    np.testing.assert_array_equal(first.active, np.arange(BATCH) < BATCH - 1)
    # On the line to the given image, a thousandth of it or less behind the plane.
    line, way = (
        np.asarray(x).reshape(BATCH, -1) for x in (opposite - images, first.adversarial.reshape(images.shape) - images)
    )
    np.testing.assert_allclose(
        way, line * (way * line).sum(-1, keepdims=True) / (line**2).sum(-1, keepdims=True), atol=1e-6
    )
    score = logits_fn(first.adversarial.reshape(images.shape))[:, 1]
    gap = logits_fn(opposite)[:, 1] - logits_fn(images)[:, 1]
    assert bool((jnp.abs(score) <= jnp.abs(gap) / 1000)[:-1].all())
    assert bool(problem.fooled(first.adversarial).all())
    found = boundary(L2(1.0), steps=1500, tries=0, start=start).minimum_norm(key, logits_fn, images, labels)
    np.testing.assert_allclose(found.distances, distances, rtol=2e-3)


def test_step_sizes_follow_the_rates_of_success():
    batch = jnp.zeros(3, bool)
    outcomes = _initial(Start(jnp.zeros((3, 4)), batch, batch), 0.01, 0.01).source
    rates = jnp.asarray([0.05, 0.2, 0.9])
    always = jnp.asarray(True)
    for number in range(29):
        outcomes = _record(outcomes, number < 30 * rates, always)
    assert _judge(outcomes, 0.1, 0.25, 1.5)[1].tolist() == [1.0, 1.0, 1.0]
    outcomes = _record(outcomes, batch, jnp.asarray(False))  # not noted
    assert outcomes.number.tolist() == [29, 29, 29]
    judged, factor = _judge(_record(outcomes, batch, always), 0.1, 0.25, 1.5)
    np.testing.assert_allclose(factor, [1 / 1.5, 1.0, 1.5], rtol=1e-6)
    assert judged.number.tolist() == [0, 30, 0]


def constant_or_broken(images):
    logits = jnp.zeros((images.shape[0], 3), images.dtype)
    return jnp.where(images.reshape(images.shape[0], -1)[:, :1] == 0.25, jnp.nan, logits)


def test_nothing_to_find(key):
    images = jnp.full((2, 3), 0.5).at[1].set(0.25)
    attack = boundary(L2(10.0), steps=20, tries=3)
    found = attack.minimum_norm(key, constant_or_broken, images, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(found.images, images)
    assert found.distances.tolist() == [np.inf, 0.0]


def test_one_pixel_and_one_example(key):
    # The nearest image that is not above one half; the sphere around the image has two points only.
    found = boundary(L2(1.0), steps=300, tries=20).minimum_norm(
        key, one_pixel, jnp.full((1, 1, 1, 1), 0.75), jnp.zeros(1, jnp.int32)
    )
    np.testing.assert_allclose(found.distances, [0.25], rtol=1e-3)


def one_pixel(images):
    return jnp.concatenate([images.reshape(-1, 1), jnp.full((images.shape[0], 1), 0.5, images.dtype)], axis=1)


def test_bad_arguments_say_what_to_do():
    for threat in (Linf(0.1), L1(1.0)):
        with pytest.raises(ValueError, match="hop_skip_jump"):
            boundary(threat)
    with pytest.raises(ValueError, match="check_every at least 1"):
        boundary(L2(1.0), check_every=0)
    with pytest.raises(ValueError, match="step_adaptation above 1"):
        boundary(L2(1.0), step_adaptation=1.0)
