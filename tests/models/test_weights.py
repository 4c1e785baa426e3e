"""Weights from files and under PyTorch's names."""

import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from test_models_vit import MODEL as VIT
from test_models_vit import SHAPE as VIT_SHAPE
from test_models_vit import published

from jaxrobust import models

KEY = jax.random.key(0)
REFERENCE = Path(os.environ.get("JAXROBUST_REFERENCE_DIR") or Path(__file__).parents[3] / "shared/reference/autoattack")
SMALL = {"width": 8, "depth": 2, "heads": 2, "mlp_width": 12}
NETWORKS = {
    "linear": ((4, 6, 3), {}),
    "mlp": ((4, 6, 3), {"widths": (5, 7)}),
    "small_cnn": ((4, 8, 3), {"features": (3, 5), "batch_norm": True}),
    "cnn4": ((5, 6, 2), {"batch_norm": True}),
    "cnn6": ((8, 6, 3), {"features": (2, 2, 3), "batch_norm": True}),
    "cnn8": ((8, 6, 3), {"features": (2, 3, 3, 4)}),
    "preact_resnet18": ((8, 8, 3), {"width": 2, "batch_norm": True}),
    "resnet10": ((8, 8, 3), {"width": 2}),
    "resnet18": ((8, 8, 3), {"width": 2, "stage_sizes": (2, 1), "batch_norm": True}),
    "resnet50": ((8, 8, 3), {"width": 2, "stage_sizes": (1, 2), "batch_norm": True}),
    "wide_resnet": ((8, 8, 3), {"depth": 16, "width": 2}),
    "wrn_28_10": ((8, 8, 3), {"depth": 10, "width": 1}),
    "wrn_34_10": ((8, 8, 3), {"depth": 10, "width": 2}),
    "vit_small": ((8, 12, 3), SMALL),
    "vit_b16": ((32, 16, 3), SMALL),
    "swin_t": ((16, 8, 3), {"width": 4, "stage_sizes": (2, 1), "heads": (1, 2)}),
    "swin_b": ((16, 16, 3), {"width": 4, "stage_sizes": (1, 2), "heads": (2, 4)}),
    "convnext_tiny": ((8, 16, 3), {"widths": (4, 6), "stage_sizes": (1, 2)}),
    "convnext_base": ((8, 8, 3), {"widths": (4, 8), "stage_sizes": (2, 1)}),
    "m5": ((4000, 1), {"features": (2, 3, 4, 5)}),
}


def create(name):
    shape, options = NETWORKS[name]
    return models.create(name, 3, shape, **options), shape


def random_variables(model, shape):
    generator = np.random.default_rng(0)
    wanted = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return jax.tree.map(lambda leaf: jnp.asarray(generator.uniform(0.5, 2, leaf.shape), jnp.float32), wanted)


def to_torch(variables):
    """The state dict under our own names, with entries flattened in our order."""
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    state_dict = {}
    for path, value in flatten_dict(variables).items():
        value, attention = np.asarray(value), "attention" in path
        if attention and path[-1] == "bias":
            value = value.reshape(-1)
        elif attention:
            value = value.reshape(-1, value.shape[-1]) if path[-2] == "out" else value.reshape(len(value), -1)
        if path[-1] == "kernel":
            axes = tuple(range(value.ndim))
            value = value.transpose(axes[-1], axes[-2], *axes[:-2])
        modules = [part for part in path[1:-1] if part not in ("conv", "linear", "batch_norm", "layer_norm")]
        state_dict[".".join([*modules, leaves.get(path[-1], path[-1])])] = value
        if path[-1] == "mean":
            state_dict[".".join([*modules, "num_batches_tracked"])] = np.array(7)
    return state_dict


def assert_equal(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == jnp.float32 and (a == b).all(), ours, expected))


@pytest.fixture(scope="module")
def cnn():
    model, shape = create("small_cnn")
    variables = random_variables(model, shape)
    return model, shape, variables, to_torch(variables)


# What is loaded.


