"""Networks: sizes, shapes, types, normalisation, batch norm, homogeneity, registry."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models

KEY = jax.random.key(0)
VIT = {"patch_size": 4, "width": 12, "depth": 1, "heads": 3, "mlp_width": 20}
NETWORKS = {
    "linear": (models.Linear(3), (8, 8, 2)),
    "mlp": (models.MLP(3, (7, 5)), (8, 8, 2)),
    "cnn4": (models.CNN4(3), (8, 8, 2)),
    "cnn4 with batch norm": (models.CNN4(3, dense_relu=True, batch_norm=True), (8, 8, 2)),
    "small_cnn": (models.SmallCNN(3, (4, 6)), (8, 8, 2)),
    "small_cnn with batch norm": (models.SmallCNN(3, (4, 6), batch_norm=True), (8, 8, 2)),
    "cnn6": (models.CNN6(3, (4, 4, 6, 6)), (8, 8, 2)),
    "cnn8 with batch norm": (models.CNN8(3, (4, 6), batch_norm=True), (8, 8, 2)),
    "preact_resnet": (models.PreActResNet(3, (1, 1), width=4), (8, 8, 2)),
    "preact_resnet with batch norm": (models.PreActResNet(3, (1, 1), width=4, batch_norm=True), (8, 8, 2)),
    "preact_resnet with final norm": (
        models.PreActResNet(3, (1, 1), width=4, batch_norm=True, final_norm=True, activation="silu"),
        (8, 8, 2),
    ),
    "wide_resnet": (models.WideResNet(3, depth=10, width=1), (8, 8, 2)),
    "vit": (models.ViT(3, **VIT), (8, 8, 2)),
    "swin": (models.Swin(3, 2, 4, (2, 1), (1, 2), window=2), (8, 8, 2)),
    "convnext": (models.ConvNeXt(3, 2, (4, 6), (1, 1)), (8, 8, 2)),
    "m5": (models.M5(3, features=(4, 5, 6, 7)), (1024, 2)),
}


def inputs(shape, batch=2):
    return jax.random.uniform(jax.random.fold_in(KEY, 1), (batch, *shape), jnp.float32)


def initialised(model, shape):
    """Random variables of the model, positive where they are variances; faster than compiling ``init``."""
    generator = np.random.default_rng(0)

    def leaf(path, wanted):
        fan_in = math.prod(wanted.shape[:-1]) if len(wanted.shape) > 1 else 4
        values = generator.uniform(-1, 1, wanted.shape) / math.sqrt(fan_in)
        return jnp.asarray(values + (path[-1].key in ("scale", "var")), wanted.dtype)

    return jax.tree.map_with_path(leaf, jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape), jnp.float32)))


@functools.cache
def example(name):
    """Variables of a network, images and its logits for them."""
    model, shape = NETWORKS[name]
    variables, images = initialised(model, shape), inputs(shape)
    return variables, images, jax.jit(model.apply)(variables, images)


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


@pytest.mark.parametrize(
    ("name", "classes", "shape", "expected"),
    [
        ("linear", 10, (16, 16, 1), 2_570),
        ("mlp", 10, (28, 28, 1), 101_770),
        ("cnn4", 10, (28, 28, 1), 2_172_806),
        ("cnn6", 10, (32, 32, 3), 1_147_978),
        ("cnn8", 10, (32, 32, 3), 4_690_506),
        ("preact_resnet18", 10, (32, 32, 3), 11_164_362),
        ("preact_resnet18", 100, (32, 32, 3), 11_210_532),
        ("preact_resnet18", 10, (224, 224, 3), 11_172_042),
        ("wrn_28_10", 10, (32, 32, 3), 36_479_194),
        ("wrn_28_10", 100, (32, 32, 3), 36_536_884),
        ("wrn_34_10", 10, (32, 32, 3), 46_160_474),
        ("m5", 10, (8000, 1), 559_114),
        ("vit_b16", 1000, (224, 224, 3), 86_567_656),
        ("vit_small", 1000, (224, 224, 3), 22_050_664),
    ],
)
def test_number_of_parameters(name, classes, shape, expected):
    assert count(models.create(name, classes, shape), shape) == expected


def count(model, shape):
    params = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_number_of_parameters_with_norms():
    # Two for each channel that enters a norm: 4 * 64, then 64 + 3 * 128, 128 + 3 * 256, 256 + 3 * 512 in the blocks,
    # 512 after them.
    model, shape = models.PreActResNet18(10, batch_norm=True), (32, 32, 3)
    assert count(model, shape) == 11_164_362 + 2 * (256 + 448 + 896 + 1792)
    assert count(model.clone(final_norm=True), shape) == 11_172_170


def test_cnn4_feature_map():
    params = jax.eval_shape(models.CNN4(10).init, KEY, jnp.zeros((1, 28, 28, 1)))["params"]
    assert params["dense_0"]["linear"]["kernel"].shape == (26 * 26 * 32, 100)


def test_cnn6_halves_the_resolution_where_the_width_changes():
    _, state = jax.eval_shape(
        lambda x: models.CNN6(10).init_with_output(KEY, x, capture_intermediates=True), jnp.zeros((1, 32, 32, 3))
    )
    maps = [state["intermediates"][f"conv_{number}"]["__call__"][0].shape[1:] for number in range(6)]
    assert maps == [(32, 32, 64)] * 2 + [(16, 16, 128)] * 2 + [(8, 8, 256)] * 2


def test_dense_relu_is_off_as_published():
    # With the convolutions' activations frozen, the two dense layers without a ReLU between them are one affine map.
    plain, with_relu = models.CNN4(3), models.CNN4(3, dense_relu=True)
    variables, images = initialised(plain, (5, 5, 1)), inputs((5, 5, 1))
    dense, head = (variables["params"][name]["linear"] for name in ("dense_0", "head"))
    _, state = plain.apply(variables, images, capture_intermediates=True)
    hidden = state["intermediates"]["dense_0"]["__call__"][0]
    np.testing.assert_allclose(plain.apply(variables, images), hidden @ head["kernel"] + head["bias"], atol=1e-6)
    rectified = jnp.maximum(hidden, 0) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(with_relu.apply(variables, images), rectified, atol=1e-6)
    assert dense["bias"].shape == (100,)
    assert (hidden < 0).any()


def test_logits_of_every_network(network):
    model, _ = NETWORKS[network]
    variables, images, logits = example(network)
    assert logits.shape == (2, 3)
    assert logits.dtype == jnp.float32
    assert jnp.ptp(logits, axis=0).min() > 0
    # An image's logits do not depend on the rest of the batch.
    swapped = jax.jit(model.apply)(variables, images[::-1])
    np.testing.assert_allclose(swapped[::-1], logits, rtol=1e-5, atol=1e-6)
    assert ("batch_stats" in variables) == getattr(
        model, "batch_norm", isinstance(model, (models.M5, models.WideResNet))
    )


@pytest.mark.parametrize("name", ["mlp", "cnn4 with batch norm", "preact_resnet with batch norm", "wide_resnet", "vit"])
def test_half_precision_keeps_parameters_and_logits_in_float32(name):
    model, shape = NETWORKS[name]
    half = model.clone(dtype=jnp.bfloat16)
    variables, images, exact = example(name)
    wanted = jax.eval_shape(half.init, KEY, jnp.zeros((1, *shape)))
    assert jax.tree.map(jnp.result_type, wanted) == jax.tree.map(jnp.result_type, variables)
    logits = jax.jit(half.apply)(variables, images)
    assert logits.dtype == jnp.float32
    scale = jnp.abs(exact).max()
    assert 1e-6 * scale < jnp.abs(logits - exact).max() < 0.05 * scale


def test_types_of_gradients_in_half_precision_training(network):
    model = NETWORKS[network][0].clone(dtype=jnp.bfloat16)
    variables, images, _ = example(network)

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum(), state

    gradients, state = jax.eval_shape(jax.grad(loss, has_aux=True), variables["params"])
    kept = {**state, "params": gradients}
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), kept) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), variables
    )


@pytest.mark.parametrize("name", ["cnn4 with batch norm", "preact_resnet with batch norm", "wide_resnet", "vit"])
def test_double_precision(float64, name):
    variables, images, logits = example(name)
    double = jax.jit(NETWORKS[name][0].clone(dtype=jnp.float64).apply)(variables, images)
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(double, logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn4", "small_cnn", "preact_resnet", "wide_resnet", "vit", "m5"])
def test_normalisation_is_inside(name):
    mean, std = (0.4, 0.6), (0.2, 0.5)
    variables, images, logits = example(name)
    unnormalised = images * jnp.array(std) + jnp.array(mean)
    model = NETWORKS[name][0].clone(mean=mean, std=std)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, unnormalised), logits, rtol=1e-3, atol=1e-5)


def test_training_mode_updates_running_statistics():
    model, _ = NETWORKS["small_cnn with batch norm"]
    variables, images, logits = example("small_cnn with batch norm")
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    trained, updated = train(variables, images)
    assert jnp.abs(trained - logits).max() > 1e-3
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), variables["batch_stats"], updated["batch_stats"])
    assert len(jax.tree.leaves(moved)) == 4
    assert all(leaf > 0 for leaf in jax.tree.leaves(moved))


def test_preact_resnet_without_batch_norm_is_homogeneous():
    model = models.PreActResNet(5, (2, 2, 2, 2), width=3)
    variables, images = initialised(model, (16, 16, 3)), inputs((16, 16, 3), 1)
    factors = jnp.array([1, 0, 0.3, 4])[:, None]
    logits = jax.jit(model.apply)(variables, factors[:, :, None, None] * images)
    centred = logits - variables["params"]["head"]["linear"]["bias"]
    assert jnp.abs(centred[0]).max() > 1e-3
    np.testing.assert_allclose(centred, factors * centred[0], atol=1e-5 * jnp.abs(centred).max())


def test_final_norm_acts_on_the_last_feature_map():
    model = NETWORKS["preact_resnet with final norm"][0]
    variables, images, logits = example("preact_resnet with final norm")
    _, state = model.apply(variables, images, capture_intermediates=True)
    x = state["intermediates"]["stage_1_block_0"]["__call__"][0]
    params, statistics = (variables[name]["norm"]["batch_norm"] for name in ("params", "batch_stats"))
    x = (x - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-5) * params["scale"] + params["bias"]
    head = variables["params"]["head"]["linear"]
    expected = (x / (1 + jnp.exp(-x))).mean((1, 2)) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"final_norm=True is a batch norm, .* add batch_norm=True"):
        jax.eval_shape(model.clone(batch_norm=False).init, KEY, images)


def test_recomputing_blocks_changes_nothing():
    model, _ = NETWORKS["preact_resnet with final norm"]
    variables, images, _ = example("preact_resnet with final norm")

    def loss(model, params):
        logits, state = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum(), (logits, state)

    kept, recomputed = (
        jax.jit(jax.value_and_grad(functools.partial(loss, model.clone(remat=remat)), has_aux=True))
        for remat in (False, True)
    )
    (value, aux), gradients = recomputed(variables["params"])
    (expected_value, expected_aux), expected_gradients = kept(variables["params"])
    assert jax.tree.structure((aux, gradients)) == jax.tree.structure((expected_aux, expected_gradients))
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    for ours, expected in zip(
        jax.tree.leaves((aux, gradients)), jax.tree.leaves((expected_aux, expected_gradients)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * jnp.abs(expected).max())


@pytest.mark.parametrize("name", ["preact_resnet with final norm", "wide_resnet"])
def test_every_block_is_recomputed(name):
    variables, images, _ = example(name)
    for remat, blocks in ((False, 0), (True, sum("block" in part for part in variables["params"]))):
        model = NETWORKS[name][0].clone(remat=remat)
        equations = jax.make_jaxpr(model.apply)(variables, images).eqns
        assert sum(equation.primitive.name in ("remat2", "checkpoint") for equation in equations) == blocks
        assert jax.tree.structure(jax.eval_shape(model.init, KEY, images)) == jax.tree.structure(variables)


def test_residual_network_for_any_image_size():
    model = models.PreActResNet18(10)
    for size in (16, 28, 32, 33):
        params = jax.eval_shape(model.init, KEY, jnp.zeros((1, size, size, 1)))["params"]
        assert params["head"]["linear"]["kernel"].shape == (512, 10)


def test_zero_initialised_softmax_regression_never_uses_empty_inputs():
    model = models.Linear(3, initializer="zeros")
    images = inputs((2, 2, 1), 6).at[:, 1, 1].set(0)
    variables = model.init(KEY, images)
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables))

    @jax.jit
    def step(variables):
        def loss(variables):
            return -jnp.sum(jax.nn.log_softmax(model.apply(variables, images)) * jnp.eye(3)[jnp.arange(6) % 3])

        return jax.tree.map(lambda w, g: w - 0.1 * g, variables, jax.grad(loss)(variables))

    for _ in range(3):
        variables = step(variables)
    kernel = variables["params"]["head"]["linear"]["kernel"]
    assert not kernel[3].any()
    assert (jnp.abs(kernel[:3]).max(1) > 0).all()


def test_m5_resolution_and_variant():
    variant = models.M5(35, features=(32, 32, 64, 64), strides=16, padding="valid")
    for model, pooled in ((models.M5(10), (500, 125, 31, 7)), (variant, (124, 30, 7, 1))):
        _, state = jax.eval_shape(
            lambda x, model=model: model.init_with_output(KEY, x, capture_intermediates=True), jnp.zeros((1, 8000, 1))
        )
        norms = [state["intermediates"][f"norm_{number}"]["__call__"][0].shape[1] // 4 for number in range(4)]
        assert tuple(norms) == pooled


def test_m5_errors():
    with pytest.raises(ValueError, match="use longer ones"):
        jax.eval_shape(models.M5(2).init, KEY, jnp.zeros((1, 500, 1)))
    with pytest.raises(ValueError, match="use longer ones"):
        jax.eval_shape(models.M5(2, padding="valid").init, KEY, jnp.zeros((1, 40, 1)))
    with pytest.raises(ValueError, match=r"takes waveforms \[batch, samples, channels\]"):
        jax.eval_shape(models.M5(2).init, KEY, jnp.zeros((1, 8000)))
    with pytest.raises(ValueError, match="choose same or valid"):
        jax.eval_shape(models.M5(2, padding="full").init, KEY, jnp.zeros((1, 8000, 1)))


def test_create():
    assert models.create("preact_resnet18", 10, (224, 224, 3)).stem == "large"
    assert models.create("preact_resnet18", 10, (224, 224, 3), stem="small").stem == "small"
    assert models.create("preact_resnet18", classes=10, image_shape=(32, 32, 3), batch_norm=True).batch_norm
    assert models.create("vit_small", 10, (32, 32, 3)).patch_size == 4
    assert models.create("vit_small", 10, (224, 224, 3)).patch_size == 16
    assert models.create("vit_b16", 10, (224, 224, 3)).mean == (0.5, 0.5, 0.5)
    assert models.create("linear", 3, (64,), initializer="zeros") == models.Linear(3, initializer="zeros")
    robust = models.create("preact_resnet18", 10, (32, 32, 3), batch_norm=True, final_norm=True, activation="silu")
    assert robust == models.PreActResNet18(10, batch_norm=True, final_norm=True, activation="silu")
    assert models.create("wrn_28_10", 10, (32, 32, 3), batch_norm=True) == models.WideResNet(10)
    assert models.create("wide_resnet", 10, (32, 32, 3), depth=16, width=4) == models.WideResNet(10, 16, 4)
    original = models.create("wrn_34_10", 10, (32, 32, 3), dropout=0.3)
    assert original == models.WideResNet(10, 34, 10, "relu", symmetric_padding=True, momentum=0.9, dropout=0.3)
    assert isinstance(models.create("m5", 35, (8000, 1), batch_norm=True), models.M5)
    assert set(models.names()) > {"linear", "mlp", "cnn4", "small_cnn", "preact_resnet18", "vit_b16", "m5"}


def test_create_errors():
    with pytest.raises(ValueError, match=r"unknown network 'resnet'; choose one of linear, mlp, .*, m5"):
        models.create("resnet", 10, (32, 32, 3))
    with pytest.raises(ValueError, match="'mlp' has no batch norm; those that do: small_cnn"):
        models.create("mlp", 10, (28, 28, 1), batch_norm=True)
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\), got \(28, 28\)"):
        models.create("cnn4", 10, (28, 28))
    with pytest.raises(ValueError, match=r"'wrn_28_10' must be \(height, width, channels\), got \(32, 32\)"):
        models.create("wrn_28_10", 10, (32, 32))
    with pytest.raises(ValueError, match=r"must be \(samples, channels\)"):
        models.create("m5", 10, (8000,))
    with pytest.raises(ValueError, match="choose small or large"):
        jax.eval_shape(models.PreActResNet18(2, stem="tiny").init, KEY, jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="unknown activation 'tanh'; choose relu, gelu, gelu_tanh, silu"):
        jax.eval_shape(models.PreActResNet18(2, activation="tanh").init, KEY, jnp.zeros((1, 8, 8, 3)))
