import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import linear_models
from jaxrobust.threat import L2

RATE = 2e-3
STEPS = 4000
BANDS = {
    "below a third": (0.02, 0.32),
    "up to one": (0.34, 1.0),
    "up to three": (1.0, 3.0),
    "large": (3.0, 20.0),
}

oscillation_regions = jax.jit(linear_models.oscillation_regions)


@pytest.fixture(scope="module")
def runs():
    """Random problems and starts for each band of r, with the whole simulated trajectory."""

    def simulate(ratio, error):
        variances = jnp.stack([jnp.ones(()), ratio, jnp.zeros(())])
        problem = linear_models.LeastSquares(variances, jnp.zeros(3))
        run = linear_models.sign_gradient_descent(problem, error, RATE, STEPS, record_at=range(STEPS + 1))
        quantities = {
            "drift": linear_models.irrelevant_drift(problem, error),
            "published_drift": linear_models.irrelevant_drift_published(problem, error, learning_rate=RATE),
            "phase": linear_models.first_phase(problem, error, RATE),
            "steps": linear_models.moving_steps_bounds(problem, error, RATE),
            "published_steps": linear_models.moving_steps_published(problem, error, RATE),
            "initial": linear_models.initial_regions(problem, error, RATE),
            "bounds": linear_models.asymptotic_bounds(problem, RATE),
            "published_bounds": linear_models.asymptotic_bounds_published(problem, RATE),
            "risk_bound": linear_models.standard_risk_bound(problem, RATE),
            "risk": linear_models.standard_risk(problem, run.weights[-100:]),
            "regions": linear_models.oscillation_regions(problem, run.weights, RATE),
        }
        return run.weights, quantities

    results = {}
    simulate_all = jax.jit(jax.vmap(simulate))
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        for name, (low, high) in BANDS.items():
            ratio = random.uniform(low, high, 100)
            error = random.uniform(-1, 1, (100, 3)) * random.choice([0.02, 0.2, 1.0], (100, 1))
            error[:, 1] *= random.choice([0.3, 1.0, 3.0], 100)
            weights, quantities = simulate_all(jnp.asarray(ratio), jnp.asarray(error))
            results[name] = (ratio, np.asarray(weights), jax.tree.map(np.asarray, quantities))
    return results


@pytest.mark.parametrize("band", BANDS)
def test_drift_closed_form(runs, band):
    ratio, weights, quantities = runs[band]
    moved = weights[:, -1, 2] - weights[:, 0, 2]
    distance = np.abs(moved - quantities["drift"])
    assert (distance <= RATE * np.maximum(5, 1.5 * ratio)).all()
    if band != "large":
        assert ratio.max() <= 3
        assert (distance <= 5 * RATE).all()
    if band == "below a third":
        np.testing.assert_allclose(np.abs(moved), quantities["published_drift"], atol=6 * RATE)


@pytest.mark.parametrize("band", BANDS)
def test_step_counts_lie_within_their_bounds(runs, band):
    _, _, quantities = runs[band]
    low, high = quantities["steps"]
    moving = quantities["phase"].moving_steps
    assert (low <= moving).all()
    assert (moving <= high).all()
    initial = quantities["initial"]
    every = initial.p3 | initial.p5
    assert (moving[every] == quantities["phase"].steps[every]).all()
    assert (moving[initial.p1 | initial.p2] == 0).all()
    assert (quantities["phase"].steps[initial.p1] == 0).all()
    published_low, published_high = quantities["published_steps"]
    if band != "large":
        assert (published_low - 3 <= moving).all()
        assert (moving <= published_high + 1).all()


@pytest.mark.parametrize("band", BANDS)
def test_initial_regions_partition_the_quadrant(runs, band):
    _, _, quantities = runs[band]
    r = quantities["initial"]
    main = np.stack([r.p1, r.p2, r.p3, r.p4, r.p5, r.p6])
    assert (main.sum(0) == 1).all()
    assert not (r.p31 & ~r.p3).any()
    assert not ((r.p41 | r.p42) & ~r.p4).any()
    assert (r.p5 | r.p6).any() == (band == "below a third")
    assert (r.p3 | r.p4).any() == (band != "below a third")