@pytest.mark.parametrize("name", models.names())
def test_our_names(name):
    model, shape = create(name)
    variables = random_variables(model, shape)
    assert_equal(models.from_torch(model, to_torch(variables), shape, flatten="hwc"), variables)


def rename(state_dict, *pairs):
    def renamed(name):
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        return name

    return {renamed(name): value for name, value in state_dict.items()}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("linear", {"head": "1"}),
        ("linear", {"head": "fc1"}),
        ("mlp", {"dense_0": "1", "dense_1": "4", "head": "12"}),
        ("mlp", {"dense_0": "fc1", "dense_1": "fc2", "head": "fc3"}),
        ("small_cnn", {"conv_0": "0.0", "norm_0": "0.1", "conv_1": "1.0", "norm_1": "1.1", "head": "10"}),
        ("cnn4", {"conv_0": "0", "norm_0": "1", "conv_1": "3", "norm_1": "4", "dense_0": "7", "head": "8"}),
        (
            "cnn4",
            {"conv_0": "conv1", "norm_0": "bn1", "conv_1": "conv2", "norm_1": "bn2", "dense_0": "fc1", "head": "fc2"},
        ),
        (
            "m5",
            {f"{kind}_{i}": f"{4 * i + j}" for i in range(4) for j, kind in enumerate(("conv", "norm"))}
            | {"head": "16"},
        ),
        (
            "m5",
            {f"{kind}_{i}": f"{short}{i + 1}" for i in range(4) for kind, short in (("conv", "conv"), ("norm", "bn"))}
            | {"head": "fc1"},
        ),
    ],
)
def test_sequential_and_counted_names(name, layers):
    model, shape = create(name)
    variables = random_variables(model, shape)
    state_dict = rename(to_torch(variables), *((f"^{ours}\\.", f"{theirs}.") for ours, theirs in layers.items()))
    assert not any(name in state_dict for name in to_torch(variables))
    assert_equal(models.from_torch(model, state_dict, shape, flatten="hwc"), variables)


@pytest.mark.parametrize("name", ["linear", "mlp", "small_cnn", "cnn4"])
def test_flattening_by_channel(name):
    """The entry at (row, column, channel) meets the weight that PyTorch has at (channel, row, column)."""
    model, shape = create(name)
    state_dict = to_torch(random_variables(model, shape))
    layer = "dense_0" if "dense_0.weight" in state_dict else "head"
    height, width, channels = {"small_cnn": (1, 2, 5), "cnn4": (3, 4, 32)}.get(name, shape)
    weight = state_dict[f"{layer}.weight"]
    kernel = models.from_torch(model, state_dict, shape)["params"][layer]["linear"]["kernel"]
    ours = np.asarray(kernel).reshape(height, width, channels, -1)
    theirs = weight.reshape(-1, channels, height, width)
    for row, column, channel in ((0, 1, 2 % channels), (height - 1, 0, 1), (0, width - 1, channels - 1)):
        np.testing.assert_array_equal(ours[row, column, channel], theirs[:, channel, row, column])
    assert (kernel != weight.T).any()


def test_a_trained_network_gives_its_published_logits():
    if not REFERENCE.is_dir():
        pytest.skip("the reference networks are not here")
    arrays = models.read_weights(REFERENCE / "mlp_plain.npz")
    images = arrays.pop("images")
    del arrays["labels"]
    model = models.create("mlp", 10, (28, 28, 1), widths=(256, 128))
    logits = model.apply(models.from_torch(model, arrays, (28, 28, 1)), images)
    with np.load(REFERENCE / "ref_mlp_plain_Linf.npz") as reference:
        np.testing.assert_allclose(logits, reference["logits"], rtol=1e-4, atol=1e-4)


def test_a_single_linear_layer():
    state_dict = {"weight": np.arange(12.0).reshape(3, 4), "bias": np.arange(3.0)}
    layer = models.from_torch(models.Linear(3), state_dict, (2, 2, 1))["params"]["head"]["linear"]
    np.testing.assert_array_equal(layer["kernel"], state_dict["weight"].T)
    np.testing.assert_array_equal(layer["bias"], state_dict["bias"])


