"""SOAR's penalty against explicit Hessians, closed forms and what the study says about it (7.2-7.5)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _input_derivatives import (
    FEATURES,
    SHAPE,
    augmented,
    examples,
    explicit_derivatives,
    identity,
    network,
    parameters,
    penalty,
    quadratic,
    squared,
)

from jaxrobust import L1, L2, Linf, losses
from jaxrobust.curvature import input_gradient, input_hvp
from jaxrobust.losses import _soar
from jaxrobust.random import example_keys, fold_in_each

ROOT = np.sqrt(2 / np.pi)
EXACT = {"product": "exact", "clip": None}
FINITE = {"product": "finite_difference", "clip": None}


def normal(seed, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def cross_entropy_of(params, activation=jnp.tanh):
    return lambda flat, label: losses.cross_entropy(network(params, flat[None], activation), label[None])[0]


@pytest.fixture
def problem(float64):
    """A smooth network, images, labels, random vectors, and the matrices ``H``."""
    params, (images, labels), vectors = parameters(), examples(), normal(5, 3, FEATURES + 1)
    gradients, hessians = explicit_derivatives(cross_entropy_of(params), images, labels)
    matrices = np.stack([augmented(g, a) for g, a in zip(gradients, hessians, strict=True)])
    return functools.partial(network, params), images, labels, vectors, matrices


def test_exact_product_is_the_definition(problem):
    logits_fn, images, labels, vectors, matrices = problem
    norms = np.linalg.norm(np.einsum("nij,nj->ni", matrices, vectors), axis=1)
    radii = np.array([0.1, 0.2, 0.3])
    run = jax.jit(lambda threat: penalty(vectors, logits_fn, images, labels, threat, weight=0.7, **EXACT))
    for threat, rho in ((Linf(jnp.asarray(radii)), radii * np.sqrt(6)), (L2(0.4), 0.4), (L1(0.4), 0.4)):
        np.testing.assert_allclose(run(threat), 0.7 * (rho**2 + 1) / 2 * norms, rtol=1e-10)


def test_finite_difference_is_the_definition(problem):
    logits_fn, images, labels, vectors, _ = problem
    z, last = np.asarray(vectors[:, :-1]), np.asarray(vectors[:, -1])
    lengths = np.linalg.norm(z, axis=1)
    shifted = images + 0.05 * np.reshape(z / lengths[:, None], images.shape)

    @jax.jit
    def run():
        gradients = [input_gradient(losses.cross_entropy, logits_fn, points, labels) for points in (images, shifted)]
        return *gradients, penalty(vectors, logits_fn, images, labels, Linf(0.1), step=0.05, **FINITE)

    g0, g1, found = (np.reshape(array, (3, -1)) for array in run())
    image_part = lengths[:, None] * (g1 - g0) / 0.05 + last[:, None] * g0
    norms = np.hypot(np.linalg.norm(image_part, axis=1), (g0 * z).sum(1) + last)
    np.testing.assert_allclose(found[:, 0], (6 * 0.01 + 1) / 2 * norms, rtol=1e-12)


def test_random_vectors_are_standard_normal_and_of_each_example(key):
    keys = example_keys(key, 2000)
    z, last = _soar._vectors(keys, jnp.zeros((2000, *SHAPE)))
    assert (z.shape, last.shape) == ((2000, *SHAPE), (2000,))
    draws = np.concatenate([z.reshape(2000, -1), last[:, None]], 1)
    np.testing.assert_allclose(draws.T @ draws / 2000, np.eye(FEATURES + 1), atol=0.12)
    np.testing.assert_array_equal(_soar._vectors(keys[3:4], jnp.zeros((1, *SHAPE)))[0][0], z[3])


def test_total_is_the_loss_at_the_point_plus_the_penalty(problem, key):
    """Algorithm 3.1: point and penalty share the radius, and the loss is that at the point."""
    logits_fn, images, labels, _, _ = problem

    @jax.jit
    def found_and_expected():
        keys = example_keys(key, 3)
        of_penalty, pairs = fold_in_each(keys, _soar._PENALTY_FOLD), []
        for point, point_eps, penalty_eps, options in (
            ("pgd1", 0.1, 0.1, {}),
            ("zero", 0.2, 0.2, {}),
            ("rand", 0.05, 0.15, {"point_eps": 0.05, "penalty_eps": 0.15}),
        ):
            points = losses.expansion_points(keys, logits_fn, images, labels, Linf(point_eps), point)
            expected = losses.cross_entropy(logits_fn(points), labels)
            expected += losses.soar_penalty(of_penalty, logits_fn, points, labels, Linf(penalty_eps))
            found = losses.soar(key, logits_fn, images, labels, Linf(0.2), point=point, **options)
            pairs.append((found, expected))
        return pairs

    for found, expected in found_and_expected():
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_samples_are_averaged_and_clipped_one_by_one(problem, key):
    logits_fn, images, labels, _, _ = problem
    keys = example_keys(key, 3)

    @jax.jit
    def found_and_expected():
        run = functools.partial(losses.soar_penalty, product="exact", clip=0.8)
        arguments = logits_fn, images, labels, Linf(0.1)
        single = [run(fold_in_each(keys, jnp.asarray(i)), *arguments) for i in range(4)]
        return run(key, *arguments, samples=4), jnp.stack(single)

    found, single = found_and_expected()
    np.testing.assert_allclose(found, single.mean(0), rtol=1e-12)
    assert (single == 0.8).any()
    assert (single < 0.8).any()


@pytest.mark.parametrize(
    ("features", "eps", "coefficient", "floor"),
    [
        (3072, 8 / 255, 2.011788, 1.605174),
        (3072, 4 / 255, 0.877947, 0.700500),
        (784, 0.3, 35.78, 28.5483),
        (784, 0.15, 9.32, 7.4363),
        (784, 0.1, 4.42, 3.5267),
        (64, 0.15, 1.22, 0.9734),
        (64, 0.1, 0.82, 0.6543),
        (64, 0.075, 0.68, 0.5426),
        (64, 0.05, 0.58, 0.4628),
    ],
)
def test_coefficients_and_floors(features, eps, coefficient, floor):
    """7.4.1 and 7.4.2: a network without gradients leaves ``coefficient * |z_1|``, for both products."""
    for found, last in _without_gradients(features)(Linf(eps)):
        np.testing.assert_allclose(found, coefficient * np.abs(last), rtol=1e-5)
        np.testing.assert_allclose(ROOT * found / np.abs(last), floor, rtol=1e-4)


@functools.cache
def _without_gradients(features):
    constant = lambda images: 0 * images[:, :3] + jnp.arange(3, dtype=images.dtype)  # noqa: E731
    points, labels, vectors = jnp.full((2, features), 0.5), jnp.array([0, 2]), normal(0, 2, features + 1, dtype="f")

    @jax.jit
    def run(threat):
        both = [penalty(vectors, constant, points, labels, threat, **options) for options in (FINITE, EXACT)]
        return [(found, vectors[:, -1]) for found in both]

    return run


@pytest.mark.parametrize(
    "activation", [jnp.tanh, pytest.param(jax.nn.relu, marks=pytest.mark.slow)], ids=["tanh", "relu"]
)
def test_expectation(float64, activation):
    """7.4.1 and 7.4.3: the floor holds for both products; the exact one is known in the mean square."""
    params, (images, labels) = parameters(), examples(2, 1)
    gradient, hessian = explicit_derivatives(cross_entropy_of(params, activation), images, labels)
    frobenius, coefficient, count = np.linalg.norm(augmented(gradient[0], hessian[0])), (6 * 0.04 + 1) / 2, 5000
    vectors = normal(1, count, FEATURES + 1)
    images, labels = jnp.repeat(images, count, 0), jnp.repeat(labels, count, 0)
    logits_fn = functools.partial(network, params, activation=activation)
    run = jax.jit(lambda: [penalty(vectors, logits_fn, images, labels, Linf(0.2), **o) for o in (FINITE, EXACT)])
    for values in map(np.asarray, run()):
        error = 4 * values.std() / np.sqrt(count)
        assert values.mean() >= coefficient * ROOT - error
    assert coefficient * ROOT * frobenius - error <= values.mean() <= coefficient * frobenius + error
    np.testing.assert_allclose(np.sqrt(np.mean(values**2)), coefficient * frobenius, rtol=0.05)


def test_homogeneous_and_even_in_the_random_vector(problem):
    """7.4.4."""
    logits_fn, images, labels, vectors, _ = problem

    @jax.jit
    def values(factor):
        run = functools.partial(penalty, factor * vectors, logits_fn, images, labels, Linf(0.1))
        return run(step=0.1, **FINITE), run(**EXACT)

    plain, larger, opposite = (values(factor) for factor in (1.0, 3.0, -1.0))
    np.testing.assert_allclose(larger, np.multiply(3, plain), rtol=1e-10)
    np.testing.assert_allclose(opposite[1], plain[1], rtol=1e-10)
    np.testing.assert_allclose(opposite[0], plain[0], rtol=0.1)
    assert np.abs(opposite[0] / plain[0] - 1).max() > 1e-4


def test_ratio_of_radii(problem):
    """7.4.5."""
    logits_fn, images, labels, vectors, _ = problem
    run = jax.jit(lambda threat: penalty(vectors, logits_fn, images, labels, threat, **FINITE))
    np.testing.assert_allclose(run(Linf(0.3)) / run(Linf(0.1)), (6 * 0.09 + 1) / (6 * 0.01 + 1), rtol=1e-12)
    np.testing.assert_allclose(run(Linf(0.3)), run(L2(0.3 * np.sqrt(6))), rtol=1e-12)


def test_difference_of_the_products_shrinks_with_the_step(float64):
    """7.4.6: for a linear softmax classifier, whose Hessian is ``W^T (diag p - p p^T) W``."""
    params, (images, labels), vectors = parameters(3, ()), examples(3), normal(6, 3, FEATURES + 1)
    logits_fn = functools.partial(network, params)
    hessians = explicit_derivatives(cross_entropy_of(params), images, labels)[1]
    for hessian, logits in zip(hessians, logits_fn(images), strict=True):
        p, weights = np.asarray(jax.nn.softmax(logits)), np.asarray(params[0][0])
        np.testing.assert_allclose(hessian, weights @ (np.diag(p) - np.outer(p, p)) @ weights.T, atol=1e-12)
        assert np.linalg.eigvalsh(hessian).min() > -1e-12

    @jax.jit
    def ratios():
        run = functools.partial(penalty, vectors, logits_fn, images, labels, Linf(0.1))
        return jnp.stack([run(step=step, **FINITE) for step in (1e-1, 1e-2, 1e-3, 1e-4)]) / run(**EXACT) - 1

    found = np.asarray(ratios())
    np.testing.assert_allclose(found[:-1] / found[1:], 10, rtol=0.2)
    np.testing.assert_allclose(found[2] / found[3], 10, rtol=5e-3)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.softplus, jax.nn.relu], ids=["tanh", "softplus", "relu"])
def test_finite_difference_is_the_mean_exact_product_along_its_segment(float64, activation):
    """7.4.7, for ReLU on segments that cross no kink."""
    params, (images, labels), vectors = parameters(), examples(4), normal(7, 3, FEATURES + 1)
    logits_fn = functools.partial(network, params, activation=activation)
    step = 1e-4 if activation is jax.nn.relu else 0.3
    z = vectors[:, :-1].reshape(images.shape)
    direction = z / jnp.linalg.norm(vectors[:, :-1], axis=1)[:, None, None, None]
    hidden = lambda images: identity(images) @ params[0][0] + params[0][1]  # noqa: E731
    crosses = bool((jnp.sign(hidden(images)) != jnp.sign(hidden(images + step * direction))).any())
    assert crosses == (activation is not jax.nn.relu)
    nodes, weights = np.polynomial.legendre.leggauss(12)

    @jax.jit
    def both():
        points = images + (step * (nodes + 1) / 2)[:, None, None, None, None] * direction
        products = jax.vmap(lambda x: input_hvp(losses.cross_entropy, logits_fn, x, labels, z))(points)
        mean = identity((weights[:, None, None, None, None] / 2 * products).sum(0))
        gradient = identity(input_gradient(losses.cross_entropy, logits_fn, images, labels))
        image_part = mean + vectors[:, -1:] * gradient
        last_part = (gradient * vectors[:, :-1]).sum(1) + vectors[:, -1]
        expected = (6 * 0.01 + 1) / 2 * jnp.sqrt((image_part**2).sum(1) + last_part**2)
        return penalty(vectors, logits_fn, images, labels, Linf(0.1), step=step, **FINITE), expected

    np.testing.assert_allclose(*both(), rtol=1e-10)


def image_part(gradient, vectors, values):
    """Norm of ``A z`` from penalties with coefficient 1/2 and a last entry of 0."""
    last = np.sum(np.asarray(gradient) * np.asarray(vectors[:, :-1]), 1)
    return np.sqrt(np.maximum((2 * np.asarray(values)) ** 2 - last**2, 0))


@functools.cache
def _products(name, count=1000):
    """Norms of both products of random vectors with the Hessians of a random network, at a step of 0.01."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh, "softplus": jax.nn.softplus}[name]
    params = parameters(0, (128, 128), 64, 10)
    images, labels = examples(1, count, (64,), 10)
    vectors = normal(2, count, 65).at[:, -1].set(0)
    logits_fn = functools.partial(network, params, activation=activation)

    @jax.jit
    def run(images, labels, vectors):
        products = [penalty(vectors, logits_fn, images, labels, L2(0.0), **options) for options in (FINITE, EXACT)]
        return input_gradient(losses.cross_entropy, logits_fn, images, labels), products

    gradient, values = run(images, labels, vectors)
    return [image_part(gradient, vectors, value) for value in values]


