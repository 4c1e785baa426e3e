"""CURE and LLR, and what all losses of input derivatives have to satisfy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _input_derivatives import examples, identity, network, parameters, quadratic, squared, tree_dot

from jaxrobust import L1, L2, Linf, losses
from jaxrobust.curvature import input_gradient
from jaxrobust.losses._llr import llr_terms


def test_cure_is_the_definition(float64):
    params, (images, labels) = parameters(), examples()
    logits_fn = functools.partial(network, params)

    @jax.jit
    def run():
        gradient = input_gradient(losses.cross_entropy, logits_fn, images, labels)
        moved = images + 0.7 * jnp.sign(gradient) / np.sqrt(6)
        difference = input_gradient(losses.cross_entropy, logits_fn, moved, labels) - gradient
        expected = losses.cross_entropy(logits_fn(images), labels) + 2.5 * (difference**2).sum((1, 2, 3))
        return losses.cure(logits_fn, images, labels, step=0.7, weight=2.5), expected

    np.testing.assert_allclose(*run(), rtol=1e-10)


def test_cure_of_a_quadratic_loss(float64):
    """``||h A v||^2``; pixels without a gradient do not move, and do not shorten the step."""
    rng = np.random.default_rng(0)
    hessian = rng.normal(size=(4, 4))
    hessian, gradient = jnp.asarray(hessian + hessian.T), jnp.asarray([3.0, -2.0, 0.0, 1.0])
    loss, origin = quadratic(gradient, hessian), jnp.zeros((1, 4))
    direction = np.sign(gradient) / np.sqrt(3)
    run = jax.jit(lambda loss: losses.cure(identity, origin, jnp.zeros(1), loss=loss), static_argnums=0)
    np.testing.assert_allclose(run(loss), [4 * np.sum((1.5 * np.asarray(hessian) @ direction) ** 2)], rtol=1e-12)
    assert run(quadratic(0 * gradient, hessian)).tolist() == [0.0]


def test_llr_is_the_definition(float64, key):
    params, (images, labels) = parameters(), examples()
    threat = Linf(0.3)
    parts = jax.jit(
        lambda **weights: losses.llr(key, functools.partial(network, params), images, labels, threat, **weights)
    )
    plain = losses.cross_entropy(network(params, images), labels)
    bend = parts(linearity_weight=1.0, gradient_weight=0.0) - plain
    slope = parts(linearity_weight=0.0, gradient_weight=1.0) - plain
    np.testing.assert_allclose(parts(), plain + 4 * bend + 3 * slope, rtol=1e-10)
    # The search finds local maxima: more than random perturbations have, not the most.
    logits_fn = functools.partial(network, params)
    gradient = jax.jit(functools.partial(input_gradient, losses.cross_entropy, logits_fn))(images, labels)
    assert (slope <= 0.3 * threat.dual_norm(gradient) + 1e-12).all()

    @jax.jit
    @jax.vmap
    def violations(key):
        move = threat.sample(key, images)
        change = losses.cross_entropy(logits_fn(images + move), labels) - plain
        return jnp.abs(change - (move * gradient).sum((1, 2, 3)))

    random = violations(jax.random.split(key, 500))
    assert (bend > np.median(random, 0)).all()


@pytest.mark.parametrize("threat", [Linf(0.3, bounds=None), L2(0.5, bounds=None)], ids=["Linf", "L2"])
def test_llr_of_a_squared_loss(float64, key, threat):
    """The violation is ``(w.d)^2 / 2``, largest at ``|w.d| = eps ||w||_q``, and the slope ``|r w.d|``."""
    rng = np.random.default_rng(0)
    weights, images, targets = (jnp.asarray(rng.normal(size=shape)) for shape in ((6, 1), (3, 6), (3,)))
    linear = lambda images: images @ weights  # noqa: E731
    residual, norm = linear(images)[:, 0] - targets, threat.dual_norm(weights.T)[0] * threat.eps
    options = {"linearity_weight": 2.0, "gradient_weight": 5.0, "steps": 10, "step_size": 5.0, "loss": squared}
    found = jax.jit(lambda: losses.llr(key, linear, images, targets, threat, **options))()
    np.testing.assert_allclose(found, residual**2 / 2 + norm**2 + 5 * jnp.abs(residual) * norm, rtol=1e-6)


def test_llr_is_that_of_each_example(float64, key):
    """With its own key, and its own radius."""
    params, (images, labels) = parameters(), examples()
    eps, keys = jnp.asarray([0.0, 0.1, 0.3]), jax.random.split(key, 3)
    run = jax.jit(lambda *row: losses.llr(row[0], functools.partial(network, params), *row[1:3], Linf(row[3])))
    whole = run(keys, images, labels, eps)
    reverse = run(keys[::-1], images[::-1], labels[::-1], eps[::-1])
    np.testing.assert_allclose(reverse, whole[::-1], rtol=1e-12)
    same = run(keys, images, labels, jnp.full(3, 0.3))
    assert float(whole[2]) == pytest.approx(float(same[2]))
    np.testing.assert_allclose(whole[0], losses.cross_entropy(network(params, images), labels)[0], rtol=1e-12)


def test_llr_where_all_is_linear(key):
    weights, images = jnp.arange(6.0)[:, None], jnp.full((2, 6), 0.5)
    linear = lambda images: jnp.concatenate([images @ weights, 0 * images[:, :1]], 1)  # noqa: E731
    loss = lambda logits, labels: logits[:, 0]  # noqa: E731
    labels, threat = jnp.zeros(2, jnp.int32), Linf(0.1)
    found = jax.jit(lambda: losses.llr(key, linear, images, labels, threat, loss=loss, gradient_weight=0.0))()
    np.testing.assert_allclose(found, 7.5, rtol=1e-5)


def test_errors(key):
    images, labels = examples(dtype=np.float32)
    with pytest.raises(ValueError, match="step must be above 0, got 0"):
        losses.cure(identity, images, labels, step=0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        losses.llr(key, identity, images, labels, Linf(0.1), steps=0)
    with pytest.raises(ValueError, match="step_size must be above 0, got -1"):
        losses.llr(key, identity, images, labels, Linf(0.1), step_size=-1)


KEY = 3  # fixed, so that a loss is a function of the parameters alone


def _soar(product, threat):
    # Without the clip, whose gradient is zero; the point is zero so that the values are smooth.
    return lambda f, x, y: losses.soar(jax.random.key(KEY), f, x, y, threat, point="zero", product=product, clip=None)


def _penalty(threat, **options):
    return lambda f, x, y: losses.input_gradient_penalty(f, x, y, threat, **options)


ALL = {
    "foar": lambda f, x, y: losses.foar(jax.random.key(KEY), f, x, y, Linf(0.05), point="rand"),
    "soar_finite_difference": _soar("finite_difference", Linf(0.05)),
    "soar_exact": _soar("exact", Linf(0.05)),
    "soar_exact_L2": _soar("exact", L2(0.1)),
    "gradient_norm_Linf": lambda f, x, y: losses.gradient_norm(f, x, y, Linf(0.1)),
    "gradient_norm_L2": lambda f, x, y: losses.gradient_norm(f, x, y, L2(0.1)),
    "gradient_norm_L1": lambda f, x, y: losses.gradient_norm(f, x, y, L1(0.1)),
    "penalty_loss": _penalty(Linf(0.1)),
    "penalty_loss_squared": _penalty(L2(0.1), power=2),
    "penalty_logits": _penalty(L2(0.1), target="logits"),
    "penalty_logits_squared": _penalty(L2(0.1), target="logits", power=2),
    "penalty_finite_difference": _penalty(Linf(0.1), method="finite_difference", power=2),
    "cure": lambda f, x, y: losses.cure(f, x, y, step=0.5),
    "llr": lambda f, x, y: losses.llr(jax.random.key(KEY), f, x, y, Linf(0.1), steps=2),
    "edge_alignment": lambda f, x, y: losses.edge_alignment(
        jax.random.key(KEY), f, x, y, jnp.ones(x.shape[:3]) * x[..., 0]
    ),
}
# Variants of others; those of the smooth directions that the default tests differentiate stay in them.
RARE = ("soar_exact_L2", "penalty_loss", "penalty_loss_squared", "penalty_logits_squared", "penalty_finite_difference")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in RARE else []) for name in ALL]


@functools.partial(jax.jit, static_argnames="name")
def _value_and_gradient(params, images, labels, name):
    def mean(params):
        values = ALL[name](functools.partial(network, params), images, labels)
        return values.mean(), values

    (_, values), gradient = jax.value_and_grad(mean, has_aux=True)(params)
    return values, gradient


@pytest.mark.parametrize("name", [case for case in NAMES if case.values[0] != "llr"])
def test_parameter_gradient_against_central_differences(float64, name):
    """SOAR 7.4.10, for every loss: the gradient runs through the input gradient and through all else."""
    params, (images, labels), h = parameters(), examples(), 1e-6
    direction = parameters(9)
    up, down = (
        _value_and_gradient(jax.tree.map(lambda a, b, step=step: a + step * b, params, direction), images, labels, name)
        for step in (h, -h)
    )
    values, gradient = _value_and_gradient(params, images, labels, name)
    assert values.shape == (3,)
    slope = tree_dot(gradient, direction)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, np.mean(up[0] - down[0]) / (2 * h), rtol=1e-6)


def test_parameter_gradient_of_llr(float64, key):
    """Where the perturbation is held fixed, as the search's result is."""
    params, (images, labels), h = parameters(), examples(), 1e-6
    direction, threat = parameters(9), Linf(0.1)
    options = {"linearity_weight": 4.0, "gradient_weight": 3.0, "loss": losses.cross_entropy}

    @jax.jit
    def moved_values(params):
        logits_fn = functools.partial(network, params)
        gradient = jax.grad(
            lambda p: llr_terms(
                key, functools.partial(network, p), images, labels, threat, steps=1, step_size=1e-12, **options
            ).total.mean()
        )(params)
        move = threat.sample(key, images)  # one step of no length: the random start
        slope = (move * input_gradient(losses.cross_entropy, logits_fn, images, labels)).sum((1, 2, 3))
        before, after = (losses.cross_entropy(logits_fn(x), labels) for x in (images, images + move))
        return (before + 4 * jnp.abs(after - before - slope) + 3 * jnp.abs(slope)).mean(), gradient

    up, down = (
        moved_values(jax.tree.map(lambda a, b, step=step: a + step * b, params, direction))[0] for step in (h, -h)
    )
    slope = tree_dot(moved_values(params)[1], direction)
    np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-6)


def _degenerate(name):
    """Parameters and an image where derivatives have a habit of being not a number."""
    params, (image, label) = parameters(dtype=np.float32), examples(0, 1, dtype=np.float32)
    first, last = params
    dead = lambda layer: (0 * layer[0], layer[1])  # noqa: E731
    return {
        "last layer zero": ([first, dead(last)], image),
        "first layer zero": ([dead(first), last], image),
        "saturated": ([first, (1e4 * last[0], last[1])], image),
        "saturated half way": ([first, (60 * last[0], last[1])], image),
        "constant image": (params, jnp.full_like(image, 0.5)),
        "black": (params, jnp.zeros_like(image)),
        "one pixel": (params, jnp.zeros_like(image).at[0, 1, 1].set(1)),
    }, label


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_networks_and_images(name):
    """One example a batch: values and gradients stay finite."""
    cases, label = _degenerate(name)
    for case, (params, image) in cases.items():
        for labels in (label, network(params, image).argmax(-1).astype(jnp.int32)):
            values, gradient = _value_and_gradient(params, image, labels, name)
            assert all(np.isfinite(leaf).all() for leaf in (values, *jax.tree.leaves(gradient))), case
            assert values.shape == (1,)
