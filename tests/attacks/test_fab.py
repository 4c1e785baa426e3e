import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _linear_models import linear, network

from jaxrobust import L1, L2, Linf
from jaxrobust.attacks._fab import fab, fab_passes, fab_run, fab_targeted
from jaxrobust.attacks._randomized import Randomized

CLASSES, SHAPE, BATCH = 5, (4, 4, 1), 8
THREATS = {"Linf": Linf(0.15), "L2": L2(0.5), "L1": L1(1.5)}

targeted = functools.partial(fab_targeted, targets=2)
each_threat = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
each_attack = pytest.mark.parametrize("make", [fab, targeted], ids=["fab", "fab_targeted"])
# Steps differ by norm in their moves and by attack in their hyperplanes; few pairs see all of that.
some_pairs = pytest.mark.parametrize(("make", "norm"), [(targeted, "Linf"), (fab, "L2"), (targeted, "L1")])


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    parameters = (
        jnp.asarray(rng.normal(size=(16, 12)) / 2, jnp.float32),
        jnp.asarray(rng.normal(size=(12, CLASSES)), jnp.float32),
    )
    logits_fn = functools.partial(network, parameters)
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)
    return images, labels.at[0].set((labels[0] + 1) % CLASSES), logits_fn  # the first one is misclassified


@some_pairs
def test_what_it_finds(make, norm, problem, key):
    images, labels, logits_fn = problem
    threat = THREATS[norm]
    attack = make(threat, steps=8)
    found = attack.minimum_norm(key, logits_fn, images, labels)
    wrong = logits_fn(found.images).argmax(-1) != labels
    np.testing.assert_array_equal(wrong, found.success)
    assert int(found.success.sum()) > BATCH // 2
    assert bool(((found.images >= 0) & (found.images <= 1)).all())
    np.testing.assert_allclose(
        found.distances[found.success], threat.norm(found.images - images)[found.success], rtol=1e-6
    )
    np.testing.assert_array_equal(found.images[0], images[0])
    assert found.distances[0] == 0
    adversarial = attack(key, logits_fn, images, labels)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    near = found.distances <= threat.eps
    np.testing.assert_array_equal(adversarial, jnp.where(near[:, None, None, None], found.images, images))


@pytest.mark.parametrize(
    ("make", "norm", "bounds"),
    [
        (fab, "Linf", None),
        (fab, "L2", (-5.0, 5.0)),
        (fab, "L1", (-20.0, 20.0)),
        (fab_targeted, "Linf", (-5.0, 5.0)),
        (fab_targeted, "L2", None),
        (fab_targeted, "L1", None),
    ],
)
def test_linear_models_in_closed_form(make, norm, bounds, key):
    # min_j (z_y - z_j) / ||w_y - w_j||_q. The search goes 5 % beyond the boundary in each step, less and less of it
    # because the steps become shorter, so that it ends half a per cent beyond the optimum.
    rng = np.random.default_rng(1)
    weights, bias = (
        jnp.asarray(rng.normal(size=(16, CLASSES)), jnp.float32),
        jnp.asarray(rng.normal(size=CLASSES), jnp.float32),
    )
    images = jnp.asarray(rng.normal(size=(32, *SHAPE)), jnp.float32)
    logits_fn = functools.partial(linear, (weights, bias))
    logits = np.asarray(logits_fn(images))
    labels = logits.argmax(-1)
    model = type(THREATS[norm])(1.0, bounds=bounds)
    best = np.full(32, np.inf)
    for other in range(CLASSES):
        dual = np.asarray(model.dual_norm((weights[:, labels] - weights[:, [other]]).T))
        gap = logits.max(-1) - logits[:, other]
        best = np.minimum(best, np.where(labels == other, np.inf, gap / np.where(dual > 0, dual, 1)))
    found = make(model, steps=20).minimum_norm(key, logits_fn, images, jnp.asarray(labels, jnp.int32))
    assert bool(found.success.all())
    assert (found.distances >= best * (1 - 1e-4)).all()
    assert (found.distances <= best * 1.01).all()