@pytest.mark.parametrize(("name", "limit"), [("tanh", 0.004), ("softplus", 0.0009)])
def test_products_agree_for_smooth_networks(float64, name, limit):
    """2.5: to 0.4 % and 0.09 %, typical deviation and mean."""
    finite, exact = _products(name)
    assert np.median(np.abs(finite / exact - 1)) < limit
    np.testing.assert_allclose(finite.mean(), exact.mean(), rtol=limit)


def test_finite_difference_sees_the_kinks_of_relu(float64):
    """2.5: about every sixth segment crosses one that matters, and then the product is many times larger."""
    finite, exact = _products("relu")
    assert finite.mean() / exact.mean() > 10
    assert 0.9 < np.median(finite) / np.median(exact) < 1.5
    assert 0.05 < np.mean(np.abs(finite / exact - 1) > 0.1) < 0.4


def test_batch_is_the_stack_of_its_examples(problem):
    """7.4.9, and 7.4.42 of the gradient-norm study: no example depends on another one."""
    logits_fn, images, labels, vectors, _ = problem

    @jax.jit
    def run():
        def values(images, labels, vectors):
            both = [penalty(vectors, logits_fn, images, labels, Linf(0.1), **options) for options in (FINITE, EXACT)]
            return jnp.stack(both, 1)

        whole, pull_back = jax.vjp(lambda images: values(images, labels, vectors), images)
        one_by_one = jax.vmap(lambda *example: values(*(array[None] for array in example))[0])(images, labels, vectors)
        return whole, one_by_one, jax.vmap(pull_back)(jnp.eye(6).reshape(6, 3, 2))[0]

    whole, one_by_one, jacobian = run()
    np.testing.assert_allclose(whole, one_by_one, rtol=1e-10)
    for example, sizes in zip(np.arange(6) // 2, np.abs(jacobian).sum((2, 3, 4)), strict=True):
        assert sizes[example] > 0
        assert not np.delete(sizes, example).any()


def test_invariances(problem):
    """7.4.12: a constant on all logits, a permutation of the classes, and a rotation of image and vector."""
    logits_fn, images, labels, vectors, _ = problem
    order = np.array([2, 0, 3, 1])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(FEATURES, FEATURES)))[0]
    rotate = lambda x: (x.reshape(3, -1) @ rotation.T).reshape(x.shape)  # noqa: E731
    rotated = jnp.concatenate([vectors[:, :-1] @ rotation.T, vectors[:, -1:]], 1)
    back = lambda x: logits_fn((x.reshape(3, -1) @ rotation).reshape(x.shape))  # noqa: E731
    cases = (
        (vectors, lambda x: logits_fn(x) + 7.0, images, labels),
        (vectors, lambda x: logits_fn(x)[:, order], images, jnp.argsort(order)[labels]),
        (rotated, back, rotate(images), labels),
    )

    @jax.jit
    def values():
        both = [
            [penalty(z, f, x, y, Linf(0.1), **options) for z, f, x, y in ((vectors, logits_fn, images, labels), *cases)]
            for options in (FINITE, EXACT)
        ]
        return jnp.asarray(both)

    for plain, *others in values():
        for other in others:
            np.testing.assert_allclose(other, plain, rtol=1e-9)


