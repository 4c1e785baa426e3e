"""FOAR and the points that it shares with SOAR."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _input_derivatives import FEATURES, examples, explicit_derivatives, identity, network, parameters, squared

from jaxrobust import L1, L2, Linf, attacks, losses
from jaxrobust.random import example_keys, fold_in_each

CLASSES_OF_THREATS = {"Linf": Linf, "L2": L2, "L1": L1}
DUAL = {"Linf": lambda g: np.abs(g).sum(1), "L2": lambda g: np.linalg.norm(g, axis=1), "L1": lambda g: np.abs(g).max(1)}


def gradients_of(params, images, labels):
    loss_of = lambda flat, label: losses.cross_entropy(network(params, flat[None]), label[None])[0]  # noqa: E731
    return explicit_derivatives(loss_of, images, labels)[0]


@functools.partial(jax.jit, static_argnames=("make", "points"))
def _values(key, params, images, labels, eps, make, points):
    logits_fn = functools.partial(network, params)
    return {point: losses.foar(key, logits_fn, images, labels, make(eps), point=point) for point in points}


@pytest.mark.parametrize("name", CLASSES_OF_THREATS)
def test_at_the_image_it_is_the_largest_value_of_the_expansion(float64, key, name):
    """2.4: the dual norm of the gradient, attained by the steepest step."""
    params, (images, labels) = parameters(), examples()
    threat, gradients = CLASSES_OF_THREATS[name](0.3), gradients_of(params, images, labels)
    plain = np.asarray(losses.cross_entropy(network(params, images), labels))
    found = _values(key, params, images, labels, 0.3, type(threat), ("zero",))["zero"]
    np.testing.assert_allclose(found, plain + 0.3 * DUAL[name](gradients), rtol=1e-10)
    steps = 0.3 * np.reshape(threat.steepest(jnp.asarray(gradients)), (3, -1))
    np.testing.assert_allclose(plain + (gradients * steps).sum(1), found, rtol=1e-10)
    others = np.random.default_rng(0).normal(size=(500, 3, FEATURES))
    others *= 0.3 / np.asarray(threat.norm(jnp.asarray(others.reshape(-1, FEATURES)))).reshape(500, 3, 1)
    assert ((gradients * others).sum(2) <= found - plain + 1e-12).all()


def test_is_the_gradient_norm_at_the_image(float64, key):
    params, (images, labels) = parameters(), examples()
    found = _values(key, params, images, labels, 0.1, Linf, ("zero",))["zero"]
    expected = losses.gradient_norm(functools.partial(network, params), images, labels, Linf(0.1))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_radii_of_point_and_penalty(float64, key):
    """3.3: PGD1 moves by half the radius and leaves half to the expansion; the others leave all of it."""
    params, (images, labels) = parameters(), examples()
    logits_fn = functools.partial(network, params)

    @jax.jit
    def pairs():
        found = []
        for point, point_eps, penalty_eps, options in (
            ("pgd1", 0.1, 0.1, {}),
            ("rand", 0.2, 0.2, {}),
            ("pgd1", 0.05, 0.15, {"point_eps": 0.05, "penalty_eps": 0.15}),
        ):
            points = losses.expansion_points(key, logits_fn, images, labels, Linf(point_eps), point)
            expected = losses.foar(key, logits_fn, points, labels, Linf(penalty_eps), point="zero")
            found.append((losses.foar(key, logits_fn, images, labels, Linf(0.2), point=point, **options), expected))
        return found

    for found, expected in pairs():
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["Linf", "L2", pytest.param("L1", marks=pytest.mark.slow)])
def test_points_lie_in_ball_and_box_and_are_those_of_fgsm(float64, key, name):
    params, (images, labels) = parameters(), examples(0, 4)
    images = images.at[0].set(0).at[1].set(1)
    logits_fn, threat = functools.partial(network, params), CLASSES_OF_THREATS[name](0.2)
    keys = example_keys(key, 4)

    @jax.jit
    def found():
        # The keys of an attack's random start.
        start = fold_in_each(fold_in_each(keys, 0), 0)
        run = functools.partial(losses.expansion_points, start, logits_fn, images, labels, threat)
        return (
            run("zero"),
            run("rand"),
            run("pgd1"),
            attacks.fgsm(threat, random_start=True)(keys, logits_fn, images, labels),
        )

    zero, rand, pgd1, fgsm = found()
    np.testing.assert_array_equal(zero, images)
    np.testing.assert_allclose(pgd1, fgsm, atol=1e-12)
    assert float(jnp.abs(rand - pgd1).max()) > 0.01
    for points in (rand, pgd1):
        assert points.dtype == images.dtype
        assert bool((threat.norm(points - images) <= 0.2 + 1e-12).all())
        assert bool(((points >= 0) & (points <= 1)).all())
    before, after = (losses.cross_entropy(logits_fn(points), labels) for points in (rand, pgd1))
    assert bool((after >= before).all())  # equal where box and ball leave no way up
    assert bool((after > before + 0.01).any())


def test_points_are_constants(float64, key):
    params, (images, labels) = parameters(), examples()

    @functools.partial(jax.jit, static_argnames="point")
    def derivative(point):
        def total(params, images):
            logits_fn = functools.partial(network, params)
            return losses.expansion_points(key, logits_fn, images, labels, L2(0.3), point).sum()

        return jax.grad(total, argnums=(0, 1))(params, images)

    for point in ("zero", "rand", "pgd1"):
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(derivative(point)))


def test_keys_are_those_of_the_examples(float64, key):
    params, (images, labels) = parameters(), examples()
    keys = example_keys(key, 3)
    run = functools.partial(_values, eps=0.1, make=Linf, points=("rand", "pgd1"))
    whole, given = run(key, params, images, labels), run(keys, params, images, labels)
    reverse = run(keys[::-1], params, images[::-1], labels[::-1])
    for point in ("rand", "pgd1"):
        np.testing.assert_array_equal(given[point], whole[point])
        np.testing.assert_allclose(reverse[point], whole[point][::-1], rtol=1e-12)


def test_radius_per_example(float64, key):
    params, (images, labels) = parameters(), examples()
    eps = jnp.asarray([0.0, 0.1, 0.3])
    points = ("zero", "rand", "pgd1")
    together = _values(key, params, images, labels, eps, Linf, points)
    for n in range(3):
        alone = _values(key, params, images, labels, eps[n], Linf, points)
        for point in points:
            np.testing.assert_allclose(together[point][n], alone[point][n], rtol=1e-12)
    plain = losses.cross_entropy(network(params, images), labels)
    np.testing.assert_allclose([together[point][0] for point in points], plain[0], rtol=1e-12)


@pytest.mark.parametrize("name", CLASSES_OF_THREATS)
def test_squared_loss_of_a_linear_model(float64, key, name):
    """7.2.7, with the label fixed: the worst case is ``(|r| + eps ||w||_q)^2 / 2``, which FOAR misses by its square."""
    rng = np.random.default_rng(0)
    weights, images, targets = (jnp.asarray(rng.normal(size=shape)) for shape in ((FEATURES, 1), (3, FEATURES), (3,)))
    threat, logits_fn = CLASSES_OF_THREATS[name](0.3), lambda images: images @ weights
    residual, norm = np.asarray(logits_fn(images)[:, 0] - targets), DUAL[name](np.asarray(weights).T)[0]
    found = losses.foar(key, logits_fn, images, targets, threat, point="zero", loss=squared)
    worst = (np.abs(residual) + 0.3 * norm) ** 2 / 2
    np.testing.assert_allclose(worst - found, 0.3**2 * norm**2 / 2, rtol=1e-10)
    moved = images + 0.3 * threat.steepest(residual[:, None] * weights.T)
    np.testing.assert_allclose(squared(logits_fn(moved), targets), worst, rtol=1e-10)


def test_unknown_point(key):
    images, labels = examples(dtype=np.float32)
    for function in (losses.foar, losses.expansion_points):
        with pytest.raises(ValueError, match="unknown point 'pgd'; choose one of zero, rand, pgd1"):
            function(key, identity, images, labels, Linf(0.1), point="pgd")
