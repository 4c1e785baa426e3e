"""Bounds and the linear functions behind them against auto_LiRPA, on the same weights.

Where auto_LiRPA does something else on purpose or by mistake, ``_auto_lirpa`` says what; then ours may only be tighter.
"""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L1, L2, Linf, certify
from jaxrobust.certify import METHODS

pytest.importorskip("torch")
if importlib.util.find_spec("auto_LiRPA") is None:
    pytest.skip(
        "auto_LiRPA is not installed: pip install --no-deps auto_LiRPA==0.3, beside tqdm and setuptools",
        allow_module_level=True,
    )
import _auto_lirpa as lirpa
import _lirpa_networks as networks
import torch

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
"""Of the largest bound; more than ten times what is found. Published networks are compared in ``benchmarks/certify.py``."""
# Our name: theirs, their lower slope of ReLU.
METHOD_NAMES = {
    "interval": ("IBP", "adaptive"),
    "fast-lin": ("CROWN", "same-slope"),
    "fast-lin-interval": ("CROWN-IBP", "same-slope"),
    "crown": ("CROWN", "adaptive"),
    "crown-interval": ("CROWN-IBP", "adaptive"),
    "forward": ("forward", "same-slope"),
    "forward-adaptive": ("forward", "adaptive"),
    "forward-backward": ("forward+CROWN", "same-slope"),
}
# The ball for us; norm, radius and box for them.
BALLS = {
    "box": (Linf(0.1), (np.inf, 0.1), (0.0, 1.0)),
    "linf": (Linf(0.05, bounds=None), (np.inf, 0.05), ()),
    "l2": (L2(0.3, bounds=None), (2, 0.3), ()),
    "l1": (L1(1.0, bounds=None), (1, 1.0), ()),
}
LABELS = np.array([0, 3, 4])
MARGINS = np.array(certify.margin_specification(jnp.asarray(LABELS), 5))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are so small that threads only wait for each other, for long where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images_of(shape):
    return np.random.default_rng(0).uniform(size=(len(LABELS), *shape)).astype(np.float32)


def ours(network, images, ball, method, specification=None):
    threat = BALLS[ball][0]
    if method == "interval":
        return certify.interval_bounds(network.logits_fn, jnp.asarray(images), threat, specification)
    return certify.linear_bounds(
        network.logits_fn, jnp.asarray(images), threat, method=method, specification=specification
    )


def theirs(network, images, ball, method, specification=None, **options):
    """Their bounds, or with ``conv_mode`` and all else as usual their linear functions as well."""
    _, (norm, eps), box = BALLS[ball]
    name, relu = METHOD_NAMES[method]
    function = lirpa.linear_bounds if name in ("CROWN", "CROWN-IBP") else lirpa.bounds
    return function(network.module, images, norm, eps, name, specification, *box, relu=relu, **options)


def assert_equal(found, expected, tolerance=TOLERANCE):
    """All that both have: bounds alone, or linear functions too."""
    scale = max(np.abs(bound).max() for bound in expected[:2])
    for actual, desired in zip(found, expected, strict=False):
        np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * max(scale, np.abs(desired).max()))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in ("mlp-3", "cnn-groups") for method in METHOD_NAMES),
        *(("cnn", method) for method in ("interval", "crown", "forward")),
        *(("residual", method) for method in ("interval", "fast-lin", "crown", "forward-adaptive")),
        *(("average-pool", method) for method in ("interval", "crown")),
    ],
)
def test_margins_in_the_box(name, method):
    """Convolutions with stride, padding, groups, and rows that no window reaches; average pooling; residual connections."""
    network, images = networks.architecture(name), images_of(networks.ARCHITECTURES[name][0])
    expected = theirs(network, images, "box", method, MARGINS)
    assert_equal(ours(network, images, "box", method, MARGINS), expected)


@pytest.mark.parametrize("method", ["interval", "crown", "forward-adaptive"])
@pytest.mark.parametrize("ball", ["linf", "l2", "l1"])
def test_logits_in_balls(ball, method):
    network, images = networks.architecture("mlp-4"), images_of((6, 6, 1))
    assert_equal(ours(network, images, ball, method), theirs(network, images, ball, method))


@pytest.mark.parametrize(
    ("name", "ball", "method"),
    [
        *(("cnn-groups", ball, "crown") for ball in ("l2", "l1")),
        # Their first convolution is exact for L2 where no kernel hangs over the border.
        *(("cnn-unpadded", "l2", method) for method in ("interval", "crown-interval")),
    ],
)
def test_convolutions_in_balls(name, ball, method):
    network, images = networks.architecture(name), images_of(networks.ARCHITECTURES[name][0])
    assert_equal(ours(network, images, ball, method), theirs(network, images, ball, method))


