"""Attacks against Foolbox, torchattacks and the Adversarial Robustness Toolbox, with the same weights, start and constants."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf, attacks
from jaxrobust.attacks import _apgd
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore"),  # the peers' own
]

CLASSES, SHAPE, BATCH = 5, (6, 6, 3), 16
RNG = np.random.default_rng(0)
WEIGHTS = [(RNG.normal(size=size) / np.sqrt(size[0])).astype(np.float32) for size in ((108, 24), (24, CLASSES))]
IMAGES = RNG.uniform(0.2, 0.8, size=(BATCH, *SHAPE)).astype(np.float32)


def network(weights, images):
    return 4 * jnp.tanh(images.reshape(images.shape[0], -1) @ weights[0]) @ weights[1]


LOGITS_FN = functools.partial(network, [jnp.asarray(weight) for weight in WEIGHTS])
LABELS = np.asarray(LOGITS_FN(IMAGES).argmax(-1), np.int32)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        # PyTorch flattens channels first.
        first = np.moveaxis(WEIGHTS[0].reshape(*SHAPE, -1), 2, 0).reshape(WEIGHTS[0].shape)
        self.first, self.second = (torch.nn.Parameter(torch.tensor(weight)) for weight in (first, WEIGHTS[1]))

    def forward(self, x):
        return 4 * torch.tanh(x.flatten(1) @ self.first) @ self.second


MODULE = Network().eval()
TORCH_IMAGES = torch.tensor(np.moveaxis(IMAGES, -1, 1).copy())
TORCH_LABELS = torch.tensor(LABELS.astype(np.int64))


def peer(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def to_numpy(images):
    images = images.detach().numpy() if isinstance(images, torch.Tensor) else images
    return np.moveaxis(images, 1, -1)


def ours(attack):
    return np.asarray(attack(jax.random.key(0), LOGITS_FN, IMAGES, LABELS))


def foolbox_run(attack, eps):
    foolbox = peer("foolbox")
    model = foolbox.PyTorchModel(MODULE, bounds=(0, 1), device="cpu")
    return to_numpy(attack(model, TORCH_IMAGES, TORCH_LABELS, epsilons=eps)[0])


def art_classifier():
    peer("art")
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(MODULE, torch.nn.CrossEntropyLoss(), (3, 6, 6), CLASSES, clip_values=(0.0, 1.0))


def alike(found, expected, share=1.0, atol=1e-4):
    """All images, or a share of them where rounding may turn the sign of a gradient."""
    error = np.abs(found - expected).reshape(BATCH, -1).max(-1)
    assert (error <= atol).mean() >= share, error


def test_fgsm():
    found = ours(attacks.fgsm(Linf(0.05)))
    fast = peer("foolbox").attacks.LinfFastGradientAttack(random_start=False)
    alike(found, foolbox_run(fast, 0.05))
    alike(found, to_numpy(peer("torchattacks").FGSM(MODULE, eps=0.05)(TORCH_IMAGES, TORCH_LABELS)))
    classifier = art_classifier()
    from art.attacks.evasion import FastGradientMethod

    art = FastGradientMethod(classifier, norm=np.inf, eps=0.05)
    alike(found, to_numpy(art.generate(TORCH_IMAGES.numpy(), LABELS)))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd(norm):
    eps, size = {"Linf": (0.05, 0.01), "L2": (0.5, 0.1)}[norm]
    found = ours(attacks.bim({"Linf": Linf, "L2": L2}[norm](eps), steps=10, step_size=size))
    attack = getattr(peer("foolbox").attacks, f"{norm}PGD")(steps=10, abs_stepsize=size, random_start=False)
    alike(found, foolbox_run(attack, eps))
    torchattacks = peer("torchattacks")
    make = torchattacks.PGD if norm == "Linf" else torchattacks.PGDL2
    attack = make(MODULE, eps=eps, alpha=size, steps=10, random_start=False)
    alike(found, to_numpy(attack(TORCH_IMAGES, TORCH_LABELS)))
    classifier = art_classifier()
    from art.attacks.evasion import ProjectedGradientDescentNumpy

    art = ProjectedGradientDescentNumpy(
        classifier, norm=np.inf if norm == "Linf" else 2, eps=eps, eps_step=size, max_iter=10, verbose=False
    )
    alike(found, to_numpy(art.generate(TORCH_IMAGES.numpy(), LABELS)))


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_apgd_iterates(norm, loss, monkeypatch):
    # From the same start, and within a radius in which nothing breaks, so that no example stops early.
    torchattacks = peer("torchattacks")
    threat = {"Linf": Linf(0.004), "L2": L2(0.02)}[norm]
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    keys = example_keys(jax.random.key(0), BATCH)
    start = _apgd._random_start(threat, keys, images, False)
    noise = np.asarray(start).reshape(IMAGES.shape) - IMAGES
    drawn = torch.tensor(np.moveaxis(noise, -1, 1) / float(threat.eps))
    monkeypatch.setattr(torch, "rand", lambda shape: (drawn + 1) / 2)
    monkeypatch.setattr(torch, "randn", lambda shape: drawn)
    attack = torchattacks.APGD(MODULE, norm=norm, eps=float(threat.eps), steps=40, loss=loss, rho=0.75)
    expected, still_right, best_loss, _ = attack.attack_single_run(TORCH_IMAGES, TORCH_LABELS)
    assert bool(still_right.all())
    options = _apgd.options(threat, loss, steps=40)
    program = _apgd._program(options)
    constants = _apgd._Constants(threat, Closure(LOGITS_FN), keys, images, labels, None)
    state = iterate(program.step, constants, program.start(constants, start, jnp.zeros(BATCH, bool), None), 40)
    assert not bool(state.broken.any())
    np.testing.assert_allclose(state.best.loss, best_loss.numpy(), rtol=1e-4, atol=1e-6)
    # The peer's table of losses begins with a zero, which may decide one halving; see the module's departures.
    alike(np.asarray(state.best.images).reshape(IMAGES.shape), to_numpy(expected), share=0.9)


def test_momentum():
    found = ours(attacks.mi_fgsm(Linf(0.05), steps=10, step_size=0.01))
    attack = peer("torchattacks").MIFGSM(MODULE, eps=0.05, alpha=0.01, steps=10)
    alike(found, to_numpy(attack(TORCH_IMAGES, TORCH_LABELS)))
    classifier = art_classifier()
    from art.attacks.evasion import MomentumIterativeMethod

    art = MomentumIterativeMethod(classifier, norm=np.inf, eps=0.05, eps_step=0.01, max_iter=10, verbose=False)
    alike(found, to_numpy(art.generate(TORCH_IMAGES.numpy(), LABELS)))


def test_nesterov_and_scale_invariance():
    torchattacks, options = peer("torchattacks"), {"eps": 0.05, "alpha": 0.01, "steps": 10}
    found = ours(attacks.ni_fgsm(Linf(0.05), steps=10, step_size=0.01))
    alike(found, to_numpy(torchattacks.NIFGSM(MODULE, **options)(TORCH_IMAGES, TORCH_LABELS)))
    found = ours(attacks.sini_fgsm(Linf(0.05), steps=10, step_size=0.01, copies=3))
    alike(found, to_numpy(torchattacks.SINIFGSM(MODULE, m=3, **options)(TORCH_IMAGES, TORCH_LABELS)))


def test_translation_invariance():
    found = ours(attacks.ti_fgsm(Linf(0.05), steps=10, step_size=0.01, decay=0.5, probability=0, kernel_size=5))
    attack = peer("torchattacks").TIFGSM(
        MODULE, eps=0.05, alpha=0.01, steps=10, decay=0.5, diversity_prob=0, len_kernel=5
    )
    alike(found, to_numpy(attack(TORCH_IMAGES, TORCH_LABELS)))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_deepfool(norm):
    found = ours_distances(attacks.deepfool({"Linf": Linf, "L2": L2}[norm](1.0), steps=50, overshoot=0.02))
    attack = getattr(peer("foolbox").attacks, f"{norm}DeepFoolAttack")(steps=50, candidates=10, overshoot=0.02)
    expected = peer_distances(foolbox_run(attack, None), norm)
    # The peer goes 1e-4 further in each step (the module's first departure), times the overshoot.
    steps = (expected - found) / 1.02e-4
    np.testing.assert_allclose(steps, steps.round(), atol=0.05)
    assert set(steps.round()) <= {1, 2}


def ours_distances(attack):
    return np.asarray(attack.minimum_norm(jax.random.key(0), LOGITS_FN, IMAGES, LABELS).distances)


def peer_distances(images, norm):
    difference = (images - IMAGES).reshape(BATCH, -1)
    return np.linalg.norm(difference, ord=np.inf if norm == "Linf" else 2, axis=1)


def carlini_wagner(**options):
    """Images of ours and of the peer's, with the same constants."""
    ours = attacks.carlini_wagner(L2(1.0), learning_rate=0.01, **options)
    options["initial_const"] = options.pop("initial_constant")
    theirs = peer("foolbox").attacks.L2CarliniWagnerAttack(stepsize=0.01, abort_early=False, **options)
    found = ours.minimum_norm(jax.random.key(0), LOGITS_FN, IMAGES, LABELS)
    return np.asarray(found.images), foolbox_run(theirs, None)


def test_carlini_wagner_with_one_constant():
    found, expected = carlini_wagner(steps=200, binary_search_steps=1, initial_constant=2.0)
    alike(found, expected)


def test_carlini_wagner_never_farther():
    # The searches for the constant differ: here a constant has to succeed in the second half of its steps.
    distances = (
        peer_distances(x, "L2") for x in carlini_wagner(steps=200, binary_search_steps=5, initial_constant=0.1)
    )
    found, expected = distances
    assert (found <= expected * (1 + 2e-4)).all()
    np.testing.assert_allclose(found, expected, rtol=0.05)
