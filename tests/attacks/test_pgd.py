import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _linear_models import linear, network

from jaxrobust import L1, L2, Linf, attacks, losses

CLASSES, SHAPE, BATCH = 5, (4, 4, 1), 8


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    labels = jnp.asarray(rng.integers(CLASSES, size=BATCH), jnp.int32)
    parameters = (
        jnp.asarray(rng.normal(size=(16, 12)), jnp.float32),
        jnp.asarray(rng.normal(size=(12, CLASSES)), jnp.float32),
    )
    return images, labels, functools.partial(network, parameters)


ATTACKS = {
    "fgsm": lambda threat: attacks.fgsm(threat),
    "fgsm_random": lambda threat: attacks.fgsm(threat, random_start=True),
    "bim": lambda threat: attacks.bim(threat, steps=4),
    "pgd": lambda threat: attacks.pgd(threat, steps=4),
    "pgd_restarts": lambda threat: attacks.pgd(threat, steps=3, restarts=2),
    "pgd_best": lambda threat: attacks.pgd(threat, steps=4, keep_best=True),
    "pgd_targeted": lambda threat: attacks.pgd(threat, steps=4, targeted=True),
    "multi_targeted": lambda threat: attacks.multi_targeted_pgd(threat, steps=3),
    "adam": lambda threat: attacks.iterative(
        threat,
        loss=losses.margin,
        update=optax.chain(optax.scale_by_adam(), optax.scale(0.05)),
        steps=4,
    ),
    "uniform_noise": attacks.uniform_noise,
}
THREATS = {"Linf": Linf(0.1), "L2": L2(0.5), "L1": L1(1.0)}


@pytest.mark.parametrize("name", ["fgsm_random", "pgd_restarts", "pgd_best", "pgd_targeted", "multi_targeted", "adam"])
def test_same_inside_jit_and_for_any_batch_split(name, problem, key):
    images, labels, logits_fn = problem
    attack = ATTACKS[name](Linf(0.1))
    keys = jax.random.split(key, BATCH)
    whole = attack(keys, logits_fn, images, labels)
    compiled = jax.jit(lambda keys, images, labels: attack(keys, logits_fn, images, labels))
    np.testing.assert_allclose(compiled(keys, images, labels), whole, atol=2e-5)
    halves = [attack(keys[part], logits_fn, images[part], labels[part]) for part in (slice(0, 4), slice(4, 8))]
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *((name, "Linf") for name in ("fgsm", "bim", "pgd", "pgd_restarts", "pgd_best", "multi_targeted")),
        ("pgd", "L2"),
        ("pgd", "L1"),
    ],
)
def test_raises_the_loss(name, norm, problem, key):
    images, labels, logits_fn = problem
    adversarial = ATTACKS[name](THREATS[norm])(key, logits_fn, images, labels)
    before = losses.margin(logits_fn(images), labels).mean()
    assert float(losses.margin(logits_fn(adversarial), labels).mean()) > float(before) + 0.1


def test_fgsm_is_one_sign_step(problem, key):
    images, labels, logits_fn = problem
    gradient = jax.grad(lambda x: losses.cross_entropy(logits_fn(x), labels).sum())(images)
    expected = jnp.clip(images + 0.03 * jnp.sign(gradient), 0, 1)
    np.testing.assert_allclose(attacks.fgsm(Linf(0.03))(key, logits_fn, images, labels), expected, atol=1e-6)


def test_one_step_of_bim_is_fgsm(problem, key):
    images, labels, logits_fn = problem
    one = attacks.bim(Linf(0.03), steps=1, step_size=0.03)(key, logits_fn, images, labels)
    np.testing.assert_array_equal(one, attacks.fgsm(Linf(0.03))(key, logits_fn, images, labels))


def _linear_problem():
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.normal(size=(16, CLASSES)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=CLASSES), jnp.float32)
    images = jnp.asarray(rng.normal(size=(64, *SHAPE)), jnp.float32)
    logits_fn = functools.partial(linear, (weights, bias))
    labels = logits_fn(images).argmax(-1)
    return weights, logits_fn, images, labels


