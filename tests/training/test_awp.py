import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _small_networks import BATCH, IMAGES, assert_close, network, value_and_gradient

from jaxrobust import Linf, attacks
from jaxrobust.training import Aux, awp, mart, standard


def linear_apply(variables, images, *, train, key=None):
    del train, key
    return images.reshape(len(images), -1) @ variables["params"]["weights"] + variables["params"]["bias"], {}


WEIGHTS = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)), jnp.float32)
LINEAR = {"params": {"weights": WEIGHTS, "bias": jnp.ones(4)}}


def negative_logit(logits, labels):
    return -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


@pytest.mark.parametrize("gamma", [0.0, 5e-3, 1.0])
def test_linear_model_and_loss(key, gamma):
    # The gradient G by the weights is constant, so the loss rises by gamma ||W|| ||G|| and its gradient stays.
    (plain, _), plain_gradient = value_and_gradient(standard(negative_logit), linear_apply, LINEAR, key)
    objective = awp(standard(negative_logit), gamma=gamma)
    (value, _), gradient = value_and_gradient(objective, linear_apply, LINEAR, key)
    rise = gamma * jnp.linalg.norm(WEIGHTS) * jnp.linalg.norm(plain_gradient["weights"])
    np.testing.assert_allclose(value - plain, rise, rtol=1e-4, atol=1e-6)
    assert_close(gradient, plain_gradient)


def test_gradient_is_that_at_the_moved_weights(key):
    apply, variables = network(dropout=0.3)
    inner, batch = mart(attacks.pgd(Linf(0.1))).loss, {**BATCH, "adversarial": jnp.flip(IMAGES, 2)}
    _, gradient = value_and_gradient(inner, apply, variables, key, batch)

    def moved(weights, gradient):
        if weights.ndim < 2:
            return weights
        return weights + 0.1 * jnp.linalg.norm(weights) * gradient / jnp.linalg.norm(gradient)

    params = jax.tree.map(moved, variables["params"], gradient)
    expected = value_and_gradient(inner, apply, {**variables, "params": params}, key, batch)
    found = value_and_gradient(awp(inner, gamma=0.1), apply, variables, key, batch)
    # Value, gradient and metrics, and running statistics that one pass at the moved weights has updated.
    assert_close(found, expected, atol=1e-5)


def test_relative_length_of_each_move(key):
    apply, variables = network()
    seen = []

    def spy(apply, variables, key, batch):
        seen.append(variables["params"])
        return standard()(apply, variables, key, batch)

    awp(spy, gamma=0.02)(apply, variables, key, BATCH)
    for layer, parameters in seen[-1].items():
        for name, weights in parameters.items():
            old = variables["params"][layer][name]
            relative = float(jnp.linalg.norm(weights - old) / jnp.maximum(jnp.linalg.norm(old), 1e-12))
            assert relative == pytest.approx(0.02 if name == "kernel" else 0.0, rel=1e-4), (layer, name)


def test_zero_gamma_is_the_wrapped_objective(key):
    apply, variables = network()
    objective = standard()
    found = value_and_gradient(awp(objective, gamma=0.0), apply, variables, key)
    assert_close(found, value_and_gradient(objective, apply, variables, key))


def test_zero_gradients_move_nothing(key):
    def constant(apply, variables, key, batch):
        value = 0.0 * variables["params"]["weights"].sum()
        return value, Aux({}, {"loss": value, "weight": variables["params"]["weights"][0, 0]})

    (_, aux), gradient = value_and_gradient(awp(constant, gamma=1.0), linear_apply, LINEAR, key)
    assert float(aux.metrics["weight"]) == float(WEIGHTS[0, 0])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_starts_at_its_step(key):
    objective = awp(standard(), gamma=0.1, start_step=3)
    values = {}
    for step in (2, 3, None):
        batch = BATCH if step is None else {**BATCH, "step": jnp.asarray(step, jnp.int32)}
        values[step] = float(jax.jit(functools.partial(objective, linear_apply))(LINEAR, key, batch)[0])
    plain = float(standard()(linear_apply, LINEAR, key, BATCH)[0])
    always = float(awp(standard(), gamma=0.1)(linear_apply, LINEAR, key, BATCH)[0])
    np.testing.assert_allclose([values[2], values[3], values[None]], [plain, always, always], rtol=1e-6)
    assert always > plain + 1e-3


def test_keeps_the_attack_of_two_stages():
    objective = mart(attacks.pgd(Linf(0.1)))
    assert awp(objective).craft is objective.craft


def test_errors():
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        awp(standard(), gamma=-1)
    with pytest.raises(ValueError, match="start_step must be at least 0, got -1"):
        awp(standard(), start_step=-1)
