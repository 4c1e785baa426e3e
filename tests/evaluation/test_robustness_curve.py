import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf, attacks, evaluation
from jaxrobust.attacks._hop_skip_jump import hop_skip_jump
from jaxrobust.attacks._minimum_norm import MinimumNormAttack
from jaxrobust.evaluation._robustness_curve import robustness_curve

N, SHAPE = 23, (2, 2, 1)
WEIGHTS = np.asarray([1.0, -2.0, 0.5, 1.5])


def linear(weights, images):
    score = ((images - 0.5).reshape(images.shape[0], -1) * weights).sum(-1)
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def to_the_plane(threat, key, logits_fn, images, labels):
    """The nearest misclassified image, a thousandth of the way behind the plane; none for images with a bright pixel."""
    score = logits_fn(images)[:, 1]
    normal = jnp.asarray(WEIGHTS / (WEIGHTS**2).sum(), images.dtype).reshape(1, *SHAPE)
    candidates = images - 1.001 * score[:, None, None, None] * normal
    correct = logits_fn(images).argmax(-1) == labels
    found = ~correct | (images.max((1, 2, 3)) < 0.85)
    return jnp.where(correct[:, None, None, None], candidates, images), found


@pytest.fixture(scope="module")
def problem():
    """The first four images are misclassified."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, size=(N, *SHAPE)).astype(np.float32)
    logits_fn = functools.partial(linear, jnp.asarray(WEIGHTS, jnp.float32))
    labels = np.array(logits_fn(jnp.asarray(images)).argmax(-1))
    labels[:4] = 1 - labels[:4]
    distances = 1.001 * np.abs((images - 0.5).reshape(N, -1) @ WEIGHTS) / np.linalg.norm(WEIGHTS)
    distances[(images.max((1, 2, 3)) >= 0.85)] = np.inf
    distances[:4] = 0
    return logits_fn, images, labels, distances


def test_curve_of_a_linear_model(problem, key):
    logits_fn, images, labels, distances = problem
    curve = robustness_curve(MinimumNormAttack(L2(0.1), to_the_plane), logits_fn, images, labels, key=key)
    np.testing.assert_allclose(curve.distances, distances, rtol=1e-4)
    assert 0 < np.isinf(distances).sum() < N / 2
    # By default 0 and all distances, at each of which the accuracy falls by what lies there.
    finite = np.sort(distances[np.isfinite(distances) & (distances > 0)])
    np.testing.assert_allclose(curve.radii, [0, *finite], rtol=1e-4)
    np.testing.assert_allclose(curve.accuracy, 100 * (N - 4 - np.arange(len(finite) + 1)) / N)
    assert curve.accuracy[-1] == pytest.approx(100 * np.isinf(distances).sum() / N)
    assert curve.clean_accuracy == pytest.approx(100 * (N - 4) / N)
    assert curve.clean_accuracy == evaluation.accuracy(logits_fn, images, labels)
    assert curve.median_distance == pytest.approx(np.median(distances), rel=1e-4)


def test_agrees_with_the_accuracy_under_the_attack_at_each_radius(problem, key):
    logits_fn, images, labels, distances = problem
    exact = float(np.float32(np.sort(distances)[8]))  # the radius of an example
    radii = [0.0, 0.05, 0.1, exact, 0.3, 1.0]
    make = {eps: MinimumNormAttack(L2(eps), to_the_plane) for eps in radii}
    curve = robustness_curve(make[0.1], logits_fn, images, labels, key=key, radii=radii)
    expected = [evaluation.accuracy(logits_fn, images, labels, attack=make[eps], key=key) for eps in radii]
    np.testing.assert_allclose(curve.accuracy, expected)
    assert (np.diff(curve.accuracy) <= 0).all()
    assert len(set(expected)) > 3
    np.testing.assert_array_equal(curve.accuracy_at(np.asarray(radii).reshape(2, 3)).reshape(-1), curve.accuracy)
    assert curve.accuracy_at(0.1) == curve.accuracy[2]


def test_agrees_with_a_decision_based_attack(problem, key):
    logits_fn, images, labels, distances = problem
    attack = functools.partial(hop_skip_jump, steps=3, tries=20)
    mesh = evaluation.data_mesh(jax.devices()[:1])  # compiles more quickly
    curve = robustness_curve(attack(L2(0.1)), logits_fn, images, labels, key=key, radii=[0.1, 0.2], mesh=mesh)
    expected = evaluation.accuracy(logits_fn, images, labels, attack=attack(L2(0.2)), key=key, mesh=mesh)
    assert curve.accuracy[1] == expected
    assert 0 < curve.accuracy[1] < curve.accuracy[0] < 100
    assert (curve.distances[np.isfinite(distances)] >= distances[np.isfinite(distances)] * (1 - 2e-3)).all()


def test_depends_neither_on_batch_size_nor_on_devices(problem, key):
    def random(threat, key, logits_fn, images, labels):
        noise = attacks.uniform_noise(threat)(key, logits_fn, images, labels)
        return noise, jnp.ones(labels.shape, bool)

    logits_fn, images, labels, _ = problem
    run = functools.partial(robustness_curve, MinimumNormAttack(Linf(0.1), random), logits_fn, images, labels, key=key)
    one = run(batch_size=7, mesh=evaluation.data_mesh(jax.devices()[:1]))
    np.testing.assert_array_equal(run().distances, one.distances)


def test_nothing_found_at_all(problem, key):
    logits_fn, images, labels, _ = problem

    def nothing(threat, key, logits_fn, images, labels):
        return images, logits_fn(images).argmax(-1) != labels

    curve = robustness_curve(MinimumNormAttack(L2(0.1), nothing), logits_fn, images, labels, key=key)
    assert curve.median_distance == np.inf
    assert curve.radii.tolist() == [0]
    assert curve.accuracy.tolist() == [curve.clean_accuracy]


def test_bad_arguments_say_what_to_do(problem, key):
    logits_fn, images, labels, _ = problem
    with pytest.raises(TypeError, match=r"use accuracy\(attack="):
        robustness_curve(attacks.fgsm(L2(0.1)), logits_fn, images, labels, key=key)
    run = functools.partial(robustness_curve, MinimumNormAttack(L2(0.1), to_the_plane), logits_fn, key=key)
    for radii in ([-0.1], [np.inf], [[0.1]]):
        with pytest.raises(ValueError, match="radii must be"):
            run(images, labels, radii=radii)
    with pytest.raises(ValueError, match="pixels must lie in"):
        run(images * 255, labels)
    with pytest.raises(ValueError, match="labels must lie in"):
        run(images, labels + 5)