@pytest.mark.parametrize(("make", "eps"), [(Linf, 0.02), (Linf, 0.08), (L2, 0.1), (L2, 0.4)])
def test_multi_targeted_pgd_is_exact_on_linear_models(make, eps, key):
    # Check 7.9-2 of the optimizer-robustness study: robust iff z_y - z_j > eps * ||w_y - w_j||_q for all j.
    weights, logits_fn, images, labels = _linear_problem()
    threat = make(eps, bounds=None)
    logits = logits_fn(images)
    robust = np.ones(len(images), bool)
    for other in range(CLASSES):
        gap = logits[jnp.arange(64), labels] - logits[:, other]
        dual = threat.dual_norm((weights[:, labels] - weights[:, [other]]).T)
        robust &= np.asarray((gap > eps * dual) | (labels == other))
    attack = attacks.multi_targeted_pgd(threat, steps=10)
    adversarial = attack(key, logits_fn, images, labels)
    survived = np.asarray(logits_fn(adversarial).argmax(-1) == labels)
    assert 0 < robust.sum() < 64
    np.testing.assert_array_equal(survived, robust)


def test_cross_entropy_pgd_overestimates_where_multi_targeted_does_not(key):
    _, logits_fn, images, labels = _linear_problem()
    threat = L2(0.5, bounds=None)
    survivors = {
        name: int((logits_fn(attack(key, logits_fn, images, labels)).argmax(-1) == labels).sum())
        for name, attack in {
            "ce": attacks.pgd(threat, steps=10, restarts=2),
            "mt": attacks.multi_targeted_pgd(threat, steps=10),
        }.items()
    }
    assert survivors["mt"] <= survivors["ce"]


def test_targeted_reaches_the_target(key):
    _, logits_fn, images, labels = _linear_problem()
    targets = (labels + 1) % CLASSES
    attack = attacks.pgd(Linf(2.0, bounds=None), steps=20, targeted=True)
    adversarial = attack(key, logits_fn, images, targets)
    assert float((logits_fn(adversarial).argmax(-1) == targets).mean()) > 0.9


def test_soft_labels(problem, key):
    images, labels, logits_fn = problem
    one_hot = jax.nn.one_hot(labels, CLASSES)
    attack = attacks.pgd(Linf(0.1), steps=3, keep_best=True)
    hard, same = (attack(key, logits_fn, images, targets) for targets in (labels, one_hot))
    np.testing.assert_allclose(same, hard, atol=1e-6)
    mixed = 0.6 * one_hot + 0.4 * one_hot[::-1]
    adversarial = attack(key, logits_fn, images, mixed)
    before, after = (losses.cross_entropy(logits_fn(x), mixed) for x in (images, adversarial))
    assert bool((after > before).all())
    assert float(jnp.abs(adversarial - hard).max()) > 0.01


def test_success_with_soft_labels_is_that_of_their_most_probable_class(key):
    # One huge step leaves the class of either soft label.
    images = jnp.full((2, 1), 0.4)
    logits_fn = lambda x: jnp.concatenate([0 * x, 10 * (x - 0.5)], 1)  # noqa: E731
    attack = attacks.iterative(
        Linf(0.4), loss=losses.cross_entropy, update=optax.scale(1e3), steps=1, random_start=False, keep_best=True
    )
    soft = jnp.asarray([[0.9, 0.1], [0.1, 0.9]])
    adversarial = attack(key, logits_fn, images, soft)
    np.testing.assert_allclose(adversarial[:, 0], [0.8, 0.0], atol=1e-6)


def test_keep_best_never_worse_than_the_start(problem, key):
    # One huge step overshoots; the best iterate is the image itself.
    images, labels, logits_fn = problem
    attack = attacks.iterative(
        L2(3.0),
        loss=losses.cross_entropy,
        update=optax.scale(-1e3),
        steps=1,
        random_start=False,
        keep_best=True,
    )
    adversarial = attack(key, logits_fn, images, labels)
    before, after = (losses.cross_entropy(logits_fn(x), labels) for x in (images, adversarial))
    assert bool((after >= before - 1e-6).all())


def test_more_restarts_never_lower_the_best_loss(problem, key):
    images, labels, logits_fn = problem

    def best(restarts):
        attack = attacks.pgd(Linf(0.05), steps=3, restarts=restarts, keep_best=True)
        logits = logits_fn(attack(key, logits_fn, images, labels))
        return np.stack([logits.argmax(-1) != labels, losses.cross_entropy(logits, labels)])

    one, three = best(1), best(3)
    assert (three[0] >= one[0]).all()
    same = three[0] == one[0]
    assert (three[1] >= one[1] - 1e-5)[same].all()