def test_npz_of_a_sequence_against_a_forward_pass_by_hand(tmp_path):
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(5, 3 * 2 * 4)), generator.normal(size=(3, 5))
    biases = generator.normal(size=5), generator.normal(size=3)
    path = tmp_path / "mlp.npz"
    np.savez(path, **{"1.weight": first, "1.bias": biases[0], "3.weight": second, "3.bias": biases[1]})
    images = generator.uniform(size=(6, 2, 4, 3))
    hidden = np.maximum(images.transpose(0, 3, 1, 2).reshape(6, -1) @ first.T + biases[0], 0)
    model = models.MLP(3, widths=(5,))
    logits = model.apply(models.load_variables(path, model, (2, 4, 3)), images.astype(np.float32))
    np.testing.assert_allclose(logits, hidden @ second.T + biases[1], rtol=1e-4, atol=1e-5)


def test_customary_names_of_residual_networks():
    model, shape = create("preact_resnet18")
    variables = random_variables(model, shape)
    pairs = [(r"^head", "linear"), (r"^stem", "conv1"), ("norm_0", "bn1"), ("norm_1", "bn2"), ("conv_1", "conv2")]
    pairs += [("conv_0", "conv1"), (r"shortcut", "shortcut.0")]
    pairs += [(rf"stage_{stage}_block_", f"layer{stage + 1}.") for stage in range(4)]
    state_dict = rename(to_torch(variables), *pairs)
    assert {"conv1.weight", "layer1.0.bn1.running_var", "layer4.1.conv2.weight", "linear.bias"} <= state_dict.keys()
    assert {name for name in state_dict if "shortcut" in name} == {f"layer{i}.0.shortcut.0.weight" for i in (2, 3, 4)}
    assert_equal(models.from_torch(model, state_dict, shape), variables)
    # Names that are partly customary: the rest by key_map.
    state_dict = rename(state_dict, ("^linear", "fc"))
    assert_equal(models.from_torch(model, state_dict, shape, key_map={"head": "fc"}), variables)
    with pytest.raises(ValueError, match=r"Missing: linear\.bias \(for head\.bias\).*Not in the network: fc\.bias"):
        models.from_torch(model, state_dict, shape)


def test_customary_name_of_the_final_norm():
    shape, options = NETWORKS["preact_resnet18"]
    plain = models.create("preact_resnet18", 3, shape, **options)
    model = plain.clone(final_norm=True)
    variables = random_variables(model, shape)
    pairs = [("^head", "linear"), ("^stem", "conv1"), ("norm_0", "bn1"), ("norm_1", "bn2"), ("conv_1", "conv2")]
    pairs += [("conv_0", "conv1"), ("shortcut", "shortcut.0"), (r"stage_(\d)_block_", r"layer\1."), ("^norm", "bn")]
    state_dict = rename(to_torch(variables), *pairs)
    state_dict = rename(state_dict, *((f"^layer{stage}", f"layer{stage + 1}") for stage in (3, 2, 1, 0)))
    assert {"bn.running_mean", "layer1.0.bn1.weight", "layer4.0.shortcut.0.weight"} <= state_dict.keys()
    assert_equal(models.from_torch(model, state_dict, shape), variables)
    with pytest.raises(ValueError, match=r"Not in the network: bn\.bias, .*make the network with final_norm=True"):
        models.from_torch(plain, state_dict, shape)
    without = {name: value for name, value in state_dict.items() if not name.startswith("bn.")}
    with pytest.raises(ValueError, match=r"Missing: bn\.bias \(for norm.*make the network with final_norm=False"):
        models.from_torch(model, without, shape)


