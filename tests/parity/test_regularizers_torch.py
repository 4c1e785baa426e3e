"""Losses of input derivatives against double backpropagation in PyTorch: values, and gradients of the parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L1, L2, Linf, losses
from jaxrobust.losses import _soar

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
BATCH, SHAPE, CLASSES = 5, (6, 6, 2), 4
FEATURES = int(np.prod(SHAPE))
IMAGES, LABELS = RNG.uniform(size=(BATCH, *SHAPE)), RNG.integers(CLASSES, size=BATCH)
SOFT = RNG.dirichlet(np.ones(CLASSES), size=BATCH)
VECTORS = RNG.normal(size=(BATCH, FEATURES + 1))
EPS, STEP = 0.1, 0.01
PARAMETERS = {
    "kernel": RNG.normal(size=(3, 3, 2, 4)) / 3,
    "bias": 0.1 * RNG.normal(size=4),
    "dense": 0.3 * RNG.normal(size=(2 * 2 * 4, CLASSES)),
}


def network(activation, parameters, images):
    hidden = jax.lax.conv_general_dilated(
        images, parameters["kernel"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return activation(hidden + parameters["bias"]).reshape(len(images), -1) @ parameters["dense"]


def torch_network(activation, parameters, images):
    kernel = parameters["kernel"].permute(3, 2, 0, 1)
    hidden = torch.nn.functional.conv2d(images.permute(0, 3, 1, 2), kernel, parameters["bias"], stride=2)
    return activation(hidden.permute(0, 2, 3, 1)).flatten(1) @ parameters["dense"]


ACTIVATIONS = {
    "silu": (jax.nn.silu, torch.nn.functional.silu),
    "gelu": (functools.partial(jax.nn.gelu, approximate=False), torch.nn.functional.gelu),
    "relu": (jax.nn.relu, torch.relu),
}


class Torch:
    """Cross-entropies and their input gradients, through which the parameters are differentiated."""

    def __init__(self, logits_fn, labels):
        self.logits_fn, self.labels = logits_fn, labels

    def loss(self, images):
        return torch.nn.functional.cross_entropy(self.logits_fn(images), self.labels, reduction="none")

    def value_and_gradient(self, images):
        images = images.clone().requires_grad_(True)
        values = self.loss(images)
        return values, torch.autograd.grad(values.sum(), images, create_graph=True)[0]

    def gradient_norm(self, images, norm, loss_weight=1.0, penalty_weight=1.0, scale=1.0):
        values, gradient = self.value_and_gradient(images)
        return loss_weight * values + penalty_weight * EPS * norm((scale * gradient).flatten(1))

    def cure(self, images):
        values, gradient = self.value_and_gradient(images)
        direction = gradient.detach().sign()
        direction = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
        _, moved = self.value_and_gradient(images + 1.5 * direction)
        return values + 4 * ((moved - gradient) ** 2).flatten(1).sum(1)

    def soar(self, images, product):
        values, gradient = self.value_and_gradient(images)
        z, last = torch.tensor(VECTORS[:, :-1]), torch.tensor(VECTORS[:, -1])
        flat = gradient.flatten(1)
        length = z.norm(dim=1, keepdim=True)
        if product == "exact":
            images = images.clone().requires_grad_(True)
            again = torch.autograd.grad(self.loss(images).sum(), images, create_graph=True)[0].flatten(1)
            hvp = torch.autograd.grad((again * z).sum(), images, create_graph=True)[0].flatten(1)
        else:
            _, moved = self.value_and_gradient(images + STEP * (z / length).reshape(images.shape))
            hvp = length * (moved.flatten(1) - flat) / STEP
        stacked = torch.cat([hvp + last[:, None] * flat, ((flat * z).sum(1) + last)[:, None]], 1)
        return values + ((FEATURES * EPS**2 + 1) / 2 * stacked.norm(dim=1)).clamp(max=10.0)

    def jacobian(self, images):
        images = images.clone().requires_grad_(True)
        logits = self.logits_fn(images)
        rows = [
            torch.autograd.grad(logits[:, k].sum(), images, create_graph=True)[0].flatten(1) for k in range(CLASSES)
        ]
        return torch.cat(rows, 1).norm(dim=1)


def _soar_at_images(product):
    def values(logits_fn, images, labels):
        options = {"product": product, "step": STEP, "point": "zero"}
        return losses.soar(jax.random.key(0), logits_fn, images, labels, Linf(EPS), **options)

    return values


def _gradient_norm(threat, **options):
    return lambda f, x, y: losses.gradient_norm(f, x, y, threat, **options)


SCALE = np.array([1.02, 0.98])
CASES = {
    "gradient_norm_Linf": (
        _gradient_norm(Linf(EPS), loss_weight=0.8, penalty_weight=1.2, scale=SCALE),
        lambda t, x: t.gradient_norm(x, lambda g: g.abs().sum(1), 0.8, 1.2, torch.tensor(SCALE)),
    ),
    "gradient_norm_L2": (_gradient_norm(L2(EPS)), lambda t, x: t.gradient_norm(x, lambda g: g.norm(dim=1))),
    "gradient_norm_L1": (_gradient_norm(L1(EPS)), lambda t, x: t.gradient_norm(x, lambda g: g.abs().max(1).values)),
    "foar_zero": (
        lambda f, x, y: losses.foar(jax.random.key(0), f, x, y, Linf(EPS), point="zero"),
        lambda t, x: t.gradient_norm(x, lambda g: g.abs().sum(1)),
    ),
    "jacobian": (
        lambda f, x, y: losses.input_gradient_penalty(f, x, y, L2(EPS), target="logits"),
        lambda t, x: t.jacobian(x),
    ),
    "cure": (losses.cure, lambda t, x: t.cure(x)),
    "soar_finite_difference": (_soar_at_images("finite_difference"), lambda t, x: t.soar(x, "finite_difference")),
    "soar_exact": (_soar_at_images("exact"), lambda t, x: t.soar(x, "exact")),
}


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_parameter_gradients(float64, monkeypatch, name, activation, labels):
    z = jnp.asarray(VECTORS)
    monkeypatch.setattr(_soar, "_vectors", lambda keys, images: (z[:, :-1].reshape(images.shape), z[:, -1]))
    ours, theirs = CASES[name]
    hard = labels is LABELS

    def mean(parameters):
        logits_fn = functools.partial(network, ACTIVATIONS[activation][0], parameters)
        values = ours(logits_fn, jnp.asarray(IMAGES), jnp.asarray(labels, jnp.int32 if hard else jnp.float64))
        return values.mean(), values

    gradient, values = jax.jit(jax.grad(mean, has_aux=True))(jax.tree.map(jnp.asarray, PARAMETERS))
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in PARAMETERS.items()}
    logits_fn = functools.partial(torch_network, ACTIVATIONS[activation][1], leaves)
    expected = theirs(Torch(logits_fn, torch.tensor(labels)), torch.tensor(IMAGES))
    expected.mean().backward()
    np.testing.assert_allclose(values, expected.detach().numpy(), rtol=1e-9)
    assert float(jnp.abs(gradient["dense"]).max()) > 1e-3
    for leaf, array in gradient.items():
        np.testing.assert_allclose(array, leaves[leaf].grad.numpy(), rtol=1e-6, atol=1e-9)
