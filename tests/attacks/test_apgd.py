import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _linear_models import linear, network

from jaxrobust import L1, L2, Linf, attacks, losses
from jaxrobust.attacks._apgd import checkpoints, phases
from jaxrobust.attacks._apgd import options as make_options

CLASSES, SHAPE, BATCH = 5, (4, 4, 1), 8
THREATS = {"Linf": Linf(0.1), "L2": L2(0.5), "L1": L1(1.0)}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    parameters = tuple(jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((16, 12), (12, CLASSES)))
    logits_fn = functools.partial(network, parameters)
    return images, logits_fn(images).argmax(-1).astype(jnp.int32), logits_fn


ATTACKS = {
    "apgd": lambda threat: attacks.apgd(threat, steps=12),
    "apgd_dlr_restarts": lambda threat: attacks.apgd(threat, loss="dlr", steps=6, restarts=2),
    "apgd_margin": lambda threat: attacks.apgd(threat, loss=losses.margin, steps=6),
    "apgd_targeted": lambda threat: attacks.apgd_targeted(threat, steps=6, targets=2),
    "apgd_targeted_margin": lambda threat: attacks.apgd_targeted(threat, loss="margin", steps=6, targets=9),
}


def test_checkpoint_table():
    # autoattack specification, section 2
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(50) == (11, 21, 30, 38, 45)
    assert checkpoints(20) == (4, 7, 9, *range(10, 21))
    assert checkpoints(10) == tuple(range(2, 11))
    assert checkpoints(1000) == (220, 410, 570, 700, 800, 870, 930, 990)
    assert checkpoints(1) == (1,)


