"""AutoAttack's driver: versions, dropping, packing, few classes, state, warnings, messages."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _linear_models import network
from jax.sharding import Mesh

from jaxrobust import L1, L2, Linf, attacks
from jaxrobust.attacks._auto_attack import _run, _stages

SHAPE, N = (6, 6, 1), 23
PUBLISHED = _stages.QUERIES, _stages.STEPS, _stages.SAMPLES


def make(classes, seed=0):
    rng = np.random.default_rng(seed)
    parameters = tuple(jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((36, 16), (16, classes)))
    logits_fn = functools.partial(network, parameters)
    images = rng.uniform(size=(N, *SHAPE)).astype(np.float32)
    labels = np.array(logits_fn(images).argmax(-1), np.int32)
    labels[:2] = (labels[:2] + 1) % classes  # misclassified as they are
    return logits_fn, images, labels


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few queries and steps: the driver is tested here, the attacks have tests of their own."""
    monkeypatch.setattr(_stages, "QUERIES", 20)
    monkeypatch.setattr(_stages, "STEPS", 5)
    monkeypatch.setattr(_stages, "SAMPLES", 3)


@pytest.fixture(scope="module")
def problem():
    return make(5)


def same(a, b):
    np.testing.assert_array_equal(a.robust, b.robust)
    np.testing.assert_array_equal(a.predictions, b.predictions)
    np.testing.assert_allclose(a.images, b.images, atol=1e-5)
    assert a.after == b.after


@pytest.mark.parametrize(
    "threat",
    [Linf(0.04), pytest.param(L2(0.3), marks=pytest.mark.slow), pytest.param(L1(1.0), marks=pytest.mark.slow)],
    ids=["Linf", "L2", "L1"],
)
def test_result_is_consistent(threat, problem, key):
    logits_fn, images, labels = problem
    result = attacks.auto_attack(threat, batch_size=8)(key, logits_fn, images, labels)
    predictions = np.asarray(logits_fn(result.images).argmax(-1))
    np.testing.assert_array_equal(result.predictions, predictions)
    np.testing.assert_array_equal(result.robust, predictions == labels)
    assert 0 < result.robust.sum() < N - 2
    assert result.clean_accuracy == pytest.approx(100 * 21 / 23)
    assert result.robust_accuracy == pytest.approx(100 * result.robust.mean())
    assert list(result.after) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    values = [result.clean_accuracy, *result.after.values()]
    assert values == sorted(values, reverse=True)
    assert values[-1] == result.robust_accuracy
    np.testing.assert_array_equal(result.images[result.robust], images[result.robust])
    np.testing.assert_array_equal(result.images[:2], images[:2])
    distances = np.asarray(threat.norm(jnp.asarray(result.images - images)))
    np.testing.assert_allclose(result.distances, distances, rtol=1e-5)
    assert (distances <= threat.eps * (1 + 1e-6)).all()
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert set(result.seconds) == set(result.after)
    # Misclassified points cost one forward pass, robust ones what all attacks cost.
    assert (result.passes.forward[:2] == 1).all()
    assert (result.passes.backward[:2] == 0).all()
    assert len(set(result.passes.forward[result.robust])) == 1
    assert result.passes.forward[result.robust].min() == result.passes.forward.max()


@pytest.mark.slow
def test_verdicts_depend_neither_on_batch_size_nor_on_order_nor_on_devices(problem, key):
    logits_fn, images, labels = problem
    whole = attacks.auto_attack(Linf(0.04), batch_size=32)(key, logits_fn, images, labels)
    same(attacks.auto_attack(Linf(0.04), batch_size=6)(key, logits_fn, images, labels), whole)
    one_device = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    same(attacks.auto_attack(Linf(0.04), batch_size=5, mesh=one_device)(key, logits_fn, images, labels), whole)


def test_cascade_is_the_worst_case_of_single_attacks(problem, key):
    logits_fn, images, labels = problem
    cascade = attacks.auto_attack(Linf(0.04))(key, logits_fn, images, labels)
    alone = attacks.auto_attack(Linf(0.04), cascade=False)(key, logits_fn, images, labels)
    np.testing.assert_array_equal(cascade.robust, alone.robust)
    np.testing.assert_array_equal(alone.robust, np.all(list(alone.robust_by.values()), axis=0))
    assert alone.passes.forward.sum() > cascade.passes.forward.sum()
    ce = attacks.auto_attack(Linf(0.04), "custom", attacks=["apgd-ce"])(key, logits_fn, images, labels)
    assert (ce.robust <= cascade.robust_by["apgd-ce"]).all()  # custom has five restarts, the first one in common


