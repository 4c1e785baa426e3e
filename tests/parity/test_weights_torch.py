"""Weights saved by PyTorch under customary names, read from the file, against the modules they come from."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxrobust import models

torch = pytest.importorskip("torch")
from test_models_torch import CNN4, M5, channels_first, randomised  # noqa: E402

nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.parity


def assert_same_logits(module, model, shape, path, save=None, **options):
    """Save, load, compare; the images are not square, so that no two axes can be mistaken for one another."""
    module = randomised(module)
    torch.save(module.state_dict(), path) if save is None else save(module.state_dict(), path)
    variables = models.load_variables(path, model, shape, **options)
    images = jax.random.uniform(jax.random.key(0), (3, *shape))
    logits = jax.jit(model.apply)(variables, images)
    with torch.no_grad():
        expected = module(channels_first(images)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def test_linear(path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 10))
    assert_same_logits(module, models.Linear(10), (4, 5, 3), path)


def test_mlp(path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(60, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10))
    model = models.MLP(10, widths=(16, 12))
    assert_same_logits(module, model, (4, 5, 3), path)
    assert_same_logits(nn.DataParallel(module), model, (4, 5, 3), path)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_cnn4(path, batch_norm):
    norms = [nn.BatchNorm2d(16), nn.BatchNorm2d(32)] if batch_norm else [nn.Identity(), nn.Identity()]
    convs = [nn.Conv2d(3, 16, 4, padding=1), nn.Conv2d(16, 32, 4, padding=1)]
    first, second = ([conv, norm, nn.ReLU()] for conv, norm in zip(convs, norms, strict=True))
    module = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 4 * 6, 100), nn.Linear(100, 10))
    assert_same_logits(module, models.CNN4(10, batch_norm=batch_norm), (6, 8, 3), path)


def test_our_own_names_and_order(path):
    assert_same_logits(CNN4(), models.CNN4(10), (14, 14, 1), path, flatten="hwc")


class CountedCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 2 * 3, 10)

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc1(x.view(len(x), -1))


def test_small_cnn(path):
    assert_same_logits(CountedCNN(), models.SmallCNN(10, features=(4, 6), batch_norm=True), (8, 12, 3), path)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x):
        activated = F.relu(self.bn1(x))
        shortcut = self.shortcut(activated) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(activated)))) + shortcut


class PreActResNet18(nn.Module):
    """With the names of most code for CIFAR, normalisation buffers and, on demand, a norm before the last layer."""

    def __init__(self, width, final_norm=False):
        super().__init__()
        self.register_buffer("mu", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1))
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        for stage in range(4):
            inputs, outputs = width * 2 ** max(stage - 1, 0), width * 2**stage
            blocks = Block(inputs, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(outputs) if final_norm else None
        self.linear = nn.Linear(outputs, 10)

    def forward(self, x):
        x = self.conv1((x - self.mu) / self.sigma)
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        if self.bn is not None:
            x = F.relu(self.bn(x))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


RESNET = models.PreActResNet(10, width=8, batch_norm=True, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def test_preact_resnet18(path):
    def save(state_dict, path):  # as training scripts write it
        torch.save({"epoch": 3, "net": {f"module.{name}": value for name, value in state_dict.items()}}, path)

    assert_same_logits(PreActResNet18(8), RESNET, (32, 32, 3), path, save)


def test_norm_before_the_last_layer(path):
    module = PreActResNet18(8, final_norm=True)
    assert_same_logits(module, RESNET.clone(final_norm=True), (32, 32, 3), path)
    with pytest.raises(
        ValueError, match=r"weights\.pt: .* Not in the network: bn\.bias, bn\.running_mean, .*with final_norm=True"
    ):
        models.load_variables(path, RESNET, (32, 32, 3))
    with pytest.raises(ValueError, match=r"normalises with mu = \(0\.5, 0\.4, 0\.3\), the network with mean=None"):
        models.load_variables(path, RESNET.clone(mean=None), (32, 32, 3))


class WideBlock(nn.Module):
    """A block under either naming: ``names`` are those of the norms, the convolutions and the shortcut."""

    def __init__(self, inputs, outputs, stride, names, act, zeros):
        super().__init__()
        self.names, self.act, self.zeros = names, act, zeros if stride == 2 else (1, 1, 1, 1)
        layers = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        layers += nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        layers += (nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None,)
        for name, layer in zip(names, layers, strict=True):
            self.add_module(name, layer)

    def forward(self, x):
        norm_0, conv_0, norm_1, conv_1, shortcut = (getattr(self, name) for name in self.names)
        o = self.act(norm_0(x))
        y = conv_1(self.act(norm_1(conv_0(F.pad(o, self.zeros)))))
        return y + (x if shortcut is None else shortcut(o))


def wide_stages(depth, width, *how):
    widths = [16, *(16 * width * 2**stage for stage in range(3))]
    return [
        nn.Sequential(
            *(
                WideBlock(widths[stage + (number > 0)], widths[stage + 1], 2 if stage and not number else 1, *how)
                for number in range((depth - 4) // 6)
            )
        )
        for stage in range(3)
    ]


class GowalWideResNet(nn.Module):
    """The names of Gowal et al. and Wang et al., SiLU, strided convolutions padded at the bottom and on the right."""

    def __init__(self, depth, width):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1))
        self.init_conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        names = ("batchnorm_0", "conv_0", "batchnorm_1", "conv_1", "shortcut")
        groups = [nn.Module() for _ in range(3)]
        for group, stage in zip(groups, wide_stages(depth, width, names, F.silu, (0, 1, 0, 1)), strict=True):
            group.block = stage
        self.layer = nn.ModuleList(groups)
        self.batchnorm, self.logits = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, 10)

    def forward(self, x):
        x = self.init_conv((x - self.mean) / self.std)
        for group in self.layer:
            x = group.block(x)
        return self.logits(F.silu(self.batchnorm(x)).mean((2, 3)))


class ClassicWideResNet(nn.Module):
    """The names of TRADES and RobustBench, ReLU, symmetric padding, and TRADES's blocks that are never applied."""

    def __init__(self, depth, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        names = ("bn1", "conv1", "bn2", "conv2", "convShortcut")
        for number, stage in enumerate(wide_stages(depth, width, names, F.relu, (1, 1, 1, 1))):
            self.add_module(f"block{number + 1}", nn.Module())
            getattr(self, f"block{number + 1}").layer = stage
        self.sub_block1 = nn.Module()
        self.sub_block1.layer = wide_stages(depth, width, names, F.relu, (1, 1, 1, 1))[0]
        self.bn1, self.fc = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, 10)

    def forward(self, x):
        x = self.conv1(x)
        for number in range(3):
            x = getattr(self, f"block{number + 1}").layer(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


def he(module):
    """Kernels as the published code draws them."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return module


@pytest.mark.parametrize(("depth", "width", "shape"), [(10, 1, (16, 24, 3)), (28, 10, (32, 32, 3))])
def test_wide_resnet_of_gowal(path, depth, width, shape):
    model = models.create("wrn_28_10", 10, shape, depth=depth, width=width, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    module = he(GowalWideResNet(depth, width))
    assert {"init_conv.weight", "layer.1.block.0.shortcut.weight", "batchnorm.running_var"} < set(module.state_dict())
    assert_same_logits(module, model, shape, path)
    if width == 1:
        with pytest.raises(ValueError, match=r"normalises with mean = \(0\.5, 0\.4, 0\.3\), .*mean=None"):
            models.load_variables(path, model.clone(mean=None), shape)


@pytest.mark.parametrize(("depth", "width", "shape"), [(10, 1, (16, 24, 3)), (28, 10, (32, 32, 3))])
def test_wide_resnet_of_trades(path, depth, width, shape):
    model = models.create("wrn_34_10", 10, shape, depth=depth, width=width)
    module = he(ClassicWideResNet(depth, width))
    assert {"conv1.weight", "block2.layer.0.convShortcut.weight", "bn1.running_var"} < set(module.state_dict())
    assert_same_logits(module, model, shape, path)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class ViTBlock(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer with timm's names."""

    def __init__(self, patch, patches, width=24, heads=3, hidden=40):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + patches, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, heads, hidden) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


