import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import linear_models, models, optimizers


def apply(optimizer, gradients, params=None):
    params = jnp.zeros(len(gradients[0])) if params is None else params
    state = optimizer.init(params)
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


GRADIENT = [3.0, -0.2]


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (optimizers.adam, 1.0),
        (optimizers.rmsprop, 10.0),
        (lambda rate: optimizers.rmsprop(rate, decay=0.9), 3.1623),
        (optax.rmsprop, 3.1623),
        (optimizers.sign_sgd, 1.0),
        (optimizers.adagrad, 1.0),
    ],
    ids=["adam", "rmsprop", "rmsprop 0.9", "optax rmsprop", "sign_sgd", "adagrad"],
)
def test_first_step_from_zero_state(make, factor):
    # Check 7.6-1: RMSProp with decay 0.99 moves 1 / sqrt(1 - 0.99) = 10 learning rates; Optax's default is 0.9.
    moved = apply(make(0.01), [GRADIENT])
    np.testing.assert_allclose(moved, [-0.01 * factor, 0.01 * factor], rtol=1e-4)


def test_limits_are_sign_descent():
    # Check 7.6-2.
    gradients = [[0.5, -2.0], [0.1, 3.0], [-4.0, 0.2]]
    expected = apply(optimizers.sign_sgd(0.01), gradients)
    np.testing.assert_allclose(apply(optimizers.adam(0.01, b1=0.0, b2=0.0), gradients), expected, rtol=1e-5)
    np.testing.assert_allclose(apply(optimizers.rmsprop(0.01, decay=0.0), gradients), expected, rtol=1e-5)


def test_zero_gradient_without_epsilon():
    # Check 7.6-2: the limits that are sign descent elsewhere divide zero by zero here; so do the default decays.
    zero = [[0.0]]
    for decays in ({}, {"b1": 0.0, "b2": 0.0}):
        assert np.isnan(apply(optimizers.adam(0.01, eps=0.0, **decays), zero)).all()
        assert apply(optimizers.adam(0.01, **decays), zero).tolist() == [0.0]
    for decays in ({}, {"decay": 0.0}):
        assert np.isnan(apply(optimizers.rmsprop(0.01, eps=0.0, **decays), zero)).all()
        assert apply(optimizers.rmsprop(0.01, **decays), zero).tolist() == [0.0]
    assert apply(optimizers.sign_sgd(0.01), zero).tolist() == [0.0]


@pytest.mark.parametrize(
    ("make", "final"),
    [
        (optimizers.rmsprop, -5.3878),
        (lambda rate: optax.rmsprop(rate, decay=0.99, eps=1e-8, initial_scale=0.0), -5.3835),
        (optax.rmsprop, -4.6651),
    ],
    ids=["ours", "eps in sqrt", "optax default"],
)
def test_configurations_are_told_apart_by_the_linear_study(float64, make, final):
    # Check 7.6-3: the irrelevant weight at the end of setting E8, to all printed digits.
    problem = linear_models.published_problem(jnp.float64)
    start = linear_models.published_initial_weights(jnp.float64)
    run = linear_models.train(problem, make(0.01), start, 200_000, record_at=[200_000])
    assert abs(float(run.weights[-1, 2]) - final) < 5e-5


def test_momentum_reaches_ten_steps_per_step():
    moved = [apply(optimizers.momentum(0.01), [[1.0]] * steps) for steps in (200, 201)]
    assert float(moved[0][0] - moved[1][0]) == pytest.approx(0.1, rel=1e-3)


def test_nesterov_with_coupled_weight_decay():
    # Data geometry, check 7.5-4.
    optimizer = optimizers.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    found = [float(apply(optimizer, [[0.5]] * steps, jnp.ones(1))[0]) for steps in (1, 2, 3)]
    np.testing.assert_allclose(found, [0.904905, 0.769278534, 0.597182354], rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_constant_momentum_schedule_is_the_number(nesterov):
    gradients = [[0.5, -2.0], [0.1, 3.0], [-4.0, 0.2]]
    number = optimizers.momentum(0.1, nesterov=nesterov, weight_decay=0.1)
    schedule = optimizers.momentum(0.1, decay=lambda step: 0.9, nesterov=nesterov, weight_decay=0.1)
    start = jnp.ones(2)
    np.testing.assert_array_equal(apply(schedule, gradients, start), apply(number, gradients, start))


def test_momentum_schedule_counts_steps():
    # u: 1, then 0 * 1 + 1, then 0.5 * 1 + 1.
    optimizer = optimizers.sgd(1.0, momentum=lambda step: jnp.asarray([0.9, 0.0, 0.5])[step])
    found = [float(apply(optimizer, [[1.0]] * steps)[0]) for steps in (1, 2, 3)]
    np.testing.assert_allclose(found, [-1.0, -2.0, -3.5], rtol=1e-6)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_weight_decay_mask(name):
    params = {"layer": {"kernel": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    gradients = jax.tree.map(lambda leaf: jnp.asarray([0.3, -0.2]), params)

    def step(**options):
        optimizer = optimizers.by_name(name)(0.1, **options)
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradients, optimizer.init(params), params)[0]

    with_decay, without = step(weight_decay=1.0), step(weight_decay=0.0)
    assert (np.abs(with_decay["layer"]["kernel"] - without["layer"]["kernel"]) > 1e-3).any()
    for mask in (models.decay_mask, {"layer": {"kernel": True}, "norm": {"scale": False}}):
        masked = step(weight_decay=1.0, weight_decay_mask=mask)
        np.testing.assert_array_equal(masked["layer"]["kernel"], with_decay["layer"]["kernel"])
        np.testing.assert_array_equal(masked["norm"]["scale"], without["norm"]["scale"])


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_every_optimizer_descends_a_quadratic_and_keeps_the_dtype(float64, name, dtype):
    params = {"a": jnp.asarray([1.0, -2.0], dtype), "b": jnp.asarray(0.5, dtype)}
    optimizer = optimizers.by_name(name)(0.02)
    state = optimizer.init(params)

    def loss(params):
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))

    @jax.jit
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    before = float(loss(params))
    for _ in range(20):
        params, state = step(params, state)
    assert float(loss(params)) < 0.9 * before
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_traced_learning_rates(name):
    factory, rates = optimizers.by_name(name), jnp.asarray([0.01, 0.1])
    gradients = [[0.5, -2.0], [0.1, 3.0]]
    together = jax.vmap(lambda rate: apply(factory(rate), gradients))(rates)
    separate = jnp.stack([apply(factory(float(rate)), gradients) for rate in rates])
    np.testing.assert_allclose(together, separate, rtol=1e-5)
    structures = {jax.tree.structure(factory(rate).init(jnp.zeros(2))) for rate in (0.01, 0.1)}
    assert len(structures) == 1


def test_errors():
    with pytest.raises(ValueError, match="choose one of sgd, momentum"):
        optimizers.by_name("sdg")
    for rate in (0, -0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="learning rate must be finite and above 0"):
            optimizers.adam(rate)
    with pytest.raises(ValueError, match=r"b1 must lie in \[0, 1\), got 1"):
        optimizers.adam(0.1, b1=1.0)
    with pytest.raises(ValueError, match="nesterov needs"):
        optimizers.sgd(0.1, nesterov=True)
    with pytest.raises(ValueError, match="weight_decay"):
        optimizers.adamw(0.1, weight_decay=-1)
