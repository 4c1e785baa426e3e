import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _small_networks import BATCH, IMAGES, LABELS, Network, assert_close, network, value_and_gradient

from jaxrobust import L2, Linf, attacks, losses
from jaxrobust.training import AdversarialObjective, adversarial, awp, mart, mixture, standard, trades

ATTACK = attacks.pgd(Linf(0.1), steps=2)
KL_ATTACK = attacks.trades_pgd(Linf(0.1), steps=2)
TWO_STAGES = {
    "adversarial": lambda **options: adversarial(ATTACK, **options),
    "mixture": lambda **options: mixture(ATTACK, **options),
    "trades": lambda **options: trades(KL_ATTACK, **options),
    "mart": lambda **options: mart(ATTACK, **options),
    "awp": lambda **options: awp(trades(KL_ATTACK, **options)),
}
OBJECTIVES = {
    "standard": standard(),
    "awp_standard": awp(standard()),
    **{name: make() for name, make in TWO_STAGES.items()},
}
MODES = ("running", "batch")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_metrics(key, name):
    apply, variables = network()
    value, aux = jax.eval_shape(functools.partial(OBJECTIVES[name], apply), variables, key, BATCH)
    expected = {"loss", "accuracy", "robust_accuracy"}
    expected -= {"standard": {"robust_accuracy"}, "adversarial": {"accuracy"}}.get(name.removeprefix("awp_"), set())
    assert set(aux.metrics) == expected
    assert all(scalar.shape == () and scalar.dtype == jnp.float32 for scalar in (value, *aux.metrics.values()))
    assert jax.tree.structure(aux.model_state) == jax.tree.structure({"batch_stats": variables["batch_stats"]})


def test_two_stages_are_the_whole(key):
    apply, variables = network()
    objective = awp(trades(KL_ATTACK))
    assert isinstance(objective, AdversarialObjective)
    craft_key, loss_key = objective.split(key)
    batch = jax.jit(functools.partial(objective.craft, apply))(variables, craft_key, BATCH)
    assert set(batch) == {"images", "labels", "adversarial"}
    np.testing.assert_array_equal(batch["images"], IMAGES)
    whole = value_and_gradient(objective, apply, variables, key)
    # The gradient too: nothing flows through the attack.
    stages = value_and_gradient(objective.loss, apply, variables, loss_key, batch)
    assert_close(stages, whole)


@pytest.mark.parametrize(("mode", "threat"), [("running", L2(0.4)), ("batch", Linf(0.1))], ids=MODES)
def test_crafted_images_stay_in_ball_and_box(key, mode, threat):
    # Data geometry, check 7.5-11.
    apply, variables = network()
    objective = trades(attacks.trades_pgd(threat, steps=3), attack_batch_norm=mode)
    images = objective.craft(apply, variables, key, BATCH)["adversarial"]
    assert bool((threat.norm(images - IMAGES) <= threat.eps + 1e-6).all())
    assert bool(((images >= 0) & (images <= 1)).all())


@pytest.mark.parametrize("mode", MODES)
def test_what_the_attack_sees(key, mode):
    apply, variables = network()
    attack_key = jax.random.split(key)[0]

    def logits_fn(images):
        return apply(variables, images, train=mode == "batch")[0]

    expected = ATTACK(attack_key, logits_fn, IMAGES, LABELS)
    found = adversarial(ATTACK, attack_batch_norm=mode).craft(apply, variables, key, BATCH)["adversarial"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    other = adversarial(ATTACK, attack_batch_norm=MODES[mode == "running"]).craft(apply, variables, key, BATCH)
    assert float(jnp.abs(found - other["adversarial"]).max()) > 1e-3


@pytest.mark.parametrize(("name", "mode"), [("adversarial", "running"), ("trades", "batch")])
def test_attacks_leave_running_statistics_alone(key, name, mode):
    # They are those of the loss's own passes, clean before adversarial, and their order matters.
    apply, variables = network()
    objective = TWO_STAGES[name](attack_batch_norm=mode)
    batch = objective.craft(apply, variables, objective.split(key)[0], BATCH)

    def after(*passes):
        state = {"batch_stats": variables["batch_stats"]}
        for images in passes:
            state = apply({**variables, **state}, batch[images], train=True)[1]
        return state

    passes = ("adversarial",) if name == "adversarial" else ("images", "adversarial")
    state = objective(apply, variables, key, BATCH)[1].model_state
    assert_close(state, after(*passes))
    if len(passes) == 2:
        other = after(*passes[::-1])
        assert max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state, other))) > 1e-4


