import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import Linf, attacks, evaluation, losses
from jaxrobust.iteration import Closure

SHAPE, BATCH = (3, 3, 1), 5


def linear(weights, images):
    return images.reshape(images.shape[0], -1) @ weights


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    members = [functools.partial(linear, jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)) for _ in range(3)]
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    return members, images, jnp.asarray(rng.integers(4, size=BATCH), jnp.int32)


def test_logits_and_probabilities(problem):
    members, images, _ = problem
    logits = np.stack([member(images) for member in members])
    np.testing.assert_allclose(attacks.ensemble(*members)(images), logits.mean(0), atol=1e-5)
    mean = np.asarray(jax.nn.softmax(logits)).mean(0)
    for space in ("probabilities", "loss"):
        np.testing.assert_allclose(jnp.exp(attacks.ensemble(*members, space=space)(images)), mean, atol=1e-5)
    assert not np.allclose(jax.nn.softmax(logits.mean(0)), mean, atol=1e-3)


@pytest.mark.parametrize("space", ["logits", "probabilities", "loss"])
def test_copies_and_order(space, problem, key):
    # Check 19 of the model-alignment specification.
    members, images, labels = problem
    attack = attacks.bim(Linf(0.1), steps=3)
    single = attack(key, members[0], images, labels)
    copies = attacks.ensemble(members[0], members[0], space=space)
    np.testing.assert_allclose(attack(key, copies, images, labels), single, atol=1e-6)
    weighted = attacks.ensemble(*members, space=space, weights=(2, 0, 0))
    np.testing.assert_allclose(attack(key, weighted, images, labels), single, atol=1e-6)
    forth, back = (attack(key, attacks.ensemble(*m, space=space), images, labels) for m in (members, members[::-1]))
    np.testing.assert_allclose(forth, back, atol=1e-6)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margin, losses.dlr])
def test_loss_space_maximises_the_mean_loss(loss, problem, key):
    members, images, labels = problem
    found = attacks.fgsm(Linf(0.1), loss=loss)(key, attacks.ensemble(*members, space="loss"), images, labels)
    gradient = jax.grad(lambda x: sum(loss(member(x), labels).sum() for member in members))(images)
    np.testing.assert_allclose(found, jnp.clip(images + 0.1 * jnp.sign(gradient), 0, 1), atol=1e-6)


def test_other_attacks_and_evaluation(problem, key):
    members, images, labels = problem
    for space in ("logits", "loss"):
        ensemble = attacks.ensemble(*members, space=space)
        adversarial = attacks.apgd(Linf(0.3), steps=5)(key, ensemble, images, labels)
        assert adversarial.shape == images.shape
        attacked = evaluation.accuracy(ensemble, images, labels, attack=attacks.pgd(Linf(0.3), steps=3), key=key)
        assert attacked <= evaluation.accuracy(ensemble, images, labels)


def test_new_parameters_do_not_compile_again(problem, key):
    _, images, labels = problem
    traces = []

    def counted(weights, images):
        traces.append(1)
        return linear(weights, images)

    attack = attacks.bim(Linf(0.1), steps=3)
    for scale in (1.0, 2.0):
        member = functools.partial(counted, scale * jnp.ones((9, 4)))
        attack(key, attacks.ensemble(member, member), images, labels)
        if scale == 1:
            first = len(traces)
    assert len(traces) == first
    assert len(jax.tree.leaves(Closure(attacks.ensemble(member, member)))) == 2


def test_bad_arguments(problem):
    members, *_ = problem
    with pytest.raises(ValueError, match="at least one classifier"):
        attacks.ensemble()
    with pytest.raises(ValueError, match="unknown space 'softmax'"):
        attacks.ensemble(*members, space="softmax")
    for weights in ((1, 2), (1, -1, 1), (0, 0, 0)):
        with pytest.raises(ValueError, match="one number per classifier"):
            attacks.ensemble(*members, weights=weights)