def wide_resnet_names(naming):
    if naming == "gowal":
        pairs = [("^stem", "init_conv"), ("norm_", "batchnorm_"), (r"^norm\.", "batchnorm."), ("^head", "logits")]
        return [*pairs, (r"^stage_(\d)_block_", r"layer.\1.block.")]
    pairs = [("conv_1", "conv2"), ("conv_0", "conv1"), ("norm_0", "bn1"), ("norm_1", "bn2"), (r"^norm\.", "bn1.")]
    pairs += [("^stem", "conv1"), ("^head", "fc"), ("shortcut", "convShortcut")]
    return pairs + [(f"^stage_{stage}_block_", f"block{stage + 1}.layer.") for stage in range(3)]


@pytest.mark.parametrize(
    ("naming", "expected"),
    [
        ("gowal", {"init_conv.weight", "layer.2.block.1.batchnorm_0.running_var", "layer.1.block.0.shortcut.weight"}),
        ("trades", {"conv1.weight", "block3.layer.1.bn1.running_var", "block2.layer.0.convShortcut.weight"}),
    ],
)
def test_customary_names_of_wide_residual_networks(naming, expected):
    model, shape = create("wide_resnet")
    variables = random_variables(model, shape)
    state_dict = rename(to_torch(variables), *wide_resnet_names(naming))
    assert not state_dict.keys() & {name for name in to_torch(variables) if "conv_" not in name}
    assert expected <= state_dict.keys()
    assert_equal(models.from_torch(model, state_dict, shape), variables)
    assert_equal(
        models.from_torch(model, {f"module.{name}": value for name, value in state_dict.items()}, shape), variables
    )
    state_dict["surplus.weight"] = state_dict.pop(min(expected))
    with pytest.raises(ValueError, match=rf"Missing: {min(expected)} \(for stem\.weight\)|Missing: {min(expected)} \("):
        models.from_torch(model, state_dict, shape)


def test_layers_that_trades_never_applies_are_ignored():
    model, shape = create("wide_resnet")
    variables = random_variables(model, shape)
    state_dict = rename(to_torch(variables), *wide_resnet_names("trades"))
    copies = {name.replace("block1", "sub_block1"): value for name, value in state_dict.items() if "block1" in name}
    assert "sub_block1.layer.0.conv1.weight" in copies
    assert_equal(models.from_torch(model, state_dict | copies, shape), variables)
    model, shape = create("preact_resnet18")
    with pytest.raises(ValueError, match="Not in the network: sub_block1"):
        models.from_torch(model, to_torch(random_variables(model, shape)) | copies, shape)


def fused(variables):
    """The state dict of a ViT under timm's names."""
    state_dict = to_torch(variables)
    for block in range(2):
        for leaf in ("weight", "bias"):
            names = [f"encoder.block_{block}.attention.{part}.{leaf}" for part in ("query", "key", "value")]
            state_dict[f"blocks.{block}.attn.qkv.{leaf}"] = np.concatenate([state_dict.pop(name) for name in names])
    pairs = [(r"attention\.out", "attn.proj"), ("norm_0", "norm1"), ("norm_1", "norm2"), ("dense_0", "mlp.fc1")]
    pairs += [("dense_1", "mlp.fc2"), ("^encoder.block_", "blocks."), ("^encoder.embedding", "patch_embed.proj")]
    pairs += [("^encoder.class_token", "cls_token"), ("^encoder.positions", "pos_embed"), ("^encoder.", "")]
    return rename(state_dict, *pairs)


def test_fused_attention():
    variables = random_variables(VIT, VIT_SHAPE)
    state_dict = fused(variables)
    assert {"norm.weight", "blocks.1.attn.proj.bias", "patch_embed.proj.weight", "head.bias"} <= state_dict.keys()
    assert_equal(models.from_torch(VIT, state_dict, VIT_SHAPE), variables)
    # Under a name of one's own, too.
    state_dict = rename(state_dict, (r"blocks\.0\.attn\.qkv\.", "first.in_proj_"))
    layer = "encoder.block_0.attention"
    key_map = {
        f"{layer}.{part}.{leaf}": f"first.in_proj_{leaf}"
        for part in ("query", "key", "value")
        for leaf in ("weight", "bias")
    }
    assert_equal(models.from_torch(VIT, state_dict, VIT_SHAPE, key_map=key_map), variables)


