"""Each optimizer against PyTorch: 100 steps of a random logistic regression, gradients by each framework."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import losses, optimizers

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS = 100
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(STEPS, 16, 12))
LABELS = RNG.integers(4, size=(STEPS, 16))
WEIGHTS = RNG.normal(size=(12, 4))
CASES = {
    "sgd": (optimizers.sgd, {}, torch.optim.SGD, {}),
    "sgd_weight_decay": (optimizers.sgd, {"weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    "sgd_nesterov": (
        optimizers.sgd,
        {"momentum": 0.8, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "momentum": (optimizers.momentum, {}, torch.optim.SGD, {"momentum": 0.9}),
    "adam": (optimizers.adam, {}, torch.optim.Adam, {}),
    "adam_weight_decay": (optimizers.adam, {"weight_decay": 0.1}, torch.optim.Adam, {"weight_decay": 0.1}),
    "rmsprop": (optimizers.rmsprop, {}, torch.optim.RMSprop, {}),
    "rmsprop_weight_decay": (optimizers.rmsprop, {"weight_decay": 0.1}, torch.optim.RMSprop, {"weight_decay": 0.1}),
    "adagrad": (optimizers.adagrad, {}, torch.optim.Adagrad, {}),
    "adagrad_weight_decay": (optimizers.adagrad, {"weight_decay": 0.1}, torch.optim.Adagrad, {"weight_decay": 0.1}),
    "adamw": (optimizers.adamw, {}, torch.optim.AdamW, {}),
}


def run_jax(optimizer):
    def loss(weights, inputs, labels):
        return losses.cross_entropy(jnp.tanh(inputs @ weights), labels).mean()

    @jax.jit
    def step(weights, state, inputs, labels):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(weights, inputs, labels), state, weights)
        return optax.apply_updates(weights, updates), state

    weights = jnp.asarray(WEIGHTS)
    state = optimizer.init(weights)
    for inputs, labels in zip(INPUTS, LABELS, strict=True):
        weights, state = step(weights, state, jnp.asarray(inputs), jnp.asarray(labels))
    return np.asarray(weights)


def run_torch(make):
    weights = torch.tensor(WEIGHTS, requires_grad=True)
    optimizer = make([weights])
    for inputs, labels in zip(INPUTS, LABELS, strict=True):
        optimizer.zero_grad()
        logits = torch.tanh(torch.tensor(inputs) @ weights)
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
        optimizer.step()
    return weights.detach().numpy()


@pytest.mark.parametrize("case", CASES)
def test_100_steps(float64, case):
    ours, options, theirs, torch_options = CASES[case]
    result = run_jax(ours(0.05, **options))
    expected = run_torch(lambda params: theirs(params, lr=0.05, **torch_options))
    assert np.abs(expected - WEIGHTS).max() > 0.05
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_sign_sgd(float64):
    weights = torch.tensor(WEIGHTS, requires_grad=True)
    for inputs, labels in zip(INPUTS, LABELS, strict=True):
        weights.grad = None
        torch.nn.functional.cross_entropy(torch.tanh(torch.tensor(inputs) @ weights), torch.tensor(labels)).backward()
        with torch.no_grad():
            weights -= 0.05 * torch.sign(weights.grad)
    np.testing.assert_allclose(run_jax(optimizers.sign_sgd(0.05)), weights.detach().numpy(), atol=1e-5)
