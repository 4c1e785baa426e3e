import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import models, training


def weights_of(averaging, steps):
    """The weight of the new parameters after each step, from averages of 0, 0, ..., and then 1."""
    return [
        float(averaging.update(training.AverageState(jnp.int32(step - 1), jnp.zeros(())), jnp.ones(())).params)
        for step in steps
    ]


def test_ema_ramp():
    """Check 7.5.5 of the data-geometry spec; the decay 0.995 is first reached at k = 1790."""
    warmup = 30
    tau = 1 - np.array(weights_of(training.ema(0.995, warmup_steps=warmup), [warmup + k for k in (0, 1, 2, 10, 100)]))
    np.testing.assert_allclose(tau, [0.1, 0.1818182, 0.25, 0.55, 0.9181818], atol=1e-6)
    before, first = weights_of(training.ema(0.995, warmup_steps=warmup), [warmup + 1789, warmup + 1790])
    assert before > 0.005 == pytest.approx(first, abs=1e-7)
    assert weights_of(training.ema(0.9, ramp=False), [1, 5]) == [pytest.approx(0.1)] * 2


def test_before_the_warmup_ends_the_average_is_the_parameters_exactly(key):
    averaging = training.ema(0.995, warmup_steps=4)
    state = averaging.init({"w": jnp.full(5, 0.3)})
    for step in range(1, 6):
        params = {"w": jax.random.normal(jax.random.fold_in(key, step), (5,))}
        state = averaging.update(state, params)
        assert bool((state.params["w"] == params["w"]).all()) == (step < 4)


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 3))
def test_swa_is_the_mean_of_every_nth(values, start, every):
    averaging = training.swa(start, every=every)
    state = averaging.init(jnp.float32(7))
    for value in values:
        state = averaging.update(state, jnp.float32(value))
    counted = values[start - 1 :: every] or values[-1:]
    np.testing.assert_allclose(state.params, np.mean(counted), atol=1e-4)


def test_bad_numbers():
    for wrong in (lambda: training.ema(1.0), lambda: training.ema(0.9, warmup_steps=-1), lambda: training.swa(0)):
        with pytest.raises(ValueError, match=r"must (lie|be)"):
            wrong()


def test_batch_statistics_are_the_means_over_the_batches(key):
    model = models.SmallCNN(classes=3, batch_norm=True)
    apply = training.linen_apply(model)
    batches = [jax.random.uniform(jax.random.fold_in(key, n), (8, 8, 8, 1)) for n in range(3)]
    variables = model.init(key, batches[0])
    found = training.recompute_batch_statistics(apply, variables, batches)
    assert found["params"] is variables["params"]
    # The first norm sees the first convolution's output, whose statistics can be had directly.
    captured = [model.apply(variables, images, capture_intermediates=True)[1]["intermediates"] for images in batches]
    values = np.stack([np.asarray(one["conv_0"]["__call__"][0]) for one in captured])
    statistics = found["batch_stats"]["norm_0"]["batch_norm"]
    np.testing.assert_allclose(statistics["mean"], values.mean((0, 1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(statistics["var"], values.var((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no batches"):
        training.recompute_batch_statistics(apply, variables, [])