@pytest.mark.parametrize("band", BANDS)
def test_oscillation_stays_within_the_corrected_bounds(runs, band):
    _, weights, quantities = runs[band]
    late, bounds = np.abs(weights[:, -1000:]).max(1), quantities["bounds"]
    assert (late[:, 0] <= bounds.first_error * (1 + 1e-9)).all()
    assert (late[:, 1] <= bounds.second_error * (1 + 1e-9)).all()
    np.testing.assert_allclose(weights[:, 2:][:, -500:], weights[:, :-2][:, -500:], atol=1e-12)
    a = weights[:, :, 0]
    assert (np.sign(a[:, -500:]) == -np.sign(a[:, -501:-1])).all()
    assert (quantities["risk"].max(1) <= quantities["risk_bound"]).all()
    phase = quantities["phase"].steps
    for trajectory, start, bound in zip(weights, phase, bounds.late_drift, strict=True):
        after = trajectory[start:]
        assert np.abs(after[:, 2] - after[0, 2]).max() <= bound * (1 + 1e-9)
        assert np.abs(np.cumsum(np.sign(after[1:, 0]))).max() <= 2


def test_printed_bounds_do_not_hold(runs):
    _, weights, quantities = runs["below a third"]
    late = np.abs(weights[:, -1000:]).max(1)
    printed = quantities["published_bounds"]
    assert (late[:, 0] > printed.first_error).any()
    assert (late[:, 1] > printed.second_error).any()


def test_irrelevant_weight_comes_to_rest_only_below_a_third(runs):
    _, weights, _ = runs["below a third"]
    assert (weights[:, -1000:, 1:] == weights[:, -1:, 1:]).all()
    _, weights, _ = runs["up to one"]
    assert (np.ptp(weights[:, -1000:, 2], axis=1) > 0.5 * RATE).any()


@pytest.mark.parametrize("band", BANDS)
def test_transitions_between_oscillation_regions(runs, band):
    _, _, quantities = runs[band]
    regions = quantities["regions"]
    now = type(regions)(*(region[:, :-1] for region in regions))
    then = type(regions)(*(region[:, 1:] for region in regions))
    inner = then.r31 | then.r32 | then.r33 | then.r34
    assert (then.r21 | then.r22 | then.r23)[now.r11].all()
    assert inner[now.r12 | now.r21].all()
    assert then.r21[now.r23].all()
    assert then.r22[now.r22].all()
    assert then.r12[now.r31].all()
    rest = (now.r32 | now.r33 | now.r34) & ~now.r31
    assert inner[rest].all()
    assert not (regions.r34 & (regions.r31 | regions.r32 | regions.r33)).any()
    inside = np.abs(runs[band][1][:, :, 0]) < np.sqrt(3) * RATE * (1 - 1e-9)
    assert (regions.stationary | regions.transient)[inside].all()
    assert not (regions.stationary | regions.transient)[
        ~inside & (np.abs(runs[band][1][:, :, 0]) > np.sqrt(3) * RATE)
    ].any()


def test_subregions_meant_to_be_disjoint_overlap(float64):
    problem = linear_models.LeastSquares(jnp.array([1.0, 0.1, 0.0]), jnp.zeros(3))
    weights = jnp.array([0.3 * 3**0.5, 0.2 / 0.1 * 2**0.5, 0.0])  # A = 0.3, B = 0.2, r = 0.1
    regions = oscillation_regions(problem, weights, 1.0)
    assert regions.r31
    assert regions.r32
    assert not regions.r34


@given(st.floats(0, 0.33), st.floats(-4, 4), st.floats(0.02, 3))
@settings(max_examples=40, deadline=None)
def test_membership_is_the_union_over_all_multiples(a, b, ratio):
    with jax.enable_x64(True):
        problem = linear_models.LeastSquares(jnp.array([1.0, ratio, 0.0]), jnp.zeros(3))
        weights = jnp.array([a * 3**0.5, b / ratio * 2**0.5, 0.0])
        regions = oscillation_regions(problem, weights, 1.0)
    k = np.arange(-402, 403)
    gaps = np.abs(b + k * ratio)
    even, odd = gaps[(k % 2 == 0) & (k != 0)], gaps[k % 2 == 1]
    for member, margin in ((regions.r32, a - even.min()), (regions.r33, 1 / 3 - a - odd.min())):
        if abs(margin) > 1e-9:
            assert bool(member) == (margin > 0)


