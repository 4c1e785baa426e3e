"""Objectives that penalise derivatives of the loss by the image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _small_networks import BATCH, IMAGES, LABELS, Network, assert_close, network, value_and_gradient

from jaxrobust import L2, Linf, batching, data, losses, models, optimizers, training
from jaxrobust.losses._soar import soar_terms
from jaxrobust.training import AdversarialObjective, cure, edge_alignment, foar, gradient_norm, llr, soar, standard

THREAT = Linf(0.1)


def edges(key, images):
    """The images are too small for those of the library."""
    del key
    return images[..., 0]


OBJECTIVES = {
    "foar": foar(THREAT),
    "foar_zero": foar(THREAT, point="zero"),
    "soar": soar(THREAT),
    "soar_zero": soar(THREAT, point="zero", product="exact"),
    "gradient_norm": gradient_norm(THREAT, loss_weight=0.8, penalty_weight=1.2),
    "cure": cure(),
    "llr": llr(THREAT, steps=2),
    "edge_alignment": edge_alignment(target=edges),
}
STEP = {**BATCH, "step": jnp.zeros((), jnp.int32)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_metrics_and_model_state(key, name):
    apply, variables = network()
    value, aux = jax.eval_shape(functools.partial(OBJECTIVES[name], apply), variables, key, BATCH)
    expected = {"loss", "penalty", "robust_accuracy" if name in ("foar", "soar") else "accuracy"}
    assert set(aux.metrics) == expected | ({"clipped"} if name.startswith("soar") else set())
    assert all(scalar.shape == () and scalar.dtype == jnp.float32 for scalar in (value, *aux.metrics.values()))
    assert jax.tree.structure(aux.model_state) == jax.tree.structure({"batch_stats": variables["batch_stats"]})


@pytest.mark.parametrize(
    "name", [pytest.param("foar", marks=pytest.mark.slow), "soar", "gradient_norm", "cure", "llr", "edge_alignment"]
)
def test_is_the_mean_of_its_loss_in_evaluation_mode(key, name):
    """With running statistics, which are not updated; the penalty is a part of the loss."""
    apply, variables = network()
    logits_fn = lambda images: apply(variables, images, train=False)[0]  # noqa: E731
    objective, batch, loss_key = OBJECTIVES[name], STEP, key
    if isinstance(objective, AdversarialObjective):
        craft_key, loss_key = objective.split(key)
        batch = objective.craft(apply, variables, craft_key, BATCH)
        assert bool((THREAT.norm(batch["adversarial"] - IMAGES) <= 0.05 + 1e-6).all())  # half of the radius
        assert float(jnp.abs(batch["adversarial"] - IMAGES).max()) > 0.04
        objective = objective.loss
    half = Linf(0.05)

    @jax.jit
    def run():
        value, aux = objective(apply, variables, loss_key, batch)
        if name == "foar":
            expected = losses.foar(key, logits_fn, batch["adversarial"], LABELS, half, point="zero")
        elif name == "soar":
            points = batch["adversarial"]
            expected = losses.cross_entropy(logits_fn(points), LABELS)
            expected += losses.soar_penalty(loss_key, logits_fn, points, LABELS, half)
        elif name == "edge_alignment":
            maps = edges(key, IMAGES)
            expected = losses.cross_entropy(logits_fn(IMAGES), LABELS)
            expected += losses.edge_alignment(jax.random.split(key)[1], logits_fn, IMAGES, LABELS, maps)
        elif name == "llr":
            expected = losses.llr(key, logits_fn, IMAGES, LABELS, THREAT, steps=2)
        elif name == "cure":
            expected = losses.cure(logits_fn, IMAGES, LABELS)
        else:
            expected = losses.gradient_norm(logits_fn, IMAGES, LABELS, THREAT, loss_weight=0.8, penalty_weight=1.2)
        images = batch.get("adversarial", IMAGES)
        clean = losses.cross_entropy(logits_fn(images), LABELS).mean()
        return value, aux, expected.mean(), clean, (logits_fn(images).argmax(-1) == LABELS).mean()

    value, aux, expected, clean, accuracy = run()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(aux.metrics["loss"], value)
    weight = 0.8 if name == "gradient_norm" else 1.0
    np.testing.assert_allclose(aux.metrics["penalty"], value - weight * clean, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics.get("accuracy", aux.metrics.get("robust_accuracy")), accuracy, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, aux.model_state, {"batch_stats": variables["batch_stats"]})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["foar", "soar"])
def test_nothing_flows_through_the_points(key, name):
    apply, variables = network()
    objective = OBJECTIVES[name]
    craft_key, loss_key = objective.split(key)
    batch = jax.jit(functools.partial(objective.craft, apply))(variables, craft_key, BATCH)
    whole = value_and_gradient(objective, apply, variables, key)
    stages = value_and_gradient(objective.loss, apply, variables, loss_key, batch)
    assert_close(stages, whole, atol=1e-5)


def test_penalty_of_an_example_depends_on_no_other(key):
    """Gradient norm, 7.4.42: exactly so with running statistics, and not with those of the batch."""
    apply, variables = network()

    @jax.jit
    def jacobian():
        def norms(images, train):
            logits_fn = lambda images: apply(variables, images, train=train, key=key)[0]  # noqa: E731
            return losses.gradient_norm(logits_fn, images, LABELS, THREAT, loss_weight=0.0)

        return [jax.jacrev(functools.partial(norms, train=train))(IMAGES) for train in (False, True)]

    running, batch = (np.abs(found).max((2, 3, 4)) for found in jacobian())
    others = ~np.eye(len(IMAGES), dtype=bool)
    assert not running[others].any()
    assert running.diagonal().any()
    assert batch[others].max() > 1e-4


def test_a_ramp_at_zero_is_natural_training_bit_for_bit(key):
    """Gradient norm, 7.1.11: in evaluation mode, and up to the power of two that the loss weighs."""
    apply, variables = network(batch_norm=False)
    ramp = optax.linear_schedule(0.0, 1.2, 10)
    ramped = value_and_gradient(
        gradient_norm(THREAT, loss_weight=0.5, penalty_weight=ramp), apply, variables, key, STEP
    )
    (natural, _), natural_gradient = value_and_gradient(standard(), apply, variables, key)
    np.testing.assert_array_equal(ramped[0][0], 0.5 * natural)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 0.5 * b), ramped[1], natural_gradient)
    assert float(ramped[0][1].metrics["penalty"]) == 0


def test_weights_may_be_schedules(key):
    apply, variables = network()
    ramp = optax.linear_schedule(0.0, 1.0, 5)
    for make in (
        lambda weight: gradient_norm(THREAT, penalty_weight=weight),
        lambda weight: cure(weight=weight),
        lambda weight: edge_alignment(weight=weight, target=edges),
    ):

        @jax.jit
        def penalties(steps, make=make):
            run = lambda step: make(ramp)(apply, variables, key, {**BATCH, "step": step})[1].metrics["penalty"]  # noqa: E731
            return jax.vmap(run)(steps), make(1.0)(apply, variables, key, BATCH)[1].metrics["penalty"]

        ramped, full = penalties(jnp.asarray([0, 1, 2, 5, 9]))
        np.testing.assert_allclose(ramped, full * jnp.asarray([0, 0.2, 0.4, 1, 1]), rtol=1e-5)
        with pytest.raises(ValueError, match='needs the number of updates made as batch\\["step"\\]'):
            make(ramp)(apply, variables, key, BATCH)


@pytest.mark.parametrize(("weight", "samples", "clip"), [(0.08, 1, 0.7), (2.11, 3, 0.3)])
def test_share_of_clipped_examples(key, weight, samples, clip):
    """Also where weight times limit is not the same number in single precision."""
    apply, variables = network(batch_norm=False)
    logits_fn = lambda images: apply(variables, images, train=False)[0]  # noqa: E731
    options = {"product": "exact", "samples": samples, "weight": weight, "step": 0.01}

    @jax.jit
    def run():
        objective = soar(THREAT, point="zero", clip=clip, **options)
        craft_key, loss_key = objective.split(key)
        batch = objective.craft(apply, variables, craft_key, BATCH)
        _, aux = objective.loss(apply, variables, loss_key, batch)
        terms = soar_terms(loss_key, logits_fn, IMAGES, LABELS, THREAT, clip=clip, loss=losses.cross_entropy, **options)
        return aux.metrics["clipped"], terms.penalty / weight

    clipped, penalties = run()
    expected = np.mean(np.asarray(penalties) > clip * (1 - 1e-5))
    assert 0 < expected < 1
    np.testing.assert_allclose(clipped, expected, rtol=1e-6)
    assert (
        "clipped"
        not in jax.eval_shape(functools.partial(soar(THREAT, clip=None), apply), variables, key, BATCH)[1].metrics
    )


def test_soft_labels(key):
    """Of one class each they are the labels; mixed ones count for their most probable class."""
    apply, variables = network()
    soft = {**BATCH, "labels": jax.nn.one_hot(LABELS, 4)}

    @jax.jit
    def both():
        return [
            [OBJECTIVES[name](apply, variables, key, b) for b in (BATCH, soft)] for name in ("gradient_norm", "foar")
        ]

    for hard_value, soft_value in both():
        assert_close(hard_value, soft_value, atol=1e-5)


def run_steps(objective, images, labels, *, devices=1, steps=3, **options):
    model, optimizer = models.MLP(classes=3, widths=(6,), activation="silu"), optimizers.sgd(0.1)
    state = training.init_state(model, jax.random.key(0), images[:1], optimizer)
    step = jax.jit(training.make_train_step(training.linen_apply(model), objective, optimizer, **options))
    mesh = batching.data_mesh(jax.devices()[:devices])
    state = batching.replicate(state, mesh)
    batch = {"images": batching.shard_rows(images, mesh), "labels": batching.shard_rows(labels, mesh)}
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(soar(THREAT), id="soar"),
        pytest.param(gradient_norm(THREAT), id="gradient_norm", marks=pytest.mark.slow),
        pytest.param(llr(THREAT, steps=2), id="llr", marks=pytest.mark.slow),
        pytest.param(edge_alignment(target=edges), id="edge_alignment", marks=pytest.mark.slow),
    ],
)
def test_two_devices_train_as_one(blobs, objective):
    images, labels = blobs[0][:16], blobs[1][:16]
    one, two = (run_steps(objective, images, labels, devices=devices) for devices in (1, 2))
    assert_close(one[0].variables, two[0].variables, atol=1e-5)
    assert_close(one[1], two[1], atol=1e-4)


def test_step_mixes_after_the_augmentation(blobs):
    """With a key of its own in every step, and the objective sees the soft labels."""
    images, labels = blobs[0][:80:5], blobs[1][:80:5]
    seen = []

    def spy(key, images):
        return images * 0.5

    def mix(key, batch):
        mixed = data.mixup(3)(key, batch)
        jax.debug.callback(lambda *arrays: seen.append(arrays), batch["images"], mixed["images"], mixed["labels"])
        return mixed

    run_steps(gradient_norm(THREAT), images, labels, augment=spy, mix=mix, steps=2)
    jax.effects_barrier()
    assert len(seen) == 2
    for before, after, soft in seen:
        np.testing.assert_allclose(before, 0.5 * images, rtol=1e-6)
        np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
        share = soft[0, labels[0]]
        np.testing.assert_allclose(after, share * before + (1 - share) * before[::-1], rtol=1e-3)
    assert not np.allclose(seen[0][2], seen[1][2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soar", "gradient_norm"])
def test_accumulates_and_trains(blobs, name):
    images, labels = blobs[0][:16], blobs[1][:16]
    values = [float(run_steps(OBJECTIVES[name], images, labels, steps=n, accumulate=2)[1]["loss"]) for n in (1, 30)]
    assert values[1] < values[0]


def test_dropout_is_off(key):
    apply, variables = network(batch_norm=False, dropout=0.5)
    run = jax.jit(functools.partial(OBJECTIVES["gradient_norm"], apply))
    first, second = (run(variables, jax.random.key(seed), BATCH)[0] for seed in (0, 1))
    assert float(first) == float(second)


@pytest.mark.slow
def test_awp_of_an_objective_with_points(key):
    apply, variables = network(batch_norm=False)
    objective = training.awp(foar(L2(0.4)), gamma=0.01)
    (value, _), gradient = value_and_gradient(objective, apply, variables, key)
    (plain, _), _ = value_and_gradient(foar(L2(0.4)), apply, variables, key)
    assert float(value) > float(plain)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains(key, name, blobs):
    images, labels = (jnp.asarray(array[::3]) for array in blobs)
    batch = {"images": images, "labels": labels, "step": jnp.zeros((), jnp.int32)}
    apply, _ = network(batch_norm=False)
    variables = dict(Network(batch_norm=False).init(jax.random.key(0), images))

    @jax.jit
    def step(variables, key):
        (value, _), gradient = jax.value_and_grad(
            lambda params: OBJECTIVES[name](apply, {"params": params}, key, batch), has_aux=True
        )(variables["params"])
        return value, {"params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)}

    values = []
    for step_key in jax.random.split(key, 60):
        value, variables = step(variables, step_key)
        values.append(float(value))
    assert np.mean(values[-5:]) < 0.95 * np.mean(values[:5])


def test_errors():
    with pytest.raises(ValueError, match="unknown point 'pgd'; choose one of zero, rand, pgd1"):
        foar(THREAT, point="pgd")
    with pytest.raises(ValueError, match="step must be above 0, got 0"):
        cure(step=0)
