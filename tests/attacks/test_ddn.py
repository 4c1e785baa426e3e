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
    linear_problem,
)

from jaxrobust import L1, L2, Linf, losses
from jaxrobust.attacks._ddn import cosine, ddn, farthest

# With sharp probabilities the cross-entropy aims at the nearest class; otherwise at all of them at once.
SHARP = 100.0


def test_reaches_the_distance_to_the_boundary():
    check_reaches(ddn, L2, 5, (-1.0, 3.0), scale=SHARP, above=0.03)


def test_reaches_the_distance_to_the_boundary_without_a_box_in_float64(float64):
    attack = functools.partial(ddn, steps=500, gamma=0.01)
    check_reaches(attack, L2, 2, None, np.float64, SHARP, above=0.003)


def test_saturated_softmax(key):
    # The cross-entropy's gradient is zero in float32.
    images, labels, logits_fn, distances = linear_problem(2, scale=1e5)
    logits = logits_fn(images)[:-1]
    gradient = jax.grad(lambda logits: losses.cross_entropy(logits, labels[:-1]).sum())(logits)
    assert bool((gradient == 0).all())
    found = ddn(L2(1.0)).minimum_norm(key, logits_fn, images, labels)
    np.testing.assert_allclose(found.distances, distances(L2), rtol=0.03)


def test_schedule():
    steps = jnp.asarray([0.0, 25.0, 50.0, 100.0])
    np.testing.assert_allclose(cosine(1.0, 0.01, steps, 100), [1, 0.01 + 0.99 * 0.8535534, 0.505, 0.01], rtol=1e-5)


def test_farthest_corner():
    np.testing.assert_allclose(farthest(L2(1.0), jnp.asarray([[0.2, 0.5]])), [np.hypot(0.8, 0.5)], rtol=1e-6)
    assert farthest(L2(1.0, bounds=None), jnp.zeros((1, 2))).tolist() == [np.inf]


def test_network():
    check_network(ddn, L2)


def test_levels(key):
    images, labels, logits_fn, distances = linear_problem(2)
    images = jnp.round(images * 255) / 255
    found = ddn(L2(1.0), levels=256).minimum_norm(key, logits_fn, images, labels)
    assert bool(found.success.all())
    steps = np.asarray(found.images) * 255
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert (np.asarray(found.distances) <= distances(L2) + np.sqrt(12) / 255).all()


def test_same_in_any_order_for_one_example_and_inside_jit():
    check_independent(ddn, L2)


def test_one_pixel():
    check_one_pixel(ddn, L2, above=0.05)


def test_targeted():
    check_targeted(functools.partial(ddn, targeted=True), L2, scale=SHARP)


def test_bad_arguments_say_what_to_do():
    for norm in (L1, Linf):
        with pytest.raises(ValueError, match="use fmn"):
            ddn(norm(1.0))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        ddn(L2(1.0), steps=0)
    with pytest.raises(ValueError, match=r"gamma in \(0, 1\)"):
        ddn(L2(1.0), gamma=1.0)
    with pytest.raises(ValueError, match="divide a box"):
        ddn(L2(1.0, bounds=None), levels=256)
