"""Inequalities between robust accuracies that hold for every classifier."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf, attacks, evaluation, models

KEY = jax.random.key(0)
FEATURES, CLASSES = 16, 8


@pytest.fixture(scope="module")
def problem():
    """A linear classifier, on which multi-targeted PGD is exact, and images that it classifies well."""
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(FEATURES, CLASSES)), jnp.float32)
    images = rng.normal(size=(120, 4, 4, 1)).astype(np.float32)
    logits_fn = functools.partial(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    labels = np.asarray(logits_fn(images)).argmax(-1)
    labels[::10] = (labels[::10] + 1) % CLASSES  # some are wrong
    return logits_fn, images, labels.astype(np.int32)


@pytest.fixture(scope="module")
def network(problem):
    """A network with the same labels as its own decisions on most images."""
    _, images, _ = problem
    model = models.MLP(classes=CLASSES, widths=(16,))
    logits_fn = functools.partial(model.apply, model.init(KEY, images))
    return logits_fn, images, np.asarray(logits_fn(images)).argmax(-1).astype(np.int32)


def robust(problem, threat):
    attack = attacks.multi_targeted_pgd(threat, steps=20)
    return evaluation.accuracy(*problem, attack=attack, key=KEY, bounds=None)


@pytest.mark.parametrize(("name", "points"), [("problem", 0), ("network", 1)])
@pytest.mark.slow
def test_norms_and_budgets(request, name, points):
    given = request.getfixturevalue(name)
    scale = 0.1 if name == "problem" else 0.02
    budgets = [scale, 2 * scale, 4 * scale]
    l2 = [robust(given, L2(eps, bounds=None)) for eps in budgets]
    linf = [robust(given, Linf(eps, bounds=None)) for eps in budgets]
    wide = [robust(given, L2(eps * FEATURES**0.5, bounds=None)) for eps in budgets]
    clean = evaluation.accuracy(*given, bounds=None)
    for accuracies in (l2, linf):
        assert clean + points >= accuracies[0]
        assert all(a + points >= b for a, b in itertools.pairwise(accuracies))
        assert accuracies[-1] < clean  # the attacks do something
    for cube, ball, around in zip(linf, l2, wide, strict=True):
        assert cube <= ball + points  # the ball lies in the cube
        assert around <= cube + points  # the cube lies in the ball of its diagonal


def test_an_ensemble_is_at_most_as_good_as_each_member(problem):
    threat = Linf(0.15, bounds=None)
    members = [attacks.fgsm(threat), attacks.pgd(threat), attacks.multi_targeted_pgd(threat, targets=1)]
    each = [evaluation.correct(*problem, attack=attack, key=KEY, bounds=None) for attack in members]
    together = np.logical_and.reduce(each)
    assert all(together.mean() <= member.mean() for member in each)
    # Trying every wrong class is an ensemble of attacks on single classes.
    every = evaluation.correct(*problem, attack=attacks.multi_targeted_pgd(threat), key=KEY, bounds=None)
    assert not (every & ~each[-1]).any()


@pytest.mark.parametrize("kind", ["clean", "noise", "attack"])
def test_top_5_is_at_least_top_1(problem, kind):
    options = {
        "clean": {},
        "noise": {"attack": attacks.gaussian_noise(1.0, bounds=None), "include_clean": False},
        "attack": {"attack": attacks.pgd(Linf(0.3, bounds=None))},
    }[kind]
    first, five = (evaluation.correct(*problem, key=KEY, bounds=None, top_k=k, **options) for k in (1, 5))
    assert not (first & ~five).any()
    assert five.mean() > first.mean()