def test_key_map_of_tensors_and_layers(cnn):
    model, shape, variables, state_dict = cnn
    state_dict = {**state_dict, "w": state_dict["head.weight"]}
    del state_dict["head.weight"]
    state_dict = rename(state_dict, ("^conv_0", "features.first"))
    key_map = {"head.weight": "w", "conv_0": "features.first"}
    assert_equal(models.from_torch(model, state_dict, shape, key_map=key_map, flatten="hwc"), variables)
    with pytest.raises(
        ValueError, match=r"key_map has the keys conv_7, which the network does not have; .*conv_0\.bias"
    ):
        models.from_torch(model, state_dict, shape, key_map={"conv_7": "features.first"})


def test_prefixes(cnn):
    model, shape, variables, state_dict = cnn

    def load(state_dict, **options):
        return models.from_torch(model, state_dict, shape, flatten="hwc", **options)

    for prefix in ("module.", "model.", "module.model.", "_orig_mod.module."):
        assert_equal(load({prefix + name: value for name, value in state_dict.items()}), variables)
    wrapped = {f"module.{name}": value for name, value in rename(state_dict, ("head", "fc")).items()}
    assert_equal(load(wrapped, key_map={"head": "module.fc"}), variables)
    assert_equal(load(wrapped, key_map={"head": "fc"}), variables)
    inside = {f"net.1.{name}": value for name, value in state_dict.items()} | {"ema.decay": np.zeros(())}
    for prefix in ("net.1.", "net.1"):
        assert_equal(load(inside, prefix=prefix), variables)
    with pytest.raises(
        ValueError, match=r"no name starts with the prefix 'net\.2\.'; the names are ema\.decay, net\.1"
    ):
        load(inside, prefix="net.2")


@pytest.mark.parametrize(("mean_name", "std_name"), [("mu", "sigma"), ("0.mean", "0.std")])
def test_buffers_of_a_normalisation_must_be_the_models(cnn, mean_name, std_name):
    model, shape, variables, state_dict = cnn
    mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    buffers = {mean_name: np.reshape(mean, (1, 3, 1, 1)), std_name: np.array(std, np.float32)}

    def load(model, buffers):
        return models.from_torch(model, state_dict | buffers, shape, flatten="hwc")

    assert_equal(load(model.clone(mean=mean, std=std), buffers), variables)
    assert_equal(load(model, {mean_name: np.zeros(3), std_name: np.ones(1)}), variables)
    with pytest.raises(ValueError, match=rf"normalises with {mean_name} = \(0\.4914, .*mean=None; make the network"):
        load(model, buffers)
    with pytest.raises(ValueError, match=rf"normalises with {std_name} = \(0\.2471, .*std=\(0\.2, 0\.2, 0\.2\)"):
        load(model.clone(mean=mean, std=(0.2, 0.2, 0.2)), buffers)


def test_half_precision_becomes_float32(cnn, tmp_path):
    model, shape, variables, state_dict = cnn
    path = tmp_path / "half.safetensors"
    types = {"head.weight": jnp.bfloat16, "head.bias": np.float16}
    safetensors.numpy.save_file(
        {name: np.asarray(value, types.get(name, value.dtype), order="C") for name, value in state_dict.items()}, path
    )
    loaded = models.load_variables(path, model, shape, flatten="hwc")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded))
    for ours, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2**-8)


# What does not fit.


