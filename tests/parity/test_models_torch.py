"""The networks against PyTorch modules with the same weights, and PyTorch's initialisation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.parity

KEY = jax.random.key(0)


class CNN4(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_0, self.conv_1 = nn.Conv2d(1, 16, 4, padding=1), nn.Conv2d(16, 32, 4, padding=1)
        self.dense_0, self.head = nn.Linear(32 * 12 * 12, 100), nn.Linear(100, 10)

    def forward(self, x):
        x = F.relu(self.conv_1(F.relu(self.conv_0(x))))
        # The dense layer takes the entries in the order height, width, channels.
        return self.head(self.dense_0(x.permute(0, 2, 3, 1).flatten(1)))


class Block(nn.Module):
    """``one_sided`` pads a strided convolution at the bottom and on the right."""

    def __init__(self, inputs, outputs, stride, batch_norm, act=F.relu, momentum=0.1, one_sided=False):
        super().__init__()
        norm = functools.partial(nn.BatchNorm2d, momentum=momentum) if batch_norm else lambda _: nn.Identity()
        self.norm_0, self.norm_1 = norm(inputs), norm(outputs)
        self.act, self.zeros = act, (0, 1, 0, 1) if one_sided and stride == 2 else (1, 1, 1, 1)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        o = self.act(self.norm_0(x))
        shortcut = x if self.shortcut is None else self.shortcut(o)
        return self.conv_1(self.act(self.norm_1(self.conv_0(F.pad(o, self.zeros))))) + shortcut


class PreActResNet18(nn.Module):
    def __init__(self, width, stem, batch_norm, final_norm=False, act=F.relu):
        super().__init__()
        self.act = act
        self.large, self.blocks = stem == "large", []
        self.stem = nn.Conv2d(3, width, *((7, 2, 3) if self.large else (3, 1, 1)), bias=False)
        inputs = width
        for stage in range(4):
            for number in range(2):
                outputs, stride = width * 2**stage, 2 if stage > 0 and number == 0 else 1
                self.blocks.append(f"stage_{stage}_block_{number}")
                self.add_module(self.blocks[-1], Block(inputs, outputs, stride, batch_norm, act))
                inputs = outputs
        self.norm = nn.BatchNorm2d(inputs) if final_norm else None
        self.head = nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.stem(x)
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        for name in self.blocks:
            x = getattr(self, name)(x)
        if self.norm is not None:
            x = self.act(self.norm(x))
        return self.head(F.avg_pool2d(x, 7 if self.large else 4).flatten(1))


class WideResNet(nn.Module):
    def __init__(self, depth, width, act, momentum, one_sided):
        super().__init__()
        self.act, self.blocks, inputs = act, [], 16
        self.stem = nn.Conv2d(3, inputs, 3, 1, 1, bias=False)
        for stage in range(3):
            for number in range((depth - 4) // 6):
                outputs, stride = 16 * width * 2**stage, 2 if stage > 0 and number == 0 else 1
                self.blocks.append(f"stage_{stage}_block_{number}")
                self.add_module(self.blocks[-1], Block(inputs, outputs, stride, True, act, momentum, one_sided))
                inputs = outputs
        self.norm, self.head = nn.BatchNorm2d(inputs, momentum=momentum), nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.stem(x)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.head(self.act(self.norm(x)).mean((2, 3)))


class M5(nn.Module):
    def __init__(self, features, stride, padded):
        super().__init__()
        for number, outputs in enumerate(features):
            inputs = 1 if number == 0 else features[number - 1]
            size, step = (80, stride) if number == 0 else (3, 1)
            padding = (size - step) // 2 if padded else 0
            self.add_module(f"conv_{number}", nn.Conv1d(inputs, outputs, size, step, padding))
            self.add_module(f"norm_{number}", nn.BatchNorm1d(outputs))
        self.head = nn.Linear(features[-1], 10)

    def forward(self, x):
        for number in range(4):
            x = getattr(self, f"norm_{number}")(getattr(self, f"conv_{number}")(x))
            x = F.max_pool1d(F.relu(x), 4)
        return self.head(x.mean(2))


def channels_first(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy())


def to_kernel(weight):
    """PyTorch's ``[out, in, ...]`` to ``[..., in, out]``."""
    return np.moveaxis(weight, (0, 1), (-1, -2)) if weight.ndim > 1 else weight


def to_variables(module):
    """The module's weights and running statistics in the layout of the Flax network."""
    kinds = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}
    tree = {}
    for path, value in module.state_dict().items():
        *names, kind = path.split(".")
        if kind == "num_batches_tracked":
            continue
        batch_norm = "norm" in names[-1]
        layer = "batch_norm" if batch_norm else "linear" if names[-1].startswith(("dense", "head")) else "conv"
        collection = "batch_stats" if kind.startswith("running") else "params"
        kind = "scale" if batch_norm and kind == "weight" else kinds.get(kind, kind)
        node = tree.setdefault(collection, {})
        for name in (*names, layer):
            node = node.setdefault(name, {})
        node[kind] = jnp.asarray(to_kernel(value.numpy().copy()))
    return tree