@each_attack
@pytest.mark.slow
def test_same_inside_jit_and_for_any_batch(make, problem, key):
    images, labels, logits_fn = problem
    attack = make(L2(0.5), steps=4, restarts=2)
    keys = jax.random.split(key, BATCH)
    whole = attack(keys, logits_fn, images, labels)
    np.testing.assert_array_equal(attack(keys, logits_fn, images, labels), whole)
    compiled = jax.jit(lambda keys, images, labels: attack(keys, logits_fn, images, labels))
    np.testing.assert_allclose(compiled(keys, images, labels), whole, atol=2e-5)
    order = jnp.arange(BATCH)[::-1]
    turned = attack(keys[order], logits_fn, images[order], labels[order])
    np.testing.assert_allclose(turned, whole[order], atol=2e-5)
    one = attack(keys[3:4], logits_fn, images[3:4], labels[3:4])
    np.testing.assert_allclose(one[0], whole[3], atol=2e-5)


@each_threat
def test_restarts_start_elsewhere_and_never_lose(threat, problem, key):
    images, labels, logits_fn = problem
    once, twice = (
        fab_targeted(threat, steps=3, targets=1, restarts=restarts).minimum_norm(key, logits_fn, images, labels)
        for restarts in (1, 2)
    )
    assert bool((twice.distances <= once.distances).all())
    keys, targets = jax.random.split(key, BATCH), (labels + 1) % CLASSES
    run = functools.partial(fab_run, threat, steps=3)
    _, clean = run(keys, logits_fn, images, labels, targets)
    _, random = run(keys, logits_fn, images, labels, targets, random_start=True)
    _, other = run(jax.random.split(jax.random.key(1), BATCH), logits_fn, images, labels, targets, random_start=True)
    assert bool((random != clean).any())
    assert bool((random != other).any())


@some_pairs
def test_one_run(make, norm, problem, key):
    images, labels, logits_fn = problem
    threat, aim = THREATS[norm], None if make is fab else (labels + 1) % CLASSES
    candidates, norms = fab_run(threat, jax.random.split(key, BATCH), logits_fn, images, labels, aim, steps=8)
    assert norms[0] == 0
    found = jnp.isfinite(norms)
    np.testing.assert_array_equal(logits_fn(candidates).argmax(-1) != labels, found)
    np.testing.assert_array_equal(candidates[~found], images[~found])
    np.testing.assert_allclose(threat.norm(candidates - images), jnp.where(found, norms, 0), rtol=1e-5, atol=1e-7)


def test_more_targets_than_classes_and_two_classes(problem, key):
    images, _, _ = problem
    logits_fn = functools.partial(linear, (jnp.eye(16, 2), jnp.zeros(2)))
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)
    for make in (fab, fab_targeted):
        found = make(L2(0.5), steps=10).minimum_norm(key, logits_fn, images, labels)
        expected = jnp.abs(images[:, 0, 0, 0] - images[:, 0, 1, 0]) / jnp.sqrt(2)
        np.testing.assert_allclose(found.distances, expected, rtol=1e-2)


@some_pairs
@pytest.mark.parametrize("saturated", [False, True])
def test_no_gradient_no_change(make, norm, saturated, key):
    images = jnp.asarray(np.random.default_rng(2).uniform(size=(3, 1, 1, 1)), jnp.float32)
    logits_fn = _saturated if saturated else _constant
    found = make(THREATS[norm], steps=3).minimum_norm(key, logits_fn, images, jnp.zeros(3, jnp.int32))
    assert not bool(found.success.any())
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.distances, jnp.inf)


def _constant(images):
    return jnp.zeros((images.shape[0], 3), images.dtype)


def _saturated(images):
    value = jax.nn.sigmoid(1e4 * (images.reshape(images.shape[0], -1)[:, :1] + 1))
    return jnp.concatenate([value, 0 * value, -value], -1)


def test_leaves_an_exact_tie(key):
    # Both logits are equal to the last bit half way, where the label, which comes first, still wins.
    images = jnp.array([[0.25, 0.75]])
    logits_fn = functools.partial(linear, (jnp.array([[-1.0, 1.0], [1.0, -1.0]]), jnp.zeros(2)))
    found = fab_targeted(Linf(0.5), steps=5, eta=1.0).minimum_norm(key, logits_fn, images, jnp.array([0]))
    assert bool(found.success[0])
    np.testing.assert_allclose(found.distances, 0.25, rtol=1e-5)


