import functools

import numpy as np
import pytest
from _linear_models import (
    BATCH,
    check_independent,
    check_network,
    check_one_pixel,
    check_reaches,
    check_targeted,
    linear_problem,
    scores,
)

from jaxrobust import L1, L2, Linf
from jaxrobust.attacks._ead import ead

attack = functools.partial(ead, steps=200)


@pytest.mark.parametrize(("classes", "bounds"), [(2, (-1.0, 3.0)), (5, None)])
def test_reaches_the_distance_to_the_boundary_in_l1(classes, bounds, float64):
    # The squared l2 norm in the objective keeps more than one pixel.
    check_reaches(attack, L1, classes, bounds, np.float64, above=0.1)


def test_without_shrinking_it_minimises_l2():
    check_reaches(functools.partial(attack, beta=0.0), L2, 2, above=0.05)


def test_network():
    check_network(attack, L1)


def test_decision_rules(key):
    images, labels, logits_fn, _ = linear_problem(2)
    by_l1, by_elastic_net = (
        attack(L1(1.0), decision_rule=rule).minimum_norm(key, logits_fn, images[:-1], labels[:-1])
        for rule in ("l1", "elastic_net")
    )
    assert (np.asarray(by_l1.distances) <= np.asarray(by_elastic_net.distances) * (1 + 1e-5)).all()

    def elastic_net(found):
        perturbation = np.asarray(found.images - images[:-1]).reshape(BATCH - 1, -1)
        return 0.01 * np.abs(perturbation).sum(1) + np.square(perturbation).sum(1)

    assert (elastic_net(by_elastic_net) < elastic_net(by_l1)).any()
    assert (elastic_net(by_elastic_net) <= elastic_net(by_l1) * (1 + 1e-3)).all()
    # Sparse: the pixels that hardly matter keep their values, to the last bit.
    unchanged = np.asarray(by_l1.images) == np.asarray(images[:-1])
    assert (unchanged.sum((1, 2, 3)) >= 6).all()


def test_same_in_any_order_for_one_example_and_inside_jit():
    check_independent(attack, L1)


def test_one_pixel():
    check_one_pixel(attack, L1, above=0.05)


def test_targeted():
    check_targeted(functools.partial(attack, targeted=True), L1)


def test_confidence(key):
    images, labels, logits_fn, _ = linear_problem(2)
    found = attack(L1(1.0), confidence=0.5).minimum_norm(key, logits_fn, images[:-1], labels[:-1])
    logits, rows = scores(logits_fn, found.images), np.arange(len(labels) - 1)
    given = np.asarray(labels[:-1])
    assert (logits[rows, 1 - given] - logits[rows, given] >= 0.5 - 1e-5).all()


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="L1 and L2, got Linf; use carlini_wagner"):
        ead(Linf(1.0))
    with pytest.raises(ValueError, match="elastic_net, l1, got 'l2'"):
        ead(L1(1.0), decision_rule="l2")
    with pytest.raises(ValueError, match="beta must be at least 0"):
        ead(L1(1.0), beta=-0.1)
    with pytest.raises(ValueError, match="steps and binary_search_steps must be at least 1"):
        ead(L1(1.0), steps=0)
