"""Polyhedral envelope regularisation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _certified_networks import problem, relu_network, slopes
from _input_derivatives import network

from jaxrobust import L1, L2, Linf, certify
from jaxrobust.losses import per

LABEL = jnp.zeros(1, jnp.int32)
FREE = L2(0.1, bounds=None)


def at_distances(distances, label=0):
    """A network of one pixel whose half-spaces have these distances from zero; the label's own logit is 0."""
    logits = jnp.insert(-distances, label, 0.0)
    slope = jnp.insert(jnp.ones_like(distances), label, 0.0)
    return lambda images: images * slope + logits


def of_distances(distances, label=0, **options):
    options = {"alpha": 0.15, "beta": 0.1, **options}
    point = jnp.zeros((1, 1), distances.dtype)
    return per(at_distances(distances, label), point, jnp.full(1, label, jnp.int32), FREE, **options)[0]


@functools.partial(jax.jit, static_argnames=("worst", "label"))
def value_and_slopes(distances, worst=4, label=0):
    return jax.value_and_grad(of_distances)(distances, label, worst=worst)


def test_value_and_derivatives_by_the_distances(float64):
    """Verification, 7.6.1 to 7.6.3."""
    distances = jnp.asarray([0.5, 0.1, -0.05, 0.3, 0.2, 0.0])
    value, slope = value_and_slopes(distances)
    np.testing.assert_allclose(value, 0.1 * (1 + 0.05 / 0.15 + 1 + 1 - 0.1 / 0.15), rtol=1e-12)
    np.testing.assert_allclose(value, 0.266667, atol=1e-6)
    np.testing.assert_allclose(slope, np.where([0, 1, 1, 0, 0, 1], -0.1 / 0.15, 0), rtol=1e-12)

    for enough in (jnp.full(6, 0.2), jnp.full(6, 0.15), jnp.asarray([0.15, 0.2, 0.15, 1.0, 9.0, 0.3])):
        value, slope = value_and_slopes(enough)
        assert float(value) == 0
        assert not slope.any()

    value, slope = value_and_slopes(jnp.asarray([0.0, 0.1, 0.0, 0.0, 0.0, 0.05]))
    np.testing.assert_allclose(value, 0.4, rtol=1e-12)
    assert slope[1] == slope[5] == 0

    distances = jnp.asarray([0.1, -0.2, 0.05])
    for worst in (3, 4, 7):  # three wrong classes
        value, slope = value_and_slopes(distances, worst)
        np.testing.assert_allclose(value, 0.1 * (1 - distances / 0.15).sum(), rtol=1e-12)
    value, _ = value_and_slopes(distances, 2)
    np.testing.assert_allclose(value, 0.1 * (1 - distances[1:] / 0.15).sum(), rtol=1e-12)


def test_does_not_depend_on_the_order_of_classes(float64):
    distances = jnp.asarray([0.01, -0.05, 0.12, 0.02, 0.3])
    value, slope = value_and_slopes(distances)
    order = np.asarray([3, 0, 4, 1, 2])
    for label in (0, 2, 5):
        permuted_value, permuted_slope = value_and_slopes(distances[order], label=label)
        np.testing.assert_allclose(permuted_value, value, rtol=1e-12)
        np.testing.assert_allclose(permuted_slope, slope[order], rtol=1e-12)


@pytest.mark.parametrize("threat", [Linf(0.1, bounds=None), L2(0.1, bounds=None), L1(0.1, bounds=None)])
def test_signed_distance_of_a_linear_network(float64, threat):
    """Verification, 7.6.7: its derivative by the bias is the same on both sides."""
    weights = jnp.asarray([[3.0, 0.0], [-1.0, 0.0], [0.5, 0.0]])
    images, label, dual = jnp.asarray([[0.2, 0.1, 0.3]]), LABEL, threat.dual_norm(weights[:, :1].T)[0]

    @jax.jit
    def run(bias):
        linear = lambda x: x @ weights + jnp.stack([bias, jnp.zeros_like(bias)])  # noqa: E731
        return per(linear, images, label, threat, alpha=0.5, beta=2.0)[0]

    for bias in (-0.5, -0.9):  # on either side of the boundary
        value, slope = jax.value_and_grad(run)(jnp.asarray(bias))
        np.testing.assert_allclose(value, 2 * (1 - (0.65 + bias) / dual / 0.5), rtol=1e-12)
        np.testing.assert_allclose(slope, -2 / 0.5 / dual, rtol=1e-12)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1)])
