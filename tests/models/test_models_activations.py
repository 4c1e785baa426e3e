"""Activations: closed forms, what autodiff sees of them, parameters, exchange, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxrobust import losses, models

KEY = jax.random.key(0)
SMOOTH = ("gelu", "gelu_tanh", "silu", "softplus", "softplus:10")
FIXED = ("relu", *SMOOTH)
PARAMETRIC = ("parametric_relu", "parametric_silu", "parametric_softplus")


def derivatives(name, x):
    """The function and its first two derivatives by automatic differentiation."""

    def function(x):
        return models.Activate(name).apply({}, x)

    slope = jax.grad(function)
    curvature = jax.grad(slope)
    return jax.device_get(jax.jit(jax.vmap(lambda x: (function(x), slope(x), curvature(x))))(jnp.asarray(x)))


def closed_form(name, x):
    if name == "relu":
        return np.maximum(x, 0), (x > 0) * 1.0, 0 * x
    if name == "gelu":
        density, share = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), special.ndtr(x)
        return x * share, share + x * density, density * (2 - x**2)
    if name == "silu":
        s = special.expit(x)
        return x * s, s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))
    b = float((name + ":1").split(":")[1])
    s = special.expit(b * x)
    return np.logaddexp(0, b * x) / b, s, b * s * (1 - s)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in FIXED if name != "gelu_tanh"])
def test_function_slope_and_curvature(name):
    x = np.array([-30, -5, -1.3, -0.2, 0.01, 0.4, 2.5, 7, 40])
    for got, expected in zip(derivatives(name, x), closed_form(name, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "order", "x", "value"),
    [
        ("gelu", 2, 0.0, 0.7978846),
        ("gelu", 0, -0.7517916, -0.1699712),
        ("gelu", 1, 2**0.5, 1.1289041),
        ("gelu", 1, -(2**0.5), -0.1289041),
        ("silu", 2, 0.0, 0.5),
        ("silu", 0, -1.2784646, -0.2784645),
        ("silu", 1, 2.3993573, 1.0998393),
        ("softplus:10", 2, 0.0, 2.5),
        ("softplus:10", 0, 0.0, np.log(2) / 10),
    ],
)
def test_extreme_values(name, order, x, value):
    """Of the value, the slope or the curvature: what it is, and that it is an extreme one."""
    near = x + np.linspace(-1e-3, 1e-3, 21)
    values = derivatives(name, near)[order]
    np.testing.assert_allclose(values[10], value, atol=1e-7)
    if (name, order) == ("softplus:10", 0):
        return
    assert values[10] in (values.min(), values.max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SMOOTH)
def test_total_change_of_slope_is_one(name):
    x = np.linspace(-60, 60, 120_001)
    _, slope, curvature = derivatives(name, x)
    np.testing.assert_allclose(np.trapezoid(curvature, x), 1, rtol=1e-6)
    np.testing.assert_allclose([slope[0], slope[-1]], [0, 1], atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_autodiff_does_not_see_the_kink_of_relu():
    x = np.linspace(-60, 60, 1001)  # zero is among them
    _, slope, curvature = derivatives("relu", x)
    assert slope[-1] - slope[0] == 1
    assert (curvature == 0).all()


@pytest.mark.usefixtures("float64")
def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 12_001)
    exact, approximate = derivatives("gelu", x), derivatives("gelu_tanh", x)
    value, slope = (np.abs(exact[order] - approximate[order]) for order in (0, 1))
    np.testing.assert_allclose(value.max(), 4.73e-4, rtol=2e-3)
    np.testing.assert_allclose(abs(x[value.argmax()]), 2.70, atol=0.01)
    np.testing.assert_allclose(slope.max(), 8.7e-4, rtol=1e-2)


@pytest.mark.usefixtures("float64")
def test_softplus_lies_above_relu():
    x = np.linspace(-3, 3, 601)
    for sharpness in (1, 10, 1000):
        gap = derivatives(f"softplus:{sharpness}", x)[0] - np.maximum(x, 0)
        assert (gap >= 0).all()
        np.testing.assert_allclose(gap.max(), np.log(2) / sharpness)


def bias_slopes(name, bias=0.3):
    """Derivatives of ``|f'(x)|`` with respect to the bias of ``f(x) = a(x + bias)``, for x even on (-2, 2)."""
    x = jnp.asarray((np.arange(200_000) + 0.5) / 50_000 - 2)

    def penalty(bias, x):
        return jnp.abs(jax.grad(lambda x: models.Activate(name).apply({}, x + bias))(x))

    return np.asarray(jax.jit(jax.vmap(jax.grad(penalty), (None, 0)))(jnp.asarray(bias, x.dtype), x))


