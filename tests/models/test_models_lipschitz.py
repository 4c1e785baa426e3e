"""Descriptions of networks for Lipschitz bounds."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, attacks, curvature, evaluation, losses, models

KEY = jax.random.key(0)
STD = (0.5, 0.25)
NETWORKS = {
    "linear": (models.Linear(3, std=STD), (4, 4, 2)),
    "mlp": (models.MLP(3, (7, 5)), (4, 4, 2)),
    "cnn4": (models.CNN4(3, std=STD), (7, 6, 2)),
    "cnn4 with batch norm": (models.CNN4(3, batch_norm=True), (7, 6, 2)),
    "small_cnn": (models.SmallCNN(3, (4, 6, 5)), (9, 8, 2)),
    "small_cnn with batch norm": (models.SmallCNN(3, (4, 6), batch_norm=True, std=STD), (9, 8, 2)),
    "preact_resnet": (models.PreActResNet(3, (2, 1), width=3, std=STD), (9, 8, 2)),
    "preact_resnet with batch norm": (models.PreActResNet(3, (1, 2), width=3, batch_norm=True), (9, 8, 2)),
    "preact_resnet with final norm": (
        models.PreActResNet(3, (1, 1), width=3, batch_norm=True, final_norm=True),
        (9, 8, 2),
    ),
    "preact_resnet, large": (models.PreActResNet(3, (1, 1), width=3, stem="large"), (19, 16, 2)),
}


def positive_variables(model, shape):
    """Non-negative weights without biases and shifts: on non-negative images no ReLU does anything."""
    generator = np.random.default_rng(0)

    def leaf(path, wanted):
        kind = path[-1].key
        if kind in ("bias", "mean"):
            return jnp.zeros(wanted.shape)
        return jnp.asarray(generator.uniform(0.1, 1, wanted.shape), jnp.float32)

    return jax.tree.map_with_path(leaf, jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape))))


def apply(layers, x):
    """What the descriptions stand for."""
    for layer in layers:
        match layer:
            case curvature.Dense():
                x = x.reshape(len(x), -1) @ layer.kernel
            case curvature.Conv():
                assert layer.input_shape == x.shape[1:3]
                x = jax.lax.conv_general_dilated(
                    x, layer.kernel, layer.strides, layer.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            case curvature.MaxPool():
                window, strides = (1, *layer.window, 1), (1, *layer.strides, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, ((0, 0), *layer.padding, (0, 0)))
            case curvature.AveragePool():
                assert layer.window == x.shape[1:3]
                x = x.mean((1, 2))
            case curvature.Scale():
                x = x * layer.scale
            case curvature.BatchNorm():
                x = x * layer.scale / jnp.sqrt(layer.variance + layer.epsilon)
            case curvature.Residual():
                x = apply(layer.shortcut, x) + apply(layer.branch, x)
    return x


@pytest.mark.parametrize("name", NETWORKS)
def test_description_is_the_network_where_relu_is_the_identity(name):
    model, shape = NETWORKS[name]
    variables = positive_variables(model, shape)
    images = jax.random.uniform(KEY, (2, *shape))
    layers = models.lipschitz_layers(model, variables, shape)
    np.testing.assert_allclose(jax.jit(apply)(layers, images), jax.jit(model.apply)(variables, images), rtol=2e-4)


def test_bound_of_softmax_regression_is_the_norm_of_its_jacobian():
    model = models.Linear(3, std=(0.5, 0.5))
    variables = model.init(KEY, jnp.zeros((1, 2, 2, 2)))
    layers = models.lipschitz_layers(model, variables, (2, 2, 2))
    jacobian = jax.jit(jax.jacrev(lambda x: model.apply(variables, x[None])[0]))(jnp.ones((2, 2, 2))).reshape(3, -1)
    for p in (1, 2, math.inf):
        bound = curvature.lipschitz_upper_bound(layers, p)
        np.testing.assert_allclose(bound, np.linalg.norm(np.asarray(jacobian), p), rtol=1e-4)


@pytest.mark.parametrize("final_norm", [False, True])
def test_slope_of_silu_counts_once_per_activation(final_norm):
    model = models.PreActResNet(3, (2, 1), width=2, batch_norm=True, final_norm=final_norm)
    shape = (6, 6, 1)
    variables = positive_variables(model, shape)
    relu, silu = (models.lipschitz_layers(model.clone(activation=name), variables, shape) for name in ("relu", "silu"))

    def flat(layers):
        parts = ((*flat(layer.shortcut), *flat(layer.branch)) if nested(layer) else (layer,) for layer in layers)
        return [layer for part in parts for layer in part]

    def nested(layer):
        return isinstance(layer, curvature.Residual)

    slopes = [layer.constant for layer in flat(silu) if isinstance(layer, curvature.Elementwise)]
    assert slopes == [curvature.ACTIVATION_CONSTANTS["silu"]] * (2 * 3 + final_norm)
    assert not any(isinstance(layer, curvature.Elementwise) for layer in flat(relu))
    assert len(flat(silu)) == len(flat(relu)) + len(slopes)


@pytest.mark.parametrize("name", ["softplus:10", "gelu"])
def test_slope_of_smooth_activations_of_cnns(name):
    """Softplus is no steeper than ReLU whatever its sharpness; GELU counts once per activation."""
    slope = curvature.ACTIVATION_CONSTANTS[name.split(":")[0]]
    for model, activations in ((models.SmallCNN(3, (2, 3)), 2), (models.CNN4(3), 2), (models.CNN4(3, True), 3)):
        shape = (6, 6, 1)
        variables = positive_variables(model, shape)
        relu, smooth = (
            curvature.lipschitz_upper_bound(models.lipschitz_layers(network, variables, shape), math.inf)
            for network in (model, model.clone(activation=name))
        )
        np.testing.assert_allclose(smooth, relu * slope**activations, rtol=1e-5)


def test_no_slope_exceeds_the_bound():
    model, shape = NETWORKS["small_cnn with batch norm"]
    variables = positive_variables(model, shape)
    images = 3 * jax.random.normal(KEY, (40, *shape))
    logits = np.asarray(jax.jit(model.apply)(variables, images))
    layers = models.lipschitz_layers(model, variables, shape)
    outputs, distances = np.diff(logits, axis=0), np.diff(np.asarray(images).reshape(40, -1), axis=0)
    for p in (1, 2, math.inf):
        slopes = np.linalg.norm(outputs, p, axis=1) / np.linalg.norm(distances, p, axis=1)
        assert 0 < slopes.max() < curvature.lipschitz_upper_bound(layers, p, convolution="fourier")


def test_cnn4_at_initialisation():
    model = models.CNN4(10)
    variables = model.init(KEY, jnp.zeros((1, 28, 28, 1)))
    layers = models.lipschitz_layers(model, variables, (28, 28, 1))
    norms = curvature.layer_norms(layers, 2, convolution="fourier")
    np.testing.assert_allclose(norms, [3.0, 1.4, 0.61, 0.70], rtol=0.12)
    np.testing.assert_allclose(np.prod(np.asarray(norms)), 1.8, rtol=0.15)


@pytest.mark.slow
def test_preact_resnet18_at_initialisation():
    model = models.PreActResNet18(10)
    variables = model.init(KEY, jnp.zeros((1, 32, 32, 3)))
    layers = models.lipschitz_layers(model, variables, (32, 32, 3))
    norms = curvature.layer_norms(layers, 2, key=KEY, tolerance=1e-4)
    assert len(norms) == 11
    assert abs(np.log(np.asarray(norms)).sum() - 6.1) < 0.25
    # The average pool over the 4x4 map that remains of 32x32 images.
    np.testing.assert_allclose(norms[-2], 1 / 4)


@pytest.mark.parametrize(("size", "stem", "window"), [(32, "small", 4), (28, "small", 4), (224, "large", 7)])
def test_window_of_the_average_pool_is_the_published_one(size, stem, window):
    model = models.PreActResNet(2, (1, 1, 1, 1), width=1, stem=stem)
    variables = positive_variables(model, (size, size, 1))
    pool = models.lipschitz_layers(model, variables, (size, size, 1))[-2]
    assert pool.window == (window, window)


def test_errors():
    m5 = models.M5(2)
    with pytest.raises(ValueError, match="no layer-wise Lipschitz bound for M5; there is one for Linear, MLP"):
        models.lipschitz_layers(m5, {}, (8000, 1))
    model = models.SmallCNN(3, activation="parametric_relu")
    variables = positive_variables(model, (6, 6, 1))
    with pytest.raises(ValueError, match="no Lipschitz constant is known for the activation 'parametric_relu'"):
        models.lipschitz_layers(model, variables, (6, 6, 1))
    model = models.CNN4(2)
    variables = positive_variables(model, (6, 6, 1))
    with pytest.raises(ValueError, match="not those of this CNN4"):
        models.lipschitz_layers(model, variables, (6, 6, 3))
    with pytest.raises(ValueError, match="without a population axis"):
        models.lipschitz_layers(model, jax.tree.map(lambda leaf: leaf[None], variables), (6, 6, 1))
    with pytest.raises(ValueError, match="with running statistics"):
        models.lipschitz_layers(model.clone(batch_norm=True), {"params": variables["params"]}, (6, 6, 1))


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
@pytest.mark.slow
def test_no_attack_breaks_what_is_certified(name):
    """Check 7.8-4: margin > sqrt(2) L eps means robust, for every example."""
    model, shape = NETWORKS[name]
    images = np.random.default_rng(3).uniform(size=(100, *shape)).astype(np.float32)
    variables = model.init(KEY, images)
    logits_fn = functools.partial(model.apply, variables)
    logits = np.asarray(logits_fn(images))
    labels = logits.argmax(-1).astype(np.int32)
    labels[::20] = (labels[::20] + 1) % 3  # some are wrong
    bound = curvature.lipschitz_upper_bound(models.lipschitz_layers(model, variables, shape), 2, key=KEY)
    radii = np.asarray(curvature.certified_radius(-losses.margin(jnp.asarray(logits), jnp.asarray(labels)), bound))
    eps = float(np.median(radii))
    certified, clean = radii > eps, radii > 0
    assert 0 < certified.mean() < clean.mean() < 1
    threat = L2(eps)
    for attack in (attacks.multi_targeted_pgd(threat), attacks.pgd(threat)):
        survives = evaluation.correct(logits_fn, images, labels, attack=attack, key=KEY)
        assert not (certified & ~survives).any()