def test_missing_unused_and_wrong_tensors(cnn):
    model, shape, _, state_dict = cnn
    head = state_dict["head.weight"]
    changed = {**state_dict, "head.weight": head[:, :-1], "tail.weight": head}
    del changed["conv_1.bias"]
    message = (
        r"does not fit this SmallCNN for images \(4, 8, 3\)\. Missing: conv_1\.bias\. Not in the network: tail\.weight\. "
        r"Of another shape: head\.weight is \(3, 9\), the network wants \(3, 10\)\. Compare the sizes"
    )
    with pytest.raises(ValueError, match=message):
        models.from_torch(model, changed, shape)
    with pytest.raises(ValueError, match=r"head\.weight is \(3, 10\), the network wants \(3, 20\)"):
        models.from_torch(model, state_dict, (8, 8, 3))
    sequence = {"1.weight": np.ones((5, 6)), "1.bias": np.ones(5), "3.weight": np.ones((4, 5)), "3.bias": np.ones(3)}
    with pytest.raises(ValueError, match=r"Of another shape: 3\.weight \(for head\.weight\) is \(4, 5\), .* \(3, 5\)"):
        models.from_torch(models.MLP(3, widths=(5,)), sequence, (2, 3, 1))
    with pytest.raises(ValueError, match=r"Not in the network: 3\.bias, 3\.weight\."):
        models.from_torch(models.Linear(5), sequence, (2, 3, 1))
    with pytest.raises(ValueError, match=r"Missing: dense_2\.bias, .*head\.bias, head\.weight\."):
        models.from_torch(models.MLP(3, widths=(5, 4, 4)), sequence, (2, 3, 1))
    with pytest.raises(ValueError, match=r"and \d+ more"):
        models.from_torch(VIT, {"a": np.ones(2)}, VIT_SHAPE)
    with pytest.raises(ValueError, match="the state dict is empty"):
        models.from_torch(model, {"norm_0.num_batches_tracked": np.array(1)}, shape)


def test_batch_norm_that_only_one_side_has(cnn):
    model, shape, _, state_dict = cnn
    with pytest.raises(ValueError, match="make the network with batch_norm=True"):
        models.from_torch(model.clone(batch_norm=False), state_dict, shape)
    plain = {name: value for name, value in state_dict.items() if "norm" not in name}
    for module in (plain, rename(plain, ("conv_", ""), ("head", "5"))):
        with pytest.raises(ValueError, match="has no batch norm: make the network with batch_norm=False"):
            models.from_torch(model, module, shape)


def test_residual_networks_with_norms_in_the_shortcuts_are_refused():
    model, shape = create("preact_resnet18")
    extra = "layer2.0.shortcut.1.weight"
    state_dict = to_torch(random_variables(model, shape)) | {extra: np.ones(2)}
    with pytest.raises(
        ValueError, match=rf"Not in the network: {extra}\. The module has layers .* cannot be used here"
    ):
        models.from_torch(model, state_dict, shape)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("head.bias", lambda value: value * np.nan, r"head\.bias is not finite in float32"),
        ("conv_0.weight", lambda value: np.float64(value) * 1e300, r"conv_0\.weight is not finite in float32"),
        ("head.weight", lambda value: value.astype(np.int8), r"head\.weight is of type int8; .*not quantised"),
        ("norm_1.running_var", lambda value: -value, r"norm_1\.running_var is a variance but has negative entries"),
    ],
)
def test_weights_that_cannot_be_computed_with(cnn, name, change, message):
    model, shape, _, state_dict = cnn
    with pytest.raises(ValueError, match=message):
        models.from_torch(model, {**state_dict, name: change(state_dict[name])}, shape)


def test_networks_and_orders_that_are_not_known(cnn):
    model, shape, _, state_dict = cnn
    with pytest.raises(ValueError, match="cannot load PyTorch weights into Normalize; choose one of Linear, MLP"):
        models.from_torch(models.Normalize(), state_dict, shape)
    with pytest.raises(ValueError, match="unknown order 'whc' to flatten in; choose chw or hwc"):
        models.from_torch(model, state_dict, shape, flatten="whc")


# Files.


