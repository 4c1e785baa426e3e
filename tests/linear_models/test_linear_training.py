import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import linear_models
from jaxrobust.frequency import dct_matrix
from jaxrobust.threat import L2

STEPS = linear_models.PUBLISHED_STEPS
THREAT = L2(linear_models.PUBLISHED_EPS, bounds=None)


def rmsprop(**changes):
    settings = {"decay": 0.99, "eps": 1e-8, "eps_in_sqrt": False, "initial_scale": 0.0}
    return optax.rmsprop(0.01, **(settings | changes))


OPTIMIZERS = {
    "gd": optax.sgd(0.01),
    "signgd": optax.sign_sgd(0.01),
    "adam": optax.adam(0.01),
    "rmsprop": rmsprop(),
}


@pytest.fixture
def published(float64):
    return linear_models.published_problem(jnp.float64), linear_models.published_initial_weights(jnp.float64)


@pytest.mark.parametrize(
    ("name", "weights", "risk"),
    [
        ("gd", (5.0, 9.9326, 0.02), 123.698),
        ("signgd", (5.00408, 9.98849, -4.29927), 143.304),
        ("adam", (5.0, 10.0, -4.9178), 149.185),
        ("rmsprop", (5.0, 10.0, -5.3878), 154.029),
    ],
)
def test_published_limits(published, name, weights, risk):
    problem, start = published
    run = linear_models.train(problem, OPTIMIZERS[name], start, STEPS, record_at=[0, STEPS - 1, STEPS])
    np.testing.assert_allclose(run.weights[0], start, atol=1e-15)
    np.testing.assert_allclose(run.weights[-1], weights, atol=5e-5)
    np.testing.assert_allclose(linear_models.adversarial_risk(problem, run.weights[-1], THREAT), risk, atol=6e-4)
    if name != "gd":
        assert linear_models.standard_risk(problem, run.weights[-1]) < 2.6e-7
    if name == "signgd":  # the other state of its cycle
        np.testing.assert_allclose(run.weights[-2], (4.98676, 9.98849, -4.29927), atol=5e-6)
        risks = linear_models.adversarial_risk(problem, run.weights[-2:], THREAT)
        np.testing.assert_allclose(risks, (143.141, 143.304), atol=5e-4)
        np.testing.assert_allclose(linear_models.standard_risk(problem, run.weights[-2:]), (1.04e-6, 2.5e-7), rtol=6e-3)


@pytest.mark.parametrize("name", ["signgd", "adam", "rmsprop"])
def test_training_on_dct_coefficients_hides_the_effect(published, name):
    problem, start = published
    run = linear_models.train(problem, OPTIMIZERS[name], start, 20_000, record_at=[20_000], basis=jnp.eye(3))
    assert run.weights[0, 2] == start[2]
    assert (
        125.0 <= linear_models.adversarial_risk(problem, run.weights[0], THREAT) <= 125.35
    )  # signGD ends up to one step away from the target in each coordinate


@pytest.mark.parametrize(
    ("changes", "weight", "digits"),
    [
        ({"eps_in_sqrt": True}, -5.3835, 4),
        ({"decay": 0.9, "eps_in_sqrt": True}, -4.6651, 4),
        ({"bias_correction": True}, -5.324, 3),
    ],
)
def test_other_rmsprop_settings_end_elsewhere(published, changes, weight, digits):
    problem, start = published
    run = linear_models.train(problem, rmsprop(**changes), start, 20_000, record_at=[20_000])
    np.testing.assert_allclose(run.weights[0, 2], weight, rtol=0, atol=0.5 * 10**-digits)


def test_permuting_the_inputs_changes_nothing(published):
    problem, start = published
    permuted = dct_matrix(3, jnp.float64)[:, jnp.array([2, 0, 1])]
    plain = linear_models.train(problem, OPTIMIZERS["signgd"], start, 500, record_at=[500])
    moved = linear_models.train(problem, OPTIMIZERS["signgd"], start, 500, record_at=[500], basis=permuted)
    np.testing.assert_allclose(moved.weights, plain.weights, atol=1e-11)


