"""The bound on the second-order expansion against the true maximum, and what it does not bound (7.3 and 7.5)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _input_derivatives import (
    augmented,
    examples,
    explicit_derivatives,
    identity,
    network,
    parameters,
    quadratic,
)
from scipy.optimize import brentq

from jaxrobust import L1, L2, Linf, losses
from jaxrobust.curvature import input_gradient_and_hvp, value_and_input_gradient

FORMS = ("augmented", "rescaled", "separate")
CASES, DIMENSION = 300, 5


def trust_region_maximum(gradient, hessian, radius):
    """``max g.d + d.A d / 2`` over ``||d|| <= radius``, from the eigenvalues and the secular equation."""
    values, vectors = np.linalg.eigh(hessian)
    slopes = vectors.T @ gradient

    def step(multiplier):
        return slopes / (multiplier - values)

    if values[-1] < 0 and np.linalg.norm(step(0.0)) <= radius:
        move = step(0.0)
    else:
        low, high = max(values[-1], 0.0), max(values[-1], 0.0) + 1 + np.linalg.norm(gradient) / max(radius, 1e-12)
        excess = lambda multiplier: np.linalg.norm(step(multiplier)) - radius  # noqa: E731
        move = step(brentq(excess, low + 1e-13 * (1 + abs(low)), high, xtol=1e-15, rtol=1e-14))
    return slopes @ move + move @ (values * move) / 2


@pytest.fixture(scope="module")
def quadratics():
    """Gradients, Hessians and radii of random quadratic functions, indefinite ones too, and the three bounds."""
    rng = np.random.default_rng(0)
    hessians = rng.normal(size=(CASES, DIMENSION, DIMENSION)) * rng.uniform(0.05, 1.5, size=(CASES, 1, 1))
    hessians, gradients = hessians + hessians.swapaxes(1, 2), rng.normal(size=(CASES, DIMENSION))
    radii = rng.uniform(0.05, 2, size=CASES)
    with jax.enable_x64(True):
        loss = quadratic(jnp.asarray(gradients), jnp.asarray(hessians))
        origin, labels = jnp.zeros((CASES, DIMENSION)), jnp.zeros(CASES, jnp.int32)

        @jax.jit
        def bounds(radii):
            run = functools.partial(losses.second_order_bound, identity, origin, labels, L2(radii), loss=loss)
            return {form: run(form=form) for form in FORMS}

        found = {radius: bounds(jnp.asarray(radii * radius)) for radius in (1.0, 0.0, 1e-3)}
    return gradients, hessians, radii, jax.tree.map(np.asarray, found)


def test_bounds_the_maximum_of_the_expansion(quadratics):
    """7.3.5 and 7.3.7."""
    gradients, hessians, radii, bounds = quadratics
    maxima = np.array([trust_region_maximum(*row) for row in zip(gradients, hessians, radii, strict=True)])
    rng = np.random.default_rng(1)
    for gradient, hessian, radius, maximum in zip(gradients[:20], hessians, radii, maxima, strict=False):
        moves = rng.normal(size=(2000, DIMENSION))
        moves *= radius / np.linalg.norm(moves, axis=1, keepdims=True)
        sampled = moves @ gradient + np.einsum("ni,ij,nj->n", moves, hessian, moves) / 2
        assert 0.9 * maximum < sampled.max() < maximum + 1e-9
    matrices = [augmented(*row) for row in zip(gradients, hessians, strict=True)]
    spectral = (radii**2 + 1) / 2 * np.array([np.linalg.norm(m, 2) for m in matrices]) - 0.5
    assert (maxima <= spectral + 1e-9).all()
    assert (spectral <= bounds[1.0]["augmented"] + 1e-9).all()
    for form in FORMS:
        assert (maxima <= bounds[1.0][form] + 1e-9).all()
    tighter = bounds[1.0]["rescaled"] < bounds[1.0]["augmented"]
    assert tighter[radii < 0.5].mean() > 0.9 > tighter[radii > 1].mean()


def test_closed_forms(quadratics):
    """7.3.2 among them: ``||H||_F^2 = ||A||_F^2 + 2 ||g||^2 + 1``."""
    gradients, hessians, rho, bounds = quadratics
    frobenius = np.array([np.linalg.norm(augmented(*row)) for row in zip(gradients, hessians, strict=True)])
    a, g = np.linalg.norm(hessians, axis=(1, 2)), np.linalg.norm(gradients, axis=1)
    assert (frobenius >= 1).all()
    np.testing.assert_allclose(bounds[1.0]["augmented"], (rho**2 + 1) / 2 * frobenius - 0.5, rtol=1e-10)
    np.testing.assert_allclose(bounds[1.0]["rescaled"], rho * np.sqrt(rho**2 * a**2 + 2 * g**2), rtol=1e-10)
    np.testing.assert_allclose(bounds[1.0]["separate"], rho * g + rho**2 / 2 * a, rtol=1e-10)


def test_at_radius_zero(quadratics):
    """7.3.7: the published form keeps ``(||H||_F - 1) / 2``, the two others tend to the loss."""
    gradients, hessians, _, bounds = quadratics
    slack = [(np.linalg.norm(augmented(*row)) - 1) / 2 for row in zip(gradients, hessians, strict=True)]
    np.testing.assert_allclose(bounds[0.0]["augmented"], slack, rtol=1e-10)
    assert min(slack) > 0
    for form in ("rescaled", "separate"):
        np.testing.assert_array_equal(bounds[0.0][form], 0)
        assert bounds[1e-3][form].max() < 0.02


def test_of_a_network(float64):
    """With gradient and Hessian written out, and each threat model's Euclidean radius."""
    params, (images, labels) = parameters(), examples()
    loss_of = lambda flat, label: losses.cross_entropy(network(params, flat[None]), label[None])[0]  # noqa: E731
    gradients, hessians = explicit_derivatives(loss_of, images, labels)
    frobenius = np.array([np.linalg.norm(augmented(*row)) for row in zip(gradients, hessians, strict=True)])
    values = losses.cross_entropy(network(params, images), labels)
    run = jax.jit(lambda threat: losses.second_order_bound(functools.partial(network, params), images, labels, threat))
    for threat, rho in ((Linf(0.1), 0.1 * np.sqrt(6)), (L2(0.2), 0.2), (L1(0.2), 0.2)):
        np.testing.assert_allclose(run(threat), values + (rho**2 + 1) / 2 * frobenius - 0.5, rtol=1e-10)


