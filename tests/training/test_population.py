import functools

import jax
import numpy as np
import optax
import pytest
from _small_networks import Network

from jaxrobust import attacks, data, losses, models, optimizers, training
from jaxrobust.threat import Linf

RATES, SEEDS = (0.05, 0.2, 0.05), (0, 0, 1)


def train(blobs, **options):
    images, labels = blobs
    defaults = {
        "optimizer": optimizers.sgd,
        "learning_rates": RATES,
        "seeds": SEEDS,
        "epochs": 3,
        "batch_size": 32,
    }
    return training.train_population(models.MLP(classes=3, widths=(8,)), images, labels, **{**defaults, **options})


def assert_same(first, second, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), first.variables, second.variables)
    for name in first.history:
        np.testing.assert_allclose(first.history[name], second.history[name], atol=1e-4)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("momentum", "rmsprop")]


@pytest.mark.parametrize("name", ["sgd", "adam", "sign_sgd", *SLOW])
def test_together_equals_one_by_one(blobs, name):
    optimizer = functools.partial(optimizers.OPTIMIZERS[name])
    together = train(blobs, optimizer=optimizer, mode="together", learning_rates=(0.01, 0.003, 0.01))
    one_by_one = train(blobs, optimizer=optimizer, mode="one_by_one", learning_rates=(0.01, 0.003, 0.01))
    # signGD amplifies a rounding of a near-zero gradient to a whole step.
    assert_same(together, one_by_one, atol=0.03 if name in ("sign_sgd", "rmsprop", "adam") else 1e-5)


def test_equals_the_plain_train_step(blobs):
    images, labels = blobs
    model, optimizer = models.MLP(classes=3, widths=(8,)), optimizers.sgd(0.2)
    state = training.init_state(model, jax.random.key(0), images[:1], optimizer)
    step = jax.jit(training.make_train_step(training.linen_apply(model), training.standard(), optimizer))
    for epoch in range(3):
        full, rest = data.epoch_batches(90, 32, 0, epoch, False)
        for index in [*full, rest]:
            state, _ = step(state, {"images": images[index], "labels": labels[index]})
    population = train(blobs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        training.member(population.variables, 1)["params"],
        state.params,
    )


def test_chunks_do_not_change_the_result(blobs):
    assert_same(train(blobs, mode="together", memory_limit=1), train(blobs, mode="together"))


def test_drop_last_and_augmentation(blobs):
    augment = data.random_flip
    assert_same(
        train(blobs, drop_last=True, augment=augment, mode="together"),
        train(blobs, drop_last=True, augment=augment, mode="one_by_one"),
    )


def test_batch_norm_and_convolutions(blobs):
    images, labels = blobs
    run = functools.partial(
        training.train_population,
        models.SmallCNN(classes=3, batch_norm=True),
        images,
        labels,
        optimizer=optimizers.sgd,
        learning_rates=(0.05, 0.1),
        seeds=(0, 1),
        epochs=1,
        batch_size=45,
    )
    together, one_by_one = run(mode="together"), run()
    assert "batch_stats" in together.variables
    assert_same(together, one_by_one, atol=1e-4)


def test_adversarial_objective_trains(blobs):
    objective = training.adversarial(attacks.pgd(Linf(0.05), steps=2))
    population = train(blobs, objective=objective, learning_rates=(0.3, 0.3, 0.3))
    assert (population.history["loss"][-1] < population.history["loss"][0]).all()


@pytest.mark.parametrize("mode", ["together", "one_by_one"])
def test_starts_from_given_variables(blobs, mode):
    """Two steps are one and another one from its result, for an optimizer without state; each chunk gets its own part."""
    run = functools.partial(
        train, blobs, mode=mode, batch_size=90
    )  # of the whole set, so that its order does not matter
    half = run(epochs=1)
    rest = run(epochs=1, initial=half.variables, memory_limit=1)
    assert_same_variables(rest, run(epochs=2))
    still = run(epochs=1, learning_rates=(0.0, 0.0, 0.0), initial=half.variables)
    assert_same_variables(still, half, atol=0)


def assert_same_variables(first, second, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), first.variables, second.variables)


