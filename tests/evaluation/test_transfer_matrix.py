import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import Linf, attacks, evaluation
from jaxrobust.evaluation import _transfer_matrix as module

SHAPE, N = (4, 4, 1), 200


def binary(weights, images):
    score = images.reshape(images.shape[0], -1) @ weights
    return jnp.stack([score, jnp.zeros_like(score)], 1)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    vectors = {name: (w := rng.normal(size=16)) - w.mean() for name in "ab"}  # scores on both sides of zero
    networks = {name: functools.partial(binary, jnp.asarray(w, jnp.float32)) for name, w in vectors.items()}
    images = rng.uniform(0.2, 0.8, size=(N, *SHAPE)).astype(np.float32)
    return vectors, networks, images


def run(networks, images, labels, eps=0.1, **options):
    attack = attacks.bim(Linf(eps, bounds=None), steps=3, step_size=eps)
    options = {"key": jax.random.key(0), "batch_size": 64, **options}
    return evaluation.transfer_matrix(networks, networks, images, labels, attack=attack, **options)


def test_linear_closed_form(problem):
    # Check 30: -eps * sign(w_s) transfers iff w_t x < eps * w_t sign(w_s).
    vectors, networks, images = problem
    labels = np.zeros(N, np.int32)
    found = run(networks, images, labels)
    flat = images.reshape(N, -1)
    score = {name: flat @ w for name, w in vectors.items()}
    moved = {(s, t): score[t] - 0.1 * vectors[t] @ np.sign(vectors[s]) for s in vectors for t in vectors}
    for row, source in enumerate(found.sources):
        for column, target in enumerate(found.targets):
            chosen = (score[source] >= 0) & (score[target] >= 0)
            chosen &= (moved[source, source] < 0) & (moved[target, target] < 0)
            assert found.qualified[row, column] == chosen.sum() > 0
            expected = 100 * (moved[source, target][chosen] < 0).mean()
            assert found.error[row, column] == pytest.approx(expected)
    # Check 28: a target that is the source is fooled by every qualified image.
    np.testing.assert_allclose(np.diag(found.error), 100)


def test_nobody_qualifies_at_radius_zero(problem):
    _, networks, images = problem
    found = run(networks, images, np.zeros(N, np.int32), eps=0.0)
    assert np.isnan(found.error).all()
    assert (found.qualified == 0).all()
    everyone = run(networks, images, np.zeros(N, np.int32), eps=0.0, qualified=None)
    assert (everyone.qualified == N).all()


def test_qualification_truth_table(monkeypatch, problem):
    # Check 31: of the 16 combinations "and" keeps one, the legacy rule the 8 with an even number of truths.
    _, networks, _ = problem
    flags = np.array(list(itertools.product([False, True], repeat=4)))
    clean, fooled = {"a": flags[:, 0], "b": flags[:, 1]}, {"a": flags[:, 2], "b": flags[:, 3]}
    names = {id(function): name for name, function in networks.items()}
    images = np.zeros((16, *SHAPE), np.float32)

    def correct(logits_fn, made, labels, **options):
        name = names[id(logits_fn)]
        return ~fooled[name] if made is adversarial[name] else clean[name]

    adversarial = {name: images.copy() for name in networks}
    monkeypatch.setattr(module, "correct", correct)
    monkeypatch.setattr(module, "map_batches", lambda function, logits_fn, *a, **k: adversarial[names[id(logits_fn)]])
    labels = np.zeros(16, np.int32)
    assert run(networks, images, labels).qualified[0, 1] == 1
    assert run(networks, images, labels, qualified="legacy").qualified[0, 1] == 8


def test_limit_and_messages(problem):
    _, networks, images = problem
    labels = np.zeros(N, np.int32)
    limited = run(networks, images, labels, limit=7)
    assert limited.qualified.max() == 7
    assert all(round(error * 7 / 100, 4) % 1 == 0 for error in limited.error.ravel())
    with pytest.raises(ValueError, match="at least one source"):
        run({}, images, labels)
    with pytest.raises(ValueError, match="qualified must be"):
        run(networks, images, labels, qualified="or")
    with pytest.raises(ValueError, match="names one network among the sources and another"):
        evaluation.transfer_matrix(
            networks, {"a": networks["b"]}, images, labels, attack=attacks.fgsm(Linf(0.1)), key=jax.random.key(0)
        )
