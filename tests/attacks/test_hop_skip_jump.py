import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L1, L2, Linf
from jaxrobust.attacks._hop_skip_jump import _bisections, _schedule, hop_skip_jump

SHAPE, BATCH = (2, 2, 2), 6
attack = functools.partial(hop_skip_jump, steps=12, tries=20)
NORMS = {"L2": (L2, 2), "Linf": (Linf, 1)}  # with the order of the dual norm


def linear(parameters, images):
    """Two classes, separated by a plane."""
    weights, bias = parameters
    score = images.reshape(images.shape[0], -1) @ weights + bias
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def plane(dual, bounds, dtype=np.float32):
    """Images around the middle of the box, the last one misclassified, and their distances to the plane."""
    low, high = bounds
    rng = np.random.default_rng(0)
    images = low + (high - low) * rng.uniform(0.35, 0.65, size=(BATCH, *SHAPE))
    weights = rng.normal(size=8)
    bias = -weights.sum() * (low + high) / 2
    score = images.reshape(BATCH, -1) @ weights + bias
    labels = (score > 0).astype(int)
    distances = np.abs(score) / np.linalg.norm(weights, dual)
    labels[-1], distances[-1] = 1 - labels[-1], 0
    logits_fn = functools.partial(linear, (jnp.asarray(weights, dtype), jnp.asarray(bias, dtype)))
    return jnp.asarray(images, dtype), jnp.asarray(labels), logits_fn, distances


@pytest.mark.parametrize(("norm", "bounds"), [("L2", (0.0, 1.0)), ("Linf", (-1.0, 3.0))])
def test_reaches_the_distance_to_the_plane(norm, bounds, key):
    make, dual = NORMS[norm]
    images, labels, logits_fn, distances = plane(dual, bounds)
    threat = make(float(np.median(distances)) * 1.02, bounds=bounds)
    found = jax.tree.map(np.asarray, attack(threat).minimum_norm(key, logits_fn, images, labels))
    assert found.success.all()
    # The estimate of the normal is off by a few degrees, which costs up to a per cent.
    np.testing.assert_allclose(found.distances, distances, rtol=1.5e-2)
    assert (found.distances >= distances * (1 - 1e-5)).all()
    np.testing.assert_array_equal(found.images[-1], images[-1])
    np.testing.assert_array_equal(found.images, np.clip(found.images, *bounds))

    adversarial = attack(threat)(key, logits_fn, images, labels)
    inside = found.distances <= threat.eps
    assert 1 < inside.sum() < BATCH
    np.testing.assert_array_equal(adversarial, np.where(inside[:, None, None, None], found.images, images))
    np.testing.assert_array_equal(logits_fn(adversarial).argmax(-1) != labels, inside)


def curved(images):
    """Class 1 inside a ball around the origin."""
    score = jnp.square(images.reshape(images.shape[0], -1)).sum(-1)
    return jnp.stack([score, jnp.ones_like(score)], axis=1)


def test_reaches_a_curved_boundary_from_given_images_without_a_box(float64, key):
    images = jnp.asarray([[2.0, 1.0, 0.0], [0.5, -1.5, 1.0], [0.6, 0.3, 0.2]], jnp.float64)
    labels = jnp.asarray([0, 0, 1])

    def start(key, logits_fn, images, labels):  # random images rarely hit a ball
        return jnp.zeros_like(images)

    found = attack(L2(1.0, bounds=None), start=start).minimum_norm(key, curved, images, labels)
    assert found.images.dtype == found.distances.dtype == jnp.float64
    expected = np.abs(np.linalg.norm(images, axis=1) - 1)
    np.testing.assert_allclose(found.distances, expected, rtol=1.5e-2)


def test_same_in_any_order_and_for_half_a_batch_inside_jit(key):
    images, labels, logits_fn, _ = plane(2, (0.0, 1.0))
    keys = jax.random.split(key, BATCH)
    run = attack(L2(1.0)).minimum_norm
    whole = run(keys, logits_fn, images, labels)
    again = run(keys[::-1], logits_fn, images[::-1], labels[::-1])
    np.testing.assert_array_equal(again.images[::-1], whole.images)
    compiled = jax.jit(lambda keys, images, labels: run(keys, logits_fn, images, labels))
    half = compiled(keys[3:], images[3:], labels[3:])
    np.testing.assert_allclose(half.distances, whole.distances[3:], rtol=1e-2)


def test_more_steps_are_never_worse(key):
    # Queries are numbered from the first on, so a longer run begins with the shorter one.
    images, labels, logits_fn, _ = plane(2, (0.0, 1.0))
    short, long = (
        np.asarray(hop_skip_jump(L2(1.0), steps=steps, tries=20).minimum_norm(key, logits_fn, images, labels).distances)
        for steps in (1, 12)
    )
    assert (long <= short * (1 + 1e-4)).all()
    assert (long < short)[:-1].any()


def test_queries_of_the_schedule():
    # 18 = ceil(1.5 log2(3072)), 24 = ceil(2 log2(3072)): as many as the docstring says.
    images = jax.ShapeDtypeStruct((5, 32, 32, 3), jnp.float32)
    assert _bisections(L2(1.0), images, 1.0) == 18
    assert _bisections(Linf(1.0), images, 1.0) == 24
    assert _bisections(L2(1.0), images, 0.25) == 20
    assert _bisections(L2(1.0), jax.ShapeDtypeStruct((5, 1), jnp.float32), 1.0) == 10
    phases, rounds = _schedule(64, 100, 10_000, 18)
    assert len(phases) + 113 == 37_050
    samples = np.bincount(rounds[phases == 0])[1:]
    np.testing.assert_array_equal(samples, np.floor(100 * np.sqrt(np.arange(1, 65))))
    assert np.bincount(_schedule(9, 100, 150, 18)[1])[1:].max() == 150 + 20 + 18
    assert (np.diff(rounds) >= 0).all()


def constant_or_broken(images):
    logits = jnp.zeros((images.shape[0], 3), images.dtype)
    return jnp.where(images.reshape(images.shape[0], -1)[:, :1] == 0.25, jnp.nan, logits)


def test_nothing_to_find(key):
    images = jnp.full((2, 1, 1, 1), 0.5).at[1].set(0.25)
    attack = hop_skip_jump(Linf(1.0), steps=1, tries=3, initial_gradient_samples=5)
    found = attack.minimum_norm(key, constant_or_broken, images, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(found.images, images)
    assert found.distances.tolist() == [np.inf, 0.0]


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="L2 and Linf, got L1"):
        hop_skip_jump(L1(1.0))
    with pytest.raises(ValueError, match="max_gradient_samples"):
        hop_skip_jump(L2(1.0), initial_gradient_samples=10, max_gradient_samples=5)
    with pytest.raises(ValueError, match="gamma must be positive"):
        hop_skip_jump(L2(1.0), gamma=0)
