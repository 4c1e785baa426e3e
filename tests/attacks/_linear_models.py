"""Problems on which minimum-norm attacks can be compared with closed forms, and what all of them must do there."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import L1, L2, Linf

SHAPE, BATCH = (3, 2, 2), 6
DUAL = {L1: np.inf, L2: 2, Linf: 1}


def linear(parameters, images):
    weights, bias = parameters
    return images.reshape(images.shape[0], -1) @ weights + bias


def network(parameters, images):
    first, second = parameters
    return jnp.tanh(images.reshape(images.shape[0], -1) @ first) @ second


def scores(logits_fn, images):
    """The logits by NumPy, in double precision: nothing is compiled."""
    first, second = (np.asarray(parameter, np.float64) for parameter in logits_fn.args[0])
    hidden = np.asarray(images, np.float64).reshape(len(images), -1) @ first
    return hidden + second if logits_fn.func is linear else np.tanh(hidden) @ second


class Problem(NamedTuple):
    """``distances(norm) [batch]`` are those to the nearest decision boundary, or lower bounds of them."""

    images: jax.Array
    labels: jax.Array
    logits_fn: object
    distances: object


def _gaps(logits, labels, slopes):
    """``(z_y - z_j) / slope_{yj}``, infinite for ``j = y``: ``[batch, classes]``, for ``slopes [classes, classes]``."""
    rows = np.arange(len(labels))
    gaps = logits[rows, labels][:, None] - logits
    gaps[rows, labels] = np.inf
    slopes = slopes[labels].copy()
    slopes[rows, labels] = 1
    return gaps / slopes


def linear_problem(classes, bounds=(0.0, 1.0), dtype=np.float32, scale=1.0):
    """A linear classifier, and images whose nearest adversarial images lie inside the box.

    The class with the second highest logit is the one nearest by, in all norms. The last image is misclassified.
    """
    low, high = bounds or (-1.0, 1.0)
    width, rng = high - low, np.random.default_rng(classes)
    weights = scale * rng.normal(size=(12, classes))
    bias = -weights.sum(0) * (low + high) / 2
    images = low + width * rng.uniform(0.35, 0.65, size=(2000, 12))
    logits = images @ weights + bias
    labels, second = logits.argsort(-1)[:, :-3:-1].T

    def distances(norm):
        differences = weights[:, :, None] - weights[:, None]
        return _gaps(logits, labels, np.linalg.norm(differences, DUAL[norm], axis=0))

    good = np.ones(len(images), bool)
    for norm in DUAL:
        nearest, next_one = np.sort(distances(norm), axis=1)[:, :2].T
        good &= (distances(norm).argmin(1) == second) & (next_one > 1.2 * nearest)
    good &= (distances(L1).min(1) < 0.25 * width) & (distances(L2).min(1) > 0.02 * width)
    chosen = np.flatnonzero(good)[:BATCH]
    assert len(chosen) == BATCH
    given = labels[chosen]
    given[-1] = second[chosen[-1]]

    def chosen_distances(norm):
        return np.where(np.arange(BATCH) < BATCH - 1, distances(norm).min(1)[chosen], 0)

    parameters = (jnp.asarray(weights, dtype), jnp.asarray(bias, dtype))
    images = jnp.asarray(images[chosen].reshape(BATCH, *SHAPE), dtype)
    return Problem(images, jnp.asarray(given), functools.partial(linear, parameters), chosen_distances)


def network_problem():
    """A small network; the distances are lower bounds, from ``|tanh'| <= 1``."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(12, 8)), rng.normal(size=(8, 4))
    images = rng.uniform(0.1, 0.9, size=(BATCH, 12))
    logits = np.tanh(images @ first) @ second
    labels = logits.argmax(-1)

    def distances(norm):
        sizes = np.linalg.norm(first, DUAL[norm], axis=0)
        slopes = (sizes[:, None, None] * np.abs(second[:, :, None] - second[:, None])).sum(0)
        return _gaps(logits, labels, slopes).min(1)

    parameters = (jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32))
    images = jnp.asarray(images.reshape(BATCH, *SHAPE), jnp.float32)
    return Problem(images, jnp.asarray(labels), functools.partial(network, parameters), distances)


def _in_box(threat, images):
    low, high = threat.bounds or (-np.inf, np.inf)
    return low <= float(np.min(images)) and float(np.max(images)) <= high