def randomised(module):
    """The module with norms that are not those of a fresh one, in evaluation mode."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for value in (layer.weight.data, layer.bias.data, layer.running_mean):
                value.add_(0.3 * torch.randn_like(value))
            layer.running_var.uniform_(0.5, 2)
    return module.eval()


def assert_same_networks(module, model, shape, batch=2, momentum=0.9, tolerance=1e-3):
    """Logits and input gradients; with batch norm also logits and running statistics in training."""
    variables = to_variables(randomised(module))
    images = jax.random.uniform(KEY, (batch, *shape))
    wanted = jax.eval_shape(model.init, KEY, images)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, wanted)

    def loss(images):
        logits = model.apply(variables, images)
        return jnp.square(logits).sum(), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(images)
    inputs = channels_first(images).requires_grad_()
    expected = module(inputs)
    expected.square().sum().backward()
    assert np.abs(expected.detach().numpy()).max() > 1e-2
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    slopes = np.moveaxis(inputs.grad.numpy(), 1, -1)
    np.testing.assert_allclose(gradient, slopes, atol=1e-4 * np.abs(slopes).max())
    if "batch_stats" in variables:
        train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
        logits, state = train(variables, images)
        before = variables["batch_stats"]
        with torch.no_grad():
            expected = module.train()(channels_first(images))
        np.testing.assert_allclose(logits, expected.numpy(), rtol=tolerance, atol=tolerance)
        assert_same_statistics(state["batch_stats"], before, to_variables(module)["batch_stats"], momentum)


def assert_same_statistics(ours, before, theirs, momentum):
    """Means agree; PyTorch averages unbiased variances, larger by ``n / (n - 1)``, one factor per layer."""
    flatten = functools.partial(jax.tree.leaves_with_path)
    for (path, a), (_, start), (_, b) in zip(flatten(ours), flatten(before), flatten(theirs), strict=True):
        if path[-1].key == "mean":
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        else:
            factors = (b - momentum * start) / (a - momentum * start)
            assert factors.min() > 1
            np.testing.assert_allclose(factors, factors.mean(), rtol=1e-2)


def test_cnn4():
    assert_same_networks(CNN4(), models.CNN4(10), (14, 14, 1))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_preact_resnet18(batch_norm):
    model = models.PreActResNet(10, width=8, batch_norm=batch_norm)
    assert_same_networks(PreActResNet18(8, "small", batch_norm), model, (32, 32, 3), batch=4)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_preact_resnet18_of_full_width(batch_norm):
    module = randomised(PreActResNet18(64, "small", batch_norm))
    variables, images = to_variables(module), jax.random.uniform(KEY, (2, 32, 32, 3))
    logits = jax.jit(models.PreActResNet18(10, batch_norm=batch_norm).apply)(variables, images)
    with torch.no_grad():
        np.testing.assert_allclose(logits, module(channels_first(images)).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_preact_resnet18_with_final_norm(activation):
    model = models.PreActResNet(10, width=8, batch_norm=True, final_norm=True, activation=activation)
    module = PreActResNet18(8, "small", True, True, getattr(F, activation))
    assert_same_networks(module, model, (32, 32, 3), batch=4)


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize(("activation", "momentum"), [("silu", 0.99), ("relu", 0.9)])
def test_wide_resnet(one_sided, activation, momentum):
    options = {"activation": activation, "momentum": momentum, "symmetric_padding": not one_sided}
    module = WideResNet(10, 2, getattr(F, activation), 1 - momentum, one_sided)
    shape, batch = (16, 24, 3), 3
    model = models.WideResNet(10, depth=10, width=2, **options)
    assert_same_networks(module, model, shape, batch, momentum, 1e-4)


def test_factor_of_running_variances():
    """Check of the statement above: with ``n`` values per channel it is ``n / (n - 1)``."""
    module = randomised(WideResNet(10, 1, F.silu, 0.01, True))
    variables, images = to_variables(module), jax.random.uniform(KEY, (3, 8, 8, 3))
    train = jax.jit(functools.partial(models.WideResNet(10, 10, 1).apply, train=True, mutable=["batch_stats"]))
    ours = train(variables, images)[1]["batch_stats"]
    with torch.no_grad():
        module.train()(channels_first(images))
    theirs, before = to_variables(module)["batch_stats"], variables["batch_stats"]
    for path, side in ((("stage_0_block_0", "norm_1"), 8), (("stage_2_block_0", "norm_0"), 4), (("norm",), 2)):
        a, b, start = (
            functools.reduce(lambda node, name: node[name], path, tree)["batch_norm"]["var"]
            for tree in (ours, theirs, before)
        )
        factors = (b - 0.99 * start) / (a - 0.99 * start)
        np.testing.assert_allclose(factors.mean(), 1 + 1 / (3 * side**2 - 1), atol=1e-3)


def test_large_stem():
    model = models.PreActResNet(10, width=4, stem="large")
    assert_same_networks(PreActResNet18(4, "large", False), model, (224, 224, 3), batch=1)


@pytest.mark.parametrize(
    ("features", "stride", "padding"), [((12, 12, 16, 24), 4, "same"), ((8, 8, 12, 12), 16, "valid")]
)
def test_m5(features, stride, padding):
    model = models.M5(10, features=features, strides=stride, padding=padding)
    assert_same_networks(M5(features, stride, padding == "same"), model, (8000, 1), batch=4)


def copy_vit_layer(layer, block):
    """The weights of one block in a ``TransformerEncoderLayer``."""
    width = layer.self_attn.embed_dim
    attention = block["attention"]
    rows = [np.asarray(attention[name]["kernel"]).reshape(width, width).T for name in ("query", "key", "value")]
    biases = [np.asarray(attention[name]["bias"]).reshape(width) for name in ("query", "key", "value")]
    pairs = {
        layer.self_attn.in_proj_weight: np.concatenate(rows),
        layer.self_attn.in_proj_bias: np.concatenate(biases),
        layer.self_attn.out_proj.weight: np.asarray(attention["out"]["kernel"]).reshape(width, width).T,
        layer.self_attn.out_proj.bias: attention["out"]["bias"],
        layer.linear1.weight: np.asarray(block["dense_0"]["linear"]["kernel"]).T,
        layer.linear1.bias: block["dense_0"]["linear"]["bias"],
        layer.linear2.weight: np.asarray(block["dense_1"]["linear"]["kernel"]).T,
        layer.linear2.bias: block["dense_1"]["linear"]["bias"],
        layer.norm1.weight: block["norm_0"]["layer_norm"]["scale"],
        layer.norm1.bias: block["norm_0"]["layer_norm"]["bias"],
        layer.norm2.weight: block["norm_1"]["layer_norm"]["scale"],
        layer.norm2.bias: block["norm_1"]["layer_norm"]["bias"],
    }
    for parameter, value in pairs.items():
        parameter.data = torch.tensor(np.asarray(value))


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
def test_vit(activation):
    model = models.ViT(5, patch_size=4, width=24, depth=2, heads=3, mlp_width=40, activation=activation)
    images = jax.random.uniform(KEY, (3, 8, 12, 3))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda wanted: jnp.asarray(generator.normal(size=wanted.shape) / 4, wanted.dtype),
        jax.eval_shape(model.init, KEY, images),
    )
    encoder, head = variables["params"]["encoder"], variables["params"]["head"]["linear"]
    tensor = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), (encoder, head))
    approximate = {"gelu_tanh": "tanh", "gelu": "none"}[activation]
    with torch.no_grad():
        embedding = tensor[0]["embedding"]["conv"]
        x = F.conv2d(channels_first(images), embedding["kernel"].permute(3, 2, 0, 1), embedding["bias"], stride=4)
        x = torch.cat([tensor[0]["class_token"].expand(3, 1, 24), x.flatten(2).transpose(1, 2)], 1)
        x = x + tensor[0]["positions"]
        for number in range(2):
            layer = nn.TransformerEncoderLayer(
                24,
                3,
                40,
                dropout=0.0,
                activation=functools.partial(F.gelu, approximate=approximate),
                layer_norm_eps=1e-6,
                batch_first=True,
                norm_first=True,
            ).eval()
            copy_vit_layer(layer, encoder[f"block_{number}"])
            x = layer(x)
        norm = tensor[0]["norm"]["layer_norm"]
        features = F.layer_norm(x[:, 0], (24,), norm["scale"], norm["bias"], 1e-6)
        logits = features @ tensor[1]["kernel"] + tensor[1]["bias"]
    ours = jax.jit(lambda v, x: (model.apply(v, x, method="features"), model.apply(v, x)))(variables, images)
    np.testing.assert_allclose(ours[0], features.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours[1], logits.numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(logits.numpy()).max() > 0.1


@pytest.mark.parametrize("layer", [nn.Linear(300, 40), nn.Conv2d(12, 40, 5), nn.Conv1d(4, 40, 80)])
def test_initialisation(layer):
    weight = layer.weight.detach().numpy()
    fan_in = math.prod(weight.shape[1:])
    kernel_init, bias_init = models.torch_default_init(fan_in)
    kernel, bias = kernel_init(KEY, weight.shape, jnp.float32), bias_init(KEY, (40,), jnp.float32)
    np.testing.assert_allclose(np.abs(kernel).max(), np.abs(weight).max(), rtol=0.01)
    np.testing.assert_allclose(np.std(kernel), weight.std(), rtol=0.05)
    np.testing.assert_allclose(np.abs(bias).max(), layer.bias.detach().abs().max().item(), rtol=0.25)