def test_augmented_form_of_the_expansion(float64):
    """7.3.1: ``g.d + d.A d / 2 = (d'.H d' - 1) / 2`` with ``d' = [d, 1]``, the left side from the library."""
    params, (images, labels) = parameters(), examples()
    loss_of = lambda flat, label: losses.cross_entropy(network(params, flat[None]), label[None])[0]  # noqa: E731
    gradients, hessians = explicit_derivatives(loss_of, images, labels)
    moves = np.random.default_rng(3).normal(size=images.shape)
    derivatives = jax.jit(
        functools.partial(input_gradient_and_hvp, losses.cross_entropy, functools.partial(network, params))
    )
    pair = derivatives(images, labels, moves)
    expansion = sum(factor * np.sum(array * moves, (1, 2, 3)) for factor, array in zip((1, 0.5), pair, strict=True))
    longer = np.concatenate([moves.reshape(3, -1), np.ones((3, 1))], 1)
    matrices = np.stack([augmented(*row) for row in zip(gradients, hessians, strict=True)])
    np.testing.assert_allclose(expansion, (np.einsum("ni,nij,nj->n", longer, matrices, longer) - 1) / 2, rtol=1e-10)


WEIGHTS = np.array([1.0, 2.0, -2.0])  # of squared length 9


def logistic(images):
    """Two classes with logits ``w.x`` and 0; the margin of class 0 is ``w.x``."""
    return jnp.stack([images @ WEIGHTS, 0 * images[:, 0]], 1)