@pytest.mark.parametrize("threat", [Linf(0.0), Linf(0.3), L2(0.3), L1(1.0)])
def test_zero_gradient_moves_nothing(threat, problem, key):
    images = problem[0][:2]
    adversarial = attacks.bim(threat, steps=2)(key, _constant_logits, images, jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(adversarial, images, atol=1e-6)


def _constant_logits(images):
    return jnp.zeros((images.shape[0], 3), images.dtype)


def test_vmap_over_eps(problem, key):
    images, labels, logits_fn = problem
    grid = jnp.asarray([0.02, 0.1], jnp.float32)
    run = jax.vmap(lambda eps: attacks.pgd(Linf(eps), steps=3)(key, logits_fn, images, labels))
    for eps, adversarial in zip(grid, run(grid), strict=True):
        expected = attacks.pgd(Linf(float(eps)), steps=3)(key, logits_fn, images, labels)
        np.testing.assert_allclose(adversarial, expected, atol=1e-5)


def test_runs_inside_a_differentiated_jitted_function(problem, key):
    images, labels, _ = problem
    parameters = (jnp.ones((16, CLASSES), jnp.float32), jnp.zeros(CLASSES, jnp.float32))

    @jax.jit
    def loss(parameters):
        logits_fn = functools.partial(linear, jax.lax.stop_gradient(parameters))
        adversarial = attacks.pgd(Linf(0.1), steps=2)(key, logits_fn, images, labels)
        return losses.cross_entropy(linear(parameters, adversarial), labels).mean()

    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(jax.grad(loss)(parameters)))


def test_new_parameters_do_not_compile_again(key):
    traces = []

    def counted(parameters, images):
        traces.append(1)
        return linear(parameters, images)

    attack = attacks.pgd(Linf(0.1), steps=3)
    images, labels = jnp.full((2, *SHAPE), 0.5), jnp.zeros(2, jnp.int32)
    counts = []
    for scale in (1.0, 2.0, 3.0):
        parameters = (scale * jnp.ones((16, 3)), jnp.zeros(3))
        attack(key, functools.partial(counted, parameters), images, labels)
        counts.append(len(traces))
    # eval_shape of the number of classes traces once per call; the compiled step only the first time.
    assert counts[2] - counts[1] == counts[1] - counts[0] <= 1


def test_float64(float64, key):
    images = jnp.full((2, *SHAPE), 0.5, jnp.float64)
    logits_fn = functools.partial(linear, (jnp.eye(16, 3, dtype=jnp.float64), jnp.zeros(3, jnp.float64)))
    adversarial = attacks.pgd(L2(0.1), steps=2)(key, logits_fn, images, jnp.zeros(2, jnp.int32))
    assert adversarial.dtype == jnp.float64


def test_bad_input_says_what_to_do(key):
    logits_fn = jax.tree_util.Partial(_constant_logits)
    attack = attacks.fgsm(Linf(0.1))
    with pytest.raises(TypeError, match="astype"):
        attack(key, logits_fn, jnp.zeros((2, *SHAPE), jnp.uint8), jnp.zeros(2, jnp.int32))
    with pytest.raises(TypeError, match="labels must be integer"):
        attack(key, logits_fn, jnp.zeros((2, *SHAPE)), jnp.zeros(2))
    with pytest.raises(TypeError, match="labels must be integer"):
        attacks.deepfool(Linf(0.1))(key, logits_fn, jnp.zeros((2, *SHAPE)), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"labels \(3, 3\)"):
        attack(key, logits_fn, jnp.zeros((2, *SHAPE)), jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="shape of the logits"):
        attack(key, logits_fn, jnp.zeros((2, *SHAPE)), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"labels \(3,\)"):
        attack(key, logits_fn, jnp.zeros((2, *SHAPE)), jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        attacks.pgd(Linf(0.1), steps=0)
    with pytest.raises(ValueError, match="restarts must be at least 1"):
        attacks.pgd(Linf(0.1), restarts=0)
