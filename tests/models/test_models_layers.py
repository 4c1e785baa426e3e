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


def test_initialiser_pair():
    kernel, bias = models.torch_default_init(25)
    assert_uniform(kernel(KEY, (25, 40), jnp.float32), 0.2)
    assert_uniform(bias(KEY, (400,), jnp.float32), 0.2)
    with pytest.raises(ValueError, match="choose torch or zeros"):
        models.Linear(2, initializer="normal").init(KEY, jnp.zeros((1, 2, 2, 1)))
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
