import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf, attacks, losses
from jaxrobust.attacks._minimum_norm import MinimumNormAttack
from jaxrobust.attacks._worst_case import worst_case

SHAPE, BATCH, CLASSES = (3, 3, 1), 24, 4


def network(parameters, images):
    first, second = parameters
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ first) @ second


@pytest.fixture(scope="module")
def problem():
    """The last image is misclassified."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    parameters = tuple(jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((9, 12), (12, CLASSES)))
    logits_fn = functools.partial(network, parameters)
    labels = logits_fn(images).argmax(-1).at[-1].add(1) % CLASSES
    return images, labels, logits_fn


def towards_the_middle(threat, key, logits_fn, images, labels):
    """A minimum-norm search that knows one point only."""
    candidates = jnp.full_like(images, 0.5)
    return candidates, logits_fn(candidates).argmax(-1) != labels


THREAT = Linf(0.1)
MEMBERS = (
    attacks.gaussian_noise(0.03),
    attacks.fgsm(THREAT),
    attacks.pgd(THREAT, steps=4, loss=losses.margin),
    MinimumNormAttack(L2(0.8), towards_the_middle),
)


def wrong(logits_fn, images, labels):
    return np.asarray(logits_fn(images).argmax(-1) != labels)


def test_the_first_success_of_each_example_is_returned(problem, key):
    images, labels, logits_fn = problem
    keys = jax.random.split(key, BATCH)
    adversarial = worst_case(*MEMBERS)(keys, logits_fn, images, labels)
    assert adversarial.dtype == images.dtype
    expected, done = np.asarray(images), wrong(logits_fn, images, labels)
    counts = []
    for number, member in enumerate(MEMBERS):
        member_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        candidates = np.asarray(member(member_keys, logits_fn, images, labels))
        new = wrong(logits_fn, candidates, labels) & ~done
        expected = np.where(new[:, None, None, None], candidates, expected)
        done = done | new
        counts.append(new.sum())
    assert counts[0] > 0
    assert counts[1] > 0
    assert not done.all()
    np.testing.assert_array_equal(adversarial, expected)
    np.testing.assert_array_equal(adversarial[-1], images[-1])
    np.testing.assert_array_equal(adversarial[~done], images[~done])


def test_more_attacks_never_raise_robust_accuracy(problem, key):
    images, labels, logits_fn = problem

    def broken(*members):
        return wrong(logits_fn, worst_case(*members)(key, logits_fn, images, labels), labels)

    grown = [wrong(logits_fn, images, labels)] + [broken(*MEMBERS[:number]) for number in (1, 2, 3, 4)]
    for fewer, more in itertools.pairwise(grown):
        assert (more >= fewer).all()
    assert grown[0].sum() < grown[1].sum() < grown[-1].sum() < BATCH
    assert (broken(worst_case(*MEMBERS[:2]), *MEMBERS[2:]) >= grown[0]).all()
    # Nothing is drawn here, so the union is that of the members' own results.
    fgsm, nearest = MEMBERS[1], MEMBERS[3]
    alone = [wrong(logits_fn, member(key, logits_fn, images, labels), labels) for member in (fgsm, nearest)]
    np.testing.assert_array_equal(broken(fgsm, nearest), alone[0] | alone[1] | grown[0])


def test_same_inside_jit_and_for_any_batch(problem, key):
    images, labels, logits_fn = problem
    attack = worst_case(*MEMBERS[:2])
    keys = jax.random.split(key, BATCH)
    whole = attack(keys, logits_fn, images, labels)
    np.testing.assert_array_equal(attack(keys, logits_fn, images, labels), whole)
    compiled = jax.jit(lambda keys, images, labels: attack(keys, logits_fn, images, labels))
    np.testing.assert_allclose(compiled(keys[:5], images[:5], labels[:5]), whole[:5], atol=1e-6)


def constant_or_broken(images):
    logits = jnp.zeros((images.shape[0], 3), images.dtype)
    return jnp.where(images.reshape(images.shape[0], -1)[:, :1] == 0.25, jnp.nan, logits)


def test_nothing_to_find_in_one_pixel_and_float64(float64, key):
    images = jnp.full((2, 1, 1, 1), 0.5, jnp.float64).at[1].set(0.25)
    attack = worst_case(attacks.uniform_noise(THREAT), attacks.fgsm(THREAT))
    adversarial = attack(key, constant_or_broken, images, jnp.zeros(2, int))
    assert adversarial.dtype == jnp.float64
    np.testing.assert_array_equal(adversarial, images)


def test_no_attack_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        worst_case()
