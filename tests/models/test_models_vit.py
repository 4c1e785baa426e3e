"""Vision transformers and their checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import models

KEY = jax.random.key(0)
MODEL = models.ViT(3, patch_size=2, width=8, depth=2, heads=2, mlp_width=12)
SHAPE = (4, 4, 3)
IMAGES = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
FEATURES = jax.jit(lambda variables, images: MODEL.apply(variables, images, method="features"))


@pytest.fixture(scope="module")
def variables():
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda wanted: jnp.asarray(generator.normal(size=wanted.shape) / 3, wanted.dtype),
        jax.eval_shape(MODEL.init, KEY, IMAGES),
    )


def published(params):
    """The parameters by the names of the original JAX implementation, written out one by one."""
    encoder, head = params["encoder"], params["head"]["linear"]
    arrays = {
        "embedding/kernel": encoder["embedding"]["conv"]["kernel"],
        "embedding/bias": encoder["embedding"]["conv"]["bias"],
        "cls": encoder["class_token"],
        "Transformer/posembed_input/pos_embedding": encoder["positions"],
        "Transformer/encoder_norm/scale": encoder["norm"]["layer_norm"]["scale"],
        "Transformer/encoder_norm/bias": encoder["norm"]["layer_norm"]["bias"],
        "head/kernel": head["kernel"],
        "head/bias": head["bias"],
    }
    for number in range(2):
        block, start = encoder[f"block_{number}"], f"Transformer/encoderblock_{number}/"
        for part in ("scale", "bias"):
            arrays[f"{start}LayerNorm_0/{part}"] = block["norm_0"]["layer_norm"][part]
            arrays[f"{start}LayerNorm_2/{part}"] = block["norm_1"]["layer_norm"][part]
        for part in ("kernel", "bias"):
            for name in ("query", "key", "value", "out"):
                arrays[f"{start}MultiHeadDotProductAttention_1/{name}/{part}"] = block["attention"][name][part]
            arrays[f"{start}MlpBlock_3/Dense_0/{part}"] = block["dense_0"]["linear"][part]
            arrays[f"{start}MlpBlock_3/Dense_1/{part}"] = block["dense_1"]["linear"][part]
    return {name: np.asarray(array) for name, array in arrays.items()}


@pytest.fixture
def arrays(variables):
    return published(jax.tree.map(lambda leaf: leaf + 0.1, variables["params"]))


@pytest.fixture
def save(tmp_path):
    def save(arrays):
        path = tmp_path / "checkpoint.npz"
        np.savez(path, **arrays)
        return path

    return save


def test_features_are_the_inputs_of_the_head(variables):
    features = FEATURES(variables, IMAGES)
    assert features.shape == (2, 8)
    head = variables["params"]["head"]["linear"]
    logits = jax.jit(MODEL.apply)(variables, IMAGES)
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)


def test_positions_distinguish_patches(variables):
    shuffled = jnp.roll(IMAGES, 2, axis=1)
    assert jnp.abs(FEATURES(variables, shuffled) - FEATURES(variables, IMAGES)).max() > 1e-3
    encoder = variables["params"]["encoder"]
    without = {"params": {**variables["params"], "encoder": {**encoder, "positions": jnp.zeros((1, 5, 8))}}}
    np.testing.assert_allclose(FEATURES(without, shuffled), FEATURES(without, IMAGES), rtol=1e-4, atol=1e-5)


def test_activation_is_exchanged_with_the_same_parameters(variables):
    """From the tanh form of GELU, the published checkpoints', to the exact one: close, not the same."""
    assert MODEL.activation == "gelu_tanh"
    exact = MODEL.clone(activation="gelu")
    assert jax.tree.structure(jax.eval_shape(exact.init, KEY, IMAGES)) == jax.tree.structure(variables)
    features = jax.jit(lambda variables, images: exact.apply(variables, images, method="features"))(variables, IMAGES)
    assert 1e-7 < jnp.abs(features - FEATURES(variables, IMAGES)).max() < 1e-2


