"""ResNets of torchvision and timm, and plain CNNs, with random weights and running statistics: the same logits."""

import jax
import numpy as np
import pytest
from _vision import import_vision

from jaxrobust import models

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.parity

MODULES = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
SHAPE = (64, 64, 3)


def images(shape=SHAPE, batch=4):
    """Noise on another colour in each quarter of each image; of noise alone the networks' averages tell little."""
    generator = np.random.default_rng(0)
    colours = generator.uniform(size=(batch, 2, 2, 3)).repeat(shape[0] // 2, 1).repeat(shape[1] // 2, 2)
    return (0.8 * colours + 0.2 * generator.uniform(size=colours.shape)).astype(np.float32)


def channels_first(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def randomised(module, shape=SHAPE):
    """The module in evaluation mode, its norms random and their statistics near, but not at, those of the images."""
    generator = torch.Generator().manual_seed(0)

    def random(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0  # the running statistics become those of the batch
            layer.weight.data = random(layer.weight, 0.5, 1.5)
            layer.bias.data = random(layer.bias, -0.5, 0.5)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                layer.bias.data = random(layer.bias, -0.1, 0.1)
    with torch.no_grad():
        module.train()(channels_first(images(shape, 8)))
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean += random(layer.running_mean, -0.3, 0.3) * layer.running_var.sqrt()
            layer.running_var *= random(layer.running_var, 0.7, 1.4)
    return module.eval()


def with_activation(module, name):
    """Every ReLU of the module exchanged, as the gradient-norm study does it."""
    for owner in list(module.modules()):
        for child, layer in list(owner.named_children()):
            if isinstance(layer, nn.ReLU):
                setattr(owner, child, MODULES[name]())
    return module


def assert_same_logits(model, module, shape=SHAPE, **options):
    """Largest difference below 1e-3 and much smaller than the images' differences are."""
    variables = models.from_torch(model, module.state_dict(), shape, **options)
    inputs = images(shape)
    with torch.no_grad():
        expected = module(channels_first(inputs)).numpy()
    logits = np.asarray(jax.jit(model.apply)(variables, inputs))
    error, spread = np.abs(logits - expected).max(), expected.std(0).max()
    print(f"largest difference {error:.1e}, largest logit {np.abs(expected).max():.2f}, spread {spread:.2f}")
    assert error < min(1e-3, 0.01 * spread)
    return variables


@pytest.mark.parametrize("activation", MODULES)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision(name, activation):
    vision = import_vision("torchvision.models")
    torch.manual_seed(0)
    module = with_activation(randomised(getattr(vision, name)(num_classes=20)), activation)
    model = getattr(models, name)(20, activation=activation)
    assert_same_logits(model, module)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timm(name):
    timm = import_vision("timm")
    torch.manual_seed(0)
    module = randomised(timm.create_model(name, num_classes=20))
    assert_same_logits(getattr(models, name)(20), module)


def test_input_gradients_of_the_smooth_network():
    """What the gradient-norm penalty is made of."""
    vision = import_vision("torchvision.models")
    torch.manual_seed(0)
    module = with_activation(randomised(vision.resnet18(num_classes=20)), "gelu")
    model = models.resnet18(20, activation="gelu")
    variables = models.from_torch(model, module.state_dict(), SHAPE)
    inputs = images()
    theirs = channels_first(inputs).requires_grad_()
    module(theirs)[:, 3].sum().backward()
    expected = theirs.grad.numpy().transpose(0, 2, 3, 1)
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x)[:, 3].sum()))(inputs)
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())


class Block(nn.Module):
    """A basic block with the names of most code for CIFAR."""

    def __init__(self, inputs, outputs, stride, norm):
        super().__init__()
        bias = not norm
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=bias)
        self.bn1, self.bn2 = (nn.BatchNorm2d(outputs) if norm else nn.Identity() for _ in range(2))
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            last = [nn.BatchNorm2d(outputs)] if norm else []
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=bias), *last)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet10(nn.Module):
    def __init__(self, width, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        for stage in range(4):
            inputs = width * 2 ** max(stage - 1, 0)
            block = Block(inputs, width * 2**stage, 2 if stage else 1, norm)
            self.add_module(f"layer{stage + 1}", nn.Sequential(block))
        self.linear = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("norm", [False, True])
def test_resnet10_of_cifar(norm):
    torch.manual_seed(0)
    module = randomised(ResNet10(16, norm), (32, 32, 3))
    assert_same_logits(models.resnet10(10, width=16, batch_norm=norm), module, (32, 32, 3))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", [models.CNN6, models.CNN8])
def test_plain_cnns(kind, norm):
    torch.manual_seed(0)
    model, layers, inputs = kind(10, batch_norm=norm), [], 3
    for number, outputs in enumerate(model.features):
        layers.append(nn.Conv2d(inputs, outputs, 3, 2 if number and inputs != outputs else 1, 1))
        layers += [nn.BatchNorm2d(outputs)] * norm + [nn.ReLU()]
        inputs = outputs
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))
    module = randomised(module, (32, 32, 3))
    assert_same_logits(model, module, (32, 32, 3))
