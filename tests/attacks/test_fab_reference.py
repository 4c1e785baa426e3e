"""FAB-T against the verdicts and distances of AutoAttack's reference implementation: it is deterministic.

The distances are those at the first target that breaks an example within the radius, as in the reference.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L1, L2, Linf
from jaxrobust.attacks._fab import fab_run
from jaxrobust.attacks._targets import highest_wrong_classes

DEFAULT = Path(__file__).resolve().parents[2].parent / "shared/reference/autoattack"
FOLDER = Path(os.environ.get("JAXROBUST_REFERENCE_DIR", DEFAULT))
THREATS = {"Linf": Linf, "L2": L2, "L1": L1}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no reference verdicts in {FOLDER}")


def dense(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def mlp(weights, images):
    x = images.reshape(images.shape[0], -1)
    x = jax.nn.relu(dense(weights, "1", x))
    x = jax.nn.relu(dense(weights, "3", x))
    return dense(weights, "5", x)


def cnn(weights, images):
    x = images
    for name in ("0", "2"):
        x = jax.lax.conv_general_dilated(
            x, weights[f"{name}.weight"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "OIHW", "NHWC")
        )
        x = jax.nn.relu(x + weights[f"{name}.bias"])
    x = x.transpose(0, 3, 1, 2).reshape(images.shape[0], -1)
    return dense(weights, "7", jax.nn.relu(dense(weights, "5", x)))


def compare(network, norm, at_most=200):
    """Share of equal verdicts, and of equal distances among the broken examples."""
    arrays = np.load(FOLDER / f"{network}.npz")
    expected = np.load(FOLDER / f"ref_{network}_{norm}.npz")
    weights = {name: jnp.asarray(arrays[name]) for name in arrays.files if "." in name}
    logits_fn = jax.tree_util.Partial(cnn if network.startswith("cnn") else mlp, weights)
    images, labels = jnp.asarray(arrays["images"]), jnp.asarray(arrays["labels"], jnp.int32)
    logits = jax.jit(logits_fn)(images)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-4, atol=1e-4 * np.abs(expected["logits"]).max())

    broken = expected["clean"] & ~expected["fab_t_robust"]
    robust = expected["clean"] & expected["fab_t_robust"]
    chosen = np.concatenate([np.flatnonzero(kind)[:at_most] for kind in (broken, robust)])
    classes = highest_wrong_classes(logits, labels, 9)[chosen]
    images, labels = images[chosen], labels[chosen]
    threat = THREATS[norm](float(expected["eps"]))
    keys = jax.random.split(jax.random.key(0), len(chosen))
    distances = np.zeros(len(chosen))
    for target in range(9):
        _, found = fab_run(threat, keys, logits_fn, images, labels, classes[:, target])
        hit = (distances == 0) & (np.asarray(found) <= threat.eps)
        distances[hit] = np.asarray(found)[hit]
    reference = np.where(broken, expected["fab_t_norm"], 0)[chosen]
    verdicts = (distances > 0) == (reference > 0)
    near = np.abs(distances - reference)[reference > 0] <= 1e-3 * reference[reference > 0]
    return verdicts.mean(), near.mean()


@pytest.mark.parametrize(
    ("network", "norm"), [("mlp_plain", "Linf"), ("mlp_plain", "L2"), ("mlp_plain", "L1"), ("mlp_scaled", "Linf")]
)
def test_some_examples(network, norm):
    verdicts, distances = compare(network, norm, at_most=20)
    assert verdicts >= 0.98
    assert distances >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "norm"),
    [
        ("mlp_plain", "Linf"),
        ("mlp_plain", "L2"),
        ("mlp_plain", "L1"),
        ("mlp_scaled", "Linf"),
        ("cnn_pgd", "Linf"),
        ("cnn_pgd", "L2"),
        ("cnn_pgd", "L1"),
    ],
)
def test_all_examples(network, norm):
    verdicts, distances = compare(network, norm)
    assert verdicts >= 0.98
    assert distances >= 0.95
