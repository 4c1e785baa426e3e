import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.random import example_keys, fold_in_each, normal, uniform


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def test_one_key_gives_each_example_its_own(key):
    keys = example_keys(key, 5)
    assert len({tuple(row) for row in data(keys)}) == 5
    np.testing.assert_array_equal(data(keys[3]), data(jax.random.fold_in(key, 3)))
    np.testing.assert_array_equal(data(example_keys(key, 3)), data(keys[:3]))


def test_keys_per_example_pass_through(key):
    keys = jax.random.split(key, 4)
    np.testing.assert_array_equal(data(example_keys(keys, 4)), data(keys))


def test_legacy_keys(key):
    legacy = jax.random.key_data(key)
    np.testing.assert_array_equal(data(example_keys(legacy, 2)), data(example_keys(key, 2)))


def test_fold_in_each(key):
    keys = example_keys(key, 3)
    np.testing.assert_array_equal(data(fold_in_each(keys, 7)[1]), data(jax.random.fold_in(keys[1], 7)))


def test_errors(key):
    with pytest.raises(ValueError, match="got shape \\(3,\\)"):
        example_keys(jax.random.split(key, 3), 4)
    with pytest.raises(ValueError, match="expected a random key"):
        example_keys(jnp.zeros(2), 2)


@pytest.mark.parametrize("shape", [(), (7,), (3, 3, 2, 5), (0, 4)])
def test_flat_draws_are_those_of_jax(key, shape):
    np.testing.assert_array_equal(normal(key, shape), jax.random.normal(key, shape))
    np.testing.assert_array_equal(
        uniform(key, shape, minval=-2, maxval=3), jax.random.uniform(key, shape, minval=-2, maxval=3)
    )