@pytest.mark.usefixtures("float64")
def test_penalty_on_slopes_is_blind_to_the_bias_with_relu():
    """The penalty is (2 + bias) / 4, so its true derivative is 1/4; autodiff gives zero for every example."""
    assert (bias_slopes("relu") == 0).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("softplus:1", 0.1886, None),
        ("softplus:5", 0.2499, 0.382),
        ("softplus:20", 0.2507, 0.878),
        ("softplus:100", 0.2512, 2.026),
        ("gelu", 0.2347, 0.368),
        ("silu", 0.2579, 0.206),
    ],
)
def test_smoothing_trades_blindness_for_variance(name, mean, deviation):
    """The means are of a random sample, so those of sharp functions are not exactly 1/4."""
    slopes = bias_slopes(name)
    np.testing.assert_allclose(slopes.mean(), mean, atol=0.0015)
    ends = closed_form(name, np.array([-1.7, 2.3]))  # where the density ends; the slope keeps its sign for softplus
    if name.startswith("softplus"):
        np.testing.assert_allclose(slopes.mean(), (ends[1][1] - ends[1][0]) / 4, rtol=1e-5)
    if deviation is not None:
        np.testing.assert_allclose(slopes.std(), deviation, rtol=3e-3)
    if name in ("softplus:20", "softplus:100"):
        sharpness = float(name.split(":")[1])
        np.testing.assert_allclose(slopes.std(), np.sqrt(sharpness / 24 - 1 / 16), rtol=1e-4)


def bias_derivatives(activation, target):
    """Derivatives of the squared norm of an input gradient with respect to the biases of the hidden layers."""
    model, images = models.MLP(3, (7, 5), activation), jax.random.uniform(KEY, (6, 2, 2, 1))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    labels = jnp.array([0, 1, 2, 0, 1, 2])

    def value(params, images):
        logits = model.apply({"params": params}, images)
        return logits[:, 1].sum() if target == "logit" else losses.cross_entropy(logits, labels).sum()

    def penalty(params):
        return jnp.square(jax.grad(value, 1)(params, images)).sum()

    gradient = jax.jit(jax.grad(penalty))(params)
    assert any((leaf["linear"]["kernel"] != 0).any() for leaf in gradient.values())
    return np.concatenate([gradient[name]["linear"]["bias"] for name in ("dense_0", "dense_1")])


def test_penalty_on_a_logit_does_not_train_the_biases_of_relu_networks():
    assert (bias_derivatives("relu", "logit") == 0).all()
    assert np.abs(bias_derivatives("relu", "loss")).max() > 1e-6  # by way of the probabilities


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_penalty_on_a_logit_trains_the_biases_of_smooth_networks(activation):
    assert np.abs(bias_derivatives(activation, "logit")).min() > 1e-8


