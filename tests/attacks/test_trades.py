import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _linear_models import linear, network

from jaxrobust import L2, Linf, attacks, losses
from jaxrobust.attacks._pgd import _step_size
from jaxrobust.random import example_keys

CLASSES, SHAPE, BATCH = 5, (4, 4, 1), 8
THREATS = {"Linf": Linf(0.1), "L2": L2(0.5)}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    images = jnp.asarray(np.clip(rng.uniform(-0.2, 1.2, size=(BATCH, *SHAPE)), 0, 1), jnp.float32)
    labels = jnp.asarray(rng.integers(CLASSES, size=BATCH), jnp.int32)
    parameters = (
        jnp.asarray(rng.normal(size=(16, 12)), jnp.float32),
        jnp.asarray(rng.normal(size=(12, CLASSES)), jnp.float32),
    )
    return images, labels, functools.partial(network, parameters)


@pytest.mark.parametrize(("norm", "start"), [("Linf", "uniform"), ("L2", "gaussian")])
def test_stays_in_ball_and_box_and_raises_the_divergence(problem, key, norm, start):
    # Data geometry, check 7.5-11.
    images, labels, logits_fn = problem
    threat = THREATS[norm]
    adversarial = attacks.trades_pgd(threat, start=start)(key, logits_fn, images, labels)
    assert bool((threat.norm(adversarial - images) <= threat.eps + 1e-6).all())
    assert bool(((adversarial >= 0) & (adversarial <= 1)).all())
    clean = logits_fn(images)
    noisy = logits_fn(attacks.uniform_noise(threat)(key, logits_fn, images, labels))
    found = losses.kl_divergence(clean, logits_fn(adversarial))
    assert float(found.mean()) > 5 * float(losses.kl_divergence(clean, noisy).mean())


def test_labels_do_not_matter(problem, key):
    images, labels, logits_fn = problem
    attack = attacks.trades_pgd(Linf(0.1), steps=3)
    np.testing.assert_array_equal(
        attack(key, logits_fn, images, labels), attack(key, logits_fn, images, jnp.zeros_like(labels))
    )
    with pytest.raises(ValueError, match=r"labels \(3,\)"):
        attack(key, logits_fn, images, labels[:3])


def test_the_image_itself_is_stationary(problem, key):
    # Data geometry, check 7.5-2: without a random start nothing would move.
    images, _, logits_fn = problem
    clean = logits_fn(images)
    gradient = jax.grad(lambda x: losses.kl_divergence(clean, logits_fn(x)).sum())(images)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    with pytest.raises(ValueError, match=r"unknown start 'zero'.*gradient of the divergence is zero"):
        attacks.trades_pgd(Linf(0.1), start="zero")


def test_one_step_from_the_published_start(key):
    # Two classes with logits +-s: the divergence grows away from s(x), so the step goes where the start went.
    weights = jnp.linspace(-1, 1, 16)[:, None] * jnp.asarray([[1.0, -1.0]])
    logits_fn = functools.partial(linear, (weights, jnp.zeros(2)))
    images = jnp.full((BATCH, *SHAPE), 0.5)
    attack = attacks.trades_pgd(Linf(0.1), steps=1, step_size=0.05, start="gaussian")
    perturbation = attack(key, logits_fn, images, jnp.zeros(BATCH, jnp.int32)) - images
    keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, 0), 0))(example_keys(key, BATCH))
    noise = jax.vmap(lambda k: jax.random.normal(k, (16,)))(keys)
    toward = jnp.sign(noise @ weights[:, 0])[:, None] * jnp.sign(weights[:, 0])
    expected = (0.001 * noise + 0.05 * toward).reshape(images.shape)
    np.testing.assert_allclose(perturbation, expected, atol=1e-6)


def test_default_steps_are_the_published_ones():
    for threat, size in ((Linf(8 / 255), 2 / 255), (L2(128 / 255), 32 / 255)):
        assert _step_size(threat, 10, None) == pytest.approx(size)


def test_same_for_any_batch_split(problem, key):
    images, labels, logits_fn = problem
    attack = attacks.trades_pgd(L2(0.5), steps=4)
    keys = jax.random.split(key, BATCH)
    whole = attack(keys, logits_fn, images, labels)
    halves = [attack(keys[part], logits_fn, images[part], labels[part]) for part in (slice(0, 4), slice(4, 8))]
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=2e-5)


def test_passes_are_counted_by_the_docstring(problem, key):
    # One for each step, as PGD, and one for the clean prediction.
    images, labels, logits_fn = problem
    calls = []

    def counted(images):
        jax.debug.callback(lambda: calls.append(1))
        return logits_fn(images)

    for attack, forward in ((attacks.pgd(Linf(0.1), steps=5), 5), (attacks.trades_pgd(Linf(0.1), steps=5), 6)):
        calls.clear()
        jax.block_until_ready(attack(key, counted, images, labels))
        jax.effects_barrier()
        assert len(calls) == forward


def test_radius_zero_and_constant_networks_move_nothing(problem, key):
    images, labels, logits_fn = problem
    attack = attacks.trades_pgd(Linf(0.0), steps=2)
    np.testing.assert_allclose(attack(key, logits_fn, images, labels), images, atol=1e-7)
    constant = attacks.trades_pgd(L2(0.5), steps=2, start="gaussian")(
        key, lambda x: jnp.zeros((len(x), 3)), images, labels
    )
    assert float(jnp.abs(constant - images).max()) < 0.01  # the start alone
