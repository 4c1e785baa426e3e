"""A radius for each pixel: what equals the other threat models, and what only ellipsoids can show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from test_threat_hyperplane import NORMS, problems, reference

from jaxrobust import L1, L2, Linf, NonUniform, attacks
from jaxrobust.threat import ThreatModel

KINDS = [Linf, L2, L1]
SHAPE = (4, 2, 3, 1)


def some(seed, shape=SHAPE):
    """Images, some of their pixels on the edge of the box, directions, and radii of three sizes."""
    rng = np.random.default_rng(seed)
    images = np.clip(rng.uniform(-0.2, 1.2, size=shape), 0, 1)
    radii = 10 ** rng.uniform(-1.5, -0.2, size=shape[1:])
    return tuple(jnp.asarray(x, jnp.float32) for x in (images, rng.normal(size=shape), radii))


@functools.cache
def answers(kind, bounds, each):
    """All that a threat model answers, compiled: of equal radii and, in the same units, of the usual one."""

    def compare(radius, images, direction, excess, key):
        def of(threat, unit):
            extent = threat.extent(images)
            flat = jax.tree.map(lambda x: x.reshape(x.shape[0], -1), extent)
            return {
                "norm": threat.norm(direction) * unit,
                "dual_norm": threat.dual_norm(direction) / unit,
                "steepest": threat.steepest(direction) / unit,
                "project": (threat.project(direction), threat.project(direction, images)),
                "sample": threat.sample(key, images),
                "clip": threat.clip(images + direction),
                "l2_radius": jnp.broadcast_to(threat.l2_radius(images), len(images)),
                "to_hyperplane": threat.to_hyperplane(images, direction, excess),
                "distance": threat.distance(images, direction, excess) * unit,
                "extent": extent,
                "support": threat.support(direction.reshape(len(images), 1, -1), flat),
            }

        radii = jnp.broadcast_to(radius, images.shape if each else images.shape[1:])
        return of(NonUniform(kind, radii, bounds=bounds), radius), of(kind(radius, bounds), 1)

    return jax.jit(compare)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bounds", "each"), [((-0.1, 1.2), False), (None, True)])
def test_equal_radii_are_a_radius(kind, bounds, each):
    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(radius=st.sampled_from([0.01, 0.4, 3.0]), seed=st.integers(0, 100))
    def one(radius, seed):
        images, direction, _ = some(seed)
        excess, key = jnp.asarray([0.5, -0.5, 0.02, 5.0]), jax.random.key(seed)
        ours, usual = answers(kind, bounds, each)(jnp.asarray(radius), images, direction, excess, key)
        for name, values in usual.items():
            for ours_, usual_ in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(values), strict=True):
                np.testing.assert_allclose(ours_, usual_, rtol=1e-5, atol=1e-6, err_msg=name)

    one()


@pytest.mark.parametrize("kind", KINDS)
def test_scale_of_radii_and_eps(kind):
    images, direction, radii = some(1)
    twice = dataclasses.replace(NonUniform(kind, radii), eps=2.0)
    np.testing.assert_allclose(twice.project(direction), NonUniform(kind, 2 * radii).project(direction), rtol=1e-5)
    each = dataclasses.replace(twice, eps=jnp.asarray([2.0, 1.0, 0.5, 0.0]), bounds=None)
    inside = each.project(9.0 * direction, images)
    np.testing.assert_allclose(each.norm(inside), [2, 1, 0.5, 0], rtol=1e-5)
    np.testing.assert_allclose(each.l2_radius(images), each.eps * twice.l2_radius(images) / 2, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_inside_the_set(kind):
    """Projections and samples, with and without a box; the steepest step has norm 1 and gains the dual norm."""
    images, direction, radii = some(2)
    for bounds in ((0.0, 1.0), None):
        threat = NonUniform(kind, radii, 0.7, bounds)
        for point in (threat.project(5 * direction, images), threat.sample(jax.random.key(0), images)):
            assert float(threat.norm(point).max()) <= 0.7 * (1 + 1e-5)
            assert bounds is None or bool(((images + point >= -1e-7) & (images + point <= 1 + 1e-7)).all())
        projected = threat.project(5 * direction, images)
        np.testing.assert_allclose(threat.project(projected, images), projected, atol=1e-6)
    step = threat.steepest(direction)
    np.testing.assert_allclose(threat.norm(step), 1, rtol=1e-5)
    np.testing.assert_allclose((step * direction).sum((1, 2, 3)), threat.dual_norm(direction), rtol=1e-5)


@pytest.mark.parametrize("kind", [Linf, L2])
def test_samples_are_uniform_in_the_ball(kind):
    """In the ball of norm 1 in coordinates ``p / radii``; volumes differ by a constant factor."""
    radii = jnp.asarray([0.01, 0.1, 1.0, 2.0, 5.0])
    points = NonUniform(kind, radii, bounds=None).sample(jax.random.key(0), jnp.zeros((4000, 5)))
    usual = kind(1.0, bounds=None).sample(jax.random.key(0), jnp.zeros((4000, 5)))
    np.testing.assert_allclose(points, radii * usual, rtol=1e-5)


def test_values():
    """An ellipse with axes 0.5 and 0.25, and its box and diamond."""
    images, radii = jnp.asarray([[0.5, 0.9]]), jnp.asarray([0.5, 0.25])
    normal, normals = jnp.asarray([[4.0, -4.0]]), jnp.asarray([[[4.0, -4.0], [0.0, 1.0]]])
    for kind, norm, dual, excess, distance in (
        (Linf, 1.0, 3.0, 1.5, 0.5),
        (L2, np.sqrt(2), np.sqrt(5), np.sqrt(5) / 4, 0.25),
        (L1, 2.0, 2.0, 1.0, 0.5),
    ):
        threat = NonUniform(kind, radii)
        np.testing.assert_allclose(threat.norm(jnp.asarray([[0.5, -0.25]])), [norm], rtol=1e-6)
        np.testing.assert_allclose(threat.dual_norm(normal), [dual], rtol=1e-6)
        # The second pixel has no more than 0.1 of its 0.25 to go upwards: twice the excess without a box is beyond.
        np.testing.assert_allclose(
            threat.distance(images, normal, jnp.asarray([excess / 2])), [distance / 2], rtol=1e-6
        )
        unboxed = dataclasses.replace(threat, bounds=None)
        np.testing.assert_allclose(unboxed.distance(images, normal, jnp.asarray([excess])), [distance], rtol=1e-6)
        np.testing.assert_allclose(unboxed.support(normals, unboxed.extent(images)), [[dual, 0.25]], rtol=1e-6)
        extent = threat.extent(images)
        np.testing.assert_allclose(extent.low, [[-0.5, -0.25]])
        np.testing.assert_allclose(extent.high, [[0.5, 0.1]], rtol=1e-5)
        np.testing.assert_allclose(extent.radii, [[0.5, 0.25]])
        np.testing.assert_allclose(threat.support(normals, extent), [[min(dual, 3.0), 0.1]], rtol=1e-5)
    np.testing.assert_allclose(NonUniform(Linf, radii).l2_radius(images), np.sqrt(0.3125), rtol=1e-6)
    np.testing.assert_allclose(NonUniform(L2, radii, 2.0).l2_radius(images), 1.0)
    np.testing.assert_allclose(NonUniform(L1, jnp.stack([radii])).l2_radius(images), 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_moves_are_those_in_scaled_coordinates(kind):
    """The scaled problem in double precision, with a box of its own for each pixel."""
    images, normal, excess = (x.astype(np.float32).astype(np.float64) for x in problems(7, 40, 12))
    radii = np.exp(np.random.default_rng(0).normal(size=images.shape)).astype(np.float32).astype(np.float64)
    scaled = [images / radii, normal * radii, excess]
    boxes = zip(0 / radii, 1 / radii, strict=True)
    rows = zip(*scaled, boxes, strict=True)
    expected = np.stack([reference(kind.__name__, *row) for row in rows])
    threat = NonUniform(kind, radii.astype(np.float32))
    arguments = [jnp.asarray(x, jnp.float32) for x in (images, normal, excess)]
    moves = np.asarray(jax.jit(threat.to_hyperplane)(*arguments), np.float64)
    assert ((images + moves >= -1e-6) & (images + moves <= 1 + 1e-6)).all()
    length = NORMS[kind.__name__](expected)
    np.testing.assert_allclose(NORMS[kind.__name__](moves / radii), length, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((moves * normal).sum(1), (expected * scaled[1]).sum(1), rtol=2e-5, atol=1e-5)
    found = np.abs(jax.jit(threat.distance)(*arguments))
    reached = np.abs((expected * scaled[1]).sum(1) + excess) <= 1e-9 * np.abs(excess)
    np.testing.assert_allclose(found, np.where(reached | (excess < 0), length, np.inf), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        (L2, (0.0, 1.0)),
        *[pytest.param(*case, marks=pytest.mark.slow) for case in ((Linf, (0.0, 1.0)), (L1, (0.0, 1.0)), (L2, None))],
    ],
)
def test_pixels_of_radius_zero_do_not_move(kind, bounds):
    images, direction, radii = some(3)
    still = jnp.zeros(radii.shape, bool).at[0].set(True)
    threat = NonUniform(kind, jnp.where(still, 0, radii), bounds=bounds)
    excess = jnp.asarray([0.01, -0.01, 0.02, 0.0])

    @jax.jit
    def moves(threat):
        return [
            threat.steepest(direction),
            threat.project(direction, images),
            threat.sample(jax.random.key(0), images),
            threat.to_hyperplane(images, direction, excess),
            *threat.extent(images),
        ]

    for move in moves(threat):
        assert bool(jnp.isfinite(move).all())
        assert not move[:, still].any()
        assert bool(move[:, ~still].any())
    rest = direction[:, ~still], radii[~still]
    np.testing.assert_allclose(threat.dual_norm(direction), NonUniform(kind, rest[1]).dual_norm(rest[0]), rtol=1e-6)
    assert bool((threat.norm(direction) == jnp.inf).all())
    without = jnp.where(still, 0, direction)
    np.testing.assert_allclose(
        threat.norm(jnp.where(still, 1e-7, direction)), NonUniform(kind, rest[1]).norm(rest[0]), rtol=1e-6
    )

    def total(images, direction, radii):
        threat = NonUniform(kind, radii, bounds=bounds)
        extent = jax.tree.map(lambda x: x.reshape(4, -1), threat.extent(images))
        supports = threat.support(direction.reshape(4, 1, -1), extent)
        return sum(
            x.sum()
            for x in (
                threat.norm(without + 0 * direction),
                threat.dual_norm(direction),
                threat.project(direction, images),
                threat.distance(images, direction, excess),
                supports,
            )
        )

    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(images, direction, threat.radii)
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
    nothing = NonUniform(kind, jnp.zeros_like(radii), bounds=bounds)
    np.testing.assert_array_equal(nothing.distance(images, direction, excess), [np.inf, 0, np.inf, 0])
    assert not nothing.project(direction, images).any()
    assert not nothing.norm(0 * direction).any()


@pytest.mark.parametrize("kind", KINDS)
def test_radii_per_example_flat_traced_and_mapped(kind):
    images, direction, radii = some(4)
    each = radii * jnp.asarray([1.0, 0.5, 2.0, 0.1])[:, None, None, None]
    whole = NonUniform(kind, each).project(direction, images)
    flat = NonUniform(kind, each).project(direction.reshape(4, -1), images.reshape(4, -1))
    np.testing.assert_array_equal(flat.reshape(SHAPE), whole)
    single = [NonUniform(kind, each[i]).project(direction[i : i + 1], images[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(whole, jnp.stack(single), atol=1e-6)

    def one(threat, direction, image):
        return threat.project(direction[None], image[None])[0]

    mapped = jax.jit(jax.vmap(one))(NonUniform(kind, each, jnp.ones(4)), direction, images)
    np.testing.assert_allclose(mapped, whole, atol=1e-6)


@pytest.mark.parametrize("kind", [Linf, L2, pytest.param(L1, marks=pytest.mark.slow)])
def test_derivatives_by_radii(kind, float64):
    """Of distances and supports, within the box, as the optimisation of radii needs them."""
    images, direction, radii = (jnp.asarray(x, jnp.float64) for x in some(5))
    images, excess = 0.1 + 0.8 * images, jnp.asarray([0.1, -0.1, 0.3, -0.3])

    @jax.jit
    def both(radii, eps):
        threat = NonUniform(kind, radii, eps)
        extent = jax.tree.map(lambda x: x.reshape(4, -1), threat.extent(images))
        return threat.distance(images, direction, excess), threat.support(direction.reshape(4, 1, -1), extent)

    check_grads(both, (radii, jnp.asarray(0.7)), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_leaves_and_protocol():
    radii = jnp.ones((2, 3))
    threat = NonUniform(L2, radii, 0.5, bounds=None)
    assert isinstance(threat, ThreatModel)
    assert {str(path[0][0]) for path in jax.tree.flatten_with_path(threat)[0]} == {".radii", ".eps"}
    mapped = jax.tree.map(lambda x: 2 * x, threat)
    assert (mapped.kind, mapped.eps, mapped.bounds) == (L2, 1.0, None)
    assert hash(threat) == hash(threat) != hash(dataclasses.replace(threat))


def test_errors():
    with pytest.raises(ValueError, match=r"kind must be Linf, L2 or L1, the class itself, got L2\(eps=1"):
        NonUniform(L2(1.0), np.ones(3))
    with pytest.raises(TypeError, match="radii must be an array"):
        NonUniform(L2, 0.1)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="radii must be finite and at least 0"):
            NonUniform(L2, np.asarray([1.0, bad]))
    with pytest.raises(ValueError, match="eps must be finite"):
        NonUniform(L2, np.ones(3), eps=-1.0)
    for shape in ((3, 2, 1), (5,), (4, 5), (3, 2, 3, 1)):
        with pytest.raises(ValueError, match=r"do not fit images of shape \(4, 2, 3, 1\)"):
            NonUniform(L2, np.ones(shape)).norm(jnp.zeros(SHAPE))


ATTACKS = {
    "pgd": lambda threat: attacks.pgd(threat, steps=20),
    "apgd": lambda threat: attacks.apgd(threat, steps=20),
    "fab": lambda threat: attacks.fab(threat, steps=10, restarts=2),
}
DEFAULT = [("pgd", Linf), ("apgd", L2), ("fab", L1)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in DEFAULT else pytest.mark.slow)
        for name in ATTACKS
        for kind in KINDS
    ],
)
def test_attacks_stay_inside(name, kind):
    """All of them break a linear classifier where the set reaches the boundary by far, and stay within the set."""
    images = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, size=(12, 2, 3, 1)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=6), jnp.float32)
    radii = jnp.asarray([[0.0, 0.05, 0.1], [0.2, 0.4, 0.3]])[..., None]
    threat = NonUniform(kind, radii, eps={Linf: 0.4, L2: 0.7, L1: 1.0}[kind])

    def logits_fn(images):
        value = (images - 0.5).reshape(len(images), 6) @ weights
        return jnp.stack([value, -value], 1)

    labels = logits_fn(images).argmax(1)
    found = ATTACKS[name](threat)(jax.random.key(0), logits_fn, images, labels)
    moves = found - images
    assert float(threat.norm(moves).max()) <= threat.eps * (1 + 1e-5)
    np.testing.assert_allclose(moves[:, 0, 0], 0, atol=1e-6)
    assert bool(((found >= 0) & (found <= 1)).all())
    side = jnp.where(labels == 0, 1.0, -1.0)
    margins = side * logits_fn(images)[:, 0]
    distance = threat.distance(images, side[:, None] * weights, margins) / threat.eps
    wrong = np.asarray(logits_fn(found).argmax(1) != labels)
    assert wrong[distance < 0.9].all()
    assert not wrong[distance > 1.001].any()
    assert 0 < wrong.sum() < 12