@pytest.mark.parametrize(
    ("name", "twin", "start"),
    [
        ("parametric_silu", "silu", 0.0),
        ("parametric_softplus", "softplus", 0.0),
        ("parametric_relu", None, 0.25),
    ],
)
def test_parametric_activations(name, twin, start):
    x = jnp.linspace(-3, 3, 9)
    layer = models.Activate(name)
    y, variables = layer.init_with_output(KEY, x)
    assert jax.tree.map(float, variables) == {"params": {"shape": start}}
    expected = models.Activate(twin).apply({}, x) if twin else jnp.where(x > 0, x, 0.25 * x)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    slope = jax.grad(lambda variables: layer.apply(variables, x).sum())(variables)["params"]["shape"]
    assert abs(slope) > 0.1
    twice = {"params": {"shape": jnp.log(2.0)}}
    if name == "parametric_silu":
        np.testing.assert_allclose(layer.apply(twice, x), x * special.expit(2 * x), rtol=1e-5)
    if name == "parametric_softplus":
        np.testing.assert_allclose(layer.apply(twice, x), np.logaddexp(0, 2 * x) / 2, rtol=1e-5)


NETWORKS = {
    "mlp": (models.MLP(3, (7, 5)), 2),
    "cnn4": (models.CNN4(3, dense_relu=True), 3),
    "small_cnn": (models.SmallCNN(3, (4, 6)), 2),
    "cnn6": (models.CNN6(3, (2,) * 6), 6),
    "preact_resnet": (models.PreActResNet(3, (1, 1), width=2, batch_norm=True, final_norm=True), 5),
    "wide_resnet": (models.WideResNet(3, depth=10, width=1), 7),
    "resnet": (models.ResNet(3, (1, 1), width=2), 5),
    "bottlenecks": (models.ResNet(3, (1, 1), "bottleneck", width=2), 7),
}


def shapes(model):
    return jax.eval_shape(model.init, KEY, jnp.zeros((1, 8, 8, 2)))


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_take_every_activation(network):
    """The fixed ones with the same variables, the parametric ones with one number more for each layer."""
    model, layers = NETWORKS[network]
    own = shapes(model)
    for name in ("relu", "gelu", "softplus:10"):
        assert shapes(model.clone(activation=name)) == own
    parametric = shapes(model.clone(activation="parametric_silu"))
    assert len(jax.tree.leaves(parametric)) - len(jax.tree.leaves(own)) == layers


def test_exchange_of_the_activation_of_a_network():
    model, images = models.SmallCNN(3, (4, 6)), jax.random.uniform(KEY, (4, 8, 8, 2))
    variables = model.init(jax.random.key(1), images)
    logits = model.apply(variables, images)
    swapped = model.clone(activation="gelu").apply(variables, images)
    assert np.abs(swapped - logits).max() > 1e-3
    sharp = model.clone(activation="softplus:10000").apply(variables, images)
    np.testing.assert_allclose(sharp, logits, atol=1e-3)


@pytest.mark.parametrize("name", [*FIXED, *PARAMETRIC])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays(name, dtype):
    x = jnp.array([-1.0, 0.5], dtype)
    y, variables = models.Activate(name).init_with_output(KEY, x)
    assert y.dtype == dtype
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swish", "unknown activation 'swish'; choose relu, gelu, gelu_tanh, silu, softplus, .*parametric_softplus"),
        ("relu:2", "unknown activation 'relu:2'"),
        ("softplus:0", "sharpness of softplus must be a positive number, as in softplus:10, got 'softplus:0'"),
        ("softplus:-1", "must be a positive number"),
        ("softplus:inf", "must be a positive number"),
        ("softplus:nan", "must be a positive number"),
        ("softplus:", "must be a positive number"),
        ("softplus:ten", "must be a positive number"),
    ],
)
def test_errors(name, message):
    with pytest.raises(ValueError, match=message):
        models.Activate(name).apply({}, jnp.zeros(2))


def test_names():
    names = models.activation_names()
    assert {"relu", "gelu", "gelu_tanh", "silu", "softplus", *PARAMETRIC} < set(names)
    for name in names:
        models.Activate(name.replace("SHARPNESS", "10")).init(KEY, jnp.zeros(2))
