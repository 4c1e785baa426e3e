"""Wide residual networks: structure, initialisation, dropout, running statistics."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_models_networks import count, initialised, inputs

from jaxrobust import models

KEY = jax.random.key(0)
SHAPE = (8, 8, 2)
SMALL = models.WideResNet(3, depth=10, width=1)
CLASSIC = models.WideResNet(3, depth=10, width=2, activation="relu", symmetric_padding=True, momentum=0.9)


def params_of(model, shape=(32, 32, 3)):
    return jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))["params"]


@pytest.mark.parametrize(("depth", "width", "expected"), [(10, 1, 77_850), (16, 2, 691_674), (28, 10, 36_479_194)])
def test_number_of_parameters(depth, width, expected):
    model = models.WideResNet(10, depth, width)
    assert count(model, (32, 32, 3)) == expected
    assert count(model.clone(activation="relu", symmetric_padding=True, dropout=0.3), (32, 32, 3)) == expected


def test_projections_are_where_the_channels_change():
    def projections(model):
        return {name for name, part in params_of(model).items() if "shortcut" in part}

    assert projections(models.WideResNet(10, 16, 2)) == {f"stage_{stage}_block_0" for stage in range(3)}
    assert projections(models.WideResNet(10, 16, 1)) == {f"stage_{stage}_block_0" for stage in (1, 2)}
    biases = {path[:-2] for path in flatten_dict(params_of(SMALL)) if path[-1] == "bias" and path[-2] != "batch_norm"}
    assert biases == {("head",)}


def by_hand(variables, images, activation, zeros):
    """The network written down again; ``zeros`` are those before and after a side in a convolution of stride 2."""

    def act(x):
        return jnp.maximum(x, 0) if activation == "relu" else x / (1 + jnp.exp(-x))

    def conv(x, layer, stride, padding):
        layout = ("NHWC", "HWIO", "NHWC")
        kernel = layer["conv"]["kernel"]
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [padding] * 2, dimension_numbers=layout)

    def norm(x, layer, statistics):
        layer, statistics = layer["batch_norm"], statistics["batch_norm"]
        scale = layer["scale"] / jnp.sqrt(statistics["var"] + 1e-5)
        return (x - statistics["mean"]) * scale + layer["bias"]

    params, statistics = variables["params"], variables["batch_stats"]
    x = conv(images, params["stem"], 1, (1, 1))
    for name in sorted(name for name in params if name.startswith("stage")):
        block, kept = params[name], statistics[name]
        stride = 2 if name in ("stage_1_block_0", "stage_2_block_0") else 1
        o = act(norm(x, block["norm_0"], kept["norm_0"]))
        y = conv(o, block["conv_0"], stride, zeros if stride == 2 else (1, 1))
        y = conv(act(norm(y, block["norm_1"], kept["norm_1"])), block["conv_1"], 1, (1, 1))
        x = y + (conv(o, block["shortcut"], stride, (0, 0)) if "shortcut" in block else x)
    x = act(norm(x, params["norm"], statistics["norm"])).mean((1, 2))
    return x @ params["head"]["linear"]["kernel"] + params["head"]["linear"]["bias"]


@pytest.mark.parametrize(("model", "zeros"), [(SMALL, (0, 1)), (CLASSIC, (1, 1))], ids=["same", "symmetric"])
def test_structure(model, zeros):
    variables, images = initialised(model, SHAPE), inputs(SHAPE)
    variables = jax.tree.map_with_path(lambda path, leaf: leaf * (3 if path[-1].key == "kernel" else 1), variables)
    expected = jax.jit(functools.partial(by_hand, activation=model.activation, zeros=zeros))(variables, images)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), expected, rtol=1e-4, atol=1e-5)
    assert jnp.ptp(expected, axis=0).min() > 0.01 * jnp.abs(expected).max()
    # Activation and padding are not in the parameters, and matter.
    other = {"activation": "relu" if model.activation == "silu" else "silu"}, {"symmetric_padding": zeros == (0, 1)}
    for change in other:
        logits = jax.jit(model.clone(**change).apply)(variables, images)
        assert jnp.abs(logits - expected).max() > 0.01 * jnp.abs(expected).max()


def test_any_image_size():
    for shape in ((32, 32, 3), (64, 48, 1), (9, 7, 3)):
        for model in (SMALL, CLASSIC):
            logits, _ = jax.eval_shape(model.init_with_output, KEY, jnp.zeros((2, *shape)))
            assert logits.shape == (2, 3)


def test_initialisation():
    model = models.WideResNet(10, depth=10, width=2)
    flat = flatten_dict(jax.jit(model.init)(KEY, jnp.zeros((1, 8, 8, 3)))["params"], sep="/")
    kernels = {name: np.asarray(leaf) for name, leaf in flat.items() if name.endswith("conv/kernel")}
    assert len(kernels) == 1 + 3 * 3
    for name, kernel in kernels.items():
        wanted = 2 / math.prod((*kernel.shape[:2], kernel.shape[-1]))
        np.testing.assert_allclose(kernel.var(), wanted, rtol=6 * math.sqrt(2 / kernel.size), err_msg=name)
    head = np.asarray(flat.pop("head/linear/kernel"))
    assert 0.95 / math.sqrt(128) < np.abs(head).max() <= 1 / math.sqrt(128)
    np.testing.assert_allclose(head.var(), 1 / (3 * 128), rtol=0.2)
    for name, leaf in flat.items():
        if not name.endswith("kernel"):
            assert (leaf == float(name.endswith("scale"))).all()


def test_dropout_acts_in_training_only():
    model = SMALL.clone(dropout=0.5)
    variables, images = initialised(SMALL, SHAPE), inputs(SHAPE)
    assert jax.tree.structure(jax.eval_shape(model.init, KEY, images)) == jax.tree.structure(variables)
    np.testing.assert_array_equal(model.apply(variables, images), SMALL.apply(variables, images))

    @functools.partial(jax.jit, static_argnums=0)
    def train(model, key):
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    first, second = train(model, jax.random.key(0)), train(model, jax.random.key(1))
    assert jnp.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(train(model, jax.random.key(0)), first)
    np.testing.assert_array_equal(train(SMALL, jax.random.key(0)), train(SMALL, jax.random.key(1)))
    # With the key of the step and recomputed blocks the same entries are dropped.
    np.testing.assert_allclose(train(model.clone(remat=True), jax.random.key(0)), first, rtol=1e-5, atol=1e-6)


def test_running_statistics():
    variables, images = initialised(SMALL, SHAPE), inputs(SHAPE, 4)
    before = flatten_dict(variables["batch_stats"])

    @functools.partial(jax.jit, static_argnums=0)
    def update(model):
        return flatten_dict(model.apply(variables, images, train=True, mutable=["batch_stats"])[1]["batch_stats"])

    batch, after = update(SMALL.clone(momentum=0.0)), update(SMALL)
    for path, value in after.items():
        np.testing.assert_allclose(value, 0.99 * before[path] + 0.01 * batch[path], rtol=1e-5, atol=1e-6)
    # The first norm sees the stem's output.
    stem = SMALL.apply(variables, images, capture_intermediates=True)[1]["intermediates"]["stem"]["__call__"][0]
    place = ("stage_0_block_0", "norm_0", "batch_norm")
    np.testing.assert_allclose(batch[(*place, "mean")], stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(batch[(*place, "var")], stem.var((0, 1, 2)), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 12}, r"depth must be 10, 16, 22, 28, \.\.\. and width at least 1, got depth=12, width=10"),
        ({"depth": 4}, "got depth=4"),
        ({"depth": 10, "width": 0}, "got depth=10, width=0"),
        ({"activation": "swish"}, "unknown activation 'swish'; choose relu, gelu, "),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        params_of(models.WideResNet(10, **options))
