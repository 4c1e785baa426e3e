import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _linear_models import (
    check_independent,
    check_network,
    check_one_pixel,
    check_reaches,
    check_targeted,
    linear,
    linear_problem,
    scores,
)

from jaxrobust import L1, L2, Linf, losses
from jaxrobust.attacks._carlini_wagner import ConstantSearch, _Adam, carlini_wagner, shortfall, succeeded

attack = functools.partial(carlini_wagner, steps=200)


def test_reaches_the_distance_to_the_boundary_in_l2():
    check_reaches(attack, L2, 5, (-1.0, 3.0), above=0.01)


def test_reaches_the_distance_to_the_boundary_without_a_box_in_float64(float64):
    check_reaches(attack, L2, 2, None, np.float64, above=0.01)


def test_reaches_the_distance_to_the_boundary_in_linf():
    # A threshold is 0.9 times the last distance.
    check_reaches(attack, Linf, 2, above=1 / 0.9 - 1)


def test_boundary_nearer_than_the_first_step(key):
    # Each of 100 pixels moves by 0.005 at first, to a distance of 0.05.
    weights = np.random.default_rng(0).normal(size=100)
    weights *= np.sign(weights.sum()) / np.linalg.norm(weights)
    parameters = (jnp.asarray([weights, 0 * weights], jnp.float32).T, jnp.asarray([0.0, weights.sum() / 2 - 0.01]))
    images, labels = jnp.full((1, 10, 10, 1), 0.5), jnp.zeros(1, jnp.int32)
    found = attack(L2(1.0)).minimum_norm(key, functools.partial(linear, parameters), images, labels)
    np.testing.assert_allclose(found.distances, [0.01], rtol=0.05)


@pytest.mark.parametrize("norm", [L2, Linf])
def test_network(norm):
    check_network(attack, norm)


def test_same_in_any_order_for_one_example_and_inside_jit():
    check_independent(attack, L2)


def test_one_pixel():
    check_one_pixel(attack, Linf, above=0.12)


def test_targeted():
    check_targeted(functools.partial(attack, targeted=True), L2)


def test_confidence(key):
    images, labels, logits_fn, distances = linear_problem(2)
    find = attack(Linf(1.0), confidence=0.5).minimum_norm
    found = find(key, logits_fn, images, labels)
    ahead = losses.margin(jnp.asarray(scores(logits_fn, found.images), jnp.float32), labels)
    assert float(ahead[:-1].min()) >= 0.5 - 1e-5
    # The boundary has moved by the confidence.
    slope = np.linalg.norm(np.subtract(*np.asarray(logits_fn.args[0][0]).T), 1)
    ratios = found.distances[:-1] / (distances(Linf)[:-1] + 0.5 / slope)
    assert 0.999 < float(ratios.min()) <= float(ratios.max()) < 1.12
    np.testing.assert_array_equal(found.images[-1], images[-1])


def test_confidence_is_counted_for_the_right_side():
    logits, label = jnp.asarray([[1.0, 1.6], [1.0, 1.4]]), jnp.asarray([0, 0])
    assert succeeded(logits, label, 0.5, targeted=False).tolist() == [True, False]
    assert succeeded(logits, 1 - label, 0.5, targeted=True).tolist() == [True, False]
    np.testing.assert_allclose(shortfall(logits, label, 0.5, targeted=False), [0.0, 0.1], atol=1e-6)
    np.testing.assert_allclose(shortfall(logits, 1 - label, 0.5, targeted=True), [0.0, 0.1], atol=1e-6)
    np.testing.assert_allclose(shortfall(logits, label, 0.5, targeted=True), [1.1, 0.9], atol=1e-6)


def test_search_for_the_constant():
    search = ConstantSearch.start(1e-3, jnp.zeros((2, 1)))
    succeeds_from = jnp.asarray([0.03, 1e30])
    tried = []
    for _ in range(6):
        tried.append(search.constant)
        search = search.tried(search.constant >= succeeds_from, 6)
    first, second = np.asarray(tried).T
    np.testing.assert_allclose(first, [0.001, 0.01, 0.1, 0.055, 0.0325, 0.02125], rtol=1e-5)
    np.testing.assert_allclose(second, 1e-3 * 10.0 ** np.arange(6), rtol=1e-5)


def test_last_of_many_constants_repeats_the_best():
    search = ConstantSearch.start(1.0, jnp.zeros((2, 1)))
    for _ in range(9):
        search = search.tried(search.constant >= jnp.asarray([0.3, 1e30]), 10)
    assert 0.3 <= float(search.upper[0]) < 0.31
    assert search.constant.tolist() == [float(search.upper[0]), 1e10]


def test_adam_starts_afresh_by_example():
    gradients = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    adam, descended = _Adam.start(jnp.zeros((2, 3))), jax.jit(_Adam.descended)
    mean = square = expected = taken = np.zeros((2, 1))
    for number, gradient in enumerate(gradients):
        adam = descended(adam, gradient, 0.1)
        taken = taken + 1
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9**taken) / (np.sqrt(square / (1 - 0.999**taken)) + 1e-8)
        expected = expected - 0.1 * unbiased
        if number == 2:
            zero = np.zeros(3, np.float32)
            adam = _Adam(adam.variable, adam.mean.at[1].set(zero), adam.square.at[1].set(zero), adam.taken.at[1].set(0))
            mean[1], square[1], taken[1] = 0, 0, 0
    np.testing.assert_allclose(adam.variable, expected, rtol=1e-4)


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="L2 and Linf, got L1; use ead"):
        carlini_wagner(L1(1.0))
    with pytest.raises(ValueError, match="binary_search_steps must be at least 1"):
        carlini_wagner(L2(1.0), binary_search_steps=0)
    with pytest.raises(ValueError, match="confidence at least 0"):
        carlini_wagner(L2(1.0), confidence=-1.0)
    with pytest.raises(ValueError, match="learning_rate and initial_constant must be positive"):
        carlini_wagner(Linf(1.0), learning_rate=0.0)