@jax.jit
def _at_images(images, threat):
    labels = jnp.zeros(len(images), jnp.int32)
    run = functools.partial(losses.second_order_bound, logistic, images, labels, threat)
    bounds = {form: run(form=form) for form in FORMS}
    return *value_and_input_gradient(losses.cross_entropy, logistic, images, labels), bounds


def at_margins(margins, threat):
    """Images, losses, gradients, logits and bounds where the margins are so."""
    images = jnp.asarray(np.outer(margins, WEIGHTS / 9))
    return images, *_at_images(images, threat)


def test_logistic_maxima(float64):
    """7.5.1: the form ``separate`` is the exact l2 maximum of a loss with a rank-one Hessian; l-infinity by its corners."""
    eps = 0.3
    _, values, gradient, logits, bounds = at_margins([-1.0, 0.0, 0.7, 3.0, 4.0], L2(eps))
    probability = np.asarray(jax.nn.softmax(logits))[:, 0]
    residual, u = 1 - probability, probability * (1 - probability)
    hessians = u[:, None, None] * np.outer(WEIGHTS, WEIGHTS)
    expected = eps * residual * 3 + eps**2 / 2 * u * 9
    np.testing.assert_allclose(bounds["separate"] - values, expected, rtol=1e-12)
    solved = [trust_region_maximum(g, h, eps) for g, h in zip(np.asarray(gradient), hessians, strict=True)]
    np.testing.assert_allclose(solved, expected, rtol=1e-7)
    corners = eps * np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3)
    linear, curved = corners @ np.asarray(gradient).T, np.einsum("ci,nij,cj->cn", corners, hessians, corners)
    np.testing.assert_allclose((linear + curved / 2).max(0), eps * residual * 5 + eps**2 / 2 * u * 25, rtol=1e-12)


def test_logistic_masking(float64):
    """7.5.2: the matrix of a sure classifier is the corner alone."""
    _, values, gradient, _, bounds = at_margins([0.0, 2.0, 5.0, 10.0, 20.0], L2(0.0))
    frobenius = 2 * (bounds["augmented"] - values) + 1
    np.testing.assert_allclose(frobenius, [3.25, 1.4658, 1.00219, 1.0000001, 1.0], rtol=3e-5)
    residuals = [-0.5, -0.1192, -6.69e-3, -4.54e-5, -2.1e-9]
    np.testing.assert_allclose(gradient[:, 0] / WEIGHTS[0], residuals, rtol=0.02)


def test_no_bound_on_the_loss(float64):
    """7.3.6: it is one on the expansion, and the loss of a sure classifier rises further."""
    images, *_, bounds = at_margins([2.5] * 5, L2(1.0))
    worst = losses.cross_entropy(logistic(images - WEIGHTS / 3), jnp.zeros(5, jnp.int32))
    for form in FORMS:
        assert bounds[form][0] < 0.9 * worst[0]


def test_lagrange_remainder(float64):
    """7.5.3."""
    network, labels = lambda images: jnp.concatenate([2 * images, 0 * images], 1), jnp.zeros(1, jnp.int32)
    point, move = jnp.ones((1, 1)), jnp.full((1, 1), -1.3)
    values, gradient, _ = value_and_input_gradient(losses.cross_entropy, network, point, labels)
    left = float((losses.cross_entropy(network(point + move), labels) - values - (gradient * move)[:, 0])[0])
    product = jax.jit(
        lambda h: input_gradient_and_hvp(losses.cross_entropy, network, point + h * move, labels, move)[1]
    )
    root = brentq(lambda h: left - 0.5 * float((product(h) * move)[0, 0]), 0, 1)
    assert root == pytest.approx(0.306917, abs=1e-6)


def test_unknown_form():
    with pytest.raises(ValueError, match="unknown form 'tight'; choose one of augmented, rescaled, separate"):
        losses.second_order_bound(identity, jnp.ones((1, 2)), jnp.zeros(1, jnp.int32), L2(1.0), form="tight")
