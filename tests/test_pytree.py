import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L1, L2, Linf, curvature
from jaxrobust.pytree import register_pytree_dataclass


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *itertools.combinations([L1(0.3), L2(0.3), Linf(0.3)], 2),
        (curvature.MaxPool((2, 2), (2, 2)), curvature.AveragePool((2, 2), (2, 2))),
    ],
    ids=repr,
)
def test_different_classes_have_different_structures(first, second):
    # With jax.tree_util.register_dataclass they compare equal and jit confuses them after a hash collision.
    assert jax.tree.structure(first) != jax.tree.structure(second)


def test_jit_tells_threat_models_apart():
    norm = jax.jit(lambda threat, x: threat.norm(x))
    x = jnp.asarray([[3.0, -4.0]])
    for _ in range(3):
        assert [float(norm(threat, x)[0]) for threat in (L1(0.3), L2(0.3), Linf(0.3))] == [7.0, 5.0, 4.0]


def test_static_fields_are_not_leaves():
    leaves, structure = jax.tree.flatten(Linf(0.3, bounds=(0.0, 2.0)))
    assert leaves == [0.3]
    assert jax.tree.unflatten(structure, [0.5]) == Linf(0.5, bounds=(0.0, 2.0))
    np.testing.assert_equal(str(jax.tree_util.tree_flatten_with_path(Linf(0.3))[0][0][0][0]), ".eps")


def test_unknown_static_field():
    @dataclass(frozen=True)
    class Point:
        x: float

    with pytest.raises(ValueError, match="no fields"):
        register_pytree_dataclass(Point, static=("y",))