def test_clip():
    """7.4.13: clipped examples keep their value and lose their gradient; the others are not touched."""
    params, (images, labels) = parameters(dtype=np.float32), examples(0, 8, dtype=np.float32)
    vectors, limit = normal(0, 8, FEATURES + 1, dtype=np.float32), 1.0

    @jax.jit
    def run(params, chosen):
        """Values with and without the clip, and the gradients of the sum over the chosen examples."""

        def total(params, clip):
            logits_fn = functools.partial(network, params)
            values = penalty(vectors, logits_fn, images, labels, Linf(0.1), product="exact", clip=clip)
            return jnp.where(chosen, values, 0).sum(), values

        return [jax.grad(total, has_aux=True)(params, clip) for clip in (None, limit)]

    (_, free), (_, clipped) = run(params, jnp.ones(8, bool))
    np.testing.assert_allclose(clipped, np.minimum(free, limit), rtol=1e-6)
    assert 1 < (free < limit).sum() < 7
    gradient = run(params, free >= limit)[1][0]
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    (free_gradient, _), (gradient, _) = run(params, free < limit)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), gradient, free_gradient)
    # A network that has diverged is not reported as one at the limit.
    (_, free), (_, clipped) = run(jax.tree.map(lambda leaf: leaf * jnp.nan, params), jnp.ones(8, bool))
    assert np.isnan([free, clipped]).all()


