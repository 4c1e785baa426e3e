"""Objectives of certified training: bounds of the worst case, and distances to envelopes and linear regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _small_networks import BATCH, IMAGES, LABELS, assert_close, network, value_and_gradient

from jaxrobust import Linf, attacks, batching, certify, losses, models, optimizers, schedules, training
from jaxrobust.training import crown_ibp, ibp, kw, mmr, mmr_at, per, per_at
from jaxrobust.training._objectives._radius import Rows, drawn

THREAT = Linf(0.1)
GAMMAS = {"boundary_gamma": 0.2, "decision_gamma": 0.3}


def two_steps(threat):
    return attacks.pgd(threat, steps=2, step_size=threat.eps / 2)


OBJECTIVES = {
    "kw": kw(THREAT),
    "kw_and_attack": kw(THREAT, attack=two_steps),
    "ibp": ibp(THREAT, kappa=0.7),
    "crown_ibp": crown_ibp(THREAT, beta=0.4),
    "per": per(THREAT, beta=0.5),
    "i_per": per(THREAT, method="fast-lin-interval", subset=5),
    "per_at": per_at(THREAT, attack=two_steps, beta=0.5),
    "mmr": mmr(THREAT, weight=0.5, boundaries=3, **GAMMAS),
    "mmr_at": mmr_at(THREAT, attack=two_steps, boundaries=3, **GAMMAS),
}
STEP = {**BATCH, "step": jnp.zeros((), jnp.int32)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_metrics_and_model_state(key, name):
    """In evaluation mode: running statistics are used and left alone."""
    apply, variables = network()
    value, aux = jax.eval_shape(functools.partial(OBJECTIVES[name], apply), variables, key, BATCH)
    expected = {"loss", "accuracy"}
    expected |= {"penalty"} if "per" in name or "mmr" in name else set()
    expected |= set() if "mmr" in name else {"certified_accuracy"}
    expected |= {"robust_accuracy"} if name.endswith(("at", "attack")) else set()
    assert set(aux.metrics) == expected
    assert all(scalar.shape == () and scalar.dtype == jnp.float32 for scalar in (value, *aux.metrics.values()))
    assert jax.tree.structure(aux.model_state) == jax.tree.structure({"batch_stats": variables["batch_stats"]})


@pytest.mark.parametrize(
    "name",
    ["ibp", "per_at", *(pytest.param(n, marks=pytest.mark.slow) for n in ("kw_and_attack", "crown_ibp", "mmr_at"))],
)
def test_is_the_mean_of_its_losses(key, name):
    """And the metrics are what they are called."""
    apply, variables = network()
    logits_fn = lambda images: apply(variables, images, train=False)[0]  # noqa: E731
    objective, batch, loss_key = OBJECTIVES[name], BATCH, key
    if isinstance(objective, training.AdversarialObjective):
        craft_key, loss_key = objective.split(key)
        batch = objective.craft(apply, variables, craft_key, BATCH)
        moved = np.asarray(THREAT.norm(batch["adversarial"] - IMAGES))
        np.testing.assert_array_less(moved, 0.1 + 1e-6)
        assert ((moved > 0.05) == (np.arange(len(moved)) % 2 == 0 if name == "mmr_at" else True)).all()
        objective = objective.loss
    adversarial = batch.get("adversarial", IMAGES)

    @jax.jit
    def run():
        value, aux = objective(apply, variables, loss_key, batch)
        entropy = lambda images: losses.cross_entropy(logits_fn(images), LABELS)  # noqa: E731
        right = lambda images: logits_fn(images).argmax(-1) == LABELS  # noqa: E731
        bound = functools.partial(losses.certified_cross_entropy, logits_fn, IMAGES, LABELS, THREAT)
        clean, robust, metrics = entropy(IMAGES), entropy(adversarial), {"accuracy": right(IMAGES)}
        if name == "ibp":
            expected, method = 0.7 * clean + 0.3 * bound(method="interval"), "interval"
        elif name == "crown_ibp":
            expected, method = 0.5 * clean + 0.5 * bound(method={"crown-interval": 0.4, "interval": 0.6}), None
        elif name == "kw_and_attack":
            expected, method = bound() + robust, "fast-lin"
        elif name == "per_at":
            penalty = losses.per(logits_fn, IMAGES, LABELS, THREAT, alpha=0.15, beta=0.5, points=adversarial)
            expected, method = clean / 2 + robust / 2 + penalty, "fast-lin"
            metrics |= {"penalty": penalty}
        else:
            penalty = losses.mmr(logits_fn, adversarial, LABELS, THREAT, boundaries=3, **GAMMAS)
            expected, method = robust + penalty, None
            metrics |= {"penalty": penalty, "accuracy": right(IMAGES)[1::2], "robust_accuracy": right(adversarial)[::2]}
        if method is not None:
            metrics |= {"certified_accuracy": certify.certified(logits_fn, IMAGES, LABELS, THREAT, method=method)}
        if name in ("per_at", "kw_and_attack"):
            metrics |= {"robust_accuracy": right(adversarial)}
        return value, aux, expected.mean(), jax.tree.map(lambda values: values.mean(dtype=jnp.float32), metrics)

    value, aux, expected, metrics = run()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(aux.metrics["loss"], value)
    for metric, found in metrics.items():
        np.testing.assert_allclose(aux.metrics[metric], found, rtol=1e-5, err_msg=metric)
    jax.tree.map(np.testing.assert_array_equal, aux.model_state, {"batch_stats": variables["batch_stats"]})


def test_every_row_is_drawn_equally_often(key):
    """Verification, 7.6.5: so the mean over the rows is an unbiased estimate. None is drawn twice."""
    rows = Rows(jnp.arange(10), jnp.arange(10) + 100, jnp.arange(10) * 2, None)
    draw = jax.jit(jax.vmap(lambda key: drawn(key, rows, 4)))
    found = draw(jax.random.split(key, 5000))
    assert found.images.shape == (5000, 4)
    assert (np.diff(np.sort(found.images, axis=1), axis=1) > 0).all()
    counts = np.bincount(np.asarray(found.images).ravel(), minlength=10)
    np.testing.assert_allclose(counts, 2000, atol=5 * np.sqrt(5000 * 0.4 * 0.6))
    np.testing.assert_array_equal(found.labels - found.images, 100)
    np.testing.assert_array_equal(found.logits, 2 * found.images)
    for all_of_them in (10, 99, None):
        assert drawn(key, rows, all_of_them) is rows


def test_part_of_the_batch(key):
    """The penalty is that of the images drawn, the rest of the loss that of all."""
    apply, variables = network(batch_norm=False)
    logits_fn = lambda images: apply(variables, images, train=False)[0]  # noqa: E731

    @jax.jit
    def run():
        part, whole, size = (per(THREAT, subset=subset)(apply, variables, key, BATCH) for subset in (5, None, 12))
        chosen = drawn(key, Rows(IMAGES, LABELS, IMAGES, None), 5)
        penalty = losses.per(logits_fn, chosen.images, chosen.labels, THREAT, alpha=0.15)
        return part, whole, size, penalty, losses.cross_entropy(logits_fn(IMAGES), LABELS)

    part, whole, size, penalty, entropy = run()
    jax.tree.map(np.testing.assert_array_equal, whole, size)
    np.testing.assert_allclose(part[1].metrics["penalty"], penalty.mean(), rtol=1e-5)
    np.testing.assert_allclose(part[0], entropy.mean() + penalty.mean(), rtol=1e-5)
    assert part[1].metrics["penalty"] != whole[1].metrics["penalty"]


def test_radius_and_weights_follow_schedules(key):
    """The attack's radius as well; ``alpha`` stays that of the radius to defend against."""
    apply, variables = network(batch_norm=False)
    eps = schedules.doubling(0.05, every=2, times=1)
    ramp = optax.linear_schedule(0.0, 1.0, 4)
    scheduled = per_at(THREAT, attack=two_steps, beta=ramp, eps=eps)

    @jax.jit
    def run(step):
        batch = {**BATCH, "step": step}
        craft_key, loss_key = scheduled.split(key)
        crafted = scheduled.craft(apply, variables, craft_key, batch)
        fixed = per_at(THREAT, eps=eps(step), attack=two_steps, alpha=0.15, beta=ramp(step))
        return (
            scheduled.loss(apply, variables, loss_key, crafted),
            fixed(apply, variables, key, BATCH),
            THREAT.norm(crafted["adversarial"] - IMAGES).max(),
        )

    for step, reach, beta in ((0, 0.05, 0), (2, 0.1, 0.5), (9, 0.1, 1)):
        found, fixed, moved = run(jnp.asarray(step))
        assert_close(found, fixed)
        np.testing.assert_allclose(moved, reach, rtol=1e-5)
        assert (float(found[1].metrics["penalty"]) == 0) == (beta == 0)
    with pytest.raises(ValueError, match='needs the number of updates made as batch\\["step"\\]'):
        scheduled(apply, variables, key, BATCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda x: ibp(THREAT, kappa=x, eps=x),
        lambda x: crown_ibp(THREAT, kappa=x, beta=x, eps=x),
        lambda x: mmr(THREAT, boundary_gamma=x, decision_gamma=x, weight=x, boundaries=x),
        lambda x: kw(THREAT, attack=two_steps, eps=x),
    ],
    ids=["ibp", "crown_ibp", "mmr", "kw"],
)
def test_everything_may_be_a_schedule(key, make):
    apply, variables = network(batch_norm=False)
    ramp = optax.linear_schedule(0.1, 0.5, 4)
    at_two = jax.jit(lambda step: make(ramp)(apply, variables, key, {**BATCH, "step": step}))(jnp.asarray(2))
    assert_close(at_two, jax.jit(lambda: make(0.3)(apply, variables, key, BATCH))(), atol=1e-5)


