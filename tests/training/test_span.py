"""SGD moves first-layer weights inside the span of the training inputs only; adaptive methods do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, frequency, losses, models, optimizers, training

RATES = {"sgd": 0.1, "momentum": 0.05, "adam": 5e-4, "rmsprop": 5e-4, "sign_sgd": 5e-4}
INSIDE, OUTSIDE = ("sgd", "momentum"), ("adam", "rmsprop", "sign_sgd")
EMPTY = np.asarray(frequency.empty_frequencies(8, 16))


def trained(model, dataset, optimizer, epochs, objective=None):
    """Variables after and before training, seed 0."""
    population = training.train_population(
        model,
        dataset.train_images,
        dataset.train_labels,
        optimizer=functools.partial(optimizers.by_name(optimizer)),
        learning_rates=[RATES[optimizer]],
        seeds=[0],
        epochs=epochs,
        objective=objective,
        drop_last=True,
    )
    start = training.init_state(model, jax.random.key(0), dataset.train_images[:1], optimizers.sgd(0.1))
    return training.member(population.variables, 0), start.variables


def empty_part(kernel):
    """The DCT coefficients of first-layer weights on the empty frequencies, ``[units, empty]``."""
    return np.asarray(frequency.dct2(jnp.asarray(kernel).T.reshape(-1, 16, 16, 1)))[:, EMPTY]


def moved(after, before, layer):
    kernels = [variables["params"][layer]["linear"]["kernel"] for variables in (after, before)]
    return np.abs(empty_part(kernels[0]) - empty_part(kernels[1])).max()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits_dct16")


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margin])
@pytest.mark.parametrize("optimizer", [*INSIDE, *OUTSIDE])
def test_first_layer_of_a_network(digits, optimizer, loss):
    model = models.MLP(classes=10, widths=(16,))
    after, before = trained(model, digits, optimizer, 3, training.standard(loss))
    change = moved(after, before, "dense_0")
    assert change < 1e-6 if optimizer in INSIDE else change > 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [*INSIDE, *OUTSIDE])
def test_network_of_the_study(digits, optimizer):
    """The prototype moved by 4e-7 (SGD), 1e-6 (with momentum), 0.47, 0.44 and 0.42."""
    after, before = trained(models.MLP(classes=10, widths=(128,)), digits, optimizer, 200)
    change = moved(after, before, "dense_0")
    assert change < 1e-5 if optimizer in INSIDE else change > 0.2


def test_softmax_regression_from_zero_does_not_see_empty_frequencies(digits):
    model = models.Linear(classes=10, initializer="zeros")
    images = digits.test_images[:100]
    noise = np.asarray(frequency.band_noises(jax.random.key(1), EMPTY[None], 2.0, 100, (16, 16, 1))[0])
    norms, changes = {}, {}
    for optimizer in ("sgd", "adam"):
        variables, _ = trained(model, digits, optimizer, 10)
        norms[optimizer] = np.linalg.norm(empty_part(variables["params"]["head"]["linear"]["kernel"]))
        changes[optimizer] = np.abs(model.apply(variables, images + noise) - model.apply(variables, images)).max()
    assert norms["sgd"] < 1e-5
    assert changes["sgd"] < 1e-4
    assert norms["adam"] > 0.5
    assert changes["adam"] > 1