@pytest.mark.parametrize("name", ["small_cnn", "vit_small"])
def test_round_trip_of_our_own_variables(name, tmp_path):
    model, shape = create(name)
    variables = random_variables(model, shape)
    path = tmp_path / "new" / "weights.safetensors"
    for values in (variables, jax.tree.map(lambda leaf: leaf + 1, variables)):  # the second replaces the first
        models.write_weights(path, values)
        assert_equal(models.load_variables(path, model, shape), values)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "params/head/linear/kernel" in models.read_weights(path)
    with pytest.raises(
        ValueError, match=r"weights\.safetensors: the variables are not those of this .*head/linear/bias"
    ):
        models.load_variables(path, model.clone(classes=4), shape)
    models.write_weights(path, jax.tree.map(lambda leaf: leaf * jnp.inf, variables))
    with pytest.raises(ValueError, match=r"weights\.safetensors: (params|batch_stats)/.* is not finite"):
        models.load_variables(path, model, shape)


def test_views_are_written_in_order(tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
    models.write_weights(tmp_path / "w.safetensors", {"params": {"kernel": kernel, "scalar": np.float32(2)}})
    read = models.read_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(read["params/kernel"], kernel)
    assert read["params/scalar"].shape == ()


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        models.write_weights(tmp_path / "weights.npz", {"params": {}})
    with pytest.raises(ValueError, match=r'must have "params", got head; give \{"params": params\}'):
        models.write_weights(tmp_path / "weights.safetensors", {"head": {}})


def test_original_vision_transformers_are_recognised(tmp_path):
    variables = random_variables(VIT, VIT_SHAPE)
    np.savez(tmp_path / "vit.npz", **published(variables["params"]))
    assert_equal(models.load_variables(tmp_path / "vit.npz", VIT, VIT_SHAPE), variables)


def test_pytorch_names_in_safetensors(tmp_path):
    variables, path = random_variables(VIT, VIT_SHAPE), tmp_path / "vit.safetensors"
    safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in fused(variables).items()}, path)
    assert_equal(models.load_variables(path, VIT, VIT_SHAPE), variables)
    with pytest.raises(
        ValueError, match=r"vit\.safetensors: the state dict does not fit this ViT for images \(8, 8, 3\)"
    ):
        models.load_variables(path, VIT, (8, 8, 3))


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file of weights .*absent\.npz"):
        models.read_weights(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"weights\.h5 is no file .* end in \.safetensors, \.npz, \.pt, \.pth, \.bin"):
        models.read_weights(tmp_path / "weights.h5")
    for name, message in (("page.npz", "not an .npz file"), ("page.safetensors", "not a safetensors file")):
        (tmp_path / name).write_text("<html>")
        with pytest.raises(ValueError, match=message):
            models.read_weights(tmp_path / name)
    np.savez(tmp_path / "objects.npz", pickled=np.array([{}], object))
    with pytest.raises(ValueError, match="other objects than arrays of numbers, which are not read"):
        models.read_weights(tmp_path / "objects.npz")
    (tmp_path / "weights.pt").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"weights\.pt takes PyTorch: pip install torch; .*safetensors"):
        models.read_weights(tmp_path / "weights.pt")


# Whether variables are a network's.


def test_variables_are_checked(cnn):
    model, shape, variables, _ = cnn
    models.check_variables(model, variables, shape)
    models.check_variables(
        model.clone(batch_norm=False), {"params": without_norms(variables), "batch_stats": {}}, shape
    )
    with pytest.raises(ValueError, match=r"this SmallCNN for images \(4, 8, 3\)\. Missing: batch_stats/norm_0"):
        models.check_variables(model, {"params": variables["params"]}, shape)
    with pytest.raises(ValueError, match=r"Not in the network: batch_stats/norm_0/.* and 2 more\. Make the network"):
        models.check_variables(model.clone(batch_norm=False), variables, shape)
    with pytest.raises(ValueError, match=r"params/head/linear/kernel is \(10, 3\), the network wants \(20, 3\)\."):
        models.check_variables(model, variables, (8, 8, 3))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), variables)
    with pytest.raises(ValueError, match=r"norm_0/batch_norm/mean is \(2, 3\), .* give the variables of one network"):
        models.check_variables(model, stacked, shape)


def without_norms(variables):
    return {name: part for name, part in variables["params"].items() if not name.startswith("norm")}
