"""Penalties on the norm of the input gradient (gradient-norm study, 7.1, 7.2 and 7.4)."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _input_derivatives import (
    CLASSES,
    SHAPE,
    examples,
    explicit_derivatives,
    identity,
    network,
    parameters,
)

from jaxrobust import L1, L2, Linf, attacks, losses
from jaxrobust.curvature import input_gradient, input_hvp

THREATS = {"Linf": Linf, "L2": L2, "L1": L1}


def classifier(dtype=np.float64, size=3, activation=jax.nn.silu):
    return (functools.partial(network, parameters(dtype=dtype), activation=activation), *examples(0, size, dtype=dtype))


def gradients_of(logits_fn, images, labels):
    loss_of = lambda flat, label: losses.cross_entropy(logits_fn(flat[None]), label[None])[0]  # noqa: E731
    return explicit_derivatives(loss_of, images, labels)[0]


def test_weights_radius_and_norm(float64):
    """Eq. (4.1), 7.1.3 and 7.1.12: the dual norm, and the published weights as a radius of 1.5 eps."""
    logits_fn, images, labels = classifier()
    g, plain = gradients_of(logits_fn, images, labels), losses.cross_entropy(logits_fn(images), labels)
    norms = {"Linf": np.abs(g).sum(1), "L2": np.linalg.norm(g, axis=1), "L1": np.abs(g).max(1)}

    @jax.jit
    def values(eps):
        run = functools.partial(losses.gradient_norm, logits_fn, images, labels)
        weighted = {name: run(make(eps), loss_weight=0.8, penalty_weight=1.2) for name, make in THREATS.items()}
        return weighted, run(Linf(1.5 * eps)), run(Linf(eps), penalty_weight=0.0), run(Linf(eps), loss_weight=0.0)

    weighted, larger, loss_alone, penalty_alone = values(0.1)
    for name, norm in norms.items():
        np.testing.assert_allclose(weighted[name], 0.8 * plain + 1.2 * 0.1 * norm, rtol=1e-10)
    np.testing.assert_allclose(weighted["Linf"] / 0.8, larger, rtol=1e-12)
    np.testing.assert_allclose(loss_alone, plain, rtol=1e-12)
    np.testing.assert_allclose(penalty_alone, 0.1 * norms["Linf"], rtol=1e-10)


def test_copies_of_an_example_and_the_mean(float64):
    """7.1.1: norms are those of single examples, whatever the size of the batch."""
    logits_fn, images, labels = classifier()
    run = jax.jit(lambda images, labels: losses.gradient_norm(logits_fn, images, labels, Linf(0.1), loss_weight=0.0))
    value = run(images, labels)
    np.testing.assert_allclose(run(jnp.repeat(images, 4, 0), jnp.repeat(labels, 4)), np.repeat(value, 4), rtol=1e-12)
    of_mean = jax.jit(jax.grad(lambda x: losses.cross_entropy(logits_fn(x), labels).mean()))(images)
    np.testing.assert_allclose(3 * 0.1 * jnp.abs(of_mean).sum((1, 2, 3)), value, rtol=1e-12)


def test_units_of_normalised_images(float64):
    """7.1.2: the text's gradient is that by the normalised image, its radius ``eps / 0.225``."""
    rng = np.random.default_rng(0)
    std, mean = jnp.asarray([0.229, 0.224, 0.225]), jnp.asarray([0.485, 0.456, 0.406])
    params = parameters(0, (7,), 12, CLASSES)
    images, labels = jnp.asarray(rng.uniform(size=(3, 2, 2, 3))), jnp.asarray([0, 1, 2])
    of_normalised = functools.partial(network, params)
    of_pixels = lambda images: of_normalised((images - mean) / std)  # noqa: E731

    @jax.jit
    def values():
        penalty = functools.partial(losses.gradient_norm, loss_weight=0.0)
        published = penalty(of_pixels, images, labels, Linf(4 / 255), scale=std / 0.225)
        literal = penalty(of_normalised, (images - mean) / std, labels, Linf(4 / 255 / 0.225))
        channels = input_gradient(losses.cross_entropy, of_normalised, (images - mean) / std, labels)
        exact = 4 / 255 * (jnp.abs(channels).sum((1, 2)) / std).sum(-1)
        return published, literal, penalty(of_pixels, images, labels, Linf(4 / 255)), exact

    published, literal, default, exact = values()
    np.testing.assert_allclose(published, literal, rtol=1e-10)
    np.testing.assert_allclose(default, exact, rtol=1e-10)
    np.testing.assert_allclose(4 / 255 / 0.225, 0.0697167756, rtol=1e-9)
    assert np.abs(published / default - 1).max() < 0.018
    assert np.abs(published / default - 1).max() > 1e-4


