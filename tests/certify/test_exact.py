"""Exact answers: closed forms, enumeration of all activation patterns, order among certificates and attacks."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrobust import L1, L2, Linf, NonUniform, attacks, certify
from jaxrobust.certify import ExactStatus, exact
from jaxrobust.certify._piecewise_linear import Kinks, piecewise_linear

WEIGHT = np.array([[1.0, 1.0], [1.0, -1.0]])


def toy(offset, images):
    """Margin ``2 relu(x1 - x2) - offset``."""
    weight = jnp.asarray(WEIGHT, images.dtype)
    return jax.nn.relu(images @ weight.T) @ weight.T - offset * weight[1].clip(0)


def affine(weight, images):
    return images.reshape(len(images), -1) @ weight


def mlp(activations, parameters, images):
    for (weight, bias), activation in zip(parameters[:-1], activations, strict=True):
        images = activation(images @ weight + bias)
    weight, bias = parameters[-1]
    return images @ weight + bias


def random_mlp(activations, *sizes):
    """Parameters, such that no class is always the largest."""
    random = np.random.default_rng(0)
    shapes = list(itertools.pairwise(sizes))
    parameters = [
        (random.normal(0, 1.5 / n**0.5, (n, m)).astype(np.float32), random.normal(0, 0.2, m).astype(np.float32))
        for n, m in shapes
    ]
    points = random.uniform(size=(100, sizes[0])).astype(np.float32)
    weight, bias = parameters[-1]
    parameters[-1] = weight, bias - np.asarray(mlp(activations, parameters, points).mean(0))
    return parameters


def leaky_relu(images):
    return jax.nn.leaky_relu(images, 0.2)


SLOPES = {jax.nn.relu: 0.0, leaky_relu: 0.2, jnp.abs: -1.0}


def nearest_by_patterns(parameters, slopes, image, label, norm):
    """The distance in the box to another class: a linear program for every pattern of signs and every class."""
    pixels, best = len(image), np.inf
    units = [weight.shape[1] for weight, _ in parameters[:-1]]
    for signs in itertools.product([1.0, -1.0], repeat=sum(units)):
        remaining, matrix, constant, rows, sides = iter(signs), np.eye(pixels), np.zeros(pixels), [], []
        for (weight, bias), count, slope in zip(parameters[:-1], units, slopes, strict=True):
            matrix, constant = weight.T.astype(float) @ matrix, weight.T.astype(float) @ constant + bias
            sign = np.array([next(remaining) for _ in range(count)])
            rows.append(-sign[:, None] * matrix)
            sides.append(sign * constant)
            gain = np.where(sign > 0, 1, slope)
            matrix, constant = gain[:, None] * matrix, gain * constant
        weight, bias = parameters[-1]
        matrix, constant = weight.T.astype(float) @ matrix, weight.T.astype(float) @ constant + bias
        # Variables: the image, how far each pixel has moved, and in l-infinity the largest of these.
        one = np.eye(pixels)
        moved = np.block([[one, -one], [-one, -one]])
        for other in set(range(len(constant))) - {label}:
            inner = np.concatenate([*rows, (matrix[label] - matrix[other])[None]])
            table = np.block([[inner, np.zeros_like(inner)], [moved]])
            side = np.concatenate([*sides, [constant[other] - constant[label]], image, -image])
            table = np.pad(table, ((0, 0), (0, 1)))
            if norm == np.inf:
                table = np.concatenate([table, np.pad(one, ((0, 0), (pixels, 1)), constant_values=0)])
                table[-pixels:, -1] = -1
                side = np.concatenate([side, np.zeros(pixels)])
            cost = np.concatenate([np.zeros(pixels), np.full(pixels, norm == 1), [norm == np.inf]])
            bounds = [(0, 1)] * pixels + [(0, None)] * (pixels + 1)
            found = linprog(cost, table, side, bounds=bounds)
            best = min(best, found.fun if found.status == 0 else np.inf)
    return best


def check_counterexamples(found, logits_fn, images, labels, threat):
    """In ball and box, misclassified, and as far away as is said."""
    broken = found.status == ExactStatus.FALSIFIED
    np.testing.assert_array_equal(broken, np.isfinite(found.distance))
    perturbation = found.counterexamples - np.asarray(images)
    norm = np.asarray(threat.norm(jnp.asarray(perturbation)))
    assert (norm <= np.asarray(threat.eps) * (1 + 1e-5)).all()
    np.testing.assert_allclose(norm[broken], found.distance[broken], atol=1e-6)
    assert not perturbation[~broken].any()
    if threat.bounds is not None:
        assert threat.bounds[0] <= found.counterexamples.min() <= found.counterexamples.max() <= threat.bounds[1]
    predicted = np.asarray(logits_fn(jnp.asarray(found.counterexamples)).argmax(-1))
    assert (predicted != np.asarray(labels))[broken].all()
    assert (found.radius <= found.distance + 1e-6).all()


@pytest.mark.parametrize("name", ["linf", "l1", "non-uniform"])
def test_linear_network_is_its_distance_to_the_hyperplanes(name):
    random = np.random.default_rng(0)
    weight = jnp.asarray(random.normal(size=(4, 3)), jnp.float32)
    images = jnp.asarray(random.uniform(size=(6, 2, 2, 1)), jnp.float32)
    radii = jnp.asarray([[0.5], [1.0], [0.0], [2.0]], jnp.float32).reshape(2, 2, 1)
    threat = {"linf": Linf(1.0), "l1": L1(1.0), "non-uniform": NonUniform(Linf, radii)}[name]
    logits = affine(weight, images)
    labels = logits.argmax(-1)
    with jax.default_matmul_precision("highest"):
        excess = jnp.take_along_axis(logits, labels[:, None], 1) - logits
        normals = (weight[:, labels].T[:, None] - weight.T[None]).reshape(6, 3, 2, 2, 1)
        distances = jax.vmap(threat.distance, (None, 1, 1), 1)(images, normals, excess)
    expected = np.where(jax.nn.one_hot(labels, 3) == 1, np.inf, distances).min(-1)
    threat = dataclasses.replace(threat, eps=float(np.median(expected)) + 0.001)
    found = exact(partial(affine, weight), images, labels, threat, minimum_norm=True)
    inside = expected < threat.eps
    assert 0 < inside.sum() < 6, expected
    np.testing.assert_array_equal(found.status, np.where(inside, ExactStatus.FALSIFIED, ExactStatus.VERIFIED))
    np.testing.assert_allclose(found.radius, np.minimum(expected, threat.eps), atol=1e-4)
    check_counterexamples(found, partial(affine, weight), images, labels, threat)


def test_toy():
    images, labels, threat = jnp.array([[1.0, 0.0]]), jnp.array([0]), Linf(1.0, bounds=None)
    for offset, radius, status in [(0.2, 0.45, ExactStatus.FALSIFIED), (0.0, 0.5, ExactStatus.NUMERICAL)]:
        logits_fn = partial(toy, jnp.asarray(offset))
        found = exact(logits_fn, images, labels, threat, minimum_norm=True)
        # Without an offset the margin falls to zero and no farther: neither a proof nor a counterexample.
        assert found.status[0] == status
        np.testing.assert_allclose(found.radius, radius, atol=1e-4)
        check_counterexamples(found, logits_fn, images, labels, threat)
        np.testing.assert_array_equal(found.status, exact(logits_fn, images, labels, threat).status)
        assert exact(logits_fn, images, labels, Linf(0.44, bounds=None)).status[0] == ExactStatus.VERIFIED
    assert found.binaries[0] == 2
    assert found.seconds[0] > 0


@pytest.mark.usefixtures("float64")
def test_double_precision():
    images, labels, threat = jnp.array([[1.0, 0.0]]), jnp.array([0]), Linf(1.0, bounds=None)
    found = exact(partial(toy, jnp.asarray(0.2)), images, labels, threat, minimum_norm=True, workers=2)
    np.testing.assert_allclose([found.radius[0], found.distance[0]], 0.45, atol=1e-5)
    assert found.counterexamples.dtype == np.float64


@pytest.mark.parametrize(
    ("activations", "norm", "sizes"),
    [((jax.nn.relu,), np.inf, (2, 4, 3)), ((leaky_relu, jnp.abs), 1, (3, 3, 2, 2))],
)
def test_nearest_of_all_activation_patterns(activations, norm, sizes):
    threat = Linf(0.3) if norm == np.inf else L1(0.4)
    parameters, slopes = random_mlp(activations, *sizes), [SLOPES[activation] for activation in activations]
    logits_fn = partial(mlp, activations, parameters)
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(4, sizes[0])), jnp.float32)
    labels = logits_fn(images).argmax(-1)
    expected = [  # radii fall short of it by the tolerance of margins, divided by their slopes
        nearest_by_patterns(parameters, slopes, np.asarray(image, float), int(label), norm)
        for image, label in zip(images, labels, strict=True)
    ]
    found = exact(logits_fn, images, labels, threat, minimum_norm=True)
    assert (np.array(expected) < threat.eps).any()
    np.testing.assert_allclose(found.radius, np.minimum(expected, threat.eps), atol=5e-4)
    assert (found.radius <= np.array(expected) + 1e-6).all()
    assert (found.distance >= np.array(expected) - 1e-6).all()
    check_counterexamples(found, logits_fn, images, labels, threat)
    decided = exact(logits_fn, images, labels, threat)
    np.testing.assert_array_equal(decided.status, found.status)
    check_counterexamples(decided, logits_fn, images, labels, threat)


def test_lies_between_certificates_and_attacks(key):
    threat, activations = Linf(0.15), (jax.nn.relu, jax.nn.relu)
    logits_fn = partial(mlp, activations, random_mlp(activations, 6, 8, 8, 3))
    images = jax.random.uniform(key, (16, 6))
    labels = logits_fn(images).argmax(-1).at[0].add(1) % 3
    adversarial = attacks.pgd(threat, steps=20)(key, logits_fn, images, labels)
    broken = np.asarray(logits_fn(adversarial).argmax(-1) != labels)
    certified = np.asarray(certify.radius(logits_fn, images, labels, threat))
    found = exact(logits_fn, images, labels, threat, falsify=adversarial, minimum_norm=True)
    check_counterexamples(found, logits_fn, images, labels, threat)
    assert (found.radius >= certified - 1e-6).all()
    assert (found.status[broken] == ExactStatus.FALSIFIED).all()
    assert (found.status[certified >= threat.eps] == ExactStatus.VERIFIED).all()
    attacked = np.asarray(threat.norm(adversarial - images))
    assert (found.distance <= attacked + 1e-6)[broken].all()
    assert (found.distance < attacked - 1e-3)[broken].any()
    undecided = ~broken & (certified < threat.eps)
    assert undecided.any()
    assert set(found.status) == {ExactStatus.VERIFIED, ExactStatus.FALSIFIED}
    # The first image is misclassified as it is.
    assert found.radius[0] == found.distance[0] == found.seconds[0] == 0

    decided = exact(logits_fn, images, labels, threat, falsify=adversarial, method=("interval", "crown"))
    np.testing.assert_array_equal(decided.status, found.status)
    assert not decided.seconds[broken].any()
    kept = broken & (np.arange(16) > 0)
    np.testing.assert_array_equal(decided.counterexamples[kept], np.asarray(adversarial)[kept])

    too_far = exact(logits_fn, images, labels, threat, falsify=images + 5 * threat.eps)
    np.testing.assert_array_equal(too_far.status, found.status)
    check_counterexamples(too_far, logits_fn, images, labels, threat)

    # When there is no time, what bounds say remains.
    late = exact(logits_fn, images, labels, threat, time_limit=1e-9, minimum_norm=True)
    open_ = (found.radius > 0) & (late.status != ExactStatus.VERIFIED)
    assert (late.status[open_] == ExactStatus.TIMEOUT).all()
    assert (late.status[undecided] == ExactStatus.TIMEOUT).any()
    assert (late.radius <= found.radius + 1e-6).all()
    assert not np.isfinite(late.distance[open_]).any()


def maxout(largest, weight, images):
    """The largest of three linear functions of the image for each class."""
    return largest(((images - 0.5) @ weight).reshape(len(images), 2, 3))


def test_max_pooling_is_what_relu_makes_of_it():
    random = np.random.default_rng(2)
    weight = jnp.asarray(random.normal(size=(3, 6)), jnp.float32)
    images = jnp.asarray(random.uniform(size=(5, 3)), jnp.float32)
    pooled = partial(maxout, lambda x: x.max(-1), weight)
    rewritten = partial(maxout, lambda x: jnp.maximum(jnp.maximum(x[..., 0], x[..., 1]), x[..., 2]), weight)
    labels, threat = pooled(images).argmax(-1), Linf(0.2)
    found, other = (exact(f, images, labels, threat, minimum_norm=True) for f in (pooled, rewritten))
    check_counterexamples(found, pooled, images, labels, threat)
    assert found.binaries.max() > 2
    np.testing.assert_array_equal(found.status, other.status)
    np.testing.assert_allclose(found.radius, other.radius, atol=1e-4)
    assert len(set(found.status)) == 2


def conv_network(parameters, images):
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    first, scale, second, skip, last = parameters
    x = jax.nn.relu(conv(images, first) * scale + 0.1)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(conv(x, second) + conv(x, skip))
    return x.reshape(len(x), -1) @ last[:-1] + last[-1]


def evaluate(network, image):
    values = [image.astype(np.float64)]

    def of(function):
        return sum(weights @ values[source] for source, weights in function.weights.items()) + function.offset

    for layer in network.layers:
        operand = of(layer.operand)
        if isinstance(layer.operation, Kinks):
            values.append(np.maximum(operand, 0) + layer.operation.slope * np.minimum(operand, 0))
        else:
            windows = layer.operation.entries
            values.append(np.where(windows >= 0, operand[windows], -np.inf).max(0))
    return of(network.logits)


@pytest.mark.slow
def test_convolutions():
    random = np.random.default_rng(4)
    shapes = [((3, 3, 1, 2), 3), ((2,), 1), ((3, 3, 2, 2), 4), ((1, 1, 2, 2), 2), ((9, 3), 3)]
    parameters = [jnp.asarray(random.normal(0, 1 / n, shape), jnp.float32) for shape, n in shapes]
    images = jnp.asarray(random.uniform(size=(4, 4, 4, 1)), jnp.float32)
    parameters[-1] -= conv_network(parameters, images).mean(0) * jnp.eye(9)[-1:].T
    logits_fn = partial(conv_network, parameters)
    network = piecewise_linear(logits_fn, jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32))
    logits = np.asarray(logits_fn(images))
    of_matrices = [evaluate(network, image) for image in np.asarray(images).reshape(4, -1)]
    np.testing.assert_allclose(of_matrices, logits, atol=1e-5)
    labels, threat = jnp.asarray(logits.argmax(-1)), Linf(0.02)
    found = exact(logits_fn, images, labels, threat, minimum_norm=True)
    check_counterexamples(found, logits_fn, images, labels, threat)
    assert set(found.status) == {ExactStatus.VERIFIED, ExactStatus.FALSIFIED}


def test_refuses_what_it_cannot_solve():
    images, labels = jnp.full((1, 2), 0.5), jnp.array([0])
    logits_fn = partial(toy, jnp.asarray(0.2))

    def smooth(x):
        return jax.nn.sigmoid(x)

    with pytest.raises(certify.UnsupportedOperation, match="sigmoid"):
        exact(smooth, images, labels, Linf(0.1))
    with pytest.raises(ValueError, match="L2"):
        exact(logits_fn, images, labels, L2(0.1))
    with pytest.raises(ValueError, match="L2"):
        exact(logits_fn, images, labels, NonUniform(L2, jnp.ones(2)))
    with pytest.raises(ValueError, match="100,000,000 entries"):
        exact(lambda x: jax.nn.relu(x)[:, :2], jnp.full((1, 10_000), 0.5), labels, Linf(0.1))
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda x: exact(logits_fn, x, labels, Linf(0.1)).radius)(images)
    with pytest.raises(ValueError, match="time_limit"):
        exact(logits_fn, images, labels, Linf(0.1), time_limit=0)
    with pytest.raises(ValueError, match="falsify must have the shape"):
        exact(logits_fn, images, labels, Linf(0.1), falsify=images[0])
