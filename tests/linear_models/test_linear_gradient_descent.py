import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import linear_models
from jaxrobust.threat import L2

THREAT = L2(linear_models.PUBLISHED_EPS, bounds=None)

gradient_descent = jax.jit(linear_models.gradient_descent)
adversarial_risk = jax.jit(linear_models.adversarial_risk)


@pytest.fixture
def published(float64):
    return linear_models.published_problem(jnp.float64), linear_models.published_initial_weights(jnp.float64)


def test_published_values(published):
    problem, start = published
    weights = gradient_descent(problem, start, 0.01, jnp.array([1000, 10_000, 100_000, 200_000]))
    expected = [[0.4849, 0.2372], [3.1644, 2.2042], [4.9998, 9.1784], [5.0000, 9.9326]]
    np.testing.assert_allclose(weights[:, :2], expected, atol=5e-5)
    assert (weights[:, 2] == 0.02).all()
    clean = linear_models.standard_risk(problem, weights)
    np.testing.assert_allclose(clean, [0.22107, 0.092815, 8.44e-4, 5.69e-6], rtol=1e-3)
    adversarial = adversarial_risk(problem, weights, THREAT)
    np.testing.assert_allclose(adversarial, [0.918, 16.840, 109.726, 123.698], atol=6e-4)
    limit = linear_models.gradient_descent_limit(problem, start)
    assert limit.tolist() == [5.0, 10.0, 0.02]
    np.testing.assert_allclose(adversarial_risk(problem, limit, THREAT), 125.0004, rtol=1e-14)


@pytest.mark.parametrize("domain", ["space", "frequency"])
def test_training_loop_follows_the_closed_form(published, domain):
    problem, start = published
    basis = jnp.eye(3) if domain == "frequency" else None
    run = linear_models.train(problem, optax.sgd(0.5), start, 3000, record_at=range(0, 3001, 100), basis=basis)
    expected = gradient_descent(problem, start, 0.5, run.steps)
    np.testing.assert_allclose(run.weights, expected, rtol=0, atol=1e-12)
    if domain == "frequency":
        assert (run.weights[:, 2] == start[2]).all()


@pytest.mark.parametrize(("scale", "rate", "steps"), [(1.0, 0.01, 500), (0.01, 0.5, 1000), (0.01, 50.0, 60)])
def test_training_in_space_leaves_the_irrelevant_weight(published, scale, rate, steps):
    # To 1e-15 where the weights are of size 0.1; rounding grows with their size and the number of steps.
    problem, start = published
    scaled = linear_models.LeastSquares(problem.variances, scale * problem.target)
    run = linear_models.train(scaled, optax.sgd(rate), scale * start, steps, record_at=range(steps + 1))
    np.testing.assert_allclose(run.weights[:, 2], scale * 0.02, rtol=0, atol=1e-15)
    if scale < 1:
        assert (run.weights[-1, :2] > 0.7 * scaled.target[:2]).all()


@given(st.integers(0, 10_000), st.floats(0.01, 2.2), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_closed_form_is_the_iterated_step(seed, learning_rate, steps):
    with jax.enable_x64(True):
        random = np.random.default_rng(seed)
        variances = random.uniform(0, 1, 5) * (random.uniform(size=5) > 0.3)
        variances[0] = 1.0
        target, start = random.normal(size=(2, 5))
        problem = linear_models.LeastSquares(jnp.asarray(variances), jnp.asarray(target))
        weights = start.copy()
        for _ in range(steps):
            weights -= learning_rate * variances * (weights - target)
        closed = gradient_descent(problem, start, learning_rate, steps)
        np.testing.assert_allclose(closed, weights, rtol=1e-10, atol=1e-12)
        assert (np.asarray(closed)[variances == 0] == start[variances == 0]).all()


def test_exact_step_and_convergence_condition(float64):
    problem = linear_models.LeastSquares(jnp.array([4.0, 1.0]), jnp.array([1.0, -1.0]))
    assert linear_models.max_learning_rate(problem) == 0.5
    start = jnp.array([3.0, 2.0])
    assert gradient_descent(problem, start, 0.25, 0).tolist() == [3.0, 2.0]
    assert gradient_descent(problem, start, 0.25, 1)[0] == 1.0
    near = gradient_descent(problem, start, 0.499, 20_000)
    np.testing.assert_allclose(near, [1.0, -1.0], atol=1e-12)
    assert jnp.abs(gradient_descent(problem, start, 0.501, 20_000)[0]) > 1e6


def test_single_precision_keeps_the_slow_rate():
    problem, start = linear_models.published_problem(), linear_models.published_initial_weights()
    late = gradient_descent(problem, start, 0.01, 200_000)
    np.testing.assert_allclose(late, [5.0, 9.93255737, 0.02], rtol=2e-6)


def test_limit_from_zero_is_the_robust_minimiser(published):
    problem, _ = published
    limit = linear_models.gradient_descent_limit(problem, jnp.zeros(3))
    assert limit.tolist() == linear_models.robust_minimiser(problem).tolist()


def test_expected_risk_over_random_initial_weights(float64, key):
    problem = linear_models.LeastSquares(jnp.array([1.0, 0.5, 0.0, 0.0, 0.0]), jnp.array([2.0, -1.0, 9.0, 9.0, 9.0]))
    starts = 0.8 * jax.random.normal(key, (200_000, 5), jnp.float64)
    limits = linear_models.gradient_descent_limit(problem, starts)
    mean = jnp.mean(adversarial_risk(problem, limits, L2(0.5, bounds=None)))
    exact = linear_models.expected_gradient_descent_risk(problem, 0.5, 0.64)
    np.testing.assert_allclose(exact, 0.125 * (5 + 3 * 0.64), rtol=1e-14)
    np.testing.assert_allclose(mean, exact, rtol=2e-3)
