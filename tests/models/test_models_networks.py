"""Networks: sizes, shapes, types, normalisation, batch norm, homogeneity, registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models

KEY = jax.random.key(0)
VIT = {"patch_size": 4, "width": 12, "depth": 2, "heads": 3, "mlp_width": 20}
NETWORKS = {
    "linear": (models.Linear(3), (8, 8, 2)),
    "mlp": (models.MLP(3, (7, 5)), (8, 8, 2)),
    "cnn4": (models.CNN4(3), (8, 8, 2)),
    "cnn4 with batch norm": (models.CNN4(3, dense_relu=True, batch_norm=True), (8, 8, 2)),
    "small_cnn": (models.SmallCNN(3, (4, 6)), (8, 8, 2)),
    "small_cnn with batch norm": (models.SmallCNN(3, (4, 6), batch_norm=True), (8, 8, 2)),
    "preact_resnet": (models.PreActResNet(3, (1, 1), width=4), (8, 8, 2)),
    "preact_resnet with batch norm": (models.PreActResNet(3, (1, 1), width=4, batch_norm=True), (8, 8, 2)),
    "vit": (models.ViT(3, **VIT), (8, 8, 2)),
    "m5": (models.M5(3, features=(4, 5, 6, 7)), (1024, 2)),
}


def inputs(shape, batch=2):
    return jax.random.uniform(jax.random.fold_in(KEY, 1), (batch, *shape))


def initialised(model, shape):
    return jax.jit(model.init)(KEY, jnp.zeros((1, *shape)))


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


@pytest.mark.parametrize(
    ("name", "classes", "shape", "expected"),
    [
        ("linear", 10, (16, 16, 1), 2_570),
        ("mlp", 10, (28, 28, 1), 101_770),
        ("cnn4", 10, (28, 28, 1), 2_172_806),
        ("preact_resnet18", 10, (32, 32, 3), 11_164_362),
        ("preact_resnet18", 100, (32, 32, 3), 11_210_532),
        ("preact_resnet18", 10, (224, 224, 3), 11_172_042),
        ("m5", 10, (8000, 1), 559_114),
        ("vit_b16", 1000, (224, 224, 3), 86_567_656),
        ("vit_small", 1000, (224, 224, 3), 22_050_664),
    ],
)
def test_number_of_parameters(name, classes, shape, expected):
    variables = jax.eval_shape(models.create(name, classes, shape).init, KEY, jnp.zeros((1, *shape)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected


def test_cnn4_feature_map():
    params = jax.eval_shape(models.CNN4(10).init, KEY, jnp.zeros((1, 28, 28, 1)))["params"]
    assert params["dense_0"]["linear"]["kernel"].shape == (26 * 26 * 32, 100)


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
    model, shape = network
    variables = initialised(model, shape)
    logits = jax.jit(model.apply)(variables, inputs(shape, 4))
    assert logits.shape == (4, 3)
    assert logits.dtype == jnp.float32
    assert jnp.ptp(logits, axis=0).min() > 0
    single = jax.jit(model.apply)(variables, inputs(shape, 4)[2:3])
    np.testing.assert_allclose(single[0], logits[2], rtol=1e-4, atol=1e-6)
    assert ("batch_stats" in variables) == getattr(model, "batch_norm", isinstance(model, models.M5))


def test_half_precision_keeps_parameters_and_logits_in_float32(network):
    model, shape = network
    half = model.clone(dtype=jnp.bfloat16)
    variables = initialised(half, shape)
    chosen = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert chosen == {jnp.dtype(jnp.float32)}
    logits, exact = (jax.jit(m.apply)(variables, inputs(shape)) for m in (half, model))
    assert logits.dtype == jnp.float32
    scale = jnp.abs(exact).max()
    assert jnp.abs(logits - exact).max() < 0.05 * scale
    assert jnp.abs(logits - exact).max() > 1e-7 * scale


def test_half_precision_gradients_in_training():
    for name in ("preact_resnet with batch norm", "vit"):
        model = NETWORKS[name][0].clone(dtype=jnp.bfloat16)
        variables, images = initialised(model, (8, 8, 2)), inputs((8, 8, 2))

        def loss(params, model=model, variables=variables, images=images):
            logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return jnp.square(logits).sum()

        gradients = jax.jit(jax.grad(loss))(variables["params"])
        assert all(leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_double_precision(float64, network):
    model, shape = network
    variables, images = initialised(model, shape), inputs(shape).astype(jnp.float64)
    logits = jax.jit(model.clone(dtype=jnp.float64).apply)(variables, images)
    assert logits.dtype == jnp.float64
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, images), rtol=1e-3, atol=1e-5)


def test_normalisation_is_inside(network):
    model, shape = network
    mean, std = (0.4, 0.6), (0.2, 0.5)
    variables, images = initialised(model, shape), inputs(shape)
    logits = jax.jit(model.clone(mean=mean, std=std).apply)(variables, images)
    by_hand = jax.jit(model.apply)(variables, (images - jnp.array(mean)) / jnp.array(std))
    np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-5)


def test_training_mode_updates_running_statistics():
    for name in ("small_cnn with batch norm", "preact_resnet with batch norm", "m5"):
        model, shape = NETWORKS[name]
        variables, images = initialised(model, shape), inputs(shape, 4)
        train = jax.jit(lambda v, x, model=model: model.apply(v, x, train=True, mutable=["batch_stats"]))
        logits, updated = train(variables, images)
        assert logits.shape == (4, 3)
        assert jnp.abs(logits - jax.jit(model.apply)(variables, images)).max() > 1e-3
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), variables["batch_stats"], updated["batch_stats"])
        assert all(leaf > 0 for leaf in jax.tree.leaves(moved))


@pytest.mark.parametrize("factor", [0.0, 0.3, 4.0])
def test_preact_resnet_without_batch_norm_is_homogeneous(factor):
    model = models.PreActResNet(5, (2, 2, 2, 2), width=3)
    variables, images = initialised(model, (16, 16, 3)), inputs((16, 16, 3))
    bias = variables["params"]["head"]["linear"]["bias"]
    logits = jax.jit(model.apply)
    np.testing.assert_allclose(
        logits(variables, factor * images) - bias, factor * (logits(variables, images) - bias), atol=1e-5
    )


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

    def loss(variables):
        return -jax.nn.log_softmax(model.apply(variables, images))[jnp.arange(6), jnp.arange(6) % 3].mean()

    for _ in range(3):
        variables = jax.tree.map(lambda w, g: w - 0.5 * g, variables, jax.grad(loss)(variables))
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
    assert isinstance(models.create("m5", 35, (8000, 1), batch_norm=True), models.M5)
    assert set(models.names()) > {"linear", "mlp", "cnn4", "small_cnn", "preact_resnet18", "vit_b16", "m5"}


def test_create_errors():
    with pytest.raises(ValueError, match=r"unknown network 'resnet'; choose one of linear, mlp, .*, m5"):
        models.create("resnet", 10, (32, 32, 3))
    with pytest.raises(ValueError, match="'mlp' has no batch norm; those that do: small_cnn"):
        models.create("mlp", 10, (28, 28, 1), batch_norm=True)
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\), got \(28, 28\)"):
        models.create("cnn4", 10, (28, 28))
    with pytest.raises(ValueError, match=r"must be \(samples, channels\)"):
        models.create("m5", 10, (8000,))
    with pytest.raises(ValueError, match="choose small or large"):
        jax.eval_shape(models.PreActResNet18(2, stem="tiny").init, KEY, jnp.zeros((1, 8, 8, 3)))
