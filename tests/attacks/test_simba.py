import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf, frequency
from jaxrobust.attacks._simba import simba

SHAPE, BATCH, FEATURES = (3, 3, 2), 5, 18
LABELS = np.zeros(BATCH, np.int32)


def linear(parameters, images):
    """Two classes: the first wins while the score is positive."""
    weights, biases = parameters
    score = (images.reshape(images.shape[0], -1) * weights).sum(-1) + biases
    return jnp.stack([score, jnp.zeros_like(score)], axis=1)


def problem(margins, weights=None, dtype=np.float32):
    """Images so far inside the box that nothing here meets it, with the given scores."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, size=(BATCH, *SHAPE))
    if weights is None:
        weights = rng.uniform(0.5, 1.5, size=FEATURES) * rng.choice([-1, 1], size=FEATURES)
    biases = margins - images.reshape(BATCH, -1) @ weights
    logits_fn = functools.partial(linear, (jnp.asarray(weights, dtype), jnp.asarray(biases, dtype)))
    return jnp.asarray(images, dtype), weights, logits_fn


def wrong(logits_fn, images, labels=LABELS):
    return np.asarray(logits_fn(images)).argmax(-1) != labels


def distances(perturbations, order):
    return np.linalg.norm(np.asarray(perturbations).reshape(BATCH, -1), order, axis=1)


@pytest.mark.parametrize(
    ("threat", "basis", "size"),
    [
        (Linf(0.1), "pixel", 1),
        (L2(0.3), "pixel", FEATURES**0.5),
        (L2(0.3), "dct", FEATURES**0.5),
    ],
)
def test_one_pass_over_a_linear_model_takes_the_right_step_in_every_direction(threat, basis, size, key):
    _, weights, _ = problem(0)
    weights = weights.reshape(SHAPE)
    in_basis = weights if basis == "pixel" else np.asarray(frequency.dct2(weights.astype(np.float32)))
    move = -threat.eps / size * np.sign(in_basis)
    if basis == "dct":
        move = np.asarray(frequency.idct2(move.astype(np.float32)))
    reach = -float((move * weights).sum())
    margins = reach * np.asarray([0.3, 0.8, 1 - 1e-3, 1 + 1e-3, 2.0])
    images, _, logits_fn = problem(margins)
    step_size = None if size == 1 else threat.eps / size
    adversarial = simba(threat, basis=basis, step_size=step_size)(key, logits_fn, images, LABELS)
    broken = wrong(logits_fn, adversarial)
    np.testing.assert_array_equal(broken, margins < reach)
    np.testing.assert_array_equal(adversarial[3:], images[3:])
    np.testing.assert_allclose(adversarial[2] - images[2], move, atol=1e-6)  # it took all directions
    assert (distances(adversarial - images, np.inf if size == 1 else 2) <= threat.eps * (1 + 1e-5)).all()


def test_budget_in_queries(key):
    # Four steps of 0.1 are needed. Where the score falls with the pixels' values each takes one query, otherwise two.
    for sign, queries, expected in ((-1, 4, 4), (1, 4, 0), (1, 8, 4)):
        images, _, logits_fn = problem(np.full(BATCH, 0.35), np.full(FEATURES, sign))
        adversarial = simba(Linf(0.1), queries=queries)(key, logits_fn, images, LABELS)
        changed = np.asarray(adversarial != images).reshape(BATCH, -1)
        assert changed.sum(-1).tolist() == [expected] * BATCH
    assert len({tuple(np.flatnonzero(row)) for row in changed}) > 1  # each example has its own order


def test_more_passes_go_on(key):
    # Steps of a tenth of the radius: a pass moves each pixel by one of them.
    _, weights, _ = problem(0)
    pass_ = 0.01 * np.abs(weights).sum()
    images, _, logits_fn = problem(pass_ * np.asarray([0.5, 0.9, 1.1, 1.9, 2.1]))
    for passes, expected in ((1, 2), (2, 4)):
        adversarial = simba(Linf(0.1), step_size=0.01, passes=passes)(key, logits_fn, images, LABELS)
        assert wrong(logits_fn, adversarial).sum() == expected
        np.testing.assert_allclose(distances(adversarial - images, np.inf)[expected - 1], 0.01 * passes, rtol=1e-4)


def test_low_frequencies_come_first(key):
    # The score is the sum over the pixels of one channel: only its constant coefficient matters.
    weights = np.zeros(SHAPE)
    weights[..., 1] = 1
    images, _, logits_fn = problem(np.full(BATCH, 0.2), weights.reshape(-1))
    run = functools.partial(simba, L2(0.1), step_size=0.1, basis="dct", queries=4)  # 0.1 on it is worth 0.3
    adversarial = run()(key, logits_fn, images, LABELS)
    np.testing.assert_allclose((adversarial - images)[..., 1], np.full((BATCH, 3, 3), -0.1 / 3), atol=1e-6)
    np.testing.assert_allclose((adversarial - images)[..., 0], np.zeros((BATCH, 3, 3)), atol=1e-6)
    random = run(low_frequencies_first=False)(key, logits_fn, images, LABELS)
    assert int((random != images).any((1, 2, 3)).sum()) < BATCH


def test_probability_that_rounds_to_one_is_no_obstacle(key):
    images, weights, _ = problem(0)
    scaled = 1e3 * weights
    images, _, logits_fn = problem(np.full(BATCH, 50.0), scaled)
    assert (jax.nn.softmax(logits_fn(images))[:, 0] == 1).all()
    adversarial = simba(Linf(0.1))(key, logits_fn, images, LABELS)
    assert wrong(logits_fn, adversarial).all()


def network(weights, images):
    first, second = weights
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ first) @ second


def test_properties_of_the_result(key):
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    weights = tuple(jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((FEATURES, 12), (12, 4)))
    logits_fn = functools.partial(network, weights)
    labels = logits_fn(images).argmax(-1).at[0].add(1) % 4
    threat = L2(0.2)
    attack = simba(threat)
    keys = jax.random.split(key, BATCH)
    adversarial = attack(keys, logits_fn, images, labels)
    np.testing.assert_array_equal(attack(keys, logits_fn, images, labels), adversarial)
    assert adversarial.dtype == images.dtype
    broken = wrong(logits_fn, adversarial, labels)
    assert 1 < broken.sum() < BATCH
    np.testing.assert_array_equal(adversarial[~broken], images[~broken])
    np.testing.assert_array_equal(adversarial[0], images[0])  # misclassified as it is
    assert (distances(adversarial - images, 2) <= threat.eps * (1 + 1e-5)).all()
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    compiled = jax.jit(lambda keys, images, labels: attack(keys, logits_fn, images, labels))
    np.testing.assert_allclose(compiled(keys[2:4], images[2:4], labels[2:4]), adversarial[2:4], atol=1e-6)


def convolution(kernel, images):
    features = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.sin(5 * features).sum((1, 2))


def test_convolutions_float64_and_no_box(float64, key):
    rng = np.random.default_rng(2)
    logits_fn = functools.partial(convolution, jnp.asarray(rng.normal(size=(3, 3, 2, 3))))
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)))
    labels = logits_fn(images).argmax(-1)
    adversarial = simba(Linf(0.3, bounds=None), basis="dct", step_size=0.5)(key, logits_fn, images, labels)
    assert adversarial.dtype == jnp.float64
    assert wrong(logits_fn, adversarial, labels).any()
    assert (distances(adversarial - images, np.inf) <= 0.3 + 1e-12).all()


def constant_or_broken(images):
    logits = jnp.zeros((images.shape[0], 3), images.dtype)
    return jnp.where(images.reshape(images.shape[0], -1)[:, :1] == 0.25, jnp.nan, logits)


def test_nothing_to_find(key):
    images = jnp.full((2, 1, 1, 1), 0.5).at[1].set(0.25)
    for basis in ("pixel", "dct"):
        adversarial = simba(Linf(0.1), basis=basis)(key, constant_or_broken, images, jnp.zeros(2, jnp.int32))
        np.testing.assert_array_equal(adversarial, images)


def test_bad_arguments_say_what_to_do(key):
    with pytest.raises(ValueError, match="pixel, dct"):
        simba(Linf(0.1), basis="fourier")
    with pytest.raises(ValueError, match="at least 1"):
        simba(Linf(0.1), queries=0)
    with pytest.raises(ValueError, match='use "pixel"'):
        simba(Linf(0.1), basis="dct")(key, constant_or_broken, jnp.zeros((2, 4)), jnp.zeros(2, jnp.int32))
