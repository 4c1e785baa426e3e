"""Certified labels and radii."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _certify_networks import IMAGE, NETWORKS, mlp

from jaxrobust import L1, L2, Linf, NonUniform, attacks, certify
from jaxrobust.certify._certified import ROUNDING, rounding
from jaxrobust.certify._methods import METHODS

WEIGHT = jnp.array([[1.0, 1.0], [1.0, -1.0]])
TOY = partial(lambda weight, images: jax.nn.relu(images @ weight.T) @ weight.T, WEIGHT)
IMAGES, LABELS = jnp.array([[1.0, 0.0]]), jnp.array([0])


def never_decreasing(images):
    """A margin of relu(x) + 0.5."""
    return jax.nn.relu(images) @ jnp.array([[1.0, 0.0]]) + jnp.array([0.5, 0.0])


# --- Radii (specification 7.2.12, 7.4, 7.5)


@pytest.mark.parametrize(("threat", "exact"), [(Linf, 0.5), (L2, 2**-0.5), (L1, 1.0)])
@pytest.mark.parametrize("eps", [0.25, 1.0, 3.0])
def test_the_envelope_finds_the_distance_where_nothing_else_is_certified(threat, exact, eps):
    ball = threat(eps, bounds=None)
    found = certify.radius(TOY, IMAGES, LABELS, ball).item()
    assert found == pytest.approx(min(eps, exact), rel=2e-4)
    assert certify.radius(TOY, IMAGES, LABELS, ball, method="fast-lin").item() == (eps if eps < exact else 0)
    assert certify.certified(TOY, IMAGES, LABELS, ball, method="envelope").item() == (eps < exact)


@pytest.mark.parametrize(
    ("largest", "halvings", "envelopes"), [(0.8, 13, 12), (1.6, 14, 13), (2.0, 15, 14), (3.0, 15, 15)]
)
def test_search_needs_so_many_evaluations(largest, halvings, envelopes):
    for method, evaluations in (("fast-lin", halvings), ("envelope", envelopes)):
        found = certify.search_radius(TOY, IMAGES, LABELS, Linf(largest, bounds=None), method=method)
        assert found.evaluations.item() == evaluations
        assert 0.5 - 1e-4 <= found.radius.item() <= 0.5
        assert found.upper.item() - found.radius.item() <= 1e-4


@pytest.mark.parametrize(("largest", "halvings"), [(0.4, 12), (0.1, 10), (1.2, 14)])
def test_published_numbers_of_halvings(largest, halvings):
    found = certify.search_radius(TOY, IMAGES, LABELS, Linf(largest, bounds=None), method="fast-lin")
    assert found.evaluations.item() == halvings == math.ceil(math.log2(largest / 1e-4))


def test_distances_to_the_envelope_need_not_fall_with_the_radius():
    image, label = jnp.array([[0.2]]), jnp.array([0])
    for eps, distance in ((0.1, 0.1), (0.3, 0.3), (1.0, 1.0), (2.0, 0.2 + 2 / 2.2)):
        found = certify.radius(never_decreasing, image, label, Linf(eps, bounds=None)).item()
        assert found == pytest.approx(distance, rel=2e-4)
    threat = Linf(4.0, bounds=None)
    by_envelope, by_lines = (
        certify.search_radius(never_decreasing, image, label, threat, method=m) for m in ("envelope", "fast-lin")
    )
    assert (by_envelope.radius.item(), by_envelope.evaluations.item()) == (pytest.approx(1.10909, abs=2e-4), 15)
    assert (by_lines.radius.item(), by_lines.evaluations.item()) == (pytest.approx(1.03851, abs=2e-4), 16)


def test_a_search_that_ends_too_early_stays_there():
    found = certify.search_radius(TOY, IMAGES, LABELS, Linf(0.3, bounds=None))
    assert found.radius.item() == pytest.approx(0.3, abs=1e-4)


@pytest.mark.parametrize("threat", [Linf, L2, L1])
def test_linear_networks_get_their_distance(threat, key):
    weight = jax.random.normal(key, (4, 3))
    logits_fn = partial(lambda w, x: x @ w, weight)
    images = jax.random.uniform(key, (16, 4))
    labels = logits_fn(images).argmax(-1)
    found = certify.radius(logits_fn, images, labels, threat(0.2))
    best = jnp.full(16, jnp.inf)
    for other in range(3):
        normals, gaps = weight[:, labels].T - weight[:, other], 0
        gaps = jnp.einsum("bf,bf->b", normals, images)
        distance = threat(0.2).distance(images, normals, gaps)
        best = jnp.where(labels == other, best, jnp.minimum(best, distance))
    np.testing.assert_allclose(found, jnp.minimum(best, 0.2), atol=2e-4)


def test_misclassified_images_have_no_radius():
    wrong = jnp.array([1])
    assert certify.radius(TOY, IMAGES, wrong, Linf(0.1, bounds=None)).item() == 0
    assert certify.search_radius(TOY, IMAGES, wrong, Linf(0.1, bounds=None)).radius.item() == 0
    assert not certify.certified(TOY, IMAGES, wrong, Linf(0.0)).item()


@pytest.fixture(scope="module")
def problem():
    """A random network, images, and what it says of them."""
    key = jax.random.key(3)
    logits_fn = mlp(jax.nn.relu, jax.nn.relu).bound(key)
    images = jax.random.uniform(key, (48, *IMAGE))
    return logits_fn, images, logits_fn(images).argmax(-1)


@pytest.mark.parametrize(
    ("threat", "methods"),
    [
        (L2(0.1), ("fast-lin", "crown", "alpha-crown")),
        *[
            pytest.param(t, tuple(METHODS), marks=pytest.mark.slow)
            for t in (Linf(0.02), L2(0.1), L1(0.5), NonUniform(Linf, jnp.full(IMAGE, 0.02)))
        ],
    ],
)
def test_what_is_certified_survives_attacks(problem, threat, methods, key):
    """certified <= robust <= correct, image by image; the envelope certifies what Fast-Lin does, and more radius."""
    logits_fn, images, labels = problem
    labels = labels.at[:5].set((labels[:5] + 1) % 3)
    proved = {m: certify.certified(logits_fn, images, labels, threat, method=m) for m in methods}
    adversarial = attacks.pgd(threat, steps=10)(key, logits_fn, images, labels)
    robust = (logits_fn(adversarial).argmax(-1) == labels) & (logits_fn(images).argmax(-1) == labels)
    for name, found in proved.items():
        assert not (found & ~robust).any(), name
    assert 0 < proved["crown"].sum() < 48
    assert (proved["crown"] <= proved["alpha-crown"]).all()
    radius = certify.radius(logits_fn, images, labels, threat)
    assert (radius >= certify.radius(logits_fn, images, labels, threat, method="fast-lin")).all()
    # Within the partial radius no attack succeeds either.
    if not isinstance(threat, NonUniform):
        partial_attack = attacks.pgd(type(threat)(radius), steps=10, step_size=threat.eps / 4)
        inside = partial_attack(key, logits_fn, images, labels)
        assert (logits_fn(inside).argmax(-1) == labels)[radius > 0].all()


def test_several_methods_certify_what_any_of_them_does(problem):
    logits_fn, images, labels = problem
    threat = Linf(0.02)
    single = [certify.certified(logits_fn, images, labels, threat, method=m) for m in ("interval", "crown", "fast-lin")]
    together = certify.certified(logits_fn, images, labels, threat, method=("interval", "crown", "fast-lin"))
    assert (together >= jnp.stack(single).any(0)).all()


def test_radii_may_differ_by_image(problem):
    logits_fn, images, labels = problem
    eps = jnp.linspace(0.0, 0.05, 48)
    together = certify.radius(logits_fn, images, labels, Linf(eps))
    alone = [certify.radius(logits_fn, images[i : i + 1], labels[i : i + 1], Linf(eps[i])) for i in (5, 20, 40)]
    np.testing.assert_allclose(together[jnp.array([5, 20, 40])], jnp.concatenate(alone), rtol=1e-5)


def test_everything_can_be_compiled_and_differentiated(problem):
    logits_fn, images, labels = problem

    @jax.jit
    def compiled(images):
        return (
            certify.certified(logits_fn, images, labels, Linf(0.02)),
            certify.radius(logits_fn, images, labels, Linf(0.02)),
        )

    certain, radius = compiled(images)
    np.testing.assert_array_equal(certain, certify.certified(logits_fn, images, labels, Linf(0.02)))
    np.testing.assert_allclose(radius, certify.radius(logits_fn, images, labels, Linf(0.02)), rtol=1e-5)

    def total(parameters, eps):
        bound = partial(logits_fn.func, parameters)
        return certify.margins(bound, images[:4], labels[:4], Linf(eps), method="fast-lin").sum()

    gradients, by_eps = jax.grad(total, (0, 1))(logits_fn.args[0], 0.02)
    assert all(jnp.isfinite(leaf).all() for leaf in gradients)
    slope = (total(logits_fn.args[0], 0.0201) - total(logits_fn.args[0], 0.0199)) / 2e-4
    assert by_eps.item() == pytest.approx(slope.item(), rel=2e-2)
    assert by_eps.item() < 0


def test_new_parameters_compile_nothing(problem):
    logits_fn, images, labels = problem
    certify.certified(logits_fn, images, labels, Linf(0.02))
    with jax.log_compiles(False):
        count = certify._margins._margins._cache_size()
        other = partial(logits_fn.func, [2 * leaf for leaf in logits_fn.args[0]])
        certify.certified(other, images, labels, Linf(0.03))
        assert certify._margins._margins._cache_size() == count


# --- Optimised slopes


@pytest.mark.parametrize(
    ("name", "threat"),
    [
        ("relu", Linf(0.05)),
        *[pytest.param(*case, marks=pytest.mark.slow) for case in (("pooling", Linf(0.05)), ("s-shaped", L2(0.5)))],
    ],
)
def test_optimised_slopes_are_never_looser_and_sound(name, threat, key):
    logits_fn, images = NETWORKS[name].bound(key), jax.random.uniform(key, (8, *IMAGE))
    labels = logits_fn(images).argmax(-1)
    crown, alpha = (certify.margins(logits_fn, images, labels, threat, method=m) for m in ("crown", "alpha-crown"))
    assert (alpha >= crown - 1e-6).all()
    assert (alpha > crown + 1e-4).any()
    for sample_key in jax.random.split(key, 20):
        points = threat.clip(images + threat.sample(sample_key, images))
        logits = logits_fn(points)
        gaps = jnp.take_along_axis(logits, labels[:, None], 1) - logits
        assert (alpha <= gaps + 1e-4).all()


def test_optimised_slopes_by_hand():
    """The margin 2 relu(x - y) is at least 0, which a lower slope of 0 shows; CROWN's is 1 here and shows -2."""
    threat = Linf(1.0, bounds=None)
    margins = {m: certify.margins(TOY, IMAGES, LABELS, threat, method=m)[0, 1].item() for m in ("crown", "alpha-crown")}
    assert margins == {"crown": pytest.approx(-2), "alpha-crown": pytest.approx(0, abs=1e-5)}