def test_published_prediction(float64):
    @jax.jit
    def predict(problem, start):
        return {
            "interval": linear_models.risk_ratio_bounds_published(problem, start),
            "ratio from zero": linear_models.risk_ratio(problem, jnp.zeros(3)),
            "risk": linear_models.standard_risk_bound(problem, 0.01),
            "drift": linear_models.irrelevant_drift(problem, start),
            "published": linear_models.irrelevant_drift_published(problem, start),
            "least": linear_models.irrelevant_drift_published(problem, start, unit_step=np.sqrt(6) / 6),
            "steps": linear_models.moving_steps_bounds(problem, start, 0.01),
        }

    start = linear_models.published_initial_weights(jnp.float64)
    prediction = jax.tree.map(np.asarray, predict(linear_models.published_problem(jnp.float64), start))
    np.testing.assert_allclose(prediction["interval"], (1.0375, 1.15), rtol=1e-12)
    np.testing.assert_allclose(prediction["ratio from zero"], 1.15, rtol=1e-12)
    np.testing.assert_allclose(prediction["risk"], 2.5e-6, rtol=1e-12)
    np.testing.assert_allclose(prediction["drift"], -np.sqrt(3) * 0.25 * 10.01, rtol=1e-12)
    np.testing.assert_allclose(prediction["published"], -prediction["drift"], rtol=1e-12)
    np.testing.assert_allclose(prediction["least"], -prediction["drift"] / 2, rtol=1e-12)
    low, high = prediction["steps"]
    assert low <= 526 <= high


def test_signgd_is_not_always_less_robust(float64):
    """Initial weights on the irrelevant frequency that the drift partly undoes."""
    problem = linear_models.published_problem(jnp.float64)
    threat = L2(linear_models.PUBLISHED_EPS, bounds=None)

    @jax.jit
    @jax.vmap
    def ratios(start):
        run = linear_models.sign_gradient_descent(problem, start, 0.01, 3000, record_at=[2999, 3000])
        descent = linear_models.gradient_descent_limit(problem, start)
        risks = linear_models.adversarial_risk(problem, run.weights, threat)
        predicted = linear_models.risk_ratio(problem, start)
        return risks / linear_models.adversarial_risk(problem, descent, threat), predicted

    expected = np.array([[4.33, 0.867], [6.0, 0.792], [-2.0, 1.276], [2.0, 1.008], [0.0, 1.146]])
    simulated, predicted = ratios(jnp.asarray([[0.01, -0.01, weight] for weight in expected[:, 0]]))
    np.testing.assert_allclose(simulated.min(1), expected[:, 1], atol=6e-4)
    np.testing.assert_allclose(predicted, expected[:, 1], atol=5e-3)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0.01, 5))
@settings(max_examples=40, deadline=None)
def test_risk_ratio_from_zero_is_at_most_nine_sevenths(first, second, ratio):
    with jax.enable_x64(True):
        problem = linear_models.LeastSquares(jnp.array([1.0, ratio, 0.0]), jnp.array([first + 1e-3, second, 0.0]))
        value = float(linear_models.risk_ratio(problem, jnp.zeros(3)))
    assert 1 <= value <= linear_models.MAX_RISK_RATIO_FROM_ZERO * (1 + 1e-12)


def test_largest_risk_ratio_is_attained(float64):
    problem = linear_models.LeastSquares(jnp.array([1.0, 0.5, 0.0]), jnp.array([1.0, 6**0.5, 0.0]))
    np.testing.assert_allclose(linear_models.risk_ratio(problem, jnp.zeros(3)), 9 / 7, rtol=1e-12)
    run = linear_models.sign_gradient_descent(problem, jnp.zeros(3), 1e-3, 8000, record_at=[8000])
    simulated = jnp.sum(run.weights[0] ** 2) / 7
    np.testing.assert_allclose(simulated, 9 / 7, atol=5e-3)
