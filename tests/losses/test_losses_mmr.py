"""Maximum margin regularisation of linear regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _certified_networks import problem, relu_network, slopes

from jaxrobust import L1, L2, Linf, certify
from jaxrobust.losses import mmr
from jaxrobust.losses._mmr import sum_of_largest

NORMS = {"Linf": (Linf(0.1), 1), "L2": (L2(0.1), 2), "L1": (L1(0.1), np.inf)}


@pytest.mark.parametrize(("threat", "unit", "decision"), [(Linf(0.1), 2.0, 4.0), (L2(0.1), 2**0.5, 2**1.5)])
def test_two_units_by_hand(float64, threat, unit, decision):
    """Units ``x1 + x2`` and ``x1 - x2``, logits ``2 x1`` and ``2 x2``: at (1, 0.2) they are 1.2 and 0.8, the margin is 1.6."""
    weight = jnp.asarray([[1.0, 1.0], [1.0, -1.0]])
    images = jnp.asarray([[1.0, 0.2]])

    @jax.jit
    def run(labels):
        toy = lambda x: jax.nn.relu(x @ weight.T) @ weight.T  # noqa: E731
        loss = functools.partial(mmr, toy, images, labels, threat, boundary_gamma=1.0, decision_gamma=2.0)
        return loss(boundaries=2), loss(boundaries=1), loss(boundaries=0.5, decisions=1)

    for label, sign in ((0, 1), (1, -1)):  # negative distances of misclassified images count more
        both, nearest, one = (value[0] for value in run(jnp.asarray([label], jnp.int32)))
        of_class = 1 - sign * 1.6 / decision / 2
        np.testing.assert_allclose(both, 1 - (1.2 + 0.8) / unit / 2 + of_class / 2, rtol=1e-12)
        np.testing.assert_allclose(nearest, 1 - 0.8 / unit + of_class / 2, rtol=1e-12)
        np.testing.assert_allclose(one, 1 - 0.8 / unit + of_class, rtol=1e-12)


def convolutional(params, images):
    """Pre-activations of all units, and the logits."""
    first, second, last = params
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    one = convolve(images, first, (1, 1), "SAME")
    two = convolve(jax.nn.relu(one), second, (2, 2), ((1, 1), (1, 1)))
    hidden = jax.nn.relu(two).reshape(len(images), -1) @ last[0] + last[1]
    return [one, two, hidden], jax.nn.leaky_relu(hidden, 0.3) @ last[2]


def perceptron(params, images):
    hidden, units = images.reshape(len(images), -1), []
    for weights, biases in params[:-1]:
        units.append(hidden @ weights + biases)
        hidden = jax.nn.relu(units[-1])
    weights, biases = params[-1]
    return units, hidden @ weights + biases


def networks(name):
    if name == "perceptron":
        params, images, labels = problem((5, 4))
        return perceptron, params, images, labels
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    params = [draw(3, 3, 1, 2), draw(3, 3, 2, 2), (draw(18, 5) / 4, draw(5), draw(5, 3))]
    return convolutional, params, jnp.asarray(rng.uniform(size=(2, 6, 6, 1))), jnp.asarray([0, 2], jnp.int32)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("perceptron", "Linf"),
        *(pytest.param("perceptron", norm, marks=pytest.mark.slow) for norm in ("L2", "L1")),
        *(pytest.param("convolutional", norm, marks=pytest.mark.slow) for norm in ("Linf", "L2")),
    ],
)
def test_against_the_jacobians_of_all_units(float64, name, norm):
    """Sorted, with a number, a share and a traced share of the units, and the worst classes."""
    function, params, images, labels = networks(name)
    threat, order = NORMS[norm]

    @jax.jit
    def run(share):
        logits_fn = lambda images: function(params, images)[1]  # noqa: E731
        loss = functools.partial(mmr, logits_fn, images, labels, threat, boundary_gamma=0.8, decision_gamma=0.5)
        found = loss(boundaries=3), loss(boundaries=share), loss(boundaries=share, decisions=2)

        def flat(image):
            units, logits = function(params, image[None])
            return jnp.concatenate([unit.reshape(-1) for unit in units]), logits[0]

        return found, jax.vmap(flat)(images), jax.vmap(jax.jacrev(flat))(images)

    share = 0.4
    found, (units, logits), (unit_slopes, logit_slopes) = jax.tree.map(np.asarray, run(jnp.asarray(share, jnp.float32)))
    rows, wrong = np.arange(len(images)), ~np.eye(logits.shape[1], dtype=bool)[labels]

    def hinges(values, slopes, gamma):
        norms = np.linalg.norm(slopes.reshape(*values.shape, -1), order, axis=-1)
        distances = np.where(norms > 0, values / np.where(norms > 0, norms, 1), np.inf)  # behind dead units: none
        return np.sort(np.maximum(1 - distances / gamma, 0), axis=1)[:, ::-1]

    boundaries = hinges(np.abs(units), unit_slopes, 0.8)
    own = logits[rows, labels][:, None], logit_slopes[rows, labels][:, None]
    margins, normals = own[0] - logits, own[1] - logit_slopes
    per_image = len(images), logits.shape[1] - 1
    decisions = hinges(margins[wrong].reshape(per_image), normals[wrong], 0.5)
    count = round(share * units.shape[1])
    assert 3 < count < (boundaries > 0).sum(1).min()
    by_class = decisions.sum(1) / logits.shape[1]
    np.testing.assert_allclose(found[0], boundaries[:, :3].mean(1) + by_class, rtol=1e-9)
    np.testing.assert_allclose(found[1], boundaries[:, :count].mean(1) + by_class, rtol=1e-9)
    np.testing.assert_allclose(found[2], boundaries[:, :count].mean(1) + decisions[:, :2].mean(1), rtol=1e-9)


@pytest.mark.parametrize("threat", [pytest.param(Linf(0.1), marks=pytest.mark.slow), L2(0.1)], ids=["Linf", "L2"])
def test_gradient_against_central_differences(float64, threat):
    params, images, labels = problem()

    def mean(params):
        return mmr(
            relu_network(params), images, labels, threat, boundary_gamma=0.5, decision_gamma=0.7, boundaries=3
        ).mean()

    exact, numerical = slopes(jax.jit(jax.value_and_grad(mean)), params)
    assert abs(exact) > 1e-2
    np.testing.assert_allclose(exact, numerical, rtol=1e-6)


def test_units_and_classes_without_a_boundary():
    """Dead ones are infinitely far, and values and gradients are finite; so are those of a network without units."""
    rng = np.random.default_rng(0)
    first, last = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 4), (4, 3)))
    label = jnp.zeros(1, jnp.int32)
    options = {"boundary_gamma": 10.0, "decision_gamma": 10.0}
    run = jax.jit(
        jax.value_and_grad(
            lambda weights, images: mmr(
                lambda x: jax.nn.relu(x @ weights[0]) @ weights[1], images, label, Linf(0.1), boundaries=4, **options
            )[0]
        )
    )
    grey = jnp.full((1, 3), 0.5)
    for weights in ([first, last], [0 * first, last], [first, 0 * last], [first.at[:, 1].set(0), last]):
        for images in (jnp.zeros((1, 3)), grey):
            value, gradient = run(weights, images)
            assert all(np.isfinite(leaf).all() for leaf in (value, *gradient))
    np.testing.assert_allclose(run([0 * first, last], grey)[0], 2 / 3, rtol=1e-6)  # equal logits, no unit
    linear = jax.jit(lambda: mmr(lambda x: x @ first[:, :3], grey, label, Linf(0.1), **options))()
    margins = grey @ (first[:, :1] - first[:, 1:3]) / jnp.abs(first[:, :1] - first[:, 1:3]).sum(0)
    np.testing.assert_allclose(linear, jnp.maximum(1 - margins / 10, 0).sum(1) / 3, rtol=1e-5)


def test_sum_of_largest_values(float64):
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(4, 50))
    values[1, 10:] = 0
    values[2, ::2] = 0.5  # ties
    values[3] = 1
    run = jax.jit(sum_of_largest)
    for count in (1, 7, 30, 50):
        expected = np.sort(values, axis=1)[:, -count:].sum(1)
        np.testing.assert_allclose(run(jnp.asarray(values), jnp.asarray(float(count))), expected, rtol=1e-12)
    gradient = jax.grad(lambda values: run(values, jnp.asarray(7.0)).sum())(jnp.asarray(values[:1]))
    np.testing.assert_array_equal(gradient > 0, values[:1] >= np.sort(values[0])[-7])


def test_errors():
    images, labels = jnp.full((2, 4, 4, 1), 0.5), jnp.zeros(2, jnp.int32)
    linear = lambda x: x.reshape(len(x), -1)[:, :3]  # noqa: E731
    run = functools.partial(mmr, linear, images, labels, Linf(0.1))
    for options, message in (
        ({"boundary_gamma": 0, "decision_gamma": 1}, "boundary_gamma must be above 0, got 0"),
        ({"boundary_gamma": 1, "decision_gamma": -1.0}, "decision_gamma must be above 0, got -1"),
        ({"boundary_gamma": 1, "decision_gamma": 1, "boundaries": 0}, "boundaries must be a whole number"),
        ({"boundary_gamma": 1, "decision_gamma": 1, "boundaries": 1.5}, "a share in \\(0, 1\\], got 1.5"),
        ({"boundary_gamma": 1, "decision_gamma": 1, "decisions": 0}, "decisions must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")  # noqa: E731
    for network, name in ((lambda x: jnp.tanh(linear(x)), "tanh"), (lambda x: linear(pool(x)), "max pooling")):
        with pytest.raises(
            certify.UnsupportedOperation, match=f"ReLU, leaky ReLU and absolute values; this one has {name}"
        ):
            mmr(network, images, labels, Linf(0.1), boundary_gamma=1, decision_gamma=1)
