"""Initialisation, normalisation of the input and batch norm."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models
from jaxrobust.models import _layers

KEY = jax.random.key(0)


def assert_uniform(values, bound):
    """Within the bound, close to it, with the variance of a uniform distribution (six standard errors)."""
    values = np.asarray(values).ravel()
    assert np.abs(values).max() <= bound
    assert len(set(values)) > 0.9 * len(values)
    if len(values) > 50:
        assert np.abs(values).max() > 0.9 * bound
        np.testing.assert_allclose(values.var(), bound**2 / 3, rtol=6 * math.sqrt(0.8 / len(values)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.MLP(60, (80,)), (4, 4, 3)),
        (models.CNN4(60), (6, 6, 3)),
        (models.PreActResNet(60, (1,), width=8), (4, 4, 3)),
        (models.M5(60, features=(52, 8, 8, 52)), (1024, 1)),
        (models.ViT(60, patch_size=4, width=64, depth=1, heads=4, mlp_width=80), (8, 8, 3)),
    ],
    ids=["mlp", "cnn4", "preact_resnet", "m5", "vit"],
)
def test_kernels_and_biases_are_as_in_pytorch(model, shape):
    flat = jax.tree.leaves_with_path(jax.jit(model.init)(KEY, jnp.zeros((1, *shape)))["params"])
    params = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    kernels = {name: leaf for name, leaf in params.items() if name.endswith("kernel")}
    assert len(kernels) >= 2
    for name, kernel in kernels.items():
        inputs_only_first = name.endswith(("query/kernel", "key/kernel", "value/kernel"))
        fan_in = kernel.shape[0] if inputs_only_first else math.prod(kernel.shape[:-1])
        assert_uniform(kernel, 1 / math.sqrt(fan_in))
        bias = name.removesuffix("kernel") + "bias"
        if bias in params:
            assert_uniform(params[bias], 1 / math.sqrt(fan_in))


@pytest.mark.parametrize("initializer", ["he", "zeros"])
def test_other_initialisers_of_convolutions_have_biases_of_zero(initializer):
    conv = _layers.Conv(4, (3, 3), initializer=initializer)
    params = conv.init(KEY, jnp.zeros((1, 4, 4, 2)))["params"]["conv"]
    assert (params["bias"] == 0).all()
    assert (params["kernel"] == 0).all() == (initializer == "zeros")


def test_initialiser_pair():
    kernel, bias = models.torch_default_init(25)
    assert_uniform(kernel(KEY, (25, 40), jnp.float32), 0.2)
    assert_uniform(bias(KEY, (400,), jnp.float32), 0.2)
    with pytest.raises(ValueError, match="unknown initializer 'uniform'; choose torch, zeros"):
        models.Linear(2, initializer="uniform").init(KEY, jnp.zeros((1, 2, 2, 1)))
    with pytest.raises(ValueError, match="the images are too small for this network"):
        jax.eval_shape(models.CNN4(2).init, KEY, jnp.zeros((1, 1, 28, 28)))


def test_normalize():
    images = jax.random.uniform(KEY, (2, 3, 3, 2))
    normalized = models.Normalize((0.1, 0.2), (0.5, 2.0)).apply({}, images)
    np.testing.assert_allclose(normalized[..., 1], (images[..., 1] - 0.2) / 2, rtol=1e-6)
    np.testing.assert_allclose(normalized[..., 0], (images[..., 0] - 0.1) * 2, rtol=1e-6)
    assert (models.Normalize().apply({}, images) == images).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mean": (0.5,)}, ValueError, "mean has 1 values but the images have 3 channels"),
        ({"std": (0.5, 0.5)}, ValueError, "std has 2 values"),
        ({"std": (0.5, 0.0, 0.5)}, ValueError, "std must be positive"),
    ],
)
def test_normalize_errors(options, error, message):
    with pytest.raises(error, match=message):
        models.Linear(2, **options).init(KEY, jnp.zeros((1, 2, 2, 3)))


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="divide 8-bit images by 255"):
        models.Linear(2).init(KEY, jnp.zeros((1, 2, 2, 3), jnp.uint8))


def test_normal_initialiser():
    kernel = _layers.he_init(50)(KEY, (5, 10, 400), jnp.float32)
    scores = np.asarray(kernel).ravel() / 0.2
    errors = 1 / math.sqrt(len(scores))
    assert abs(scores.mean()) < 5 * errors
    assert abs(scores.var() - 1) < 5 * math.sqrt(2) * errors
    assert abs((np.abs(scores) < 1.959964).mean() - 0.95) < 5 * 0.22 * errors
    conv = _layers.Conv(100, (3, 3), padding=1, use_bias=False, initializer="he")
    variance = np.var(conv.init(KEY, jnp.zeros((1, 4, 4, 20)))["params"]["conv"]["kernel"])
    np.testing.assert_allclose(variance, 2 / (9 * 100), rtol=6 * math.sqrt(2 / (9 * 20 * 100)))


@pytest.mark.parametrize(("size", "zeros"), [(6, (0, 1)), (7, (1, 1))])
def test_padding_of_strided_convolutions(size, zeros):
    """An even side gets its zeros at the end, an odd one on both sides: half the side, rounded up, remains."""
    x = jax.random.normal(KEY, (2, size, size, 3))
    conv = _layers.Conv(4, (3, 3), 2, "SAME", use_bias=False)
    y, variables = conv.init_with_output(KEY, x)
    assert y.shape == (2, -(-size // 2), -(-size // 2), 4)
    padded = np.pad(x, ((0, 0), zeros, zeros, (0, 0)))
    kernel = np.asarray(variables["params"]["conv"]["kernel"])
    for row, column in ((0, 0), (1, 2), (y.shape[1] - 1, y.shape[2] - 1)):
        window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected = np.tensordot(window, kernel, 3)
        np.testing.assert_allclose(y[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_dropout():
    x = jax.random.uniform(KEY, (10, 4, 4, 20), minval=1.0, maxval=2.0)
    dropout = _layers.Dropout(0.3)
    assert (dropout.apply({}, x, False) == x).all()
    y, other = (dropout.apply({}, x, True, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 1))
    kept = y != 0
    np.testing.assert_allclose(y[kept], (x / 0.7)[kept], rtol=1e-6)
    for share, expected in ((kept.mean(), 0.7), ((kept == (other != 0)).mean(), 0.7**2 + 0.3**2)):
        assert abs(share - expected) < 5 * 0.5 / math.sqrt(x.size)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        _layers.Dropout(1.0).apply({}, x, False)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_batch_norm_momentum(momentum):
    norm = _layers.Norm(True, momentum=momentum)
    x = 3 * jax.random.normal(KEY, (50, 2)) + jnp.array([1.0, -2.0])
    variables = norm.init(KEY, x, False)
    for _ in range(2):
        _, state = norm.apply(variables, x, True, mutable=["batch_stats"])
        variables = {**variables, **state}
    stats, left = variables["batch_stats"]["batch_norm"], momentum**2
    np.testing.assert_allclose(stats["mean"], (1 - left) * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], left + (1 - left) * x.var(0), rtol=1e-4)


@pytest.mark.parametrize("momentum", [1.0, -0.1])
def test_momentum_out_of_range(momentum):
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got .*1 minus PyTorch's momentum"):
        _layers.Norm(True, momentum=momentum).init(KEY, jnp.zeros((2, 2)), False)


def test_batch_norm_statistics():
    norm = _layers.Norm(True)
    x = 3 * jax.random.normal(KEY, (5, 4, 4, 2)) + jnp.array([1.0, -2.0])
    variables = norm.init(KEY, x, False)
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, atol=1e-4)
    stats = updated["batch_stats"]["batch_norm"]
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)
    evaluated = norm.apply({**variables, **updated}, x, False)
    np.testing.assert_allclose(evaluated, (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5), rtol=1e-4, atol=1e-5)


def test_no_norm_is_the_identity_without_parameters():
    x = jnp.ones((1, 2, 2, 3))
    y, variables = _layers.Norm(False).init_with_output(KEY, x, True)
    assert (y == x).all()
    assert not variables
