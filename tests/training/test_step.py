import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import Linf, attacks, batching, data, models, optimizers, training


def run(model, images, labels, *, objective=None, mesh=None, steps=3, **options):
    optimizer = optimizers.sgd(0.1, momentum=0.9)
    averaging = options.get("averaging")
    state = training.init_state(model, jax.random.key(0), images[:1], optimizer, averaging=averaging)
    step = training.make_train_step(training.linen_apply(model), objective or training.standard(), optimizer, **options)
    mesh = batching.data_mesh(jax.devices()[:1]) if mesh is None else mesh
    state, compiled = batching.replicate(state, mesh), jax.jit(step)
    batch = {"images": batching.shard_rows(images, mesh), "labels": batching.shard_rows(labels, mesh)}
    for _ in range(steps):
        state, metrics = compiled(state, batch)
    return state, metrics


def assert_close(first, second, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol), first, second)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_two_devices_train_as_one(blobs, batch_norm):
    images, labels = blobs[0][:32], blobs[1][:32]
    model = models.SmallCNN(classes=3, batch_norm=batch_norm)
    objective = training.adversarial(attacks.pgd(Linf(0.05), steps=2))
    one, two = (
        run(model, images, labels, objective=objective, mesh=batching.data_mesh(jax.devices()[:n]))[0] for n in (1, 2)
    )
    assert_close(one.variables, two.variables)


def test_a_state_starts_from_given_variables(blobs):
    images, key = blobs[0][:2], jax.random.key(1)
    model = models.SmallCNN(classes=3, batch_norm=True)
    given = jax.tree.map(lambda leaf: leaf + 1, model.init(jax.random.key(7), images))
    remembering = optax.GradientTransformation(lambda params: params, optax.identity().update)
    state = training.init_state(model, key, images, remembering, averaging=training.ema(0.9), variables=given)
    for found in (state.variables, state.averaged_variables):
        assert_close(found, given, atol=0)
    assert_close(state.opt_state, given["params"], atol=0)
    assert state.key == training.init_state(model, key, images, remembering).key


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(blobs, accumulate):
    images, labels = blobs[0][:16], blobs[1][:16]
    model = models.MLP(classes=3, widths=(6,))
    whole, metrics = run(model, images, labels)
    parts, part_metrics = run(model, images, labels, accumulate=accumulate)
    assert_close(whole.params, parts.params)
    assert_close(metrics, part_metrics)


def test_accumulation_runs_batch_norm_part_by_part(blobs):
    images, labels = blobs[0][:16], blobs[1][:16]
    model = models.SmallCNN(classes=3, batch_norm=True)
    state, _ = run(model, images, labels, accumulate=2, steps=1)
    apply = training.linen_apply(model)
    variables = training.init_state(model, jax.random.key(0), images[:1], optax.sgd(0.1)).variables
    for part in (images[0::2], images[1::2]):
        _, model_state = apply(variables, jnp.asarray(part), train=True)
        variables = {**variables, **model_state}
    assert_close(state.model_state, {"batch_stats": variables["batch_stats"]})


def test_what_does_not_fit_is_refused(blobs):
    images, labels = blobs[0][:6], blobs[1][:6]
    model = models.MLP(classes=3, widths=(6,))
    with pytest.raises(ValueError, match="6 images cannot be split into accumulate=4"):
        run(model, images, labels, accumulate=4)
    with pytest.raises(ValueError, match="accumulate must be at least 1"):
        run(model, images, labels, accumulate=0)
    state = training.init_state(model, jax.random.key(0), images, optax.sgd(0.1))
    step = training.make_train_step(
        training.linen_apply(model), training.standard(), optax.sgd(0.1), averaging=training.ema()
    )
    with pytest.raises(ValueError, match="same averaging"):
        step(state, {"images": images, "labels": labels})
    with pytest.raises(ValueError, match="batch of 5 rows cannot be split over 2 devices"):
        batching.shard_rows(images[:5], batching.data_mesh())


def test_averages_follow_the_parameters(blobs):
    images, labels = blobs[0][:16], blobs[1][:16]
    model = models.MLP(classes=3, widths=(6,))
    after = [run(model, images, labels, steps=n)[0].params for n in (1, 2, 3)]
    state, _ = run(model, images, labels, averaging=training.swa(2))
    assert_close(state.average.params, jax.tree.map(lambda a, b: (a + b) / 2, after[1], after[2]))
    assert state.averaged_variables["params"] is state.average.params
    plain, _ = run(model, images, labels, steps=1)
    assert plain.averaged_variables["params"] is plain.params


def test_bfloat16_computes_in_half_and_keeps_float32(blobs):
    images, labels = blobs[0][:16], blobs[1][:16]
    seen = []

    def attack(key, logits_fn, images, labels):
        adversarial = attacks.pgd(Linf(0.05), steps=2)(key, logits_fn, images, labels)
        seen.append(adversarial.dtype)
        return adversarial

    model = models.MLP(classes=3, widths=(6,), dtype=jnp.bfloat16)
    state, metrics = run(model, images, labels, objective=training.adversarial(attack), averaging=training.ema())
    assert seen
    assert set(seen) == {jnp.dtype(jnp.float32)}
    floats = jax.tree.leaves((state.params, state.opt_state, state.average.params, metrics))
    assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}
    exact, _ = run(models.MLP(classes=3, widths=(6,)), images, labels, objective=training.adversarial(attack))
    assert_close(state.params, exact.params, atol=0.02)


def test_augmentation_is_drawn_anew_for_every_step(blobs):
    images, labels = blobs[0][:16], blobs[1][:16]
    seen = []

    def augment(key, images):
        jax.debug.callback(lambda corner: seen.append(float(corner)), jax.random.uniform(key))
        return data.random_crop(key, images, padding=1)

    run(models.MLP(classes=3, widths=(6,)), images, labels, augment=functools.partial(augment))
    jax.effects_barrier()
    assert len(set(seen)) == 3