@pytest.mark.parametrize("threat", [Linf(0.1), pytest.param(L2(0.3), marks=pytest.mark.slow)], ids=["Linf", "L2"])
def test_the_point_is_a_constant(problem, key, threat):
    """7.4.11: that changes nothing for a step along the sign of the gradient, but does for l2."""
    _, images, labels, _, _ = problem
    half = type(threat)(threat.eps / 2)

    def through_the_point(params):
        logits_fn, keys = functools.partial(network, params), example_keys(key, 3)
        start = half.sample(keys, images)
        gradient = input_gradient(losses.cross_entropy, logits_fn, images + start, labels)
        points = images + half.project(start + half.eps * half.steepest(gradient), images)
        of_penalty = fold_in_each(keys, _soar._PENALTY_FOLD)
        values = losses.soar_penalty(of_penalty, logits_fn, points, labels, half, product="exact")
        return (values + losses.cross_entropy(logits_fn(points), labels)).mean()

    def published(params):
        logits_fn = functools.partial(network, params)
        return losses.soar(key, logits_fn, images, labels, threat, product="exact").mean()

    (value, through), (expected, constant) = jax.jit(
        lambda params: [jax.value_and_grad(function)(params) for function in (through_the_point, published)]
    )(parameters())
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    difference = max(
        float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (through, constant)), strict=True)
    )
    assert difference < 1e-13 if isinstance(threat, Linf) else difference > 1e-4


