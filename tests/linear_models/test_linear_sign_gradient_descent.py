import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import linear_models


@pytest.fixture
def published(float64):
    return linear_models.published_problem(jnp.float64), linear_models.published_initial_weights(jnp.float64)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_thirteen_patterns_occur_and_step_as_tabulated(float64, dtype):
    grid = jnp.asarray(list(itertools.product(range(-3, 4), repeat=2)), dtype)
    signs = linear_models.sign_patterns_of(grid[:, 0], grid[:, 1])
    occurring = {tuple(int(sign) for sign in row) for row in signs.tolist()}
    table = {pattern.signs: pattern for pattern in linear_models.SIGN_PATTERNS}
    assert len(linear_models.SIGN_PATTERNS) == 13
    assert occurring == set(table)

    problem = linear_models.LeastSquares(jnp.array([0.3, 0.07, 0.0], dtype), jnp.array([1.0, 2.0, 3.0], dtype))
    scales = jnp.array([3**0.5 / 0.3, 2**0.5 / 0.07], dtype)
    errors = jnp.concatenate([grid * scales, jnp.ones((len(grid), 1), dtype)], axis=1)
    simulated = np.asarray(jax.jit(linear_models.sign_gradient)(problem, errors))
    tabulated = np.asarray(linear_models.sign_update(signs))
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-14
    for row, direction, update in zip(signs.tolist(), simulated, tabulated, strict=True):
        pattern = table[tuple(int(sign) for sign in row)]
        np.testing.assert_allclose(update, pattern.update, atol=tolerance)
        np.testing.assert_allclose(direction, pattern.update, atol=tolerance)


def test_relations_of_the_table():
    for a, b in itertools.product(range(-3, 4), repeat=2):
        signs = (np.sign(a), np.sign(a + b), np.sign(a - b))
        (pattern,) = [pattern for pattern in linear_models.SIGN_PATTERNS if pattern.signs == signs]
        assert {"<": abs(a) < abs(b), "=": abs(a) == abs(b), ">": abs(a) > abs(b)}[pattern.relation]
        assert (pattern.update[2] != 0) == (abs(a) <= abs(b) and a != 0)
        assert pattern.update[0] * a >= 0
        assert pattern.update[1] * b >= 0
        assert pattern.update[2] * a <= 0  # the irrelevant error moves in the direction of sign(A)


def test_published_milestones(published):
    problem, start = published
    weights = np.asarray(linear_models.sign_gradient_descent(problem, start, 0.01, 3000, record_at=range(3001)).weights)
    a, b = (np.abs(value) for value in linear_models.ab_coordinates(problem, weights))
    np.testing.assert_allclose((a[0], b[0]), (0.02881, 0.01770), atol=5e-6)
    assert np.argmax(a <= b) == 112
    np.testing.assert_allclose(weights[300], (3.03532, 2.64872, -1.51501), atol=6e-6)
    np.testing.assert_allclose(weights[638], (4.98676, 7.42876, -4.27477), atol=6e-6)
    assert np.argmax(np.abs(weights[:, 0] - 5) < np.sqrt(3) * 0.01) == 638
    assert np.flatnonzero(np.diff(weights[:, 2]))[-1] == 818
    np.testing.assert_allclose(weights[-2:, 1:], [(9.98849, -4.29927)] * 2, atol=5e-6)
    assert sorted(np.round(weights[-2:, 0], 5).tolist()) == [4.98676, 5.00408]

    phase = linear_models.first_phase(problem, start, 0.01)
    assert phase.steps == 638
    assert int(phase.moving_steps) == (a[:638] <= b[:638]).sum()
    np.testing.assert_allclose(phase.weights, weights[638], atol=1e-12)
    drift = np.sqrt(6) / 3 * 0.01 * int(phase.moving_steps)
    np.testing.assert_allclose(start[2] - phase.weights[2], drift, rtol=1e-12)


def test_with_the_target_in_place_of_the_error(published):
    """The study quotes |A(0)| and |B(0)| from zero weights."""
    problem, _ = published
    a, b = linear_models.ab_coordinates(problem, jnp.zeros(3))
    np.testing.assert_allclose((-a, -b), (0.0289, 0.0177), atol=5e-5)


