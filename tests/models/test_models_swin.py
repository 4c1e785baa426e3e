"""Swin transformers: windows, shifts, masks, sizes, second derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from test_models_networks import count, initialised, inputs

from jaxrobust import models
from jaxrobust.models._swin import WindowAttention, from_windows, relative_offsets, to_windows

KEY = jax.random.key(0)
MODEL = models.Swin(3, patch_size=2, width=4, stage_sizes=(2, 1), heads=(2, 2), window=2, mlp_ratio=1.5)
SHAPE = (8, 8, 2)


@pytest.mark.parametrize(
    ("name", "classes", "shape", "expected"),
    [
        ("swin_t", 1000, (224, 224, 3), 28_288_354),
        ("swin_b", 1000, (224, 224, 3), 87_768_224),
        # Another patch size, and windows of 4x4 and, in the last stage, 2x2.
        ("swin_t", 1000, (32, 32, 3), 28_288_354 - 96 * 36 - (120 * (6 + 12 + 72) + 160 * 48)),
    ],
)
def test_number_of_parameters(name, classes, shape, expected):
    assert count(models.create(name, classes, shape), shape) == expected


def test_presets():
    tiny, base = models.swin_t(10), models.swin_b(10, window=12, activation="silu")
    assert (tiny.window, tiny.activation, tiny.stage_sizes) == (7, "gelu", (2, 2, 6, 2))
    assert (base.window, base.activation, base.stage_sizes) == (12, "silu", (2, 2, 18, 2))
    for model in (tiny, base):
        assert (model.mean, model.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert models.create("swin_t", 10, (32, 32, 3)) == models.swin_t(10, patch_size=2, window=4)
    assert models.create("swin_b", 10, (224, 224, 3)) == models.swin_b(10)
    assert models.create("swin_b", 10, (64, 64, 3), patch_size=4) == models.swin_b(10, patch_size=4, window=4)


def test_windows():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    windows = to_windows(x, (2, 3))
    assert windows.shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(windows[1, 1], x[1, :2, 3:].reshape(6, 3))
    np.testing.assert_array_equal(windows[0, 2], x[0, 2:, :3].reshape(6, 3))
    np.testing.assert_array_equal(from_windows(windows, (2, 3), (4, 6)), x)


def test_every_offset_has_its_own_bias():
    offsets = relative_offsets((2, 3))
    places = [(row, column) for row in range(2) for column in range(3)]
    by_offset = {}
    for query, key in np.ndindex(6, 6):
        offset = tuple(np.subtract(places[query], places[key]))
        by_offset.setdefault(offset, set()).add(int(offsets[query, key]))
    assert {offset: {(offset[0] + 1) * 5 + offset[1] + 2} for offset in by_offset} == by_offset
    assert len(by_offset) == 15


def attention_by_hand(params, x, heads, window, shift):
    """One query at a time, over the tokens of its window; no roll and no mask.

    Windows are shifted down and to the right. What they leave over at the top and on the left, and what sticks out at the
    bottom and on the right, are windows of their own.
    """
    batch, rows, columns, channels = x.shape
    size = channels // heads

    def dense(name, x):
        return x @ params[name]["linear"]["kernel"] + params[name]["linear"]["bias"]

    q, k, v = (dense(name, x).reshape(batch, rows, columns, heads, size) for name in ("query", "key", "value"))
    table = params["relative_positions"].reshape(2 * window[0] - 1, 2 * window[1] - 1, heads)
    result = np.zeros((batch, rows, columns, channels))
    for row, column in np.ndindex(rows, columns):
        place = (row - shift[0]) // window[0], (column - shift[1]) // window[1]
        tokens = [
            (i, j)
            for i, j in np.ndindex(rows, columns)
            if ((i - shift[0]) // window[0], (j - shift[1]) // window[1]) == place
        ]
        for head in range(heads):
            scores = np.stack(
                [
                    (q[:, row, column, head] * k[:, i, j, head]).sum(-1) / math.sqrt(size)
                    + table[row - i + window[0] - 1, column - j + window[1] - 1, head]
                    for i, j in tokens
                ],
                -1,
            )
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            values = np.stack([v[:, i, j, head] for i, j in tokens], 1)
            result[:, row, column, head * size : (head + 1) * size] = np.einsum("bt,btc->bc", weights, values)
    return dense("out", result)


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [((6, 6), (3, 3), (0, 0)), ((6, 6), (3, 3), (1, 1)), ((4, 6), (4, 2), (0, 1)), ((8, 4), (4, 2), (2, 1))],
)
def test_attention_within_shifted_windows(size, window, shift):
    layer, x = WindowAttention(2, window, shift), inputs((*size, 4)) - 0.5
    variables = jax.tree.map(lambda leaf: 2 * leaf, initialised(layer, (*size, 4)))
    params = jax.tree.map(np.asarray, variables["params"])
    expected = attention_by_hand(params, np.asarray(x), 2, window, shift)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)
    elsewhere = attention_by_hand(params, np.asarray(x), 2, window, (shift[0], (shift[1] + 1) % window[1]))
    assert np.abs(elsewhere - expected).max() > 1e-2


def test_opposite_edges_do_not_see_each_other():
    """After two blocks, one of them shifted, a pixel reaches the neighbouring windows only, and not around the edge."""
    model = MODEL.clone(stage_sizes=(2,), heads=(2,))
    variables = initialised(model, (16, 16, 2))

    @jax.jit
    def features(images):
        _, state = model.apply(variables, images, capture_intermediates=True)
        return state["intermediates"]["stage_0_block_1"]["__call__"][0]

    images = inputs((16, 16, 2), 1)
    changed = jnp.abs(features(images.at[0, 0, 0].add(1)) - features(images)).max((0, 3)) > 1e-7
    expected = np.zeros((8, 8), bool)
    expected[:3, :3] = True  # a window of 2x2, then those it meets after the shift by 1
    np.testing.assert_array_equal(changed, expected)


def test_windows_are_clipped_and_not_shifted_where_they_take_a_whole_side():
    """Windows of 4 on a map of 4x2 and then 2x1: one window each, whatever the shift."""
    shape = (8, 4, 2)
    variables, images = initialised(MODEL.clone(window=4), shape), inputs(shape)
    tables = {
        block: part["attention"]["relative_positions"].shape
        for block, part in variables["params"].items()
        if "_block_" in block
    }
    assert tables == {"stage_0_block_0": (21, 2), "stage_0_block_1": (21, 2), "stage_1_block_0": (3, 2)}
    logits = [jax.jit(MODEL.clone(window=window).apply)(variables, images) for window in (4, 7)]
    np.testing.assert_array_equal(*logits)


def check_second_derivatives(model, shape):
    """By all parameters and the input, against differences."""
    point = initialised(model, shape), inputs(shape, 1)
    point = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), point)
    check_grads(jax.jit(model.clone(dtype=jnp.float64).apply), point, order=2, modes=["rev"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_second_derivatives_of_the_attention(float64):
    check_second_derivatives(WindowAttention(2, (2, 2), (1, 1)), (4, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "softplus:10", "parametric_silu"])
def test_second_derivatives(float64, activation):
    check_second_derivatives(MODEL.clone(activation=activation), SHAPE)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (9, 8, 2), "cannot be cut into patches of 2x2"),
        ({}, (8, 8), "cannot be cut into patches of 2x2"),
        ({"heads": (2,)}, SHAPE, r"one entry per stage, got \(2,\) and \(2, 1\)"),
        ({"heads": (2, 3)}, SHAPE, "8 channels of stage 1 are not a multiple of the number of heads, 3"),
        ({"window": 3}, SHAPE, "4x4 of stage 0 cannot be divided into windows of 3x3, nor both be halved"),
        ({"window": 3}, (6, 12, 2), "3x6 of stage 0 cannot be divided"),
        ({"window": 3}, (12, 16, 2), "6x8 of stage 0 cannot be divided into windows of 3x3"),
        ({"window": 4}, (8, 24, 2), "2x6 of stage 1 cannot be divided into windows of 2x4; choose another window"),
        ({"activation": "tanh"}, SHAPE, "unknown activation 'tanh'"),
    ],
)
def test_errors(options, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(MODEL.clone(**options).init, KEY, jnp.zeros((1, *shape)))