def test_quadratic_losses_have_the_same_product_for_any_step(float64):
    """7.2.8 and 7.2.9, with the label fixed: ``g = r w``, ``A = w w^T``."""
    weights, points, vectors = normal(0, 8, 1), normal(1, 3, 8), normal(2, 3, 9)
    targets, logits_fn = normal(3, 3), lambda images: images @ weights

    @jax.jit
    def values():
        run = functools.partial(penalty, vectors, logits_fn, points, targets, L2(1.0), loss=squared)
        return jnp.stack([*[run(step=step, **FINITE) for step in (1.0, 0.1, 1e-3)], run(**EXACT)])

    found = np.asarray(values())
    w, residuals = np.asarray(weights)[:, 0], np.asarray(logits_fn(points)[:, 0] - targets)
    matrices = [augmented(r * w, np.outer(w, w)) for r in residuals]
    expected = [np.linalg.norm(h @ z) for h, z in zip(matrices, np.asarray(vectors), strict=True)]
    np.testing.assert_allclose(found, np.tile(expected, (4, 1)), rtol=1e-11)
    squares = [np.linalg.norm(h) ** 2 for h in matrices]
    np.testing.assert_allclose(squares, (w @ w) ** 2 + 2 * residuals**2 * (w @ w) + 1)


@pytest.mark.parametrize(
    ("features", "mean", "variation"),
    [
        (0, 0.797885, 0.7555),  # the corner 1 alone
        (1, 1.253314, 0.5227),
        (8, np.nan, 0.24),
        (49, np.nan, 0.10),
        (63, 7.968812, np.nan),
        (783, 27.991073, np.nan),
        (3071, 55.421115, 0.013),
    ],
)
def test_equal_eigenvalues(features, mean, variation):
    """7.3.3 and 7.3.8: ``||H z||`` is chi distributed for a Hessian that is the identity, and ``R`` half of it at radius 0."""
    count = 500 if features > 100 else 10_000
    spring = lambda pixels, labels: (pixels**2).sum(-1) / 2  # noqa: E731
    curved = (lambda pixels, labels: 0 * pixels[:, 0]) if features == 0 else spring
    points, labels = jnp.zeros((count, max(features, 1))), jnp.zeros(count, jnp.int32)
    vectors = normal(features, count, max(features, 1) + 1, dtype=np.float32)
    run = jax.jit(lambda *arrays: 2 * penalty(arrays[0], identity, *arrays[1:], L2(0.0), loss=curved, **EXACT))
    values = np.asarray(run(vectors, points, labels), np.float64)
    error = 4 * values.std() / np.sqrt(count)
    if not np.isnan(mean):
        assert abs(values.mean() - mean) < error
    if not np.isnan(variation):
        np.testing.assert_allclose(values.std() / values.mean(), variation, rtol=0.1)