@pytest.mark.parametrize("version", [pytest.param("plus", marks=pytest.mark.slow), "custom"])
def test_versions_run(version, problem, key):
    logits_fn, images, labels = problem
    names = {"plus": None, "custom": ["square", "fab"]}[version]
    result = attacks.auto_attack(L2(0.3), version, attacks=names)(key, logits_fn, images, labels)
    assert list(result.after) == (names or ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"])


def test_published_settings():
    # autoattack specification, section 1
    linf, l1 = (_stages.settings(threat, "standard", None) for threat in (Linf(0.1), L1(1.0)))
    assert linf[2:] == (1, 9, False, 1, 1)
    assert l1[2:] == (5, 5, True, 1, 1)
    plus = _stages.settings(Linf(0.1), "plus", None)
    assert plus.attacks == ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
    assert plus[2:] == (5, 9, False, 5, 1)
    rand = _stages.settings(Linf(0.1), "rand", None)
    assert rand.attacks == ("apgd-ce", "apgd-dlr")
    assert rand[2:] == (1, 9, False, 1, 3)
    assert PUBLISHED == (5000, 100, 20)
    plan, notes = _stages.stages(linf, Linf(0.1), 10, (32, 32, 3))
    assert [sum(stage.attack == name for stage in plan) for name in linf.attacks] == [1, 9, 9, 1]
    assert notes == []


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.slow
def test_few_classes(classes, key):
    logits_fn, images, labels = make(classes)
    result = attacks.auto_attack(Linf(0.04))(key, logits_fn, images, labels)
    assert result.robust_accuracy < result.clean_accuracy
    text = " ".join(result.warnings)
    assert f"aims at all {classes - 1} wrong classes" in text
    assert ("APGD-T is one run of APGD with the untargeted DLR loss" in text) == (classes == 3)
    assert ("APGD-T is one run of APGD with the untargeted margin loss" in text) == (classes == 2)


def test_compiles_once_per_attack(key, caplog):
    logits_fn, images, labels = make(7)  # six targets
    evaluate = attacks.auto_attack(Linf(0.04), batch_size=8)

    def compiled(*arguments):
        caplog.clear()
        with jax.log_compiles():
            evaluate(*arguments)
        found = [re.search(r"Compiling jit\((\w+)\)", record.getMessage()) for record in caplog.records]
        return [match[1] for match in found if match]

    first = compiled(key, logits_fn, images, labels)
    assert first.count("_lax_loop") <= len(evaluate.settings.attacks)
    other, images, labels = make(7, seed=1)
    assert compiled(jax.random.key(1), other, images[:17], labels[:17]) == []


def test_all_broken_and_all_misclassified(problem, key):
    logits_fn, images, labels = problem
    everything = attacks.auto_attack(Linf(1.0), batch_size=8)(key, logits_fn, images, labels)
    assert everything.robust_accuracy == 0
    assert "The radius 1 allows any image of pixels in [0, 1]" in everything.warnings[0]
    wrong = attacks.auto_attack(Linf(0.1), batch_size=8)(key, logits_fn, images, (labels + 2) % 5)
    assert wrong.clean_accuracy <= 100 * 2 / N
    single = attacks.auto_attack(Linf(0.01))(key, logits_fn, images[5:6], labels[5:6])
    assert single.robust.shape == (1,)
    zero = attacks.auto_attack(Linf(0.0))(key, logits_fn, images, labels)
    assert zero.robust_accuracy == zero.clean_accuracy


def test_ties_and_constant_logits(key):
    constant = functools.partial(lambda z, images: jnp.tile(z, (images.shape[0], 1)), jnp.zeros(5))
    images, labels = np.full((4, *SHAPE), 0.5, np.float32), np.array([0, 0, 1, 0])
    result = attacks.auto_attack(Linf(0.1))(key, constant, images, labels)
    assert result.robust.tolist() == [True, True, False, True]  # the first index wins a tie
    text = " ".join(result.warnings)
    assert "All logits are equal" in text
    assert "gradient of APGD-CE's loss is exactly zero on 3 of 3" in text


def test_uint8_and_half_precision_images(problem, key):
    logits_fn, images, labels = problem
    bytes_ = np.round(images * 255).astype(np.uint8)
    a = attacks.auto_attack(Linf(0.04))(key, logits_fn, bytes_, labels)
    b = attacks.auto_attack(Linf(0.04))(key, logits_fn, bytes_.astype(np.float32) / np.float32(255), labels)
    same(a, b)
    half = attacks.auto_attack(Linf(0.04), "custom", attacks=["apgd-ce"])(
        key, logits_fn, images.astype(np.float16), labels
    )
    assert half.images.dtype == np.float32


def test_own_attack_in_the_cascade(problem, key):
    logits_fn, images, labels = problem
    threat = Linf(0.04)
    result = attacks.auto_attack(threat, "custom", attacks=[("pgd", attacks.pgd(threat, steps=5)), "square"])(
        key, logits_fn, images, labels
    )
    assert list(result.after) == ["pgd", "square"]
    assert result.after["pgd"] < result.clean_accuracy


class Killed(Exception):
    pass


def kill(attack, arguments, after_saves):
    """Run an attack whose process ends after so many saves of its state."""
    save, saves = _run.Progress.save, []

    def killed(self):
        save(self)
        saves.append(1)
        if len(saves) == after_saves:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run.Progress, "save", killed)
        with pytest.raises(Killed):
            attack(*arguments)