@pytest.mark.parametrize(("name", "shape"), [("vit_small", (8, 12, 3)), ("vit_b16", (32, 48, 3))])
def test_vit(path, name, shape):
    sizes = {"width": 24, "depth": 2, "heads": 3, "mlp_width": 40, "activation": "gelu", "mean": None, "std": None}
    model = models.create(name, 10, shape, **sizes)
    assert_same_logits(ViT(model.patch_size, 6), model, shape, path)


def test_m5(path):
    shape, features = (4000, 1), (6, 6, 8, 12)
    model = models.M5(10, features=features)
    module = M5(features, 4, True)
    for number in range(4):  # the average over time varies little otherwise
        getattr(module, f"conv_{number}").weight.data *= 4
    assert_same_logits(module, model, shape, path)

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(2)

    stages = (
        (getattr(module, f"conv_{i}"), getattr(module, f"norm_{i}"), nn.ReLU(), nn.MaxPool1d(4)) for i in range(4)
    )
    assert_same_logits(
        nn.Sequential(*(layer for stage in stages for layer in stage), Mean(), module.head), model, shape, path
    )


def test_safetensors_and_bfloat16(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(60, 10))
    model, shape = models.Linear(10), (4, 5, 3)

    def save(state_dict, path):
        safetensors.numpy.save_file({name: value.numpy() for name, value in state_dict.items()}, path)

    assert_same_logits(module, model, shape, tmp_path / "weights.safetensors", save)
    assert_same_logits(
        module.bfloat16().float(),
        model,
        shape,
        tmp_path / "weights.bin",
        lambda state_dict, path: torch.save({name: value.bfloat16() for name, value in state_dict.items()}, path),
    )
    variables = models.from_torch(model, module.state_dict(), shape)  # PyTorch's own tensors
    np.testing.assert_array_equal(variables["params"]["head"]["linear"]["bias"], module[1].bias.detach().numpy())


def test_files_with_more_than_tensors(path):
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(
        ValueError, match=r"weights\.pt holds more than tensors, .* torch\.save\(module\.state_dict\(\)"
    ):
        models.read_weights(path)
    path.write_text("<html>")
    with pytest.raises(ValueError, match="or it is damaged"):
        models.read_weights(path)
    torch.save(torch.zeros(2), path)
    with pytest.raises(ValueError, match="holds a Tensor, not a state dict"):
        models.read_weights(path)
    torch.save({"epoch": 3, "weights": {"a": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match="entries that are no tensors: epoch, weights; save module"):
        models.read_weights(path)
    torch.save({"model": {"state_dict": {"a": torch.arange(3)}}, "optimizer": {"lr": 0.1}}, path)
    np.testing.assert_array_equal(models.read_weights(path)["a"], np.arange(3))
