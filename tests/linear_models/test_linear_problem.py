import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear_models

sample = jax.jit(linear_models.sample, static_argnums=2)


@pytest.fixture
def problem(float64):
    return linear_models.published_problem(jnp.float64)


def test_spatial_quantities_of_the_published_problem(problem):
    weights = linear_models.published_initial_weights(jnp.float64)
    start, target = linear_models.to_space(weights), linear_models.to_space(problem.target)
    np.testing.assert_allclose(start, [0.0068674, -0.0105564, 0.0210095], rtol=0, atol=5e-8)
    np.testing.assert_allclose(target, [9.9578192, 2.8867513, -4.1843165], rtol=0, atol=5e-8)
    covariance = [
        [0.00458333, 0.00333333, 0.00208333],
        [0.00333333, 0.00333333, 0.00333333],
        [0.00208333, 0.00333333, 0.00458333],
    ]
    np.testing.assert_allclose(problem.covariance, covariance, rtol=0, atol=5e-9)
    gradient = problem.covariance @ (start - target)
    np.testing.assert_allclose(gradient, [-0.0465051, -0.0288098, -0.0111144], rtol=0, atol=5e-8)


def test_first_gradient_is_that_of_the_mean_squared_error(problem, key):
    inputs, labels = (np.asarray(array) for array in sample(key, problem, 400))
    weights = linear_models.to_space(linear_models.published_initial_weights(jnp.float64))

    def loss(weights):
        return jnp.mean((inputs @ weights - labels) ** 2) / 2

    second_moment = inputs.T @ inputs / 400
    expected = second_moment @ np.asarray(weights - linear_models.to_space(problem.target))
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(weights), expected, atol=1e-14)


def test_transforms_invert_each_other_and_keep_inner_products(float64):
    values = np.random.default_rng(0).normal(size=(2, 5, 7))
    coefficients = linear_models.to_frequency(jnp.asarray(values))
    np.testing.assert_allclose(linear_models.to_space(coefficients), values, atol=1e-14)
    np.testing.assert_allclose(
        jnp.sum(coefficients[0] * coefficients[1], -1), np.sum(values[0] * values[1], -1), atol=1e-13
    )


def test_samples_have_the_stated_covariance_and_noise_free_labels(problem, key):
    inputs, labels = (np.asarray(array) for array in sample(key, problem, 200_000))
    np.testing.assert_allclose(inputs.T @ inputs / 200_000, problem.covariance, atol=1e-4)
    np.testing.assert_allclose(inputs @ linear_models.to_space(problem.target), labels, atol=1e-13)


def test_every_sample_is_redundant_in_space(problem, key):
    inputs, labels = (np.asarray(array) for array in sample(key, problem, 100))
    np.testing.assert_allclose(inputs[:, 0] - 2 * inputs[:, 1] + inputs[:, 2], 0, atol=1e-15)
    (direction,) = np.asarray(linear_models.redundant_directions(problem))
    np.testing.assert_allclose(direction, np.array([1, -2, 1]) / np.sqrt(6), atol=1e-15)
    target = np.asarray(linear_models.to_space(problem.target))
    for c in (-3.0, 0.5, 40.0):
        moved = target + c * direction
        np.testing.assert_allclose(inputs @ moved, labels, atol=1e-13)
        np.testing.assert_allclose(moved @ moved - target @ target, c**2, rtol=1e-12)


def test_published_table_of_spatial_structures(float64):
    """Rows of table 4.8: which frequencies are present, and the signal they make."""
    values = np.array([0.7, -1.3, 2.1])
    columns = np.array([[1, 1, 1] / np.sqrt(3), [1, 0, -1] / np.sqrt(2), [1, -2, 1] / np.sqrt(6)])  # of C^T
    subsets = [subset for count in (1, 2, 3) for subset in itertools.combinations(range(3), count)]
    assert len(subsets) == 7
    for subset in subsets:
        coefficients = np.where(np.isin(np.arange(3), subset), values, 0)
        signal = sum(values[index] * columns[index] for index in subset)
        np.testing.assert_allclose(linear_models.to_space(jnp.asarray(coefficients)), signal, rtol=0, atol=1e-15)
    x0, x1, _ = values  # the study's own way to write the row of the linear study
    first, last = x0 / np.sqrt(3) + x1 / np.sqrt(2), x0 / np.sqrt(3) - x1 / np.sqrt(2)
    in_space = linear_models.to_space(jnp.array([x0, x1, 0.0]))
    np.testing.assert_allclose(in_space, [first, x0 / np.sqrt(3), last], rtol=0, atol=1e-15)


def test_irrelevant_frequencies_and_robust_minimiser(float64):
    problem = linear_models.LeastSquares(jnp.array([2.0, 0.0, 1.0, 0.0]), jnp.array([1.0, 2.0, 3.0, 4.0]))
    assert problem.irrelevant.tolist() == [False, True, False, True]
    assert linear_models.robust_minimiser(problem).tolist() == [1.0, 0.0, 3.0, 0.0]
    directions = linear_models.redundant_directions(problem)
    assert directions.shape == (2, 4)
    np.testing.assert_allclose(directions @ problem.covariance, 0, atol=1e-15)


def test_is_a_pytree_and_follows_its_dtype():
    problem = linear_models.published_problem()
    doubled = jax.tree.map(lambda leaf: 2 * leaf, problem)
    assert doubled.target.tolist() == [10.0, 20.0, 0.0]
    assert problem.covariance.dtype == jnp.float32
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), problem, doubled)
    risks = jax.vmap(linear_models.standard_risk, in_axes=(0, None))(stacked, jnp.zeros(3))
    np.testing.assert_allclose(risks, [0.25, 2.0], rtol=1e-6)


def test_errors_say_what_is_wanted():
    with pytest.raises(ValueError, match="one shape"):
        linear_models.LeastSquares(jnp.ones(3), jnp.ones(2)).dimension  # noqa: B018
    with pytest.raises(ValueError, match="3 frequencies on the last axis"):
        linear_models.standard_risk(linear_models.published_problem(), jnp.zeros(4))
