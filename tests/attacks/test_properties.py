"""What must hold for every attack, norm, radius, shape and batch: one table, the same checks for all."""

import functools
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seed_of_examples
from hypothesis import strategies as st
from jax.sharding import Mesh

from jaxrobust import L1, L2, Linf, attacks, evaluation, losses

CLASSES = 5
NORMS = {"Linf": Linf, "L2": L2, "L1": L1}
RADII = {"Linf": (0.0, 0.01, 0.1, 1.0), "L2": (0.0, 0.1, 1.0), "L1": (0.0, 0.5, 5.0)}
SHAPES = ((1, 1, 1), (1, 1, 3), (2, 5, 1), (7, 4, 3), (16, 16, 1), (32, 32, 3))


class Entry(NamedTuple):
    """``restores``: the clean image comes back, to the last bit, where the classifier was not fooled."""

    make: object
    norms: tuple[str, ...] = ("Linf", "L2", "L1")
    restores: bool = True


def _gradient(make, norms=("Linf", "L2", "L1")):
    return Entry(make, norms, restores=False)


TABLE = {
    "fgsm": _gradient(attacks.fgsm),
    "bim": _gradient(lambda threat: attacks.bim(threat, steps=2)),
    "pgd": _gradient(lambda threat: attacks.pgd(threat, steps=2)),
    "trades_pgd": _gradient(lambda threat: attacks.trades_pgd(threat, steps=2)),
    "pgd_best": _gradient(lambda threat: attacks.pgd(threat, steps=2, restarts=2, keep_best=True), ("Linf",)),
    "pgd_dlr": _gradient(lambda threat: attacks.pgd(threat, steps=2, loss=losses.dlr), ("L2",)),
    "multi_targeted_pgd": _gradient(lambda threat: attacks.multi_targeted_pgd(threat, steps=2, targets=2), ("Linf",)),
    "uniform_noise": _gradient(attacks.uniform_noise),
    "mi_fgsm": _gradient(lambda threat: attacks.mi_fgsm(threat, steps=2), ("L2",)),
    "ni_fgsm": _gradient(lambda threat: attacks.ni_fgsm(threat, steps=2), ("Linf",)),
    "sini_fgsm": _gradient(lambda threat: attacks.sini_fgsm(threat, steps=2, copies=2), ("Linf",)),
    "vmi_fgsm": _gradient(lambda threat: attacks.vmi_fgsm(threat, steps=2, samples=2), ("L1",)),
    "vni_fgsm": _gradient(lambda threat: attacks.vni_fgsm(threat, steps=2, samples=2), ("Linf",)),
    "di_fgsm": _gradient(lambda threat: attacks.di_fgsm(threat, steps=2), ("Linf",)),
    "ti_fgsm": _gradient(lambda threat: attacks.ti_fgsm(threat, steps=2, kernel_size=3), ("Linf",)),
    "apgd": Entry(lambda threat: attacks.apgd(threat, steps=5)),
    "apgd_targeted": Entry(lambda threat: attacks.apgd_targeted(threat, steps=4, targets=2)),
    "fab": Entry(lambda threat: attacks.fab(threat, steps=3)),
    "fab_targeted": Entry(lambda threat: attacks.fab_targeted(threat, steps=3, targets=2, restarts=2)),
    "square": Entry(lambda threat: attacks.square(threat, queries=15)),
    "carlini_wagner": Entry(
        lambda threat: attacks.carlini_wagner(threat, steps=8, binary_search_steps=2, initial_constant=1.0),
        ("Linf", "L2"),
    ),
    "deepfool": Entry(lambda threat: attacks.deepfool(threat, steps=3), ("Linf", "L2")),
    "ddn": Entry(lambda threat: attacks.ddn(threat, steps=5), ("L2",)),
    "fmn": Entry(lambda threat: attacks.fmn(threat, steps=5)),
    "ead": Entry(
        lambda threat: attacks.ead(threat, steps=5, binary_search_steps=2, initial_constant=1.0), ("L2", "L1")
    ),
    "simba": Entry(lambda threat: attacks.simba(threat, queries=20)),
    "boundary": Entry(lambda threat: attacks.boundary(threat, steps=15, tries=5), ("L2",)),
    "hop_skip_jump": Entry(
        lambda threat: attacks.hop_skip_jump(threat, steps=1, initial_gradient_samples=5, tries=5), ("Linf", "L2")
    ),
    "worst_case": Entry(
        lambda threat: attacks.worst_case(attacks.fgsm(threat), attacks.square(threat, queries=5)), ("Linf",)
    ),
}
IN_AUTO_ATTACK = ("apgd", "apgd_targeted", "fab", "fab_targeted", "square")
ALWAYS = ("pgd", "apgd", "fab_targeted", "square", "fmn", "simba", "hop_skip_jump")
"""Attacks that are checked in the norm that they list first whenever tests run; all others where slow tests do."""


def _marks(name, norm):
    return () if name in ALWAYS and norm == TABLE[name].norms[0] else pytest.mark.slow


PAIRS = [
    pytest.param(entry, norm, id=f"{name}-{norm}", marks=_marks(name, norm))
    for name, entry in TABLE.items()
    for norm in entry.norms
]