def test_distance_within_the_box(float64, threat):
    """Verification, 7.4.2 to 7.4.4."""
    weights, images = jnp.asarray([[2.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]), jnp.asarray([[0.1, 0.5, 0.9]])
    expected = 0.8 if isinstance(threat, Linf) else 0.948683

    @jax.jit
    def run(margin):
        linear = lambda x: (x - images) @ weights + jnp.stack([margin, jnp.zeros_like(margin)])  # noqa: E731
        return per(linear, images, LABEL, threat, alpha=2.0)[0]

    np.testing.assert_allclose(run(jnp.asarray(1.5)), 1 - expected / 2, rtol=1e-6)
    value, slope = jax.value_and_grad(run)(jnp.asarray(1.7))  # the box ends before
    assert (float(value), float(slope)) == (0, 0)
    if isinstance(threat, Linf):
        np.testing.assert_allclose(run(jnp.asarray(-1.0)), 1 + 0.3 / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("threat", "order"), [pytest.param(Linf(0.1, bounds=None), 1, marks=pytest.mark.slow), (L2(0.2, bounds=None), 2)]
)
def test_distances_of_points_from_the_envelope_around_the_images(float64, threat, order):
    """Verification, 7.6.4 and trap 27."""
    params, images, labels = problem((5, 4))
    logits_fn = relu_network(params)
    points = images + threat.project(0.3 * jnp.ones_like(images))
    points = points.at[1].set(images[1])

    @jax.jit
    def run():
        loss = functools.partial(per, logits_fn, threat=threat, alpha=0.4, beta=1.0, worst=3)
        by_points = jax.grad(lambda points: loss(images, labels, points=points).sum())(points)
        spaces = certify.half_spaces(logits_fn, images, labels, threat)
        found = [loss(*arguments) for arguments in ((images, labels), (points, labels))]
        return loss(images, labels, points=points), loss(images, labels, points=images), *found, by_points, spaces

    at_points, at_images, plain, centred, by_points, (normals, margins) = run()
    np.testing.assert_allclose(at_images, plain, rtol=1e-12)
    assert not by_points.any()
    normals = np.asarray(normals).reshape(*margins.shape, -1)
    moved = np.asarray(points - images).reshape(len(images), -1)
    margins = margins + np.einsum("bkf,bf->bk", normals, moved)
    wrong = ~np.eye(4, dtype=bool)[labels]
    distances = (margins[wrong] / np.linalg.norm(normals[wrong], order, axis=-1)).reshape(-1, 3)
    np.testing.assert_allclose(at_points, np.maximum(1 - distances / 0.4, 0).sum(1), rtol=1e-10)
    assert at_points[1] == pytest.approx(plain[1])
    assert float(jnp.abs(at_points - centred)[0]) > 1e-3
    assert float(jnp.abs(at_points - plain)[0]) > 1e-3


CASES = {
    "fast-lin": (Linf(0.1), (5,), jax.nn.relu),
    "fast-lin-interval": (Linf(0.1), (5,), jax.nn.relu),
    "fast-lin deep": (Linf(0.1), (5, 4), jax.nn.relu),
    "fast-lin-interval deep": (L2(0.3), (5, 4), jax.nn.relu),
    "forward deep": (Linf(0.05), (5, 4), jax.nn.relu),
    "forward-backward deep": (Linf(0.05), (5, 4), jax.nn.relu),
    "fast-lin tanh": (Linf(0.1), (5,), jnp.tanh),
    "fast-lin l1": (L1(0.3), (5,), jax.nn.relu),
}


@functools.partial(jax.jit, static_argnames="name")
def value_and_gradient(tree, images, labels, points, name):
    """By parameters and radius."""
    threat, _, activation = CASES[name]

    def mean(tree):
        params, eps = tree
        logits_fn = functools.partial(network, params, activation=activation)
        within = dataclasses.replace(threat, eps=eps)
        return per(logits_fn, images, labels, within, alpha=1.0, method=name.split()[0], points=points).mean()

    return jax.value_and_grad(mean)(tree)


def case(name):
    threat, widths, _ = CASES[name]
    params, images, labels = problem(widths)
    moves = threat.project(jnp.asarray(np.random.default_rng(3).normal(size=images.shape)), images)
    return (params, jnp.asarray(threat.eps)), images, labels, images + moves


def test_l_per_is_i_per_with_one_hidden_layer(float64):
    """Verification, 7.2.4: bit for bit, gradient included."""
    found = [value_and_gradient(*case(name), name) for name in ("fast-lin", "fast-lin-interval")]
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert float(found[0][0]) > 0.1


@pytest.mark.slow
def test_methods_differ_with_two_hidden_layers(float64):
    params, images, labels = problem((5, 4))
    loss = functools.partial(per, relu_network(params), images, labels, Linf(0.1), alpha=1.0)
    values = [float(loss(method=method).mean()) for method in ("fast-lin", "fast-lin-interval", "forward")]
    assert np.abs(np.diff([*values, values[0]])).min() > 1e-4


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "fast-lin" else pytest.mark.slow) for name in CASES]
)
def test_gradient_against_central_differences(float64, name):
    """In the box, at points other than the images, by parameters and radius."""
    tree, *batch = case(name)
    exact, numerical = slopes(lambda tree: value_and_gradient(tree, *batch, name), tree)
    assert abs(exact) > 1e-2
    np.testing.assert_allclose(exact, numerical, rtol=1e-6)


def test_degenerate_networks_and_images(float64):
    """Values and gradients stay finite."""
    (params, eps), images, labels, points = case("fast-lin")
    (weights, biases), (last, last_biases) = params
    dead, none = (0 * weights, biases), (0 * last, last_biases)
    for changed in ([dead, params[1]], [params[0], none], [(1e4 * weights, biases), params[1]], params):
        for image in (jnp.zeros_like(images), jnp.full_like(images, 0.5)):
            for point in (image, points):
                value, gradient = value_and_gradient((changed, eps), image, labels, point, "fast-lin")
                assert all(np.isfinite(leaf).all() for leaf in (value, *jax.tree.leaves(gradient)))


def test_errors():
    run = functools.partial(per, at_distances(jnp.ones(2)), jnp.zeros((1, 1)), LABEL, FREE)
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        run(alpha=0)
    with pytest.raises(ValueError, match="worst must be at least 1, got 0"):
        run(alpha=0.1, worst=0)
    with pytest.raises(ValueError, match="interval bounds are no linear functions"):
        run(alpha=0.1, method="interval")
