"""TRADES, MART and AWP against PyTorch, on a network with batch norm in training mode: values, gradients, statistics."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf, attacks, models, training
from jaxrobust.random import example_keys, fold_in_each
from jaxrobust.training import awp, mart, mixture, trades

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
BATCH, SHAPE, CLASSES = 24, (8, 8, 3), 5
IMAGES = RNG.uniform(size=(BATCH, *SHAPE))
ADVERSARIAL = np.clip(IMAGES + RNG.uniform(-0.1, 0.1, size=IMAGES.shape), 0, 1)
LABELS = RNG.integers(CLASSES, size=BATCH)


@pytest.fixture(scope="module")
def network():
    """A PyTorch network in double precision whose batch-norm statistics are not those of its initialisation."""
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, CLASSES)),
    ).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)
    module.train()
    module(to_torch(RNG.uniform(size=(64, *SHAPE))))
    return module.float().double()  # numbers that our single-precision variables hold exactly


def to_torch(images):
    return torch.tensor(np.moveaxis(images, -1, 1))


def ours(module):
    """``apply`` and variables of the same network, in double precision."""
    model = models.SmallCNN(classes=CLASSES, features=(4, 6), batch_norm=True, dtype=jnp.float64)
    variables = models.from_torch(model, module.state_dict(), SHAPE)
    exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    return training.linen_apply(model), exact


def smoothed(logits, labels, smoothing):
    target = torch.full_like(logits, smoothing / CLASSES)
    target[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(target * logits.log_softmax(1)).sum(1)


def divergence(p, q):
    return (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1)


def trades_loss(module, images, adversarial, labels):
    clean, attacked = module(images), module(adversarial)
    return (smoothed(clean, labels, 0.1) + 5.0 * divergence(clean, attacked)).mean()


def mart_loss(module, images, adversarial, labels):
    """With the constants of the published code."""
    clean, attacked = module(images), module(adversarial)
    rows = torch.arange(len(labels))
    p, q = clean.softmax(1), attacked.softmax(1)
    wrong = q.clone()
    wrong[rows, labels] = -1.0
    boosted = -q[rows, labels].log() - (1.0001 - wrong.max(1).values + 1e-12).log()
    weighted = (p * (p.log() - (q + 1e-12).log())).sum(1) * (1.0000001 - p[rows, labels])
    return boosted.mean() + 6.0 * weighted.mean()


def mixture_loss(module, images, adversarial, labels):
    losses = [torch.nn.functional.cross_entropy(module(x), labels) for x in (images, adversarial)]
    return 0.3 * losses[0] + 0.7 * losses[1]


def unused(key, logits_fn, images, labels):
    raise AssertionError("the adversarial images are given")


CASES = {
    "trades": (trades(unused, beta=5.0, label_smoothing=0.1), trades_loss),
    "mart": (mart(unused, beta=6.0), mart_loss),
    "mixture": (mixture(unused, clean_weight=0.3), mixture_loss),
}


def moved_by_published_awp(module, loss, gamma):
    """A copy makes a step of SGD uphill; the module moves by its direction, layer by layer."""
    proxy = copy.deepcopy(module)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss(proxy)).backward()
    optimizer.step()
    moved = copy.deepcopy(module)
    with torch.no_grad():
        for new, target in zip(proxy.parameters(), moved.parameters(), strict=True):
            if target.ndim > 1:
                difference = new - target
                target += gamma * target.norm() / (difference.norm() + 1e-20) * difference
    return moved


def gradients_as_ours(module):
    """The module's gradients, in the form of our parameters."""
    holder = copy.deepcopy(module)
    with torch.no_grad():
        for parameter, source in zip(holder.parameters(), module.parameters(), strict=True):
            parameter.copy_(source.grad)
    return ours(holder)[1]["params"]


@pytest.mark.parametrize("gamma", [None, 0.01])
@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_statistics(float64, network, name, gamma):
    objective, loss = CASES[name]
    arguments = (to_torch(IMAGES), to_torch(ADVERSARIAL), torch.tensor(LABELS))
    module = copy.deepcopy(network)
    if gamma is not None:
        objective = awp(objective, gamma=gamma)
        module = moved_by_published_awp(module, lambda proxy: loss(proxy, *arguments), gamma)
    apply, variables = ours(network)
    batch = {
        "images": jnp.asarray(IMAGES),
        "adversarial": jnp.asarray(ADVERSARIAL),
        "labels": jnp.asarray(LABELS, jnp.int32),
    }

    def value_of(params):
        return objective.loss(apply, {**variables, "params": params}, jax.random.key(0), batch)

    (value, aux), gradient = jax.jit(jax.value_and_grad(value_of, has_aux=True))(variables["params"])
    expected = loss(module, *arguments)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), atol=1e-5)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0.1
    expected_gradient = gradients_as_ours(module)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, expected_gradient)

    # PyTorch's running variances average unbiased ones.
    before, after = variables["batch_stats"], ours(module)[1]["batch_stats"]
    for number, count in (("0", BATCH * 16), ("1", BATCH * 4)):
        old, new, found = (
            stats[f"norm_{number}"]["batch_norm"] for stats in (before, after, aux.model_state["batch_stats"])
        )
        np.testing.assert_allclose(found["mean"], new["mean"], atol=1e-6)
        biased = 0.81 * old["var"] + (new["var"] - 0.81 * old["var"]) * (count - 1) / count
        np.testing.assert_allclose(found["var"], biased, atol=1e-6)


@pytest.mark.parametrize("train", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.5, bounds=None)], ids=["Linf", "L2"])
def test_trades_pgd(float64, network, threat, train):
    # In l2 without a box, where the order of clipping and scaling does not matter.
    steps, step_size = 5, 0.4 * threat.eps
    apply, variables = ours(network)
    key, images = jax.random.key(3), jnp.asarray(IMAGES)

    def logits_fn(variables, images):
        return apply(variables, images, train=train)[0]

    attack = attacks.trades_pgd(threat, steps=steps, step_size=step_size)
    found = attack(key, functools.partial(logits_fn, variables), images, jnp.asarray(LABELS))

    # Our random start, then PyTorch.
    start = threat.sample(fold_in_each(fold_in_each(example_keys(key, BATCH), 0), 0), images)
    module, clean = copy.deepcopy(network), to_torch(IMAGES)
    module.train(train)
    perturbation = to_torch(np.asarray(start))
    with torch.no_grad():
        reference = module(clean)
    for _ in range(steps):
        point = (clean + perturbation).requires_grad_()
        gradient = torch.autograd.grad(divergence(reference, module(point)).sum(), point)[0]
        if isinstance(threat, Linf):
            moved = (perturbation + step_size * gradient.sign()).clamp(-threat.eps, threat.eps)
            perturbation = (clean + moved).clamp(0, 1) - clean
        else:
            moved = perturbation + step_size * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
            length = moved.flatten(1).norm(dim=1)[:, None, None, None]
            perturbation = moved * (threat.eps / length).clamp(max=1)
    np.testing.assert_allclose(found, np.moveaxis((clean + perturbation).numpy(), 1, -1), atol=1e-8)