# --- Rounding


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("residual", "interval"),
        ("relu", "crown"),
        *[pytest.param(n, m, marks=pytest.mark.slow) for n in NETWORKS for m in ("interval", "crown", "forward")],
    ],
)
def test_single_precision_errs_by_less_than_the_rounding_margin(name, method, key):
    """A quarter of it, for networks and images of all magnitudes of logits."""
    network = NETWORKS[name]
    images, labels, worst = jax.random.uniform(key, (16, *IMAGE)), jnp.arange(16) % 3, 0.0
    for seed, scale in enumerate((0.5, 1.0, 2.0)):
        parameters = [scale * leaf for leaf in network.init(jax.random.key(seed))]
        single = certify.margins(partial(network.apply, parameters), images, labels, Linf(0.03), method=method)
        allowed = rounding(network.apply(parameters, images))
        with jax.enable_x64(True):
            wide = [jnp.asarray(np.asarray(leaf, np.float64)) for leaf in parameters]
            double = certify.margins(
                partial(network.apply, wide),
                jnp.asarray(np.asarray(images, np.float64)),
                jnp.asarray(np.asarray(labels)),
                Linf(0.03),
                method=method,
            )
        error = np.abs(np.asarray(single, np.float64) - np.asarray(double)).max(-1)
        # Where bounds are far from zero their last digits do not matter.
        close = np.abs(np.asarray(double)).max(-1) <= 10 * np.maximum(1, np.asarray(allowed) / (ROUNDING * 1.2e-7))
        worst = max(worst, float((error / np.asarray(allowed))[close].max(initial=0)))
    assert worst < 0.25


