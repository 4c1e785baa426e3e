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
    linear,
    linear_problem,
)

from jaxrobust import L1, L2, Linf
from jaxrobust.attacks._deepfool import deepfool


@pytest.mark.parametrize(("norm", "classes", "bounds"), [(L2, 5, (-1.0, 3.0)), (Linf, 2, None)])
def test_one_step_and_its_overshoot_on_linear_models(norm, classes, bounds, float64):
    attack = functools.partial(deepfool, steps=1, overshoot=1e-3)
    ratios = check_reaches(attack, norm, classes, bounds, np.float64, above=1.001e-3)
    np.testing.assert_allclose(ratios, 1.001, rtol=1e-12)


@pytest.mark.parametrize("norm", [L2, Linf])
def test_network(norm):
    check_network(deepfool, norm)


def test_same_in_any_order_for_one_example_and_inside_jit():
    check_independent(deepfool, L2)


def test_candidates_are_the_highest_classes(key):
    # The second class is far away, the third one near though its logit is lower.
    weights = jnp.asarray([[0.0, 1.0, 0.0], [0.0, 0.0, 100.0]])
    logits_fn = functools.partial(linear, (weights, jnp.asarray([3.0, 1.5, 0.0])))
    images, labels = jnp.full((1, 2), 0.01), jnp.zeros(1, jnp.int32)
    all_classes, two = (
        deepfool(L2(1.0, bounds=None), classes=classes).minimum_norm(key, logits_fn, images, labels)
        for classes in (3, 2)
    )
    np.testing.assert_allclose(all_classes.distances, 1.02 * 0.02, rtol=1e-4)
    np.testing.assert_allclose(two.distances, 1.02 * 1.49, rtol=1e-4)
    assert logits_fn(two.images).argmax(-1).tolist() == [1]


def test_makes_up_for_what_the_box_cuts_off(key):
    # Pixel 0 can fall by 0.1 only; the sum of the others has to do the rest.
    images = jnp.asarray([[0.1, 0.5, 0.5]])
    logits_fn = functools.partial(linear, (jnp.asarray([[4.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), jnp.asarray([0.0, 0.8])))
    found = deepfool(L2(1.0)).minimum_norm(key, logits_fn, images, jnp.zeros(1, jnp.int32))
    assert bool(found.success.all())
    assert float(found.images.min()) == 0.0
    assert float(found.distances[0]) <= 1.05 * np.sqrt(0.1**2 + 2 * 0.1**2)


def test_leaves_a_boundary_on_which_the_image_lies(key):
    # Equal logits are the first class's.
    logits_fn = functools.partial(linear, (jnp.asarray([[1.0, -1.0]]), jnp.asarray([-0.5, 0.5])))
    found = deepfool(Linf(1.0)).minimum_norm(key, logits_fn, jnp.full((1, 1), 0.5), jnp.zeros(1, jnp.int32))
    np.testing.assert_allclose(found.distances, 1.02e-4, rtol=1e-2)


def test_one_pixel():
    check_one_pixel(deepfool, Linf, above=0.0201)


def test_new_radius_compiles_nothing(key):
    images, labels, logits_fn, _ = linear_problem(2)
    traces = []

    def counted(images):
        traces.append(1)
        return logits_fn(images)

    counts = []
    for eps in (0.1, 0.2):
        deepfool(L2(eps))(key, counted, images, labels)
        counts.append(len(traces))
    assert counts[0] == counts[1]


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="L2 and Linf, got L1; use fmn or ead"):
        deepfool(L1(1.0))
    with pytest.raises(ValueError, match="classes at least 2"):
        deepfool(L2(1.0), classes=1)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        deepfool(L2(1.0), steps=0)
    with pytest.raises(ValueError, match="overshoot must be at least 0"):
        deepfool(L2(1.0), overshoot=-0.1)
    with pytest.raises(TypeError, match="labels must be integer"):
        deepfool(L2(1.0))(jax.random.key(0), linear, jnp.zeros((2, 3)), jnp.zeros(2))
