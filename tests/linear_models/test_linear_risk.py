import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import linear_models
from jaxrobust.threat import L1, L2, Linf

NORMS = [L1, L2, Linf]
MIDWAY = (3.0, -2.0, 0.5)

sample = jax.jit(linear_models.sample, static_argnums=2)
standard_risk = jax.jit(linear_models.standard_risk)


def compiled(norm):
    """Adversarial risk and its bounds, compiled for one norm."""

    @jax.jit
    def evaluate(problem, weights, eps):
        threat = norm(eps, bounds=None)
        risk = linear_models.adversarial_risk(problem, weights, threat)
        return risk, *linear_models.adversarial_risk_bounds(problem, weights, threat)

    return evaluate


EVALUATE = {norm: compiled(norm) for norm in NORMS}


def problem_and_weights(seed, dimension=6):
    random = np.random.default_rng(seed)
    variances = random.uniform(0, 1, dimension) * (random.uniform(size=dimension) > 0.3)
    problem = linear_models.LeastSquares(jnp.asarray(variances), jnp.asarray(random.normal(size=dimension)))
    return problem, jnp.asarray(random.normal(size=dimension))


def test_published_start_values(float64):
    problem = linear_models.published_problem(jnp.float64)
    weights = linear_models.published_initial_weights(jnp.float64)
    threat = L2(linear_models.PUBLISHED_EPS, bounds=None)
    assert abs(standard_risk(problem, weights) - 0.249750625) < 1e-15
    assert abs(linear_models.adversarial_risk(problem, weights, threat) - 0.269884975) < 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_adversarial_risk_is_the_mean_worst_loss_of_samples(norm, key):
    threat = norm(0.3, bounds=None)
    problem = linear_models.published_problem()
    weights = jnp.array(MIDWAY)
    inputs, labels = sample(key, problem, 2_000_000)
    perturbations = linear_models.worst_perturbation(problem, weights, inputs, threat)
    losses = ((inputs + perturbations) @ linear_models.to_space(weights) - labels) ** 2 / 2
    expected, _, _ = EVALUATE[norm](problem, weights, 0.3)
    np.testing.assert_allclose(jnp.mean(losses), expected, rtol=3e-3)
    np.testing.assert_allclose(threat.norm(perturbations), threat.eps, rtol=1e-5)


def test_gaussian_risk_is_the_mean_loss_of_noisy_samples(key):
    problem = linear_models.published_problem()
    weights = jnp.array(MIDWAY)
    sample_key, noise_key = jax.random.split(key)
    inputs, labels = sample(sample_key, problem, 2_000_000)
    noisy = inputs + 0.1 * jax.random.normal(noise_key, inputs.shape)
    losses = (noisy @ linear_models.to_space(weights) - labels) ** 2 / 2
    np.testing.assert_allclose(jnp.mean(losses), linear_models.gaussian_risk(problem, weights, 0.01), rtol=3e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_bounds_monotonicity_and_minimisers(seed):
    with jax.enable_x64(True):
        problem, weights = problem_and_weights(seed)
        clean = standard_risk(problem, weights)
        minimiser = jnp.where(problem.irrelevant, weights, problem.target)
        for evaluate in EVALUATE.values():
            previous, _, _ = evaluate(problem, weights, 0.0)
            np.testing.assert_allclose(previous, clean, rtol=1e-14)
            for eps in (0.1, 0.5, 2.0):
                risk, low, high = evaluate(problem, weights, eps)
                assert low <= risk * (1 + 1e-12)
                assert risk <= high * (1 + 1e-12)
                assert risk > previous
                previous = risk
        at_minimiser, _, _ = EVALUATE[L2](problem, minimiser, 0.7)
        np.testing.assert_allclose(at_minimiser, 0.7**2 / 2 * jnp.sum(minimiser**2), rtol=1e-12)
        robust = linear_models.robust_minimiser(problem)
        assert standard_risk(problem, robust) == 0
        assert EVALUATE[L2](problem, robust, 0.7)[0] <= at_minimiser * (1 + 1e-12)


def test_projected_gradient_ascent_never_beats_the_closed_form(float64, key):
    problem = linear_models.published_problem(jnp.float64)
    weights = jnp.array(MIDWAY, jnp.float64)
    spatial = linear_models.to_space(weights)
    inputs, labels = sample(key, problem, 200)
    threat = L2(0.3, bounds=None)

    def loss(perturbations):
        return ((inputs + perturbations) @ spatial - labels) ** 2 / 2

    @jax.jit
    def ascend(start):
        def step(attack, _):
            attack = threat.project(attack + 0.05 * jax.grad(lambda q: jnp.sum(loss(q)))(attack))
            return attack, loss(attack)

        return jax.lax.scan(step, threat.project(start), None, 60)[1]

    best = np.asarray(loss(linear_models.worst_perturbation(problem, weights, inputs, threat)))
    reached = np.asarray(ascend(jax.random.normal(key, inputs.shape, jnp.float64))) / best
    assert reached.max() <= 1 + 1e-12
    assert np.median(reached[-1]) > 1 - 1e-9  # it gets there unless it starts on the wrong side


def test_l2_risk_does_not_depend_on_the_domain_but_linf_does(float64):
    problem, weights = problem_and_weights(3)
    error = weights - problem.target
    spatial_error = linear_models.to_space(error)
    clean = spatial_error @ problem.covariance @ spatial_error / 2
    np.testing.assert_allclose(standard_risk(problem, weights), clean, rtol=1e-12)
    l2, _, _ = EVALUATE[L2](problem, weights, 0.5)
    cross = 0.5 * jnp.sqrt(4 * clean / jnp.pi) * jnp.linalg.norm(weights)
    np.testing.assert_allclose(l2, clean + cross + 0.125 * jnp.sum(weights**2), rtol=1e-12)
    linf, _, _ = EVALUATE[Linf](problem, weights, 0.5)
    slope = jnp.abs(weights).sum()
    in_frequency = clean + 0.5 * jnp.sqrt(4 * clean / jnp.pi) * slope + 0.125 * slope**2
    assert abs(linf - in_frequency) > 1e-3


def test_worst_perturbation_without_an_error_is_still_a_maximiser(float64):
    problem = linear_models.published_problem(jnp.float64)
    threat = L2(0.5, bounds=None)
    perturbation = linear_models.worst_perturbation(problem, problem.target, jnp.zeros((1, 3)), threat)
    np.testing.assert_allclose(threat.norm(perturbation), [0.5])


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_is_finite_at_a_minimiser_and_at_zero(norm):
    problem = linear_models.published_problem()
    gradient = jax.jit(jax.grad(lambda weights: EVALUATE[norm](problem, weights, 0.3)[0]))
    assert np.isfinite(gradient(problem.target)).all()
    assert np.isfinite(gradient(jnp.zeros(3))).all()


def test_batches_of_weights_and_budgets(float64):
    problem, _ = problem_and_weights(1)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6)))
    batch, _, _ = EVALUATE[L2](problem, weights, jnp.array([0.1, 0.2, 0.3, 0.4]))
    assert batch.shape == (2, 4)
    single, _, _ = EVALUATE[L2](problem, weights[1, 2], 0.3)
    np.testing.assert_allclose(batch[1, 2], single, rtol=1e-13)


def test_pixel_bounds_are_refused():
    problem = linear_models.published_problem()
    with pytest.raises(ValueError, match="bounds=None"):
        linear_models.adversarial_risk(problem, jnp.zeros(3), L2(0.5))