def test_phases_of_the_larger_eps_schedule():
    threat = L1(2.0)
    chosen = make_options(threat, "ce", larger_eps=True)
    balls, lengths = zip(*((ball.eps, phase.steps) for ball, phase in phases(threat, chosen, True)), strict=True)
    assert balls == (6.0, 4.0, 2.0)
    assert lengths == (30, 30, 40)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("apgd", "Linf"),
        ("apgd", "L1"),
        ("apgd_targeted", "L2"),
        ("apgd_dlr_restarts", "Linf"),
        ("apgd_targeted_margin", "L1"),
    ],
)
@pytest.mark.slow
def test_verdicts_depend_neither_on_batches_nor_on_jit(name, norm, problem, key):
    images, labels, logits_fn = problem
    attack = ATTACKS[name](THREATS[norm])
    keys = jax.random.split(key, BATCH)
    whole = attack(keys, logits_fn, images, labels)
    order = np.random.default_rng(0).permutation(BATCH)
    shuffled = attack(keys[order], logits_fn, images[order], labels[order])
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-5)
    single = [attack(keys[i : i + 1], logits_fn, images[i : i + 1], labels[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(np.concatenate(single), whole[:3], atol=1e-5)
    compiled = jax.jit(lambda keys, images, labels: attack(keys, logits_fn, images, labels))
    np.testing.assert_allclose(compiled(keys, images, labels), whole, atol=1e-5)


@pytest.mark.parametrize(("make", "eps"), [(Linf, 0.02), (Linf, 0.08), (L2, 0.1), (L2, 0.4), (L1, 0.5), (L1, 1.2)])
def test_exact_on_linear_models(make, eps, key):
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.normal(size=(16, CLASSES)), jnp.float32)
    images = jnp.asarray(rng.normal(size=(64, *SHAPE)), jnp.float32)
    logits_fn = functools.partial(linear, (weights, jnp.asarray(rng.normal(size=CLASSES), jnp.float32)))
    logits = logits_fn(images)
    labels = logits.argmax(-1).astype(jnp.int32)
    threat = make(eps, bounds=None)
    radius = np.full(64, np.inf)
    for other in range(CLASSES):
        gap = logits[jnp.arange(64), labels] - logits[:, other]
        dual = threat.dual_norm((weights[:, labels] - weights[:, [other]]).T)
        radius = np.minimum(radius, np.where(labels == other, np.inf, gap / jnp.maximum(dual, 1e-9)))
    attack = attacks.apgd_targeted(threat, loss="margin", steps=100, larger_eps=make is L1)
    survived = np.asarray(logits_fn(attack(key, logits_fn, images, labels)).argmax(-1) == labels)
    assert 0 < (radius > eps).sum() < 64
    assert survived[radius > eps].all()
    # In l1 the optimum is the pixel of largest gradient; steps move at least two alike, which reach half of it or more.
    assert not survived[radius < eps * (0.5 if make is L1 else 1)].any()


def test_saturated_cross_entropy_stands_still_and_dlr_does_not(problem, key):
    images, labels, logits_fn = problem

    def saturated(images):
        return 1e4 * logits_fn(images)

    broken = {
        loss: int((saturated(attacks.apgd(L2(1.0), loss=loss, steps=10)(key, saturated, images, labels)).argmax(-1) != labels).sum())
        for loss in ("ce", "dlr")
    }  # fmt: skip
    assert broken["dlr"] >= 4
    assert broken["dlr"] > broken["ce"]


def test_constant_logits_and_two_classes(key):
    images, labels = jnp.full((3, *SHAPE), 0.5), jnp.zeros(3, jnp.int32)
    for classes, loss in ((3, "dlr"), (2, "margin"), (2, "ce")):
        constant = functools.partial(lambda classes, images: jnp.zeros((images.shape[0], classes)), classes)
        for threat in THREATS.values():
            np.testing.assert_array_equal(
                attacks.apgd(threat, loss=loss, steps=3)(key, constant, images, labels), images
            )


def test_more_restarts_and_targets_never_repair(problem, key):
    images, labels, logits_fn = problem

    def robust(attack):
        return np.asarray(logits_fn(attack(key, logits_fn, images, labels)).argmax(-1) == labels)

    threat = Linf(0.06)
    assert (robust(attacks.apgd(threat, steps=3, restarts=3)) <= robust(attacks.apgd(threat, steps=3))).all()
    one = robust(attacks.apgd_targeted(threat, steps=3, targets=1))
    assert (robust(attacks.apgd_targeted(threat, steps=3, targets=4)) <= one).all()


def test_new_radius_and_parameters_do_not_compile_again(problem, key):
    images, labels, _ = problem
    traces = []

    def counted(weights, images):
        traces.append(1)
        return images.reshape(images.shape[0], -1) @ weights

    for eps in (0.1, 0.2, 0.3):
        weights = eps * jnp.ones((16, CLASSES))
        attacks.apgd(Linf(eps), steps=17)(key, functools.partial(counted, weights), images, labels)
        if eps == 0.1:
            first = len(traces)
    assert len(traces) == first


def test_float64(float64, key):
    images = jnp.full((2, *SHAPE), 0.5, jnp.float64)
    logits_fn = functools.partial(linear, (jnp.eye(16, 4, dtype=jnp.float64), jnp.zeros(4, jnp.float64)))
    for threat in THREATS.values():
        adversarial = attacks.apgd_targeted(threat, steps=3)(key, logits_fn, images, jnp.zeros(2, jnp.int32))
        assert adversarial.dtype == jnp.float64


def test_bad_arguments_say_what_to_do(problem, key):
    images, labels, _ = problem
    with pytest.raises(ValueError, match="unknown loss 'cw'; choose one of ce, dlr, margin"):
        attacks.apgd(Linf(0.1), loss="cw")
    with pytest.raises(ValueError, match="choose one of dlr, margin"):
        attacks.apgd_targeted(Linf(0.1), loss="ce")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        attacks.apgd(Linf(0.1), steps=0)
    with pytest.raises(ValueError, match="restarts must be at least 1"):
        attacks.apgd(Linf(0.1), restarts=0)
    with pytest.raises(ValueError, match="targets must be at least 1"):
        attacks.apgd_targeted(Linf(0.1), targets=0)
    with pytest.raises(ValueError, match="rho is a share"):
        attacks.apgd(Linf(0.1), rho=2)
    with pytest.raises(ValueError, match="larger-eps schedule is part of APGD for l1"):
        attacks.apgd(Linf(0.1), larger_eps=True)
    with pytest.raises(ValueError, match="takes 3, 5, 6 or more steps, got 4"):
        attacks.apgd(L1(0.1), larger_eps=True, steps=4)
    two = functools.partial(linear, (jnp.ones((16, 2)), jnp.zeros(2)))
    with pytest.raises(ValueError, match=r"at least 3 classes, got 2; use losses\.margin"):
        attacks.apgd(Linf(0.1), loss="dlr")(key, two, images, jnp.zeros_like(labels))
