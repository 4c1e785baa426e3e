"""Upper bounds of the worst case's cross-entropy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _certified_networks import problem, relu_network, slopes

from jaxrobust import L1, L2, Linf, NonUniform, losses
from jaxrobust.losses import certified_cross_entropy

THREATS = {"Linf": Linf(0.1), "L2": L2(0.3), "L1": L1(0.6)}
MIXED = {"crown-interval": 0.3, "interval": 0.7}
METHODS = {"kw": "fast-lin", "ibp": "interval", "crown_ibp": MIXED, "best": ("interval", "fast-lin")}


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("L2", "L1")), "Linf"])
def test_no_image_within_reach_has_a_larger_loss(float64, key, name):
    """Verification, 7.2.11: random points, corners, and steps up the loss."""
    params, images, labels = problem((5, 4))
    logits_fn, threat = relu_network(params), THREATS[name]

    @jax.jit
    def run():
        bounds = {
            name: certified_cross_entropy(logits_fn, images, labels, threat, method=m) for name, m in METHODS.items()
        }
        loss = lambda x: losses.cross_entropy(logits_fn(x), labels)  # noqa: E731

        def worst(key):
            move = threat.sample(key, images)
            corner = threat.project(100 * threat.eps * threat.steepest(move), images)
            ascent = move
            for _ in range(5):
                gradient = jax.grad(lambda x: loss(x).sum())(images + ascent)
                ascent = threat.project(ascent + threat.eps / 2 * threat.steepest(gradient), images)
            return jnp.stack([loss(images + x) for x in (move, corner, ascent)]).max(0)

        return bounds, jax.vmap(worst)(jax.random.split(key, 300)).max(0), loss(images)

    bounds, worst, clean = run()
    assert (worst > clean + 1e-3).all()
    for found in bounds.values():
        assert (found >= worst - 1e-12).all()
    assert (bounds["best"] <= jnp.minimum(bounds["kw"], bounds["ibp"]) + 1e-12).all()
    assert (bounds["kw"] < bounds["ibp"]).any()


@pytest.mark.parametrize("threat", [Linf(0.2, bounds=None), L2(0.4, bounds=None)], ids=["Linf", "L2"])
def test_kw_of_one_hidden_layer_written_out(float64, threat):
    """Fast-Lin: (3.4), Algorithm 3.1 and the elision of the last layer."""
    ((w, b), (v, c)), images, labels = problem()
    found = jax.jit(lambda: certified_cross_entropy(relu_network([(w, b), (v, c)]), images, labels, threat))()
    w, b, v, c, flat = (np.asarray(array) for array in (w.T, b, v.T, c, images.reshape(len(images), -1)))
    order = 1 if isinstance(threat, Linf) else 2
    assert len(found) == len(flat)
    for value, x, y in zip(found, flat, np.asarray(labels), strict=True):
        middle, reach = w @ x + b, threat.eps * np.linalg.norm(w, order, axis=1)
        low, high = middle - reach, middle + reach
        unstable = (low < 0) & (high > 0)
        slope = np.where(unstable, high / (high - low), low >= 0)
        above = np.where(unstable, -low * high / (high - low), 0)
        rows = v[y] - v
        normals = (rows * slope) @ w
        offsets = (rows * slope) @ b + np.minimum(rows, 0) @ above + c[y] - c
        margins = normals @ x + offsets - threat.eps * np.linalg.norm(normals, order, axis=1)
        np.testing.assert_allclose(value, np.log(np.exp(-margins).sum()), rtol=1e-12)


def test_of_a_linear_network_it_is_the_worst_case(float64):
    """Of two classes, whatever the method."""
    rng = np.random.default_rng(0)
    weights, images = jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.uniform(size=(5, 6)))
    labels = jnp.asarray([0, 1, 0, 1, 1], jnp.int32)
    linear, threat = lambda x: x @ weights, Linf(0.3)
    normal = weights[:, labels].T - weights[:, 1 - labels].T
    worst = images + threat.project(-jnp.sign(normal), images)
    expected = losses.cross_entropy(linear(worst), labels)
    for method in ("fast-lin", "interval", MIXED):
        found = jax.jit(functools.partial(certified_cross_entropy, linear, threat=threat, method=method))(
            images, labels
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_weights_of_methods(float64):
    """They may be traced; a radius of 0 leaves the loss itself."""
    params, images, labels = problem((5, 4))
    logits_fn = relu_network(params)

    @jax.jit
    def run(beta, eps):
        bound = functools.partial(certified_cross_entropy, logits_fn, images, labels, Linf(eps))
        mixed = bound(method={"crown-interval": beta, "interval": 1 - beta})
        return mixed, bound(method="crown-interval"), bound(method="interval")

    crown, interval = run(1.0, 0.1), run(0.0, 0.1)
    np.testing.assert_allclose(crown[0], crown[1], rtol=1e-12)
    np.testing.assert_allclose(interval[0], interval[2], rtol=1e-12)
    between = run(0.5, 0.1)
    assert (between[0] <= jnp.maximum(between[1], between[2]) + 1e-12).all()
    for found in run(0.3, 0.0):
        np.testing.assert_allclose(found, losses.cross_entropy(logits_fn(images), labels), rtol=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("best", "crown_ibp") else []) for name in METHODS]
)
def test_gradient_against_central_differences(float64, name):
    """By the parameters and by the radius, through slopes and intervals."""
    params, images, labels = problem((5, 4) if name == "ibp" else (5,))

    def mean(tree):
        params, eps = tree
        return certified_cross_entropy(relu_network(params), images, labels, Linf(eps), method=METHODS[name]).mean()

    exact, numerical = slopes(jax.jit(jax.value_and_grad(mean)), (params, jnp.asarray(0.1)))
    assert abs(exact) > 1e-2
    np.testing.assert_allclose(exact, numerical, rtol=1e-6)


def test_radii_of_each_pixel_that_are_equal(float64):
    """Distances are then in units of the radius."""
    params, images, labels = problem()
    logits_fn = relu_network(params)

    @jax.jit
    def values(threat, unit):
        return (
            certified_cross_entropy(logits_fn, images, labels, threat),
            losses.per(logits_fn, images, labels, threat, alpha=0.2 / unit),
            losses.mmr(logits_fn, images, labels, threat, boundary_gamma=0.5 / unit, decision_gamma=0.4 / unit),
        )

    each = NonUniform(L2, jnp.full(images.shape[1:], 0.1))
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-12), values(L2(0.1), 1.0), values(each, 0.1))


def test_errors():
    images, labels = jnp.full((2, 3), 0.5), jnp.zeros(2, jnp.int32)
    run = functools.partial(certified_cross_entropy, lambda images: images, images, labels, Linf(0.1))
    with pytest.raises(ValueError, match="unknown method 'fastlin'"):
        run(method="fastlin")
    with pytest.raises(ValueError, match="unknown method 'ibp'"):
        run(method={"ibp": 1.0})
    with pytest.raises(ValueError, match="mapping of methods to weights is empty"):
        run(method={})
