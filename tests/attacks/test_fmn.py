import functools

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
)

from jaxrobust import L1, L2, Linf
from jaxrobust.attacks._fmn import fmn


@pytest.mark.parametrize(("norm", "bounds"), [(L1, (-1.0, 3.0)), (L2, None)])
def test_reaches_the_distance_to_the_boundary(norm, bounds):
    check_reaches(fmn, norm, 5, bounds, above=0.01)


def test_reaches_the_distance_to_the_boundary_in_float64(float64):
    check_reaches(fmn, Linf, 5, (0.0, 1.0), np.float64, above=0.01)


@pytest.mark.parametrize("norm", [L1, Linf])
def test_network(norm):
    check_network(fmn, norm)


def test_leaves_a_boundary_on_which_the_image_lies(key):
    # Equal logits are the first class's.
    logits_fn = functools.partial(linear, (jnp.asarray([[1.0, -1.0]]), jnp.asarray([-0.5, 0.5])))
    found = fmn(Linf(1.0)).minimum_norm(key, logits_fn, jnp.full((1, 1), 0.5), jnp.zeros(1, jnp.int32))
    assert bool(found.success.all())
    assert float(found.distances[0]) < 1e-4


def test_same_in_any_order_for_one_example_and_inside_jit():
    check_independent(fmn, L1)


def test_one_pixel():
    check_one_pixel(fmn, L1, above=0.01)


def test_targeted():
    check_targeted(functools.partial(fmn, targeted=True), Linf)


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        fmn(L2(1.0), steps=0)
    with pytest.raises(ValueError, match="gamma_final <= gamma_initial"):
        fmn(L2(1.0), gamma_initial=0.0001)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        fmn(L2(1.0), learning_rate=-1.0)