@pytest.mark.parametrize(("name", "ball"), [("cnn", "l2"), ("cnn-unpadded", "l1")])
def test_intervals_of_first_convolutions_are_tighter(name, ball):
    """Theirs have the norm of the whole kernel where it hangs over the border, and its L2 norm for L1."""
    network, images = networks.architecture(name), images_of(networks.ARCHITECTURES[name][0])
    found, expected = ours(network, images, ball, "interval"), theirs(network, images, ball, "interval")
    assert np.all(found.lower >= expected[0] - 1e-5)
    assert np.all(found.upper <= expected[1] + 1e-5)
    assert np.mean(expected[1] - expected[0]) > 1.01 * np.mean(found.upper - found.lower)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "crown") for name in ("mlp-sigmoid", "mlp-tanh", "mlp-arctan", "cnn-tanh")),
        *(("mlp-tanh", method) for method in ("interval", "crown-interval", "forward-adaptive")),
    ],
)
def test_s_shaped_activations(name, method):
    """Their tangent points come from a table, here with smaller steps than usual; its error falls as they do."""
    network, images = networks.architecture(name), images_of(networks.ARCHITECTURES[name][0])
    expected = theirs(network, images, "box", method, MARGINS, tangent_step=5e-4)
    assert_equal(ours(network, images, "box", method, MARGINS), expected, 1e-4)


@pytest.mark.parametrize("method", ["interval", "crown", "forward"])
def test_lower_bounds_of_max_pooling(method):
    """Theirs are the same from below, of which a sum of maxima shows no more; from above, theirs are constants."""
    network = networks.network((networks.Conv(5, 3, 2, 1), "relu", networks.MaxPool(4), "flatten"), (8, 8, 2))
    # One row for each image: with several, auto_LiRPA fails where a maximum is all that a specification reads.
    weights = np.random.default_rng(1).uniform(size=(3, 1, 5)).astype(np.float32)
    images = images_of((8, 8, 2))
    found, expected = (bounds(network, images, "box", method, weights) for bounds in (ours, theirs))
    assert_equal(found[:1], expected[:1])
    assert np.all(found[1] <= expected[1] + 1e-5)
    assert method == "interval" or np.all(found[1] < expected[1] - 1e-3)


def margins_of(network, images, method):
    arguments = jnp.asarray(images), jnp.asarray(LABELS), Linf(0.1)
    return np.asarray(certify.margins(network.logits_fn, *arguments, method=method))


def test_margins():
    """The function that certifies: lower bounds alone."""
    network, images = networks.architecture("mlp-3"), images_of((6, 6, 1))
    expected = theirs(network, images, "box", "crown", MARGINS)
    assert_equal([margins_of(network, images, "crown")], expected[:1])


@pytest.mark.parametrize("name", ["mlp-3", "cnn-unpadded"])
def test_optimised_slopes(name, monkeypatch):
    """Where intermediate bounds stay those of CROWN, as ours do, both find the same optimum; else theirs are tighter."""
    steps = 60
    monkeypatch.setitem(METHODS, "alpha-crown", METHODS["alpha-crown"]._replace(optimization_steps=steps))
    network, images = networks.architecture(name), images_of(networks.ARCHITECTURES[name][0])
    crown, found = (margins_of(network, images, method) for method in ("crown", "alpha-crown"))
    x, rows = lirpa.perturbed(images, np.inf, 0.1, 0.0, 1.0), torch.tensor(MARGINS)

    def optimized(iterations, rate, fixed):
        bounded = lirpa.bounded_module(network.module, images, alpha={"iteration": iterations, "lr_alpha": rate})
        with torch.no_grad():
            bounded.compute_bounds(x=(x,), C=rows, method="CROWN", bound_upper=False)
        operands = [node.inputs[0] for node in bounded.optimizable_activations]
        kept = {operand.name: [operand.lower.detach(), operand.upper.detach()] for operand in operands}
        lower, _ = bounded.compute_bounds(
            x=(x,),
            C=rows,
            method="alpha-CROWN",
            bound_upper=False,
            intermediate_layer_bounds=kept if fixed else None,
        )
        return lower.detach().numpy()

    fixed = optimized(steps, 0.1, fixed=True)
    gain = np.max(fixed - crown)
    assert gain > 0.1
    assert np.all(found >= crown - 1e-5)
    np.testing.assert_allclose(found, fixed, rtol=0, atol=0.02 * gain)
    assert np.all(optimized(20, 0.5, fixed=False) >= found - 0.02 * gain)
