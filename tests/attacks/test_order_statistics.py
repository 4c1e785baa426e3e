import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks._order_statistics import threshold_at_rank

compiled = jax.jit(threshold_at_rank)


def check(values, ranks):
    found = np.asarray(compiled(jnp.asarray(values), jnp.asarray(ranks, jnp.int32)))
    at_rank = np.sort(values, axis=1)[np.arange(len(values)), ranks]
    np.testing.assert_array_equal(values >= found[:, None], values >= at_rank[:, None])


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    distinct=st.sampled_from([1, 2, 5, 40, 10**6]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    power=st.sampled_from([1, 20]),
)
def test_selects_what_sorting_selects(seed, distinct, scale, power):
    rng = np.random.default_rng(seed)
    values = ((rng.integers(distinct, size=(8, 50)) / distinct) ** power * scale).astype(np.float32)
    values[values < np.finfo(np.float32).tiny] = 0  # XLA takes subnormal numbers for 0
    check(values, rng.integers(50, size=8))


def test_neighbouring_floats_and_infinity():
    one = np.float32(1)
    values = np.array([[np.nextafter(one, np.float32(2)), one, 0], [np.inf, 1, 2]], np.float32)
    for rank in range(3):
        check(values, np.full(2, rank))


@pytest.mark.parametrize("features", [1, 2])
def test_few_features(features):
    check(np.arange(features, dtype=np.float32)[None], np.array([features - 1]))


def test_nothing_is_selected_where_a_value_is_no_number():
    values = jnp.asarray([[1.0, jnp.nan, 2.0]])
    assert not (values >= compiled(values, jnp.asarray([1], jnp.int32))[:, None]).any()