def test_records_are_states_of_one_run(published):
    problem, start = published
    optimizer = OPTIMIZERS["adam"]
    full = linear_models.train(problem, optimizer, start, 50, record_at=range(51))
    some = linear_models.train(problem, optimizer, start, 50, record_at=[3, 17, 50])
    assert some.steps.tolist() == [3, 17, 50]
    np.testing.assert_array_equal(some.weights, full.weights[np.array([3, 17, 50])])
    default = linear_models.train(problem, optimizer, start, 1000)
    assert default.steps[0] == 0
    assert default.steps[-1] == 1000


@pytest.mark.parametrize("sampler", [linear_models.wishart_covariance, linear_models.sample_covariance])
def test_second_moment_matrices_follow_the_wishart_law(float64, key, sampler):
    draws, count = 20_000, 6
    variances = jnp.array([2.0, 0.5, 1.0, 0.0])
    problem = linear_models.LeastSquares(variances, jnp.zeros(4))
    matrices = np.asarray(jax.jit(jax.vmap(lambda key: sampler(key, problem, count)))(jax.random.split(key, draws)))
    diagonal = np.diag(variances)
    variance = (np.outer(variances, variances) + diagonal**2) / count
    np.testing.assert_allclose(matrices.mean(0), diagonal, atol=5 * np.sqrt(variance.max() / draws))
    np.testing.assert_allclose(matrices.var(0), variance, rtol=0.1, atol=1e-15)
    determinants = np.linalg.det(matrices[:, :3, :3])
    exact = np.prod(np.asarray(variances)[:3]) * (6 * 5 * 4) / 6**3
    np.testing.assert_allclose(determinants.mean(), exact, rtol=0.04)
    assert (matrices[:, 3] == 0).all()
    assert (matrices == matrices.transpose(0, 2, 1)).all()


def test_sampled_training_is_near_the_population_run_and_reproducible(published, key):
    problem, start = published

    def run(key, **changes):
        settings = {"samples": 1000, "record_at": [1000], **changes}
        return linear_models.train(problem, OPTIMIZERS["signgd"], start, 1000, key=key, **settings).weights[0]

    by_law, again, other = run(key), run(key), run(jax.random.key(1))
    by_samples = run(key, sampler=linear_models.sample_covariance)
    for weights in (by_law, other, by_samples):
        assert -4.2 < weights[2] < -3.7  # noisy signs cost 4 to 10 per cent of the drift
    np.testing.assert_array_equal(by_law, again)
    assert (by_law != other).any()


def test_gradient_descent_on_samples_leaves_the_irrelevant_weight(published, key):
    problem, start = published
    run = linear_models.train(
        problem, OPTIMIZERS["gd"], start, 20, key=key, samples=2, sampler=linear_models.sample_covariance
    )
    np.testing.assert_allclose(run.weights[:, 2], start[2], atol=1e-15)
    assert (run.weights[-1, :2] > start[:2]).all()


def test_single_precision_reaches_the_same_solutions():
    problem, start = linear_models.published_problem(), linear_models.published_initial_weights()
    for name, weight in (("signgd", -4.299), ("adam", -4.918), ("rmsprop", -5.388)):
        run = linear_models.train(problem, OPTIMIZERS[name], start, 20_000, record_at=[20_000])
        assert run.weights.dtype == jnp.float32
        np.testing.assert_allclose(run.weights[0, 2], weight, atol=0.02)


