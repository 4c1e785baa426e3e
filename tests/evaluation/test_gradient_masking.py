"""The battery of checks for gradient masking on classifiers that mask, and on one that does not.

All of them are one function of arrays, so that every program is compiled once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L1, L2, Linf, attacks, evaluation, losses
from jaxrobust.evaluation._gradient_masking import gradient_masking

KEY = jax.random.key(0)
SIDE, CLASSES, COUNT = 6, 5, 120
THREAT = Linf(0.03)
OPTIONS = {"key": KEY, "steps": 10, "long_steps": 30, "restarts": 2, "queries": 300}


def classifier(weights, scale, quantised, images):
    """Linear logits times ``scale``, of images rounded to five levels where ``quantised``."""
    images = jnp.where(quantised, jnp.round(4 * images) / 4, images)
    return scale * ((images - 0.5).reshape(len(images), -1) @ weights)


def build(seed=0, scale=1.0, quantised=False):
    weights = np.random.default_rng(seed).normal(size=(SIDE * SIDE, CLASSES)).astype(np.float32)
    return functools.partial(classifier, weights, np.array(scale, np.float32), np.array(quantised))


PLAIN = build()


@pytest.fixture(scope="module")
def data():
    """Images whose margins under the plain classifier are spread around what the radius allows."""
    images = np.random.default_rng(1).uniform(0.05, 0.95, size=(COUNT, SIDE, SIDE, 1)).astype(np.float32)
    labels = np.asarray(PLAIN(images)).argmax(-1).astype(np.int32)
    labels[::12] = (labels[::12] + 1) % CLASSES  # some are wrong
    return images, labels


@pytest.fixture(scope="module")
def plain(data):
    return gradient_masking(PLAIN, *data, THREAT, surrogate=PLAIN, **OPTIONS)


def test_a_linear_classifier_passes(plain):
    assert plain.warnings == ()
    assert all(plain.passed.values())
    checks = [
        "single_step",
        "more_steps",
        "converged",
        "loss",
        "noise",
        "black_box",
        "transfer",
        "any_image",
        "gradients",
    ]
    assert list(plain.passed) == checks
    assert plain.tiny_gradients < 5
    assert 1 / CLASSES < plain.confidence < 1
    assert plain.linearity_error > 0
    assert plain.curvature > 0


def test_relations_between_the_runs(plain):
    """Runs of a linear classifier: worst cases, an exact attack, and the whole box."""
    accuracy, correct = plain.accuracy, plain.correct
    assert accuracy["clean"] == pytest.approx(100 * 11 / 12)
    for name, rows in correct.items():
        assert accuracy[name] == pytest.approx(100 * rows.mean())
        assert not (rows & ~correct["clean"]).any()
    assert 10 < accuracy["targeted"] < 80
    assert accuracy["targeted"] == min(accuracy[name] for name in accuracy if not name.startswith("whole_box"))
    assert accuracy["clean"] >= accuracy["noise"] >= accuracy["fgsm"] >= accuracy["pgd_long"]
    assert accuracy["square"] >= accuracy["pgd_long"]
    assert accuracy["transfer"] == accuracy["pgd"]  # the surrogate is the classifier itself
    assert accuracy["whole_box"] == 0
    assert accuracy["whole_box_noise"] < accuracy["pgd"]
    # Multi-targeted PGD is exact on a linear classifier, so nothing finds what it does not.
    assert all(correct[name][correct["targeted"]].all() for name in ("pgd_margin", "square", "transfer", "noise"))


def test_scaled_logits_are_found_out(data, plain):
    """Probabilities of 0 and 1: cross-entropy has no gradient, the margin the same as before."""
    found = gradient_masking(build(scale=1e4), *data, THREAT, surrogate=PLAIN, **OPTIONS)
    assert found.confidence > 0.99
    for name in ("clean", "noise", "targeted", "square"):
        assert found.accuracy[name] == pytest.approx(plain.accuracy[name], abs=2)
    assert found.accuracy["pgd_long"] > plain.accuracy["pgd_long"] + 10
    assert not any(found.passed[name] for name in ("loss", "black_box", "transfer"))
    assert any("cross-entropy hides the way" in text and "losses.dlr" in text for text in found.warnings)
    assert len(found.warnings) == sum(not passed for passed in found.passed.values())


def test_quantised_inputs_are_found_out(data, plain):
    """No gradient at all: only attacks without gradients, or with those of another network, get anywhere."""
    found = gradient_masking(build(quantised=True), *data, THREAT, surrogate=PLAIN, **OPTIONS)
    assert found.tiny_gradients == 100
    assert found.curvature == 0
    assert (
        found.accuracy["fgsm"] == found.accuracy["targeted"] == found.accuracy["clean"] == found.accuracy["whole_box"]
    )
    assert found.accuracy["square"] < found.accuracy["pgd_long"] - 10
    assert not any(found.passed[name] for name in ("black_box", "transfer", "any_image", "gradients"))
    assert any("Square, which sees no gradients" in text for text in found.warnings)
    assert any("leaves images unbroken at smaller radii" in text for text in found.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("threat", [L2(0.2), L1(0.8)])
def test_other_norms(data, threat):
    found = gradient_masking(PLAIN, *data, threat, **OPTIONS)
    assert "transfer" not in found.passed
    assert found.accuracy["targeted"] < found.accuracy["clean"] - 10
    assert found.accuracy["whole_box"] == 0
    masked = gradient_masking(build(quantised=True), *data, threat, **OPTIONS)
    assert not masked.passed["gradients"]
    assert not masked.passed["any_image"]


@pytest.mark.slow
def test_data_without_a_box(data):
    images, labels = data
    found = gradient_masking(PLAIN, images, labels, Linf(0.03, bounds=None), **OPTIONS)
    assert "whole_box" not in found.accuracy
    assert "any_image" not in found.passed
    assert found.warnings == ()


@pytest.mark.slow
def test_accuracies_over_the_radius_and_of_auto_attack(data):
    """Clean >= PGD >= AutoAttack, which is at most its first stage; less at larger radii, clean at none, 0 in the whole box."""
    images, labels = data
    options = {"key": KEY}
    clean = evaluation.accuracy(PLAIN, images, labels)
    for make in (attacks.fgsm, attacks.pgd, attacks.multi_targeted_pgd, functools.partial(attacks.square, queries=50)):
        assert evaluation.accuracy(PLAIN, images, labels, attack=make(Linf(0.0)), **options) == clean
    for loss in (losses.cross_entropy, losses.margin):
        curve = [
            evaluation.accuracy(PLAIN, images, labels, attack=attacks.pgd(Linf(eps), loss=loss), **options)
            for eps in (0.02, 0.05, 0.1, 0.2, 0.5)
        ]
        assert all(a >= b for a, b in zip([clean, *curve], curve, strict=False))
        assert curve[-1] == 0  # mid-grey, and nearly everything else, is reachable
    pgd = evaluation.accuracy(PLAIN, images, labels, attack=attacks.pgd(THREAT, steps=100), **options)
    result = attacks.auto_attack(THREAT, progress=False)(KEY, PLAIN, images, labels)
    assert clean == pytest.approx(result.clean_accuracy)
    assert clean >= pgd >= result.robust_accuracy
    assert result.robust_accuracy <= result.after["apgd-ce"]
    assert not (result.robust & ~result.robust_by["apgd-ce"]).any()


def test_errors_say_what_is_wanted(data):
    images, labels = data
    with pytest.raises(ValueError, match="one positive radius"):
        gradient_masking(PLAIN, images, labels, Linf(0.0), **OPTIONS)
    with pytest.raises(ValueError, match="one positive radius"):
        gradient_masking(PLAIN, images, labels, Linf(np.full(COUNT, 0.1)), **OPTIONS)
    with pytest.raises(ValueError, match="long_steps must be more than steps, got 10 and 10"):
        gradient_masking(PLAIN, images, labels, THREAT, **{**OPTIONS, "long_steps": 10})
    with pytest.raises(ValueError, match=r"divide 8-bit images by 255"):
        gradient_masking(PLAIN, 255 * images, labels, THREAT, **OPTIONS)
    with pytest.raises(ValueError, match=r"labels must lie in 0..4"):
        gradient_masking(PLAIN, images, labels + 5, THREAT, **OPTIONS)
