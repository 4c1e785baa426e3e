"""ConvNeXt: structure, initialisation, sizes, second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from test_models_networks import count, initialised, inputs

from jaxrobust import models
from jaxrobust.models._convnext import ConvNeXtBlock

KEY = jax.random.key(0)
MODEL = models.ConvNeXt(3, patch_size=2, widths=(3, 4), stage_sizes=(1, 1))
SHAPE = (4, 8, 2)


@pytest.mark.parametrize(("name", "expected"), [("convnext_tiny", 28_589_128), ("convnext_base", 88_591_464)])
def test_number_of_parameters(name, expected):
    for shape in ((224, 224, 3), (32, 64, 3)):
        assert count(models.create(name, 1000, shape), shape) == expected


def test_presets():
    tiny, base = models.convnext_tiny(10), models.convnext_base(10, activation="silu")
    assert (tiny.widths, tiny.stage_sizes, tiny.activation) == ((96, 192, 384, 768), (3, 3, 9, 3), "gelu")
    assert (base.widths, base.stage_sizes, base.activation) == ((128, 256, 512, 1024), (3, 3, 27, 3), "silu")
    for model in (tiny, base):
        assert (model.mean, model.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def by_hand(params, images):
    """The network written down again."""

    def dense(x, layer):
        return x @ layer["linear"]["kernel"] + layer["linear"]["bias"]

    def norm(x, layer):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * layer["layer_norm"]["scale"] + layer["layer_norm"]["bias"]

    def patches(x, layer):
        kernel = layer["conv"]["kernel"]
        size = len(kernel)
        batch, rows, columns, channels = x.shape
        x = x.reshape(batch, rows // size, size, columns // size, size, channels)
        return np.einsum("bricjk,ijko->brco", x, kernel) + layer["conv"]["bias"]

    def depthwise(x, layer):
        _, rows, columns, _ = x.shape
        padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
        shifted = (
            padded[:, i : i + rows, j : j + columns] * layer["conv"]["kernel"][i, j, 0] for i, j in np.ndindex(7, 7)
        )
        return sum(shifted) + layer["conv"]["bias"]

    def block(x, layer):
        y = dense(norm(depthwise(x, layer["depthwise"]), layer["norm"]), layer["dense_0"])
        return x + layer["layer_scale"] * dense(np.maximum(y, 0), layer["dense_1"])

    x = norm(patches(images, params["stem"]), params["stem_norm"])
    x = block(x, params["stage_0_block_0"])
    x = patches(norm(x, params["stage_1_norm"]), params["stage_1_conv"])
    x = block(x, params["stage_1_block_0"])
    return dense(norm(x.mean((1, 2)), params["norm"]), params["head"])


def test_structure():
    model = MODEL.clone(activation="relu")
    variables, images = initialised(model, SHAPE), inputs(SHAPE)
    expected = by_hand(jax.tree.map(np.asarray, variables["params"]), np.asarray(images))
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-2


def test_blocks_start_close_to_the_identity():
    model = models.ConvNeXt(3, patch_size=2, widths=(64,), stage_sizes=(2,), layer_scale=1e-3)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, *SHAPE)))["params"]
    block = params["stage_0_block_1"]
    np.testing.assert_array_equal(block["layer_scale"], np.full(64, 1e-3, np.float32))
    for layer in ("depthwise", "dense_0", "dense_1"):
        (leaves,) = block[layer].values()
        assert leaves["kernel"].std() == pytest.approx(0.02, rel=0.1)
        assert not leaves["bias"].any()
    assert block["depthwise"]["conv"]["kernel"].shape == (7, 7, 1, 64)


def test_layer_scale_is_decayed_and_norms_are_not():
    mask = models.decay_mask(initialised(MODEL, SHAPE)["params"])
    block = mask["stage_0_block_0"]
    assert block["layer_scale"]
    assert block["depthwise"]["conv"]["kernel"]
    assert not block["norm"]["layer_norm"]["scale"]


def check_second_derivatives(model, shape):
    """By all parameters and the input, against differences."""
    point = initialised(model, shape), inputs(shape, 1)
    point = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), point)
    check_grads(jax.jit(model.clone(dtype=jnp.float64).apply), point, order=2, modes=["rev"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_second_derivatives_of_a_block(float64):
    check_second_derivatives(ConvNeXtBlock(0.5), (4, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "parametric_softplus"])
def test_second_derivatives(float64, activation):
    check_second_derivatives(MODEL.clone(activation=activation), SHAPE)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (4, 6, 2), "height and width must be multiples of 4"),
        ({"patch_size": 4}, (4, 8, 2), "height and width must be multiples of 8"),
        ({}, (8, 8), "do not fit"),
        ({"widths": (3,)}, SHAPE, r"one entry per stage, got \(3,\) and \(1, 1\)"),
        ({"activation": "tanh"}, SHAPE, "unknown activation 'tanh'"),
    ],
)
def test_errors(options, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(MODEL.clone(**options).init, KEY, jnp.zeros((1, *shape)))
