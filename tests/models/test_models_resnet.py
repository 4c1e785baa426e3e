"""Residual networks: sizes, structure, initialisation, names in PyTorch, options, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxrobust import losses, models

KEY = jax.random.key(0)
SHAPE = (8, 8, 2)
SMALL = models.ResNet(3, (1, 1), width=4, stem="small")
NETWORKS = {
    "basic": SMALL,
    "bottleneck": SMALL.clone(block="bottleneck", activation="gelu"),
    "no norm": SMALL.clone(batch_norm=False, activation="parametric_softplus"),
}


def images():
    """A dark and a bright one."""
    return jax.random.uniform(jax.random.key(1), (2, *SHAPE)) * jnp.array([0.1, 1])[:, None, None, None]


def shapes(model, shape=SHAPE):
    return jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))


def random_variables(model, shape=SHAPE):
    """Faster than compiling ``init``, and no kernel of zeros."""
    generator = np.random.default_rng(0)

    def leaf(path, wanted):
        values = generator.uniform(-0.3, 0.3, wanted.shape) + (path[-1].key in ("scale", "var"))
        return jnp.asarray(values, wanted.dtype)

    return jax.tree.map_with_path(leaf, shapes(model, shape))


def count(model, shape):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, shape)["params"]))


@pytest.mark.parametrize(
    ("model", "side", "expected"),
    [
        (models.resnet18(1000), 224, 11_689_512),
        (models.resnet50(1000), 224, 25_557_032),
        (models.resnet10(10), 32, 4_900_362),
        # The stem of 3x3, and 10 classes instead of 1000.
        (models.create("resnet18", 10, (32, 32, 3)), 32, 11_689_512 - 64 * 3 * 40 - 990 * 513),
        (models.create("resnet50", 1000, (32, 32, 3)), 32, 25_557_032 - 64 * 3 * 40),
    ],
)
def test_number_of_parameters(model, side, expected):
    assert count(model, (side, side, 3)) == expected


@pytest.mark.parametrize(
    ("model", "side", "maps"),
    [
        (models.resnet10(10), 32, [(32, 64), (16, 128), (8, 256), (4, 512)]),
        (models.resnet18(10), 224, [(56, 64), (28, 128), (14, 256), (7, 512)]),
        (models.resnet50(10), 224, [(56, 256), (28, 512), (14, 1024), (7, 2048)]),
    ],
)
def test_feature_maps(model, side, maps):
    def states(x):
        return model.init_with_output(KEY, x, capture_intermediates=True)[1]["intermediates"]

    found = jax.eval_shape(states, jnp.zeros((1, side, side, 3)))
    blocks = [f"stage_{stage}_block_{size - 1}" for stage, size in enumerate(model.stage_sizes)]
    assert [found[name]["__call__"][0].shape[1:] for name in blocks] == [(size, size, c) for size, c in maps]
    assert sum("block" in name for name in found) == sum(model.stage_sizes)


def test_stride_of_bottlenecks_is_in_the_3x3_convolution():
    def states(x):
        return NETWORKS["bottleneck"].init_with_output(KEY, x, capture_intermediates=True)[1]["intermediates"]

    block = jax.eval_shape(states, jnp.zeros((1, *SHAPE)))["stage_1_block_0"]
    shapes = [block[f"conv_{number}"]["__call__"][0].shape[1:] for number in range(3)]
    assert shapes == [(8, 8, 8), (4, 4, 8), (4, 4, 32)]


@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name):
    model = NETWORKS[name]
    variables, x = random_variables(model), images()
    logits = jax.jit(model.apply)(variables, x)
    assert logits.shape == (2, 3)
    assert jnp.ptp(logits, axis=0).min() > 1e-3
    alone = jax.jit(model.apply)(variables, x[1:])
    np.testing.assert_allclose(alone, logits[1:], rtol=1e-4, atol=1e-5)
    assert ("batch_stats" in variables) == model.batch_norm


def test_a_norm_is_a_convolution_with_another_kernel_and_a_bias():
    """Folded into the convolutions, the norms leave the network without batch norm."""
    normed = SMALL.clone(stage_sizes=(2, 1))
    variables = random_variables(normed)
    params, stats = variables["params"], variables["batch_stats"]

    def fold(conv, norm, stats):
        scale = norm["scale"] / jnp.sqrt(stats["var"] + 1e-5)
        return {"conv": {"kernel": conv["kernel"] * scale, "bias": norm["bias"] - stats["mean"] * scale}}

    def folded(params, stats):
        pairs = {name: "shortcut_norm" if name == "shortcut" else name.replace("conv", "norm") for name in params}
        return {
            name: fold(params[name]["conv"], params[norm]["batch_norm"], stats[norm]["batch_norm"])
            for name, norm in pairs.items()
            if "conv" in params[name]
        }

    plain = {name: folded(params[name], stats[name]) for name in params if name.startswith("stage")}
    norm = params["stem_norm"]["batch_norm"]
    plain["stem"] = fold(params["stem"]["conv"], norm, stats["stem_norm"]["batch_norm"])
    plain["head"] = params["head"]
    logits = jax.jit(normed.apply)(variables, images())
    without = jax.jit(normed.clone(batch_norm=False).apply)({"params": plain}, images())
    np.testing.assert_allclose(without, logits, rtol=1e-3, atol=1e-4)


def test_initialisation():
    model = models.ResNet(3, (1, 1), width=16, stem="small", batch_norm=False)
    params = jax.jit(model.init)(KEY, images())["params"]
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.startswith("head"):
            assert 0 < jnp.abs(leaf).max() <= 1 / 32**0.5
        elif path.endswith("bias") or "conv_1" in path:
            assert (leaf == 0).all()
        else:
            size, outputs = leaf.shape[0], leaf.shape[-1]
            np.testing.assert_allclose(leaf.std(), (2 / (size**2 * outputs)) ** 0.5, rtol=0.12)


def test_with_norms_no_kernel_starts_at_zero():
    params = jax.jit(SMALL.init)(KEY, images())["params"]
    kernels = [leaf for path, leaf in flatten_dict(params, sep="/").items() if path.endswith("kernel")]
    assert len(kernels) == 1 + 2 + 3 + 1
    assert all((kernel != 0).all() for kernel in kernels)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_neither_logits_nor_gradients_grow_with_depth_at_first(block):
    """Without norms a block is its shortcut at first: four more change nothing for the others."""
    shallow = models.ResNet(3, (1,), block, width=4, stem="small", batch_norm=False)
    deep = shallow.clone(stage_sizes=(5,))
    params = jax.jit(deep.init)(KEY, images())["params"]
    kept = {name: params[name] for name in shapes(shallow)["params"]}

    def loss(params, model):
        logits = model.apply({"params": params}, images())
        return losses.cross_entropy(logits, jnp.array([0, 2])).sum()

    def value_and_gradient(params, model):
        return jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, model)

    (value, gradient), (expected, expected_gradient) = (
        value_and_gradient(params, deep),
        value_and_gradient(kept, shallow),
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name, part in expected_gradient.items():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), gradient[name], part)
    last = gradient["stage_0_block_4"][f"conv_{1 if block == 'basic' else 2}"]["conv"]["kernel"]
    assert (last != 0).any()  # every block learns from the first step on


def test_masks():
    params = shapes(SMALL)["params"]
    decayed = flatten_dict(models.decay_mask(params), sep="/")
    assert all(on == ("batch_norm" not in name) for name, on in decayed.items())
    assert sum(not on for on in decayed.values()) == 2 * (1 + 2 + 3)
    trained = flatten_dict(models.trainable_mask(params), sep="/")
    assert {name for name, on in trained.items() if on} == {"head/linear/kernel", "head/linear/bias"}


def test_recomputing_blocks_changes_nothing():
    model = SMALL.clone(stage_sizes=(1,))
    variables, x = random_variables(model), images()

    def loss(params, remat):
        logits, state = model.clone(remat=remat).apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.square(logits).sum(), state

    kept, recomputed = (
        jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(variables["params"], remat) for remat in (False, True)
    )
    assert jax.tree.structure(kept) == jax.tree.structure(recomputed)
    for ours, expected in zip(jax.tree.leaves(recomputed), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * jnp.abs(expected).max())


def test_half_precision():
    half = SMALL.clone(dtype=jnp.bfloat16, stem="large")
    wanted = jax.eval_shape(half.init, KEY, jnp.zeros((1, *SHAPE)))
    assert {leaf.dtype for leaf in jax.tree.leaves(wanted)} == {jnp.dtype("float32")}
    assert jax.eval_shape(half.apply, wanted, images()).dtype == jnp.float32


def test_stem_by_image_size():
    for name in ("resnet10", "resnet18", "resnet50"):
        assert models.create(name, 10, (32, 32, 3)).stem == "small"
        assert models.create(name, 10, (128, 128, 3)).stem == "large"
        assert models.create(name, 10, (128, 128, 3), stem="small").stem == "small"
        assert models.create(name, 10, (32, 32, 3), batch_norm=True).batch_norm
    assert models.resnet10(10) == models.create("resnet10", 10, (32, 32, 3))
    assert models.resnet18(10) == models.create("resnet18", 10, (224, 224, 3), batch_norm=True)
    assert models.resnet50(10, activation="silu") == models.ResNet(10, (3, 4, 6, 3), "bottleneck", activation="silu")


def torch_names(variables, parts):
    """The state dict with customary names, made from the variables."""
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    state_dict = {}
    for (_, *path, _, leaf), value in flatten_dict(variables).items():
        names = [parts.get(part, part) for part in path]
        if len(path) == 2:
            _, stage, _, block = path[0].split("_")
            names[0] = f"layer{int(stage) + 1}.{block}"
        value = np.asarray(value)
        value = np.moveaxis(value, (-1, -2), (0, 1)) if leaf == "kernel" else value
        state_dict[".".join([*names, leaves.get(leaf, leaf)])] = value
    return state_dict


TORCHVISION = {"stem": "conv1", "stem_norm": "bn1", "shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
TORCHVISION |= {f"conv_{number}": f"conv{number + 1}" for number in range(3)} | {"head": "fc"}
TORCHVISION |= {f"norm_{number}": f"bn{number + 1}" for number in range(3)}
CIFAR = {**TORCHVISION, "shortcut": "shortcut.0", "shortcut_norm": "shortcut.1", "head": "linear"}


@pytest.mark.parametrize("parts", [TORCHVISION, CIFAR], ids=["torchvision", "cifar"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_customary_names(block, parts):
    model = SMALL.clone(block=block, stage_sizes=(1, 2))
    variables = random_variables(model)
    state_dict = torch_names(variables, parts)
    loaded = models.from_torch(model, state_dict, SHAPE)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), loaded, variables))
    if parts is TORCHVISION:
        assert {"layer1.0.conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias", "bn1.bias"} < set(state_dict)


def test_weights_that_do_not_fit():
    variables = random_variables(SMALL)
    state_dict = torch_names(variables, TORCHVISION)
    with pytest.raises(ValueError, match="make the network with batch_norm=True"):
        models.from_torch(SMALL.clone(batch_norm=False), state_dict, SHAPE)
    without = {name: value for name, value in state_dict.items() if value.ndim == 4 or name.startswith("fc")}
    with pytest.raises(ValueError, match="where the module has none, add zeros to the state dict"):
        models.from_torch(SMALL.clone(batch_norm=False), without, SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "preact"}, "unknown block 'preact'; choose basic or bottleneck"),
        ({"stem": "tiny"}, "unknown stem 'tiny'; choose small or large"),
        ({"activation": "swish"}, "unknown activation 'swish'; choose relu, gelu, "),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        shapes(SMALL.clone(**options))