def check_reaches(make, norm, classes, bounds=(0.0, 1.0), dtype=np.float32, scale=1.0, *, above):
    """Distances at most ``above`` (relatively) beyond the closed form; ball, box, dtype; both forms agree."""
    images, labels, logits_fn, distances = linear_problem(classes, bounds, dtype, scale)
    expected, key = distances(norm), jax.random.key(0)
    threat = norm(float(np.median(expected)) * (1 + above), bounds=bounds)
    found = make(threat).minimum_norm(key, logits_fn, images, labels)
    assert (scores(logits_fn, found.images).argmax(-1) != np.asarray(labels)).all()
    np.testing.assert_array_equal(found.images[-1], images[-1])
    assert found.distances[-1] == 0
    ratios = np.asarray(found.distances[:-1]) / expected[:-1]
    assert ratios.min() >= 1 - 1e-4
    assert ratios.max() <= 1 + above
    assert _in_box(threat, found.images)
    assert found.images.dtype == found.distances.dtype == images.dtype

    adversarial = make(threat)(key, logits_fn, images, labels)
    inside = np.asarray(found.distances <= threat.eps)
    assert 1 < inside.sum() < BATCH
    np.testing.assert_array_equal(adversarial, np.where(inside[:, None, None, None], found.images, images))
    return ratios


def check_network(make, norm, *, bounds=(0.0, 1.0)):
    """Adversarial images are found for all, in the box and not nearer than possible."""
    images, labels, logits_fn, distances = network_problem()
    threat = norm(1.0, bounds=bounds)
    found = make(threat).minimum_norm(jax.random.key(0), logits_fn, images, labels)
    assert (scores(logits_fn, found.images).argmax(-1) != np.asarray(labels)).all()
    assert _in_box(threat, found.images)
    assert (np.asarray(found.distances) >= distances(norm)).all()
    sizes = np.linalg.norm(
        np.asarray(found.images - images).reshape(BATCH, -1), {np.inf: 1, 2: 2, 1: np.inf}[DUAL[norm]], 1
    )
    np.testing.assert_allclose(found.distances, sizes, rtol=1e-5)
    return np.asarray(found.distances)


def check_independent(make, norm):
    """The same in any order; for one example, and inside jit; whatever the key."""
    images, labels, logits_fn, _ = network_problem()
    run = make(norm(1.0)).minimum_norm
    whole = run(jax.random.key(0), logits_fn, images, labels)
    again = run(jax.random.split(jax.random.key(1), BATCH), logits_fn, images[::-1], labels[::-1])
    np.testing.assert_array_equal(again.images[::-1], whole.images)
    compiled = jax.jit(lambda images, labels: run(jax.random.key(0), logits_fn, images, labels))
    one = compiled(images[2:3], labels[2:3])
    np.testing.assert_allclose(one.distances, whole.distances[2:3], rtol=1e-2)


def one_pixel(images):
    """Class 0 above one half; constant above 0.9, and broken at one value."""
    pixel = images.reshape(-1, 1)
    first = jnp.where(pixel > 0.9, 0.5, jnp.where(pixel == 0.25, jnp.nan, pixel))
    return jnp.concatenate([first, jnp.full_like(pixel, 0.5)], axis=1)


def check_one_pixel(make, norm, *, above):
    """A pixel that can reach the boundary, one that sees no gradient, and one whose logits are not finite."""
    images = jnp.asarray([0.75, 1.0, 0.25]).reshape(3, 1, 1, 1)
    found = make(norm(1.0)).minimum_norm(jax.random.key(0), one_pixel, images, jnp.zeros(3, jnp.int32))
    np.testing.assert_array_equal(found.images[1:], images[1:])
    assert found.distances[1:].tolist() == [np.inf, 0.0]
    assert found.success.tolist() == [True, False, True]
    assert 0.25 <= float(found.distances[0]) <= 0.25 * (1 + above)


def check_targeted(make, norm, *, scale=1.0):
    """The targets are reached, not nearer than each class's boundary, and at once where they are predicted."""
    images, _, logits_fn, _ = linear_problem(5, scale=scale)
    weights = np.asarray(logits_fn.args[0][0])
    logits = scores(logits_fn, images)
    targets = logits.argsort(-1)[:, -2]
    targets[-1] = logits[-1].argmax()
    rows = np.arange(BATCH)
    slopes = np.linalg.norm(weights[:, :, None] - weights[:, None], DUAL[norm], axis=0)[targets]
    slopes[rows, targets] = 1
    bound = ((logits - logits[rows, targets][:, None]) / slopes).max(1)
    found = make(norm(1.0)).minimum_norm(jax.random.key(0), logits_fn, images, jnp.asarray(targets))
    assert (scores(logits_fn, found.images).argmax(-1) == targets).all()
    assert (np.asarray(found.distances) >= bound * (1 - 1e-4)).all()
    assert (np.asarray(found.distances) <= 2 * bound + 1e-6).all()
    np.testing.assert_array_equal(found.images[-1], images[-1])