def test_mixture_lies_between_standard_and_adversarial(key):
    apply, variables = network()
    batch = mixture(ATTACK).craft(apply, variables, key, BATCH)
    values = [mixture(ATTACK, clean_weight=w).loss(apply, variables, key, batch)[0] for w in (0.0, 0.25, 1.0)]
    attacked = adversarial(ATTACK).loss(apply, variables, key, batch)[0]
    clean = standard()(apply, variables, key, batch)[0]
    np.testing.assert_allclose(values, [attacked, 0.25 * clean + 0.75 * attacked, clean], rtol=1e-5)


def test_trades_without_divergence_is_standard_training(key):
    apply, variables = network()
    loss = functools.partial(losses.cross_entropy, label_smoothing=0.1)
    objective = trades(KL_ATTACK, beta=0.0, label_smoothing=0.1)
    (value, _), gradient = value_and_gradient(objective, apply, variables, key)
    (expected, _), expected_gradient = value_and_gradient(standard(loss), apply, variables, key)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("make", [losses.trades, losses.mart], ids=["trades", "mart"])
def test_pairs_are_the_mean_of_their_losses(key, make):
    apply, variables = network(batch_norm=False)
    options = {"beta": 2.0, "label_smoothing": 0.2}
    objective = {losses.trades: trades, losses.mart: mart}[make](ATTACK, **options)
    batch = objective.craft(apply, variables, key, BATCH)
    clean, attacked = (apply(variables, batch[name], train=False)[0] for name in ("images", "adversarial"))
    value, aux = objective.loss(apply, variables, key, batch)
    np.testing.assert_allclose(value, make(clean, attacked, LABELS, **options).mean(), rtol=1e-5)
    accuracies = [float((logits.argmax(-1) == LABELS).mean()) for logits in (clean, attacked)]
    np.testing.assert_allclose([aux.metrics["accuracy"], aux.metrics["robust_accuracy"]], accuracies)


@pytest.mark.parametrize("name", ["standard", "trades"])
def test_dropout_is_a_function_of_the_key(name):
    apply, variables = network(batch_norm=False, dropout=0.5)
    values = [float(OBJECTIVES[name](apply, variables, jax.random.key(seed), BATCH)[0]) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_dropout_during_an_attack(key):
    # One mask in training mode, which the key decides; none in evaluation mode.
    apply, variables = network(batch_norm=False, dropout=0.5)
    noise = attacks.bim(Linf(0.1), steps=3)
    running, batch = (
        [
            adversarial(noise, attack_batch_norm=mode).craft(apply, variables, jax.random.key(seed), BATCH)
            for seed in (0, 0, 1)
        ]
        for mode in MODES
    )
    for first, second in ((running[0], running[2]), (batch[0], batch[1])):
        np.testing.assert_array_equal(first["adversarial"], second["adversarial"])
    assert float(jnp.abs(batch[0]["adversarial"] - batch[2]["adversarial"]).max()) > 1e-3


@pytest.mark.parametrize("name", ["standard", *TWO_STAGES])
def test_every_objective_trains(key, name, blobs):
    images, labels = (jnp.asarray(array[::3]) for array in blobs)
    batch = {"images": images, "labels": labels, "step": jnp.zeros((), jnp.int32)}
    apply, _ = network()
    variables = dict(Network().init(jax.random.key(0), images))

    @jax.jit
    def step(variables, key):
        (value, aux), gradient = jax.value_and_grad(
            lambda params: OBJECTIVES[name](apply, {**variables, "params": params}, key, batch), has_aux=True
        )(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.2 * g, variables["params"], gradient)
        return value, aux.metrics["loss"], {"params": params, **aux.model_state}

    values = []
    for step_key in jax.random.split(key, 15):
        value, metric, variables = step(variables, step_key)
        assert float(value) == float(metric)
        values.append(float(value))
    assert values[-1] < 0.8 * values[0]


def test_errors():
    with pytest.raises(ValueError, match="unknown attack_batch_norm 'train'; choose one of running, batch"):
        adversarial(ATTACK, attack_batch_norm="train")
    with pytest.raises(ValueError, match=r"clean_weight must lie in \[0, 1\], got 2"):
        mixture(ATTACK, clean_weight=2)
    for make in (trades, mart):
        with pytest.raises(ValueError, match="beta must be at least 0, got -1"):
            make(ATTACK, beta=-1)