@pytest.mark.parametrize("after_saves", [1, 2, 4, 9])
def test_continues_where_it_was_killed(after_saves, problem, key, tmp_path):
    logits_fn, images, labels = problem
    undisturbed = attacks.auto_attack(Linf(0.04), batch_size=8)(key, logits_fn, images, labels)
    folder = tmp_path / "state"
    kill(attacks.auto_attack(Linf(0.04), batch_size=8, state=folder), (key, logits_fn, images, labels), after_saves)
    continued = attacks.auto_attack(Linf(0.04), batch_size=8, state=folder)(key, logits_fn, images, labels)
    same(continued, undisturbed)
    np.testing.assert_array_equal(continued.images, undisturbed.images)
    np.testing.assert_array_equal(continued.passes.forward, undisturbed.passes.forward)
    again = attacks.auto_attack(Linf(0.04), batch_size=8, state=str(folder))(key, logits_fn, images, labels)
    same(again, undisturbed)  # nothing is left to do


def test_continues_with_another_batch_size_and_other_devices(problem, key, tmp_path):
    logits_fn, images, labels = problem
    undisturbed = attacks.auto_attack(Linf(0.04))(key, logits_fn, images, labels)
    kill(attacks.auto_attack(Linf(0.04), batch_size=16, state=tmp_path), (key, logits_fn, images, labels), 4)
    one_device = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    attack = attacks.auto_attack(Linf(0.04), batch_size=5, state=tmp_path, mesh=one_device)
    same(attack(key, logits_fn, images, labels), undisturbed)


def test_function_without_bound_parameters_is_known_by_its_answers(problem, key, tmp_path):
    logits_fn, images, labels = problem
    attack = attacks.auto_attack(Linf(0.04), "custom", attacks=["apgd-ce"], state=tmp_path)
    attack(key, lambda images: logits_fn(images), images, labels)
    attack(key, lambda images: logits_fn(images), images, labels)
    other = make(5, seed=3)[0]
    with pytest.raises(ValueError, match="state belongs to another classifier"):
        attack(key, lambda images: other(images), images, labels)


def test_state_of_another_evaluation_is_refused(problem, key, tmp_path):
    logits_fn, images, labels = problem
    attack = functools.partial(attacks.auto_attack, version="custom", attacks=["apgd-ce"], state=tmp_path)
    attack(Linf(0.04))(key, logits_fn, images, labels)
    with pytest.raises(ValueError, match=r"belongs to another evaluation: it has threat = Linf\(eps=0.04"):
        attack(Linf(0.05))(key, logits_fn, images, labels)
    with pytest.raises(ValueError, match="its images or labels differ"):
        attack(Linf(0.04))(key, logits_fn, images[::-1], labels)
    with pytest.raises(ValueError, match="it has key = "):
        attack(Linf(0.04))(jax.random.key(1), logits_fn, images, labels)
    with pytest.raises(ValueError, match="its classifier's parameters differ"):
        attack(Linf(0.04))(key, make(5, seed=3)[0], images, labels)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="is not a state of auto_attack"):
        attack(Linf(0.04))(key, logits_fn, images, labels)
    shutil.rmtree(tmp_path)
    tmp_path.write_text("a file")
    with pytest.raises(ValueError, match="state must be a folder"):
        attack(Linf(0.04))(key, logits_fn, images, labels)


def test_state_says_what_it_holds(problem, key, tmp_path):
    logits_fn, images, labels = problem
    attacks.auto_attack(L2(0.1), "custom", attacks=["apgd-ce"], state=tmp_path)(key, logits_fn, images, labels)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["threat"] == "L2(eps=0.1, bounds=(0.0, 1.0))"
    assert stored["examples"] == N