def test_finite_differences_converge_to_the_norm(float64):
    """7.1.4: with a slope of ``u.H u / 2``; ``u`` is the steepest step of any norm."""
    logits_fn, images, labels = classifier(activation=jax.nn.silu)
    steps = (1e-2, 1e-3, 1e-4)
    for make in THREATS.values():
        threat = make(1.0)

        @jax.jit
        def run(threat=threat):
            penalty = functools.partial(losses.input_gradient_penalty, logits_fn, images, labels, threat)
            direction = threat.steepest(input_gradient(losses.cross_entropy, logits_fn, images, labels))
            curved = (direction * input_hvp(losses.cross_entropy, logits_fn, images, labels, direction)).sum((1, 2, 3))
            return penalty(), [penalty(method="finite_difference", step=step) for step in steps], curved / 2

        exact, differences, slope = run()
        for step, difference in zip(steps, differences, strict=True):
            np.testing.assert_allclose((difference - exact) / step, slope, atol=0.5 * step / 1e-2)


def test_sign_jvp_identity(float64):
    """7.1.5: the penalty's gradient is that of a directional derivative along the sign."""
    params, (images, labels) = parameters(), examples()

    @jax.jit
    def gradients(params):
        logits_fn = functools.partial(network, params, activation=jax.nn.gelu)
        sign = jnp.sign(input_gradient(losses.cross_entropy, logits_fn, images, labels))

        def along_sign(params):
            value = lambda x: losses.cross_entropy(network(params, x, jax.nn.gelu), labels).sum()  # noqa: E731
            return jax.jvp(value, (images,), (sign,))[1]

        def penalty(params):
            logits_fn = functools.partial(network, params, activation=jax.nn.gelu)
            return losses.input_gradient_penalty(logits_fn, images, labels, Linf(1.0)).sum()

        return jax.grad(penalty)(params), jax.grad(along_sign)(params)

    found, expected = gradients(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), found, expected)


@jax.jit
def _penalty_gradients(params, images, labels):
    def total(params, form):
        logits_fn = functools.partial(network, params)
        if form in THREATS:
            return losses.gradient_norm(logits_fn, images, labels, THREATS[form](1.0), loss_weight=0.0).sum()
        gradient = input_gradient(losses.cross_entropy, logits_fn, images, labels)
        return jnp.abs(gradient).sum() if form == "abs" else jnp.sqrt((gradient**2).sum((1, 2, 3))).sum()

    return {form: jax.grad(total)(params, form) for form in (*THREATS, "abs", "norm")}


def test_zero_gradients(float64):
    """7.1.6: with a dead first layer the penalty's gradient is exactly zero, and not what ``abs`` or a plain norm give."""
    params, (images, labels) = parameters(), examples()
    params[0] = (0 * params[0][0], params[0][1])
    gradients = jax.tree.map(np.asarray, _penalty_gradients(params, images, labels))
    for form in THREATS:
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradients[form]))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients["abs"])) > 0.1
    assert np.isnan(gradients["norm"][0][0]).any()


def logistic(weights):
    """Two classes with logits ``w.x`` and 0."""
    return lambda images: jnp.stack([identity(images) @ weights, 0 * identity(images)[:, 0]], 1)


def test_binary_logistic(float64):
    """7.1.7: between the first-order value and the worst case lies at most ``eps^2 ||w||^2 / 8``."""
    rng, eps = np.random.default_rng(0), 0.3
    weights, images = jnp.asarray(rng.normal(size=6)), jnp.asarray(rng.normal(size=(50, 6)))
    labels, threats = jnp.zeros(50, jnp.int32), [make(eps) for make in THREATS.values()]
    run = jax.jit(lambda: [losses.gradient_norm(logistic(weights), images, labels, threat) for threat in threats])
    for threat, found in zip(threats, map(np.asarray, run()), strict=True):
        norm, margin = float(threat.dual_norm(weights[None])[0]), np.asarray(images @ weights)
        np.testing.assert_allclose(found, np.logaddexp(0, -margin) + eps * norm / (1 + np.exp(margin)), rtol=1e-10)
        worst = np.logaddexp(0, -(margin - eps * norm))
        assert (found <= worst + 1e-12).all()
        assert (worst <= found + eps**2 * norm**2 / 8 + 1e-12).all()