def test_moments_and_tails_of_random_matrices(float64):
    """7.3.3 and 7.3.9."""
    rng, count, cases = np.random.default_rng(0), 5000, 20
    hessians = rng.normal(size=(cases, 5, 5))
    hessians, gradients = hessians + hessians.swapaxes(1, 2), rng.normal(size=(cases, 5))
    points, labels = jnp.zeros((cases, 5)), jnp.zeros(cases, jnp.int32)
    loss = quadratic(jnp.asarray(gradients), jnp.asarray(hessians))

    run = jax.jit(jax.vmap(lambda vectors: penalty(vectors, identity, points, labels, L2(0.0), loss=loss, **EXACT)))
    values = 2 * np.asarray(run(normal(1, count, cases, 6))).T
    for found, gradient, hessian in zip(values, gradients, hessians, strict=True):
        matrix = augmented(gradient, hessian)
        frobenius, spectral = np.linalg.norm(matrix), np.linalg.norm(matrix, 2)
        np.testing.assert_allclose(np.sqrt(np.mean(found**2)), frobenius, rtol=0.05)
        assert ROOT * frobenius < found.mean() < frobenius
        assert found.var() < 1.1 * spectral**2
        for t in (1.0, 2.0, 3.0):
            assert np.mean(np.abs(found - found.mean()) > t * spectral) < 2 * np.exp(-(t**2) / 2)