def test_only_the_head_is_trained(variables):
    params = variables["params"]
    mask = models.trainable_mask(params)
    optimizer = optax.partition({True: optax.sgd(0.1), False: optax.set_to_zero()}, mask)

    @jax.jit
    def step(params):
        updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    moved = step(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), moved["encoder"], params["encoder"]))
    np.testing.assert_allclose(moved["head"]["linear"]["kernel"], params["head"]["linear"]["kernel"] - 0.1, rtol=1e-6)
    assert jax.tree.all(models.trainable_mask(params, ("head", "encoder")))
    with pytest.raises(ValueError, match="no part tail; its parts are encoder, head"):
        models.trainable_mask(params, ("tail",))


def test_checkpoint_round_trip(arrays, save, variables):
    loaded = models.load_vit_npz(save(arrays), MODEL, SHAPE)
    expected = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and (a == b).all(), loaded, expected))


def test_new_head(arrays, save, variables):
    arrays |= {"pre_logits/kernel": np.zeros((8, 8)), "pre_logits/bias": np.zeros(8)}
    path = save(arrays)
    with pytest.raises(ValueError, match=r"Not in the model: pre_logits/bias, pre_logits/kernel\. .*head_key"):
        models.load_vit_npz(path, MODEL, SHAPE)
    wider = MODEL.clone(classes=7)
    params = models.load_vit_npz(path, wider, SHAPE, head_key=KEY)["params"]
    assert params["head"]["linear"]["kernel"].shape == (8, 7)
    assert 0 < jnp.abs(params["head"]["linear"]["kernel"]).max() <= 8**-0.5
    encoder = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"]["encoder"])
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params["encoder"], encoder))
    zeros = models.load_vit_npz(path, wider.clone(head_initializer="zeros"), SHAPE, head_key=KEY)["params"]["head"]
    assert not any(leaf.any() for leaf in jax.tree.leaves(zeros))
    del arrays["head/kernel"], arrays["head/bias"]
    headless = models.load_vit_npz(save(arrays), wider, SHAPE, head_key=KEY)["params"]
    assert jax.tree.structure(headless) == jax.tree.structure(params)


@pytest.mark.parametrize("shape", [(6, 6, 3), (4, 8, 3), (2, 2, 3)])
def test_positions_are_interpolated(arrays, save, shape):
    name = "Transformer/posembed_input/pos_embedding"
    grid = np.stack(np.meshgrid([0.0, 1.0], [0.0, 1.0], indexing="ij"), -1)  # the row, the column
    arrays[name] = np.concatenate([np.full((1, 1, 8), 9.0), np.tile(grid.reshape(1, 4, 2), (1, 1, 4))], 1)
    positions = models.load_vit_npz(save(arrays), MODEL, shape)["params"]["encoder"]["positions"]
    rows, columns = shape[0] // 2, shape[1] // 2
    assert positions.shape == (1, 1 + rows * columns, 8)
    assert (positions[0, 0] == 9).all()
    if rows > 1:
        expected = np.stack(np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij"), -1)
        np.testing.assert_allclose(positions[0, 1:, :2].reshape(rows, columns, 2), expected, atol=1e-6)


def test_checkpoint_errors(arrays, save, tmp_path):
    def load(changed, model=MODEL):
        return models.load_vit_npz(save(changed), model, SHAPE)

    with pytest.raises(ValueError, match=r"Not in the file: Transformer/encoderblock_2/LayerNorm_0/bias, .*\.\.\."):
        load(arrays, MODEL.clone(depth=3))
    with pytest.raises(ValueError, match=r"Not in the model: Transformer/encoderblock_1/LayerNorm_0/bias"):
        load(arrays, MODEL.clone(depth=1))
    with pytest.raises(ValueError, match=r"head/kernel is \(8, 3\), the model wants \(8, 5\)"):
        load(arrays, MODEL.clone(classes=5))
    with pytest.raises(ValueError, match="not those of a class token and a square grid"):
        load({**arrays, "Transformer/posembed_input/pos_embedding": np.zeros((1, 4, 8))})
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*absent\.npz"):
        models.load_vit_npz(tmp_path / "absent.npz", MODEL, SHAPE)
    (tmp_path / "page.npz").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.npz is not an \.npz file"):
        models.load_vit_npz(tmp_path / "page.npz", MODEL, SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 3}, "cannot be cut into patches of 3x3"),
        ({"heads": 3}, "width 8 is not a multiple of the number of heads, 3"),
        ({"activation": "sigmoid"}, "unknown activation 'sigmoid'; choose relu, gelu"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(MODEL.clone(**options).init, KEY, IMAGES)