def test_softmax_of_a_linear_network(float64):
    """7.1.8: the gradient is ``W (p - q)``: soft labels alone make a zero reachable; and the loss is convex."""
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(6, CLASSES)))
    images, labels, threat = jnp.asarray(rng.uniform(size=(3, 6))), jnp.asarray([0, 1, 2]), Linf(0.2, bounds=None)
    linear = lambda images: images @ weights  # noqa: E731
    p = jax.nn.softmax(linear(images))

    @jax.jit
    def penalty(labels):
        return losses.gradient_norm(linear, images, labels, threat, loss_weight=0.0)

    soft = losses.smooth_labels(labels, CLASSES, 0.2, jnp.float64)
    np.testing.assert_allclose(penalty(soft), 0.2 * jnp.abs((p - soft) @ weights.T).sum(1), rtol=1e-10)
    np.testing.assert_allclose(penalty(p), 0, atol=1e-12)
    np.testing.assert_allclose(penalty(jax.nn.one_hot(labels, CLASSES)), penalty(labels), rtol=1e-12)
    corners = 0.2 * np.array(list(itertools.product([-1, 1], repeat=6)))
    worst = jnp.stack([losses.cross_entropy(linear(images + corner), labels) for corner in corners]).max(0)
    assert (worst >= losses.cross_entropy(linear(images), labels) + penalty(labels)).all()


@pytest.mark.slow
def test_certificate_of_two_classes(float64, key):
    """7.1.9: FGSM, PGD and the certificate agree; for more classes see ``test_pgd.py``."""
    rng, eps = np.random.default_rng(0), 0.1
    weights, images = jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.normal(size=(100, 6)))
    linear, threat = lambda images: images @ weights, Linf(eps, bounds=None)
    logits = linear(images)
    labels = logits.argmax(-1)
    certified = logits.max(1) - logits.min(1) > eps * jnp.abs(weights[:, 0] - weights[:, 1]).sum()
    assert 20 < int(certified.sum()) < 80
    for attack in (attacks.fgsm(threat), attacks.pgd(threat, steps=5)):
        survived = linear(attack(key, linear, images, labels)).argmax(-1) == labels
        np.testing.assert_array_equal(survived, certified)


def test_scaled_logits_change_the_penalty(float64):
    """7.1.10 and 7.1.8: sure networks have a small penalty for nothing."""
    params, (images, _) = parameters(), examples()
    labels = network(params, images).argmax(-1)

    @jax.jit
    def penalty(factor):
        logits_fn = lambda images: factor * network(params, images)  # noqa: E731
        return losses.gradient_norm(logits_fn, images, labels, Linf(1.0), loss_weight=0.0)

    assert (penalty(1e3) < 1e-3 * penalty(1.0)).all()
    assert (penalty(2.0) != penalty(1.0)).all()


def test_input_gradient_penalty(float64):
    """The norm and its square, of the loss's gradient and of the logits' together."""
    logits_fn, images, labels = classifier()
    gradient = jnp.asarray(gradients_of(logits_fn, images, labels))
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda image: logits_fn(image[None])[0])))(images).reshape(3 * CLASSES, -1)
    threats = [make(0.1) for make in THREATS.values()]

    @jax.jit
    def values():
        run = functools.partial(losses.input_gradient_penalty, logits_fn, images, labels)
        return [[(run(t, power=p), run(t, power=p, target="logits")) for p in (1, 2)] for t in threats]

    for threat, powers in zip(threats, values(), strict=True):
        by_loss, by_logits = threat.dual_norm(gradient), threat.dual_norm(jacobian).reshape(3, CLASSES)
        for power, (of_loss, of_logits) in zip((1, 2), powers, strict=True):
            np.testing.assert_allclose(of_loss, np.asarray(by_loss) ** power, rtol=1e-10)
            np.testing.assert_allclose(of_logits, np.linalg.norm(by_logits, axis=1) ** power, rtol=1e-10)


def test_finlay_and_oberman(float64):
    """The docstring's recipe for their l-infinity penalty with Euclidean step ``h``."""
    logits_fn, images, labels = classifier()
    features, h = int(np.prod(SHAPE)), 0.05

    @jax.jit
    def run():
        move = h / features**0.5 * jnp.sign(input_gradient(losses.cross_entropy, logits_fn, images, labels))
        plain, moved = (losses.cross_entropy(logits_fn(x), labels) for x in (images, images + move))
        found = losses.input_gradient_penalty(
            logits_fn, images, labels, Linf(1.0), method="finite_difference", power=2, step=h / features**0.5
        )
        return found / features, ((moved - plain) / h) ** 2

    np.testing.assert_allclose(*run(), rtol=1e-10)


