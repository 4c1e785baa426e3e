import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks._order_statistics import order_statistic


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), distinct=st.sampled_from([1, 2, 5, 10**6]), scale=st.sampled_from([1e-30, 1.0, 1e30])
)
def test_equals_sorting(seed, distinct, scale):
    rng = np.random.default_rng(seed)
    values = (rng.integers(distinct, size=(4, 17)) * scale / distinct).astype(np.float32)
    ranks = rng.integers(17, size=4)
    found = order_statistic(jnp.asarray(values), jnp.asarray(ranks, jnp.int32))
    np.testing.assert_array_equal(found, np.sort(values, axis=1)[np.arange(4), ranks])


def test_neighbouring_floats_and_infinity():
    one = np.float32(1)
    values = np.array([[np.nextafter(one, np.float32(2)), one, 0], [np.inf, 1, 2]], np.float32)
    for rank in range(3):
        found = order_statistic(jnp.asarray(values), jnp.full(2, rank, jnp.int32))
        np.testing.assert_array_equal(found, np.sort(values, axis=1)[:, rank])


@pytest.mark.parametrize("features", [1, 2])
def test_few_features(features):
    values = jnp.arange(features, dtype=jnp.float32)[None]
    assert order_statistic(values, jnp.asarray([features - 1], jnp.int32)).tolist() == [features - 1]