def network(parameters, images):
    first, second = parameters
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ first) @ second


def problem(shape, batch, seed, dtype=jnp.float32):
    """A random network and images, some of them on the edge of the box; the first image is misclassified."""
    rng = np.random.default_rng(seed)
    features = int(np.prod(shape))
    sizes = ((features, 8), (8, CLASSES))
    parameters = tuple(jnp.asarray(rng.normal(size=size) / np.sqrt(size[0]), dtype) for size in sizes)
    images = np.clip(rng.uniform(-0.2, 1.2, size=(batch, *shape)), 0, 1)
    logits_fn = functools.partial(network, parameters)
    labels = np.array(logits_fn(jnp.asarray(images, dtype)).argmax(-1), np.int32)
    labels[0] = (labels[0] + 1) % CLASSES
    return logits_fn, jnp.asarray(images, dtype), jnp.asarray(labels)


def wrong(logits_fn, images, labels):
    return np.asarray(logits_fn(images).argmax(-1) != labels)


def check(make, norm, restores, eps, shape, batch, seed):
    threat = NORMS[norm](eps)
    logits_fn, images, labels = problem(shape, batch, seed)
    keys = jax.random.split(jax.random.key(seed), batch)
    attack = make(threat)
    found = attack(keys, logits_fn, images, labels)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert bool(jnp.isfinite(found).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert bool((threat.norm(found - images) <= eps * (1 + 1e-5) + 2e-7).all())
    np.testing.assert_array_equal(attack(keys, logits_fn, images, labels), found)
    order = np.random.default_rng(seed).permutation(batch)
    shuffled = attack(keys[order], logits_fn, images[order], labels[order])
    np.testing.assert_array_equal(wrong(logits_fn, shuffled, labels[order]), wrong(logits_fn, found, labels)[order])
    if restores:
        kept = ~wrong(logits_fn, found, labels)
        kept[0] = True  # misclassified as it is
        np.testing.assert_array_equal(found[kept], images[kept])


@pytest.mark.parametrize(("entry", "norm"), PAIRS)
def test_inside_ball_and_box_for_every_shape(entry, norm, request):
    @seed_of_examples(zlib.crc32(request.node.name.encode()))  # others for each row of the table, the same in every run
    @settings(max_examples=2, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        eps=st.sampled_from(RADII[norm]),
        shape=st.sampled_from(SHAPES),
        batch=st.sampled_from([1, 4]),
        seed=st.integers(0, 100),
    )
    def one(eps, shape, batch, seed):
        check(entry.make, norm, entry.restores, eps, shape, batch, seed)

    one()


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(name, norm, marks=_marks(name, norm))
        for name, entry in TABLE.items()
        for norm in entry.norms[: 3 if name in IN_AUTO_ATTACK else 1]
    ],
)
def test_verdicts_depend_neither_on_batch_size_nor_on_devices(name, norm):
    threat = NORMS[norm]({"Linf": 0.1, "L2": 0.6, "L1": 2.0}[norm])
    logits_fn, images, labels = problem((5, 4, 1), 6, seed=1)
    attack, key = TABLE[name].make(threat), jax.random.key(0)
    one_device = Mesh(np.asarray(jax.devices()[:1]), ("data",))

    def correct(batch_size, mesh):
        options = {"attack": attack, "key": key, "batch_size": batch_size, "mesh": mesh}
        return evaluation.correct(logits_fn, np.asarray(images), np.asarray(labels), **options)

    assert len(jax.devices()) == 2
    np.testing.assert_array_equal(correct(4, None), correct(3, one_device))


@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_is_kept(norm):
    logits_fn, images, labels = problem((3, 2, 1), 3, seed=2, dtype=jnp.bfloat16)
    threat = NORMS[norm](0.1)
    for attack in (attacks.fgsm(threat), attacks.apgd(threat, steps=2)):
        found = attack(jax.random.key(0), logits_fn, images, labels)
        assert found.dtype == jnp.bfloat16
        assert bool(jnp.isfinite(found).all())


RESTARTS = {
    "pgd": lambda threat, number: attacks.pgd(threat, steps=2, restarts=number),
    "apgd": lambda threat, number: attacks.apgd(threat, steps=3, restarts=number),
    "apgd_targeted": lambda threat, number: attacks.apgd_targeted(threat, steps=3, targets=1, restarts=number),
    "fab_targeted": lambda threat, number: attacks.fab_targeted(threat, steps=2, targets=1, restarts=number),
    "square": lambda threat, number: attacks.square(threat, queries=5, restarts=number),
}


@pytest.mark.parametrize("name", RESTARTS)
def test_more_restarts_never_repair(name):
    logits_fn, images, labels = problem((5, 4, 1), 40, seed=3)
    eps = {"fab_targeted": 0.06}.get(name, 0.04)
    one, three = (
        wrong(logits_fn, RESTARTS[name](Linf(eps), number)(jax.random.key(0), logits_fn, images, labels), labels)
        for number in (1, 3)
    )
    assert (three >= one).all()
    assert 1 < one.sum() < 40