# --- Mistakes


class Normalised(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not self.train)(x)
        return nn.Dense(3)(nn.relu(x))


def test_batch_norm_in_training_mode_is_refused(key):
    images, labels = jax.random.uniform(key, (4, *IMAGE)), jnp.zeros(4, int)
    variables = Normalised(False).init(key, images)
    certify.certified(partial(Normalised(False).apply, variables), images, labels, Linf(0.1))

    def training(images):
        return Normalised(True).apply(variables, images, mutable=["batch_stats"])[0]

    with pytest.raises(ValueError, match="train"):
        certify.certified(training, images, labels, Linf(0.1))
    with pytest.raises(ValueError, match="evaluation mode"):
        certify.certified(lambda x: x.mean((1, 2, 3))[:, None] - x.mean() * jnp.ones(3), images, labels, Linf(0.1))


def test_mistakes_are_named(problem):
    logits_fn, images, labels = problem
    broken = partial(logits_fn.func, [leaf.at[0].set(jnp.nan) for leaf in logits_fn.args[0]])
    with pytest.raises(ValueError, match="not finite"):
        certify.certified(broken, images, labels, Linf(0.1))
    with pytest.raises(ValueError, match="eps must be"):
        certify.certified(logits_fn, images, labels, Linf(-0.1))
    with pytest.raises(ValueError, match="eps must be at least 0"):
        certify.certified(logits_fn, images, labels, Linf(jnp.asarray(-0.1)))
    with pytest.raises(ValueError, match="pixels must lie in"):
        certify.radius(logits_fn, 255 * images, labels, Linf(0.1))
    with pytest.raises(ValueError, match="labels must lie in"):
        certify.radius(logits_fn, images, labels + 3, Linf(0.1))
    with pytest.raises(ValueError, match="unknown method"):
        certify.certified(logits_fn, images, labels, Linf(0.1), method="lp")
    with pytest.raises(ValueError, match="precision must be positive"):
        certify.search_radius(logits_fn, images, labels, Linf(0.1), precision=0.0)
    with pytest.raises(ValueError, match="known before it is traced"):
        jax.jit(lambda eps: certify.search_radius(logits_fn, images, labels, Linf(eps)))(0.1)