def test_non_finite_logits_count_as_misclassified_and_spread_no_further(problem, key):
    images, labels, logits_fn = problem

    def broken(images):
        logits = logits_fn(images)
        return jnp.where(images.reshape(len(images), -1)[:, :1] > 0.95, jnp.nan, logits)

    images = images.at[1, 0, 0, 0].set(0.97)
    expected = fab(L2(0.5), steps=4)(key, logits_fn, images, labels)
    found = fab(L2(0.5), steps=4).minimum_norm(key, broken, images, labels)
    assert found.distances[1] == 0
    assert bool(jnp.isfinite(found.images).all())
    rest = jnp.array([0, 3, 4])
    near = found.distances[rest] <= 0.5
    np.testing.assert_allclose(found.images[rest][near], expected[rest][near], atol=1e-5)


def test_a_radius_per_example(problem, key):
    images, labels, logits_fn = problem
    distances = fab_targeted(L2(1.0), steps=5).minimum_norm(key, logits_fn, images, labels).distances
    eps = jnp.where(jnp.arange(BATCH) % 2 == 0, 0.999, 1.001) * distances
    adversarial = fab_targeted(L2(eps), steps=5)(key, logits_fn, images, labels)
    changed = (adversarial != images).any((1, 2, 3))
    np.testing.assert_array_equal(changed[1:], (jnp.arange(BATCH) % 2 == 1)[1:])


def test_new_radii_targets_and_parameters_do_not_compile_again(problem, key):
    images, labels, _ = problem
    traces = []

    def counted(parameters, images):
        traces.append(1)
        return linear(parameters, images)

    keys, counts = jax.random.split(key, BATCH), []
    for scale in (1.0, 2.0, 3.0):
        logits_fn = functools.partial(counted, (scale * jnp.ones((16, CLASSES)), jnp.zeros(CLASSES)))
        targets = (labels + int(scale)) % CLASSES
        fab_run(L2(scale), keys, logits_fn, images, labels, targets, steps=3, eta=1 + scale)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("make", [fab, fab_targeted])
def test_float64(make, float64, key):
    rng = np.random.default_rng(3)
    logits_fn = functools.partial(linear, (jnp.asarray(rng.normal(size=(16, 3))), jnp.zeros(3, jnp.float64)))
    images = jnp.asarray(rng.uniform(size=(2, *SHAPE)))
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)
    found = make(L1(2.0), steps=4, restarts=2).minimum_norm(key, logits_fn, images, labels)
    assert found.images.dtype == jnp.float64
    assert found.distances.dtype == jnp.float64


def test_passes(problem, key):
    images, labels, logits_fn = problem
    calls = {"forward": 0, "backward": 0}

    def count(which, x):
        def add(_):
            calls[which] += 1

        jax.debug.callback(add, x.ravel()[0])

    @jax.custom_vjp
    def counted(images):
        count("forward", images)
        return logits_fn(images)

    def forward(images):
        count("forward", images)
        return jax.vjp(logits_fn, images)

    def backward(pullback, cotangent):
        count("backward", cotangent)
        return pullback(cotangent)

    counted.defvjp(forward, backward)
    keys = jax.random.split(key, BATCH)
    for targets, classes in (((labels + 1) % CLASSES, None), (None, CLASSES)):
        calls.update(forward=0, backward=0)
        jax.block_until_ready(fab_run(L2(1.0), keys, counted, images, labels, targets, steps=3))
        jax.effects_barrier()
        assert tuple(calls.values()) == fab_passes(steps=3, classes=classes)


def test_bad_arguments_say_what_to_do(problem, key):
    images, labels, _ = problem
    for argument in ("steps", "restarts", "targets"):
        with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
            fab_targeted(L2(1.0), **{argument: 0})
    with pytest.raises(ValueError, match="alpha_max is a weight"):
        fab(L2(1.0), alpha_max=2.0)
    with pytest.raises(ValueError, match="beta is a share"):
        fab(L2(1.0), beta=-0.1)
    randomized = Randomized(lambda keys, images: _constant(images))
    with pytest.raises(TypeError, match="deterministic classifier"):
        fab(L2(1.0), steps=1)(key, randomized, images, labels)
