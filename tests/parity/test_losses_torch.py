"""Values and gradients of the losses against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(64, 7))
LABELS = RNG.integers(7, size=64)
TARGETS = (LABELS + RNG.integers(1, 7, size=64)) % 7


def _dlr(z, y, t):
    ranked = z.sort(dim=1, descending=True)[0]
    own = z.gather(1, y[:, None])[:, 0]
    other = z.masked_fill(torch.nn.functional.one_hot(y, 7).bool(), -torch.inf).max(1)[0]
    return -(own - other) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def _targeted_dlr(z, y, t):
    ranked = z.sort(dim=1, descending=True)[0]
    gap = z.gather(1, y[:, None])[:, 0] - z.gather(1, t[:, None])[:, 0]
    return -gap / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + 1e-12)


def _kl(z, y, t):
    return torch.nn.functional.kl_div(
        z.flip(0).log_softmax(1), z.log_softmax(1), log_target=True, reduction="none"
    ).sum(1)


CASES = {
    "cross_entropy": (
        lambda z, y, t: losses.cross_entropy(z, y),
        lambda z, y, t: torch.nn.functional.cross_entropy(z, y, reduction="none"),
    ),
    "label_smoothing": (
        lambda z, y, t: losses.cross_entropy(z, y, label_smoothing=0.1),
        lambda z, y, t: torch.nn.functional.cross_entropy(z, y, reduction="none", label_smoothing=0.1),
    ),
    "dlr": (lambda z, y, t: losses.dlr(z, y), _dlr),
    "targeted_dlr": (losses.targeted_dlr, _targeted_dlr),
    "kl_divergence": (lambda z, y, t: losses.kl_divergence(z, z[::-1]), _kl),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(float64, name):
    ours, theirs = CASES[name]
    logits = torch.tensor(LOGITS, requires_grad=True)
    expected = theirs(logits, torch.tensor(LABELS), torch.tensor(TARGETS))
    expected.sum().backward()
    labels, targets = jnp.asarray(LABELS), jnp.asarray(TARGETS)
    result = ours(jnp.asarray(LOGITS), labels, targets)
    gradient = jax.grad(lambda z: ours(z, labels, targets).sum())(jnp.asarray(LOGITS))
    np.testing.assert_allclose(result, expected.detach().numpy(), atol=1e-8)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-8)
