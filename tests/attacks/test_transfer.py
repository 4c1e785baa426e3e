"""Gradient estimators and the transfer attacks made of them (model-alignment specification, section 7)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import Linf, attacks, losses
from jaxrobust.attacks import _estimators

CLASSES, SHAPE, BATCH = 4, (8, 8, 1), 6
THREAT = Linf(0.05)


def network(weights, images):
    return jnp.tanh(images.reshape(images.shape[0], -1) @ weights[0]) @ weights[1]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(0.3 * rng.normal(size=size), jnp.float32) for size in ((64, 12), (12, CLASSES))]
    images = jnp.asarray(rng.uniform(0.1, 0.9, size=(BATCH, *SHAPE)), jnp.float32)
    return images, jnp.asarray(rng.integers(CLASSES, size=BATCH), jnp.int32), functools.partial(network, weights)


NAMED = ["mi_fgsm", "ni_fgsm", "sini_fgsm", "vmi_fgsm", "vni_fgsm", "di_fgsm", "ti_fgsm"]


def with_gradient(gradient, steps=4):
    return attacks.bim(THREAT, steps=steps, step_size=THREAT.eps / steps, gradient=gradient)


def everything():
    inner = attacks.scale_invariant(attacks.translation_invariant(attacks.diverse_inputs(), kernel_size=5), copies=2)
    return with_gradient(attacks.nesterov(inner, look_ahead=0.01))


@pytest.mark.parametrize("name", ["mi_fgsm", "vni_fgsm", "ti_fgsm", "everything"])
def test_inside_ball_and_box_and_independent_of_batches(name, problem, key):
    images, labels, logits_fn = problem
    attack = everything() if name == "everything" else getattr(attacks, name)(THREAT, steps=4)
    keys = jax.random.split(key, BATCH)
    adversarial = attack(keys, logits_fn, images, labels)
    assert adversarial.dtype == images.dtype
    assert bool(((adversarial >= 0) & (adversarial <= 1)).all())
    assert bool((THREAT.norm(adversarial - images) <= THREAT.eps * (1 + 1e-6)).all())
    before, after = (losses.cross_entropy(logits_fn(x), labels).mean() for x in (images, adversarial))
    assert after > before
    part = attack(keys[2:4], logits_fn, images[2:4], labels[2:4])
    np.testing.assert_allclose(part, adversarial[2:4], atol=1e-5)


def run(attack, problem, key):
    images, labels, logits_fn = problem
    return np.asarray(attack(key, logits_fn, images, labels))


def test_special_cases_are_equal(problem, key):
    # Check 13.
    steps = {"steps": 4}
    bim = run(attacks.bim(THREAT, step_size=THREAT.eps / 4, **steps), problem, key)
    mi = run(attacks.mi_fgsm(THREAT, **steps), problem, key)
    ni = run(attacks.ni_fgsm(THREAT, **steps), problem, key)
    for attack in (
        attacks.mi_fgsm(THREAT, decay=0.0, **steps),
        attacks.ni_fgsm(THREAT, decay=0.0, **steps),
        attacks.di_fgsm(THREAT, probability=0.0, **steps),
        attacks.ti_fgsm(THREAT, probability=0.0, kernel_size=1, **steps),
    ):
        np.testing.assert_allclose(run(attack, problem, key), bim, atol=1e-6)
    np.testing.assert_allclose(run(attacks.sini_fgsm(THREAT, copies=1, **steps), problem, key), ni, atol=1e-6)
    np.testing.assert_allclose(run(attacks.vmi_fgsm(THREAT, beta=0.0, **steps), problem, key), mi, atol=1e-6)
    around = attacks.variance_tuning(threat=THREAT, beta=0.0, around="look_ahead")
    vni = with_gradient(attacks.nesterov(around, look_ahead=THREAT.eps / 4))
    np.testing.assert_allclose(run(vni, problem, key), ni, atol=1e-6)


def test_linear_two_class_model(key):
    # Check 15: all end at x - eps * sign(w).
    weight = jnp.asarray(np.random.default_rng(0).normal(size=64), jnp.float32)
    logits_fn = functools.partial(
        lambda w, x: jnp.stack([x.reshape(len(x), -1) @ w, jnp.zeros(len(x))], 1), 0.01 * weight
    )
    images = jnp.full((2, *SHAPE), 0.5)
    for name in ("mi_fgsm", "ni_fgsm", "sini_fgsm", "vmi_fgsm", "vni_fgsm"):
        found = getattr(attacks, name)(THREAT, steps=5)(key, logits_fn, images, jnp.zeros(2, jnp.int32))
        np.testing.assert_allclose(found[0].ravel(), 0.5 - THREAT.eps * jnp.sign(weight), atol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_saturated_softmax_gives_no_nan(name, problem, key):
    # Check 16.
    images, _, logits_fn = problem
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)
    found = getattr(attacks, name)(THREAT, steps=3)(key, lambda x: 1e6 * logits_fn(x), images, labels)
    assert bool(jnp.isfinite(found).all())


def test_scale_invariant_gradient(problem):
    images, labels, logits_fn = problem

    def loss(keys, images):
        logits = logits_fn(images)
        return losses.cross_entropy(logits, labels), logits

    estimator = attacks.scale_invariant(copies=3)
    keys = jax.random.split(jax.random.key(0), BATCH)
    found, values, _, _ = estimator.estimate(keys, loss, images, estimator.init(images))
    expected = jax.grad(lambda x: sum(loss(keys, x / 2**i)[0].sum() for i in range(3)) / 3)(images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(values, loss(keys, images)[0], atol=1e-6)


def test_translation_kernel():
    # Check 20 and section 3.3: the response to a single pixel is the kernel.
    images = jnp.zeros((1, 31, 31, 2))

    def loss(keys, images):
        return images[:, 15, 15, 0], images[:, 0, :4, 0]

    estimator = attacks.translation_invariant()
    kernel = np.asarray(estimator.estimate(jax.random.split(jax.random.key(0), 1), loss, images, ())[0])[0]
    assert kernel[15, 15, 0] == pytest.approx(0.029303, abs=1e-6)
    assert kernel[8, 8, 0] == pytest.approx(3.616e-6, rel=1e-3)
    assert kernel[..., 0].sum() == pytest.approx(1, abs=1e-5)
    assert (kernel[..., 1] == 0).all()
    assert (kernel[7] == 0).all()
    np.testing.assert_allclose(kernel[..., 0], kernel[..., 0].T, atol=1e-9)


def test_resize_is_bilinear_with_half_pixel_centres():
    matrix = np.asarray(_estimators._resize_and_pad(jnp.asarray([0.99, 0.0]), jnp.asarray([0.0, 0.99]), 8, 0.5))
    side = 7  # int(0.5 * 8) + floor(0.99 * 4)
    source = np.clip((np.arange(side) + 0.5) * 8 / side - 0.5, 0, 7)
    ramp = np.arange(8.0)
    np.testing.assert_allclose((matrix[0] @ ramp)[:side], source, atol=1e-5)
    assert (matrix[0][side:] == 0).all()
    assert (matrix[1][:3] == 0).all()  # side 4 at offset 3
    np.testing.assert_allclose(matrix[1][3:7].sum(-1), 1, atol=1e-6)
    degenerate = np.asarray(_estimators._resize_and_pad(jnp.asarray([0.0, 0.999]), jnp.asarray([0.0, 0.999]), 8, 0.9))
    np.testing.assert_array_equal(degenerate[0], degenerate[1])  # side 7 at offset 0 for every draw


def test_expectation_over_a_randomised_classifier(key):
    # z = (<w, x + noise>)^2: the mean gradient is 2 (<w, x> + mean <w, noise>) w.
    weight = jnp.asarray(np.random.default_rng(0).normal(size=64), jnp.float32)

    def noisy(keys, images):
        noise = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)
        inner = (images + noise).reshape(len(images), -1) @ weight
        return jnp.stack([jnp.zeros_like(inner), inner**2], 1)

    randomized = attacks.Randomized(noisy)
    images, labels = jnp.full((2, *SHAPE), 0.5), jnp.zeros(2, jnp.int32)
    keys = jax.random.split(key, 2)

    def loss(keys, images):
        logits = randomized(keys, images)
        return losses.margin(logits, labels), logits

    estimator = attacks.expectation_over_transformation(samples=3000)
    found = np.asarray(estimator.estimate(keys, loss, images, ())[0]).reshape(2, -1)
    expected = 2 * float(0.5 * weight.sum()) * np.asarray(weight)
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(np.asarray(weight))
    assert (error < 5 * 2 * np.linalg.norm(weight) / np.sqrt(3000)).all()
    assert not np.allclose(found[0], found[1])  # each example has draws of its own
    adversarial = attacks.pgd(Linf(0.1), steps=2, gradient=attacks.expectation_over_transformation(samples=4))(
        key, randomized, images, labels
    )
    assert adversarial.shape == images.shape


def test_expectation_over_transformations(problem):
    images, labels, logits_fn = problem

    def loss(keys, images):
        logits = logits_fn(images)
        return losses.cross_entropy(logits, labels), logits

    def flipped(key, image):
        return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)

    keys = jax.random.split(jax.random.key(0), BATCH)
    estimator = attacks.expectation_over_transformation(flipped, samples=2000)
    found = estimator.estimate(keys, loss, images, ())[0]
    expected = jax.grad(lambda x: (loss(keys, x)[0] + loss(keys, x[:, :, ::-1])[0]).sum() / 2)(images)
    np.testing.assert_allclose(found, expected, atol=0.05 * float(jnp.abs(expected).max()))


def test_randomised_classifier_in_plain_attacks(problem, key):
    images, labels, logits_fn = problem
    randomized = attacks.Randomized(functools.partial(lambda weights, keys, x: network(weights, x), logits_fn.args[0]))
    for attack in (attacks.pgd(THREAT, steps=3, restarts=2), attacks.multi_targeted_pgd(THREAT, steps=3)):
        np.testing.assert_allclose(run(attack, (images, labels, randomized), key), run(attack, problem, key), atol=1e-6)
    with pytest.raises(TypeError, match="needs a deterministic classifier"):
        randomized(images)


def test_bad_arguments_say_what_to_do(problem, key):
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        attacks.translation_invariant(kernel_size=4)
    with pytest.raises(ValueError, match="copies must be at least 1"):
        attacks.scale_invariant(copies=0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        attacks.expectation_over_transformation(samples=0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        attacks.variance_tuning(threat=THREAT, samples=0)
    with pytest.raises(ValueError, match="around must be"):
        attacks.variance_tuning(threat=THREAT, around="here")
    with pytest.raises(ValueError, match="rate must lie between 0 and 1"):
        attacks.diverse_inputs(rate=1.0)
    with pytest.raises(ValueError, match="probability must lie"):
        attacks.diverse_inputs(probability=2)
    images, labels, _ = problem
    flat = images.reshape(BATCH, -1)
    with pytest.raises(ValueError, match=r"\[batch, height, width, channels\]"):
        attacks.ti_fgsm(THREAT)(key, lambda x: x[:, :4], flat, labels)