@pytest.mark.slow
def test_crown_ibp_ends_as_ibp(key):
    apply, variables = network(batch_norm=False)
    end = crown_ibp(THREAT, beta=0.0)
    assert_close(*(value_and_gradient(objective, apply, variables, key) for objective in (end, ibp(THREAT))))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("kw", "per_at") else pytest.mark.slow) for n in OBJECTIVES]
)
def test_one_step_lowers_the_objective(blobs, name):
    """A training step, compiled, with the same batch and random numbers before and after."""
    images, labels = blobs[0][::6], blobs[1][::6]
    model, optimizer = models.MLP(classes=3, widths=(6,)), optimizers.sgd(0.01)
    apply, objective = training.linen_apply(model), OBJECTIVES[name]
    batch = {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}
    state = training.init_state(model, jax.random.key(0), batch["images"][:1], optimizer)
    # Random numbers come from the key and the number of updates, which is set back.
    step = jax.jit(training.make_train_step(apply, objective, optimizer))
    new, before = step(state, batch)
    _, after = step(new._replace(step=state.step), batch)
    assert float(after["loss"]) < float(before["loss"])
    assert all(np.isfinite(value) for value in after.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kw", "per_at"])
def test_populations_train_together(blobs, name):
    """As one by one, with a schedule of the radius and part of the batch."""
    images, labels = (array[::2] for array in blobs)
    eps = schedules.doubling(0.01, every=2, times=2)
    objective = kw(THREAT, eps=eps) if name == "kw" else per_at(Linf(0.04), eps=eps, attack=two_steps, subset=8)
    found = [
        training.train_population(
            models.MLP(classes=3, widths=(6,)),
            images,
            labels,
            optimizer=optimizers.sgd,
            learning_rates=[0.02, 0.01],
            seeds=[0, 1],
            epochs=2,
            batch_size=20,
            drop_last=True,
            objective=objective,
            mode=mode,
        )
        for mode in ("together", "one_by_one")
    ]
    assert_close(found[0].variables, found[1].variables, atol=1e-4)
    assert_close(found[0].history, found[1].history, atol=1e-3)
    for name_, values in found[0].history.items():
        assert np.isfinite(values).all()
        assert name_ not in ("loss", "penalty") or (values[:, 0] != values[:, 1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["per_at", "i_per", "mmr_at"])
def test_two_devices_train_as_one(blobs, name):
    images, labels = blobs[0][:48:3], blobs[1][:48:3]
    model, optimizer = models.MLP(classes=3, widths=(6,)), optimizers.sgd(0.1)

    def run(devices):
        mesh = batching.data_mesh(jax.devices()[:devices])
        state = training.init_state(model, jax.random.key(0), images[:1], optimizer)
        step = jax.jit(training.make_train_step(training.linen_apply(model), OBJECTIVES[name], optimizer))
        state = batching.replicate(state, mesh)
        batch = {"images": batching.shard_rows(images, mesh), "labels": batching.shard_rows(labels, mesh)}
        for _ in range(2):
            state, metrics = step(state, batch)
        return state.variables, metrics

    assert_close(run(1), run(2), atol=1e-4)


@pytest.mark.slow
def test_certified_training_certifies(blobs):
    """At a radius where plain training does not."""
    images, labels = blobs
    threat = Linf(0.14)
    eps = optax.linear_schedule(0.0, 0.14, 60)
    objectives = {
        "standard": training.standard(),
        "kw": kw(threat, eps=eps),
        "ibp": ibp(threat, eps=eps, kappa=optax.linear_schedule(1.0, 0.5, 60)),
        "per_at": per_at(threat, eps=schedules.doubling(0.14 / 16, every=20, times=4), beta=0.5),
        "mmr": mmr(threat, boundary_gamma=0.14, decision_gamma=0.14),
    }
    found = {}
    for name, objective in objectives.items():
        model = models.MLP(classes=3, widths=(16,))
        run = training.train_population(
            model,
            images,
            labels,
            optimizer=optax.adam,
            learning_rates=[0.01],
            seeds=[0],
            epochs=40,
            batch_size=30,
            objective=objective,
        )
        logits_fn = functools.partial(model.apply, training.member(run.variables, 0))
        found[name] = float(certify.certified(logits_fn, images, labels, threat, method="fast-lin").mean())
    assert all(certified > found["standard"] + 0.1 for name, certified in found.items() if name != "standard"), found


def test_errors():
    for make in (kw, ibp, crown_ibp, per, per_at):
        with pytest.raises(ValueError, match="subset must be at least 1, or None for the whole batch, got 0"):
            make(THREAT, subset=0)
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        per(Linf(0.0))
    with pytest.raises(ValueError, match="worst must be at least 1, got 0"):
        per_at(THREAT, worst=0)