def test_randomized_classifier(problem, key):
    logits_fn, images, labels = problem
    parameters = logits_fn.args[0]

    def noisy(parameters, keys, images):
        noise = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)
        return network(parameters, images + 0.01 * noise)

    randomized = attacks.Randomized(functools.partial(noisy, parameters))
    result = attacks.auto_attack(Linf(0.04), "rand", batch_size=8)(key, randomized, images, labels)
    assert result.robust_accuracy < result.clean_accuracy
    assert not any("randomised" in warning for warning in result.warnings)
    single = attacks.auto_attack(Linf(0.04), "custom", attacks=["apgd-ce"])(key, randomized, images, labels)
    assert any("use version='rand'" in warning for warning in single.warnings)


def test_warnings(problem, key):
    logits_fn, images, labels = problem

    def warnings(function):
        attack = attacks.auto_attack(Linf(0.04), "custom", attacks=["apgd-ce", "square"])
        return " ".join(attack(key, function, images, labels).warnings)

    assert warnings(logits_fn) == ""
    assert "returns probabilities, not logits" in warnings(lambda images: jax.nn.softmax(logits_fn(images)))
    rng = np.random.default_rng(0)
    traced = warnings(lambda images: logits_fn(images) + jnp.asarray(1e-6 * rng.normal(size=5), jnp.float32))
    assert "draws random numbers while JAX traces it" in traced
    masked = warnings(lambda images: logits_fn(jnp.round(images * 8) / 8))
    assert re.search(r"exactly zero on (\d+) of \1 images", masked)
    assert "the gradients are probably masked" in masked

    def drawn(images):
        shape = jax.ShapeDtypeStruct((images.shape[0], 5), jnp.float32)
        noise = jax.pure_callback(lambda: 0.1 * rng.normal(size=shape.shape).astype(np.float32), shape)
        return jax.lax.stop_gradient(noise) + logits_fn(images)

    assert "outputs differ between forward passes" in warnings(drawn)


def test_logits_that_are_not_finite_are_an_error(problem, key):
    logits_fn, images, labels = problem
    with pytest.raises(ValueError, match="NaN or infinite on the clean images of 23 examples"):
        attacks.auto_attack(Linf(0.1))(key, lambda images: logits_fn(images) * jnp.inf, images, labels)

    def breaks_down(images):
        moved = jnp.abs(images - jnp.clip(images, 0.02, 0.98)).sum((1, 2, 3)) > 0
        return jnp.where(moved[:, None], jnp.nan, logits_fn(images))

    inside = 0.3 + 0.4 * images
    with pytest.raises(ValueError, match=r"NaN or infinite on what apgd-ce found .* kept in the state"):
        attacks.auto_attack(Linf(0.5))(key, breaks_down, inside, np.asarray(logits_fn(inside).argmax(-1)))


def test_misuse_says_what_to_do(problem, key):
    logits_fn, images, labels = problem
    attack = attacks.auto_attack(Linf(0.1))
    with pytest.raises(ValueError, match="unknown version 'fast'; choose one of standard, plus, rand, custom"):
        attacks.auto_attack(Linf(0.1), "fast")
    with pytest.raises(ValueError, match='use version="custom"'):
        attacks.auto_attack(Linf(0.1), attacks=["apgd-ce"])
    with pytest.raises(ValueError, match='version="custom" needs attacks'):
        attacks.auto_attack(Linf(0.1), "custom")
    with pytest.raises(ValueError, match="unknown attack 'pgd'; choose from"):
        attacks.auto_attack(Linf(0.1), "custom", attacks=["pgd"])
    with pytest.raises(ValueError, match="listed once"):
        attacks.auto_attack(Linf(0.1), "custom", attacks=["fab", "fab"])
    with pytest.raises(ValueError, match="belongs to AutoAttack"):
        attacks.auto_attack(Linf(0.1), "custom", attacks=[("fab", attacks.fgsm(Linf(0.1)))])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        attacks.auto_attack(Linf(0.1), batch_size=0)
    with pytest.raises(ValueError, match="one concrete radius"):
        attacks.auto_attack(Linf(jnp.asarray([0.1, 0.2])))
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        attack(key, logits_fn, 255 * images, labels)
    with pytest.raises(ValueError, match="same length"):
        attack(key, logits_fn, images, labels[:3])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.4"):
        attack(key, logits_fn, images, labels + 5)
    with pytest.raises(ValueError, match="logits_fn must return logits"):
        attack(key, lambda images: logits_fn(images).sum(-1), images, labels)
    with pytest.raises(ValueError, match="takes one random key"):
        attack(jax.random.split(key, N), logits_fn, images, labels)
    with pytest.raises(ValueError, match="single class"):
        attack(key, lambda images: logits_fn(images)[:, :1], images, np.zeros_like(labels))
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(lambda images: attack(key, logits_fn, images, labels))(images)
