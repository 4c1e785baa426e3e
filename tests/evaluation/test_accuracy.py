import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import Linf, attacks, evaluation


def network(weights, images):
    return images.reshape(images.shape[0], -1) @ weights


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(23, 3, 3, 1)).astype(np.float32)
    weights = jnp.asarray(rng.normal(size=(9, 6)), jnp.float32)
    logits_fn = functools.partial(network, weights)
    labels = np.array(logits_fn(jnp.asarray(images)).argmax(-1))
    labels[:5] = (labels[:5] + 1) % 6
    return logits_fn, images, labels


def test_clean_accuracy(problem):
    logits_fn, images, labels = problem
    assert evaluation.accuracy(logits_fn, images, labels) == pytest.approx(100 * 18 / 23)


ALWAYS = ((1, 1), (4, 2), (7, 1), (23, 2), (1000, 2))
"""Batch sizes and numbers of devices that are checked whenever tests run; all others where slow tests do."""


@pytest.mark.parametrize(
    ("batch_size", "devices"),
    [
        pytest.param(*case, marks=() if case in ALWAYS else pytest.mark.slow)
        for case in itertools.product([1, 4, 7, 23, 1000], [1, 2])
    ],
)
def test_results_depend_neither_on_batch_size_nor_on_devices(problem, batch_size, devices, key):
    logits_fn, images, labels = problem
    attack = attacks.pgd(Linf(0.05), steps=3)
    expected = evaluation.correct(logits_fn, images, labels, attack=attack, key=key)
    mesh = evaluation.data_mesh(jax.devices()[:devices])
    result = evaluation.correct(logits_fn, images, labels, attack=attack, key=key, batch_size=batch_size, mesh=mesh)
    np.testing.assert_array_equal(result, expected)
    assert 0 < result.sum() < 18


def test_two_devices_are_used(problem):
    logits_fn, images, labels = problem
    seen = set()

    def spy(logits_fn, keys, images, labels):
        seen.update(images.sharding.device_set)
        return labels

    evaluation.map_batches(spy, logits_fn, images, labels, key=jax.random.key(0), batch_size=10)
    assert seen == set(jax.devices())
    assert len(seen) == 2


def test_last_partial_batch_compiles_nothing_new(problem):
    logits_fn, images, labels = problem
    shapes = set()

    def spy(logits_fn, keys, images, labels):
        shapes.add(images.shape)
        return labels

    result = evaluation.map_batches(spy, logits_fn, images, labels, key=jax.random.key(0), batch_size=10)
    assert shapes == {(10, 3, 3, 1)}
    np.testing.assert_array_equal(result, labels)


def test_attack_accuracy_never_exceeds_clean_and_falls_with_eps(problem, key):
    logits_fn, images, labels = problem
    run = functools.partial(evaluation.accuracy, logits_fn, images, labels)
    values = [run()] + [run(attack=attacks.pgd(Linf(eps), steps=5), key=key) for eps in (0.02, 0.1, 0.5)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_noise_is_judged_by_the_noisy_image_alone(problem, key):
    logits_fn, images, labels = problem

    def away(key, logits_fn, images, labels):
        return 1 - images

    judged = evaluation.correct(logits_fn, images, labels, attack=away, key=key, include_clean=False)
    expected = np.asarray(logits_fn(1 - jnp.asarray(images)).argmax(-1)) == labels
    np.testing.assert_array_equal(judged, expected)


def test_top_k_under_attack_uses_the_top_1_adversarial(problem, key):
    logits_fn, images, labels = problem
    attack = attacks.pgd(Linf(0.1), steps=5)
    top1 = evaluation.correct(logits_fn, images, labels, attack=attack, key=key)
    top2 = evaluation.correct(logits_fn, images, labels, attack=attack, key=key, top_k=2)
    clean2 = evaluation.correct(logits_fn, images, labels, top_k=2)
    clean1 = evaluation.correct(logits_fn, images, labels)
    assert (top2 | ~top1).all()  # whatever survives at top-1 is right at top-2
    np.testing.assert_array_equal(top2[~clean1], clean2[~clean1])  # never attacked: clean pixels
    assert top1.sum() < top2.sum() <= clean2.sum()


def test_ties_count_for_the_lower_class():
    logits_fn = jax.tree_util.Partial(_flat)
    images, labels = np.zeros((3, 2, 2, 1), np.float32), np.arange(3)
    np.testing.assert_array_equal(evaluation.correct(logits_fn, images, labels), [True, False, False])
    np.testing.assert_array_equal(evaluation.correct(logits_fn, images, labels, top_k=2), [True, True, False])


def _flat(images):
    return jnp.zeros((images.shape[0], 3), images.dtype)


def _nan(images):
    return jnp.full((images.shape[0], 3), jnp.nan, images.dtype)


def test_non_finite_logits_are_not_correct():
    images = np.zeros((2, 2, 2, 1), np.float32)
    assert evaluation.accuracy(jax.tree_util.Partial(_nan), images, np.zeros(2, int)) == 0.0


def test_eight_bit_images(problem):
    logits_fn, images, labels = problem
    bytes_ = (images * 255).round().astype(np.uint8)
    floats = bytes_.astype(np.float32) / 255
    np.testing.assert_array_equal(
        evaluation.correct(logits_fn, bytes_, labels), evaluation.correct(logits_fn, floats, labels)
    )


def test_errors(problem):
    logits_fn, images, labels = problem
    with pytest.raises(ValueError, match=r"found \[.*divide 8-bit images by 255"):
        evaluation.accuracy(logits_fn, images * 255, labels)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.accuracy(logits_fn, np.full_like(images, np.nan), labels)
    with pytest.raises(ValueError, match="needs a random key"):
        evaluation.accuracy(logits_fn, images, labels, attack=attacks.fgsm(Linf(0.1)))
    with pytest.raises(ValueError, match="6 classes"):
        evaluation.accuracy(logits_fn, images, labels, top_k=7)
    with pytest.raises(ValueError, match=r"one-hot rows become class numbers by labels.argmax\(-1\)"):
        evaluation.accuracy(logits_fn, images, np.eye(6)[labels])
    with pytest.raises(ValueError, match=r"must lie in 0..5, the classifier's classes; found"):
        evaluation.accuracy(logits_fn, images, labels + 6)
    with pytest.raises(ValueError, match=r"for \d+ images it returned tuple"):
        evaluation.accuracy(lambda images: (logits_fn(images),), images, labels)
    with pytest.raises(ValueError, match=r"random key such as .* got int"):
        evaluation.accuracy(logits_fn, images, labels, attack=attacks.fgsm(Linf(0.1)), key=0)
    with pytest.raises(ValueError, match="same length"):
        evaluation.accuracy(logits_fn, images, labels[:-1])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluation.accuracy(logits_fn, images, labels, batch_size=0)