def test_simulation_is_sign_sgd_in_space(published):
    problem, start = published
    simulated = linear_models.sign_gradient_descent(problem, start, 0.01, 2000, record_at=range(2001))
    trained = linear_models.train(problem, optax.sign_sgd(0.01), start, 2000, record_at=range(2001))
    np.testing.assert_allclose(simulated.weights, trained.weights, atol=1e-11)


def test_simulation_in_other_dimensions(float64):
    random = np.random.default_rng(0)
    variances = jnp.asarray(np.r_[random.uniform(0.1, 1, 5), np.zeros(3)])
    problem = linear_models.LeastSquares(variances, jnp.asarray(np.r_[random.normal(size=5), np.zeros(3)]))
    start = jnp.asarray(random.normal(size=8))
    simulated = linear_models.sign_gradient_descent(problem, start, 0.01, 60)
    trained = linear_models.train(problem, optax.sign_sgd(0.01), start, 60)
    np.testing.assert_allclose(simulated.weights, trained.weights, atol=1e-12)


def test_exact_ties_take_the_tabulated_half_step(float64):
    problem = linear_models.LeastSquares(jnp.array([1.0, 1.0, 0.0]), jnp.zeros(3))
    start = jnp.array([3**0.5, 2**0.5, 0.0])  # A = B
    step = start - linear_models.sign_gradient_descent(problem, start, 1.0, 1, record_at=[1]).weights[0]
    np.testing.assert_allclose(step, [2 / 3**0.5, 0.5**0.5, -(6**0.5) / 6], atol=1e-14)
    at_rest = linear_models.sign_gradient_descent(problem, [0.0, 0.0, 0.7], 1.0, 5, record_at=[5])
    assert at_rest.weights[0].tolist() == [0.0, 0.0, 0.7]


def test_first_phase_in_single_precision():
    problem, start = linear_models.published_problem(), linear_models.published_initial_weights()
    assert abs(int(linear_models.first_phase(problem, start, 0.01).steps) - 638) <= 1


@given(
    st.floats(-50, 50),
    st.lists(st.floats(0.05, 3), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_sign_steps_enter_the_largest_step_and_stay(x, sizes, seed):
    """Lemma 4.D.2, which bounds A."""
    largest, entered = max(sizes), False
    random = np.random.default_rng(seed)
    for _ in range(int(abs(x) / min(sizes)) + 50):
        x -= np.sign(x) * random.choice(sizes)
        entered = entered or abs(x) <= largest
        assert not entered or abs(x) <= largest * (1 + 1e-12)
    assert entered


def test_steps_of_a_and_b_have_the_stated_sizes(float64):
    problem = linear_models.LeastSquares(jnp.array([1.0, 0.6, 0.0]), jnp.zeros(3))
    starts = jax.random.normal(jax.random.key(0), (20, 3), jnp.float64)
    run = jax.vmap(
        lambda start: linear_models.sign_gradient_descent(problem, start, 0.02, 300, record_at=range(301)).weights
    )
    weights = jax.jit(run)(starts)
    a, b = (np.asarray(value) for value in linear_models.ab_coordinates(problem, weights))
    taken_a, taken_b = (
        -np.diff(a) * np.sign(a[:, :-1]) / 0.02,
        -np.diff(b) * np.sign(b[:, :-1]) / (0.6 * 0.02),
    )
    above = np.abs(a[:, :-1]) > np.abs(b[:, :-1])
    np.testing.assert_allclose(taken_a, np.where(above, 1, 1 / 3), atol=1e-9)
    np.testing.assert_allclose(taken_b, np.where(above, 0, 1), atol=1e-9)


def test_errors_say_what_is_wanted(float64):
    four = linear_models.LeastSquares(jnp.ones(4), jnp.ones(4))
    with pytest.raises(ValueError, match="three frequencies"):
        linear_models.ab_coordinates(four, jnp.zeros(4))
    full = linear_models.LeastSquares(jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match="only the last is irrelevant"):
        linear_models.first_phase(full, jnp.zeros(3), 0.1)