def test_relu_biases_are_blind(float64):
    """7.2.14: kinks move with the biases, which the derivative of a logit's gradient does not see; through the softmax
    that of the loss sees them."""
    params, (images, labels) = parameters(0, (7, 5)), examples()

    @functools.partial(jax.jit, static_argnames=("activation", "target"))
    def by_biases(activation, target):
        def total(biases):
            moved = [(weights, b) for (weights, _), b in zip(params, biases, strict=True)]
            logits_fn = functools.partial(network, moved, activation=activation)
            return losses.input_gradient_penalty(logits_fn, images, labels, L2(1.0), target=target).sum()

        return jax.grad(total)([biases for _, biases in params])

    size = lambda tree: max(float(jnp.abs(leaf).max()) for leaf in tree)  # noqa: E731
    assert size(by_biases(jax.nn.relu, "logits")) == 0
    assert size(by_biases(jax.nn.gelu, "logits")) > 1e-3
    assert size(by_biases(jax.nn.relu, "loss")) > 1e-3


@pytest.mark.parametrize(
    "name",
    ["relu", "softplus5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("softplus20", "gelu", "silu"))],
)
def test_blind_bias_in_one_dimension(float64, name):
    """7.2.13: ``d/db E|f'(x)|`` for ``f = a(x + b)`` and uniform x is 0.25 for ReLU, and zero for its autodiff."""
    mean, deviation = {
        "relu": (0.0, 0.0),
        "softplus5": (0.2499, 0.382),
        "softplus20": (0.2507, 0.878),
        "gelu": (0.2347, 0.368),
        "silu": (0.2579, 0.206),
    }[name]
    activation = {
        "relu": jax.nn.relu,
        "softplus5": lambda x: jax.nn.softplus(5 * x) / 5,
        "softplus20": lambda x: jax.nn.softplus(20 * x) / 20,
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "silu": jax.nn.silu,
    }[name]
    images, labels = jnp.linspace(-2, 2, 20_001)[:, None], jnp.zeros(20_001, jnp.int32)

    @jax.jit
    def derivatives(bias):
        def values(bias):
            return losses.input_gradient_penalty(
                lambda x: activation(x + bias), images, labels, Linf(1.0), target="logits"
            )

        return jax.jvp(values, (bias,), (1.0,))[1]

    found = np.asarray(derivatives(0.3))
    np.testing.assert_allclose([found.mean(), found.std()], [mean, deviation], atol=3e-3)


def flops(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_documented_cost(key):
    """7.4.27 and 7.4.28: gradient norm is twice natural training, adversarial training with 3 steps three times."""
    params = parameters(0, (256,) * 5, 256, 256, dtype=np.float32)
    images, labels = examples(0, 256, (256,), 256, dtype=np.float32)

    def gradient(objective):
        return jax.grad(lambda params: objective(functools.partial(network, params, activation=jax.nn.gelu)).mean())

    def attacked(logits_fn):
        points = images
        fixed = functools.partial(network, jax.lax.stop_gradient(logits_fn.args[0]), activation=jax.nn.gelu)
        for _ in range(3):
            points = points + 0.01 * jnp.sign(input_gradient(losses.cross_entropy, fixed, points, labels))
        return losses.cross_entropy(logits_fn(jax.lax.stop_gradient(points)), labels)

    natural = flops(gradient(lambda logits_fn: losses.cross_entropy(logits_fn(images), labels)), params)
    penalised = flops(gradient(lambda logits_fn: losses.gradient_norm(logits_fn, images, labels, Linf(0.1))), params)
    assert 1.8 < penalised / natural < 2.3
    assert 2.9 < flops(gradient(attacked), params) / natural < 3.4


def test_errors():
    images, labels = examples(dtype=np.float32)
    run = functools.partial(losses.input_gradient_penalty, identity, images, labels, Linf(0.1))
    with pytest.raises(ValueError, match="unknown target 'logit'; choose one of loss, logits"):
        run(target="logit")
    with pytest.raises(ValueError, match="unknown method 'fd'; choose one of double_backprop, finite_difference"):
        run(method="fd")
    with pytest.raises(ValueError, match="unknown power 3; choose one of 1, 2"):
        run(power=3)
    with pytest.raises(ValueError, match="step must be above 0, got 0"):
        run(step=0)
    with pytest.raises(ValueError, match="finite differences are of the loss"):
        run(target="logits", method="finite_difference")