def test_errors_say_what_is_wanted(key):
    problem, start = linear_models.published_problem(), linear_models.published_initial_weights()
    optimizer = OPTIMIZERS["gd"]
    with pytest.raises(ValueError, match="needs a random key"):
        linear_models.train(problem, optimizer, start, 10, samples=5)
    with pytest.raises(ValueError, match="positive number"):
        linear_models.train(problem, optimizer, start, 10, key=key, samples=0)
    with pytest.raises(ValueError, match="use sample_covariance"):
        linear_models.train(problem, optimizer, start, 10, key=key, samples=2)
    for wrong in ([], [3, 3], [-1, 2], [0, 11], [0.5]):
        with pytest.raises(ValueError, match="record_at must be"):
            linear_models.train(problem, optimizer, start, 10, record_at=wrong)
    with pytest.raises(ValueError, match="at least one step"):
        linear_models.log_spaced_steps(0)


@pytest.mark.slow
def test_published_study_with_fresh_samples():
    with jax.enable_x64(True):
        problem = linear_models.published_problem(jnp.float64)
        start = linear_models.published_initial_weights(jnp.float64)
        risks = {}
        for name, optimizer in OPTIMIZERS.items():
            run = linear_models.train(
                problem, optimizer, start, STEPS, key=jax.random.key(0), samples=1000, record_at=[STEPS]
            )
            assert linear_models.standard_risk(problem, run.weights[0]) < 1e-4
            risks[name] = float(linear_models.adversarial_risk(problem, run.weights[0], THREAT))
        assert risks["gd"] < risks["signgd"] < risks["adam"] < risks["rmsprop"]
        assert 139.5 < risks["signgd"] < 141.5
        assert 148.6 < risks["adam"] < 149.1
        assert 152.9 < risks["rmsprop"] < 153.3
        converged = linear_models.gradient_descent_limit(problem, start)
        ratio = risks["signgd"] / linear_models.adversarial_risk(problem, converged, THREAT)
        assert 1.11 < ratio < 1.15
        assert 1.13 < risks["signgd"] / risks["gd"] < 1.15  # as published, with gradient descent not converged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "samples", "weights", "risks"),
    [
        ("signgd", 1000, (-4.03, -3.85), (139.5, 141.3)),
        ("signgd", 5000, (-4.21, -4.08), (141.5, 142.6)),
        ("adam", 1000, (-4.92, -4.83), (148.5, 149.0)),
        ("rmsprop", 1000, (-5.33, -5.25), (152.7, 153.3)),
    ],
)
def test_sampled_runs_of_four_seeds(published, name, samples, weights, risks):
    """Section 6.6 quotes the intervals of four seeds of a prototype; those asserted here are wider.

    Quoted: signGD on 1000 samples -3.95 to -3.85 and 139.9 to 140.6, on 5000 samples 141.6 to 142.0; Adam 148.8 to
    148.9, RMSProp 153.1 to 153.2. Here: -4.00 to -3.95 and 140.6 to 141.2, 141.9 to 142.6; 148.6 to 148.9, 152.8 to
    153.1. Mean and standard deviation of 128 of our seeds: -3.961 (0.045) and 140.68 (0.36), 142.01 (0.26); 148.79
    (0.17), 153.07 (0.17). So four seeds may leave the quoted intervals, which reach up to 2.5 deviations away from
    the mean. Loops that draw the samples themselves, in JAX and in plain NumPy, have the same mean weight of signGD.
    """
    problem, start = published
    optimizer = OPTIMIZERS[name]

    def run(key):  # the last two states: signGD ends in a cycle of two
        record_at = [STEPS - 1, STEPS]
        return linear_models.train(
            problem, optimizer, start, STEPS, key=key, samples=samples, record_at=record_at
        ).weights

    last = jax.vmap(run)(jax.vmap(jax.random.key)(jnp.arange(4)))
    assert linear_models.standard_risk(problem, last).max() < 1e-4
    found = linear_models.adversarial_risk(problem, last, THREAT)
    assert ((weights[0] < last[..., 2]) & (last[..., 2] < weights[1])).all()
    assert ((risks[0] < found) & (found < risks[1])).all()
    assert np.unique(last[:, -1, 2]).size > 1
