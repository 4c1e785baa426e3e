"""The one-cycle policy against PyTorch: rates, momentum, and SGD with both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optimizers, schedules

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def torch_cycle(total, warmup, parameters, **options):
    optimizer = torch.optim.SGD(parameters, lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=total, pct_start=warmup, **options
    )


@pytest.mark.parametrize(("total", "warmup"), [(2400, 0.025), (100, 0.3), (60, 0.025), (20, 0.025), (10, 0.0)])
def test_rates_and_momentum(total, warmup):
    optimizer, scheduler = torch_cycle(total, warmup, [torch.zeros(1, requires_grad=True)])
    rates, momenta = [], []
    for epoch in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if epoch < total - 1:
            scheduler.step()
    epochs = jnp.arange(total)
    rate = jax.vmap(schedules.one_cycle(0.2, total, warmup=warmup))(epochs)
    # PyTorch adds 1 to a cosine, and so loses digits of the last rates.
    np.testing.assert_allclose(rate, rates, rtol=1e-5, atol=1e-12)
    momentum = jax.vmap(schedules.one_cycle_momentum(total, warmup=warmup))(epochs)
    np.testing.assert_allclose(momentum, momenta, rtol=1e-6)


@pytest.mark.parametrize("cycle_momentum", [True, False])
def test_sgd_by_one_cycle(float64, cycle_momentum):
    steps, rng = 60, np.random.default_rng(0)
    scales, start = rng.uniform(0.1, 2, size=(6, 4)), rng.normal(size=(6, 4))
    noise = rng.normal(size=(steps, 6, 4))

    weights = torch.tensor(start, requires_grad=True)
    optimizer, scheduler = torch_cycle(steps, 0.2, [weights], cycle_momentum=cycle_momentum)
    for number in range(steps):
        optimizer.zero_grad()
        (weights**2 * torch.tensor(scales) / 2 + torch.tensor(noise[number]) * weights).sum().backward()
        optimizer.step()
        if number < steps - 1:
            scheduler.step()

    momentum = schedules.one_cycle_momentum(steps, warmup=0.2) if cycle_momentum else 0.9
    ours = optimizers.sgd(
        schedules.one_cycle(0.2, steps, warmup=0.2), momentum=momentum, nesterov=True, weight_decay=5e-4
    )

    @jax.jit
    def step(params, state, noise):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = ours.update(scales * params + noise, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.asarray(start)
    state = ours.init(params)
    for number in range(steps):
        params, state = step(params, state, jnp.asarray(noise[number]))
    assert np.abs(weights.detach().numpy() - start).max() > 0.5
    np.testing.assert_allclose(params, weights.detach().numpy(), atol=1e-5)