def test_the_optimizer_starts_from_the_given_parameters_too(blobs):
    """One that keeps the first parameters in its state and returns to them in every step."""

    def make(rate):
        def update(gradients, anchor, params):
            del gradients
            return jax.tree.map(lambda a, p: a - p, anchor, params), anchor

        return optax.GradientTransformation(lambda params: params, update)

    initial = jax.tree.map(lambda leaf: leaf + 1, train(blobs, epochs=1).variables)
    population = train(blobs, optimizer=make, epochs=1, initial=initial)
    assert_same_variables(population, training.Population(initial, {}))


def test_batch_norm_statistics_are_given_too(blobs):
    """A learning rate of zero leaves parameters alone, and statistics move from where they were by a tenth."""
    run = functools.partial(
        training.train_population,
        Network(),
        *blobs,
        optimizer=optimizers.sgd,
        learning_rates=(0.0,),
        seeds=(0,),
        epochs=1,
        batch_size=90,
    )
    first = run().variables
    moved = {**first, "batch_stats": jax.tree.map(lambda leaf: leaf + 1, first["batch_stats"])}
    once, again = (run(initial=initial).variables["batch_stats"] for initial in (first, moved))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b - a, 0.9, rtol=1e-4), once, again)


def test_mixed_batches(blobs):
    """Soft labels reach the loss, and members of equal seed see the same mix."""

    def soft(logits, labels):
        assert labels.shape == (*logits.shape[:1], 3)
        return losses.cross_entropy(logits, labels)

    options = {"objective": training.standard(soft), "epochs": 1, "batch_size": 90, "mode": "together"}
    mixed = train(blobs, mix=data.mixup(3, label_smoothing=0.1), **options).history["loss"][0]
    plain = train(blobs, epochs=1, batch_size=90, mode="together").history["loss"][0]
    assert mixed[0] == mixed[1] != mixed[2]
    assert np.abs(mixed - plain).min() > 1e-5


def test_a_diverging_member_leaves_the_others_alone(blobs):
    population = train(blobs, learning_rates=(0.05, 1e30, 0.05))
    assert not np.isfinite(population.history["loss"][-1, 1])
    assert np.isfinite(population.history["loss"][:, [0, 2]]).all()


class Stop(Exception):
    pass


@pytest.mark.parametrize("mode", ["together", "one_by_one"])
def test_resumes_from_checkpoints(blobs, mode, tmp_path):
    expected = train(blobs, mode=mode)
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if len(calls) == 2:
            raise Stop

    with training.Checkpoints(tmp_path) as checkpoints, pytest.raises(Stop):
        train(blobs, mode=mode, checkpoints=checkpoints, on_epoch=stop)
    resumed_calls = []
    with training.Checkpoints(tmp_path) as checkpoints:
        resumed = train(blobs, mode=mode, checkpoints=checkpoints, on_epoch=lambda *call: resumed_calls.append(call))
    assert_same(resumed, expected, atol=0)
    whole = 3 if mode == "together" else 9
    assert len(resumed_calls) == whole - 2
    assert resumed_calls[-1] == (9, 9)


def test_rule_of_the_mode(blobs):
    images, _ = blobs

    def jaxpr_of(model):
        variables = model.init(jax.random.key(0), images)
        return jax.make_jaxpr(lambda v, x: jax.jit(model.apply)(v, x))(variables, images)

    convolution, dense = jaxpr_of(models.SmallCNN(classes=3)), jaxpr_of(models.MLP(classes=3))
    assert training.choose_population_mode(convolution, "cpu") == "one_by_one"
    assert training.choose_population_mode(convolution, "gpu") == "together"
    assert training.choose_population_mode(dense, "cpu") == "together"
    assert training.members_that_fit(dense, 1) == 1
    assert training.members_that_fit(dense, 1e9) > 100


def test_errors(blobs):
    with pytest.raises(ValueError, match="1 learning rates and 3 seeds"):
        train(blobs, learning_rates=(0.1,))
    with pytest.raises(ValueError, match="choose one of auto, together, one_by_one"):
        train(blobs, mode="fast")
    with pytest.raises(ValueError, match="exceeds the 90 images"):
        train(blobs, batch_size=100, drop_last=True)
    variables = train(blobs, epochs=0).variables
    for wrong in (jax.tree.map(lambda leaf: leaf[:2], variables), {**variables, "batch_stats": {}}):
        with pytest.raises(ValueError, match="a leading axis of 3, one entry per member"):
            train(blobs, initial=wrong)