def test_bound_as_printed_is_none():
    """7.3.4: a loss whose second-order model rises above the right side of (3.7) and (3.9), in any dimension."""
    count = 1000
    for features in (1, 4, 3072):
        weights = jnp.full((features, 1), features**-0.5)
        point, target = jnp.zeros((1, features)), -jnp.ones(1)
        vectors = normal(features, count, features + 1, dtype=np.float32)

        @jax.jit
        def run(threats, weights=weights, point=point, target=target, vectors=vectors):
            logits_fn = lambda images: images @ weights  # noqa: E731
            highest = squared(logits_fn(point + weights.T), target)
            bounds = [losses.second_order_bound(logits_fn, point, target, t, loss=squared) for t in threats]
            many = jnp.repeat(point, count, 0), jnp.repeat(target, count, 0)
            return highest, *bounds, penalty(vectors, logits_fn, *many, threats[0], loss=squared, **EXACT)

        highest, *bounds, values = run((L2(1.0), Linf(features**-0.5)) if features < 10 else (L2(1.0),))
        np.testing.assert_allclose([highest, *bounds], 2, rtol=1e-4)
        printed = 0.5 + np.mean(values) - 0.5  # R = |2 z| with one random number, whatever the dimension
        assert abs(printed - 1.595769) < 4 * 1.21 / np.sqrt(count)
        assert printed < 1.8 < float(highest[0])


def test_logistic_penalty_loses_its_gradient_with_certainty(float64):
    """7.5.2: the regulariser of a sure classifier is noise that no longer acts on the weights."""
    weights, vectors = jnp.asarray([1.0, 2.0, 2.0]), normal(0, 1, 4)
    labels, margins = jnp.zeros(1, jnp.int32), (0.0, 2.0, 5.0, 10.0, 20.0)

    @jax.jit
    def value_and_gradient(margin):
        def value(weights):
            two_classes = lambda images: jnp.stack([images @ weights, 0 * images[:, 0]], 1)  # noqa: E731
            return penalty(vectors, two_classes, margin / 9 * weights[None], labels, Linf(0.1), **EXACT)[0]

        # The point moves with the weights, so that the margin alone matters.
        return jax.value_and_grad(lambda w: value(jnp.asarray([1.0, 2.0, 2.0]) + w))(0 * weights)

    values, gradients = zip(*map(value_and_gradient, margins), strict=True)
    sizes = np.linalg.norm(gradients, axis=1)
    assert (np.diff(sizes) < 0).all()
    assert sizes[-1] < 1e-7 < sizes[0]
    np.testing.assert_allclose(values[-1], (3 * 0.01 + 1) / 2 * abs(float(vectors[0, -1])), rtol=1e-7)


def test_pgd1_lowers_the_certainty_of_a_logistic_classifier(float64, key):
    """2.6: the margin loses up to ``e ||w||_1``."""
    weights = jnp.asarray([[1.0, -2.0, 0.5]])
    two_classes = lambda images: jnp.concatenate([images @ weights.T, 0 * images[:, :1]], 1)  # noqa: E731
    images, labels, threat = normal(0, 1000, 3), jnp.zeros(1000, jnp.int32), Linf(0.1, bounds=None)
    points = jax.jit(lambda: losses.expansion_points(key, two_classes, images, labels, threat))()
    taken = np.asarray((images - points) @ weights[0])
    assert 0 < taken.min() < taken.max() <= 0.35 + 1e-12
    # From a random start half of the pixels end at the border, the others anywhere on the way to it.
    np.testing.assert_allclose(taken.mean(), 0.75 * 0.35, atol=0.005)


def test_errors(key):
    images, labels = examples(dtype=np.float32)
    run = functools.partial(losses.soar, key, identity, images, labels, Linf(0.1))
    with pytest.raises(ValueError, match="unknown point 'pgd'; choose one of zero, rand, pgd1"):
        run(point="pgd")
    with pytest.raises(ValueError, match="unknown product 'fd'; choose one of finite_difference, exact"):
        run(point="zero", product="fd")
    for name in ("step", "samples", "clip"):
        with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
            run(point="zero", **{name: 0})
    with pytest.raises(ValueError, match=f"for each of the {len(images)} examples"):
        losses.soar(jax.random.split(key, 7), *run.args[1:])
