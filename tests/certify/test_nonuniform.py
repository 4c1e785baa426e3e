"""Radii per pixel: closed forms of linear models, the augmented Lagrangian by hand, brute force in two dimensions."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import L1, L2, Linf, NonUniform, certify
from jaxrobust.certify._augmented_lagrangian import Penalty, minimise, multipliers_after, search, start_at
from jaxrobust.certify._scaling import largest_scale, scaled, shrunk
from jaxrobust.certify._slack import criterion_of, question_of, slack
from jaxrobust.iteration import iterate

DELTA = 1e-4
PENALTY = Penalty(dual_every=20, rho=1.0, rho_factor=3.0, rho_every=250, max_gradient_norm=10.0)
FAST_LIN = criterion_of("fast-lin", True, None)
ADAM = optax.adam(0.02)
CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), ADAM)
STEPS = 30  # of most searches: the number is compiled in
TRACES = []
"""An entry for each time that the network below is traced."""


def linear(weight, bias, x):
    """Two classes with the margin ``<weight, x> + bias``."""
    return x @ jnp.stack([weight, jnp.zeros_like(weight)], 1) + jnp.stack([bias, jnp.zeros_like(bias)])


def mlp(parameters, x):
    TRACES.append(x.shape)
    *hidden, (last, bias) = parameters
    for weight, offset in hidden:
        x = jax.nn.relu(x @ weight + offset)
    return x @ last + bias


def network(seed, sizes=(5, 6, 6, 3), dtype=np.float32):
    rng = np.random.default_rng(seed)
    parameters = [
        tuple(jnp.asarray(a, dtype) for a in (rng.normal(size=(n, m)) * (2 / n) ** 0.5, rng.normal(size=m) / 4))
        for n, m in itertools.pairwise(sizes)
    ]
    return functools.partial(mlp, parameters)


def data(seed, logits_fn, batch=6, shape=(5,), dtype=np.float32):
    """Random images with the labels that the network gives them."""
    images = jnp.asarray(np.random.default_rng(seed).normal(size=(batch, *shape)), dtype)
    return images, logits_fn(images).argmax(-1)


def linear_problem(seed, pixels=10, batch=3):
    rng = np.random.default_rng(seed)
    weight, images = rng.normal(size=pixels), rng.normal(size=(batch, pixels))
    logits_fn = functools.partial(linear, jnp.asarray(weight), jnp.asarray(0.3))
    labels = (images @ weight + 0.3 < 0).astype(int)
    return logits_fn, jnp.asarray(images), jnp.asarray(labels), weight, np.abs(images @ weight + 0.3)


# Closed forms


@pytest.mark.parametrize(("kind", "q"), [(Linf, 1), (L2, 2)])
def test_linear_model(float64, kind, q):
    logits_fn, images, labels, weight, margin = linear_problem(0)
    found = certify.nonuniform(logits_fn, images, labels, kind(9.0, bounds=None))
    m, size = margin[:, None] - DELTA, np.abs(weight)
    np.testing.assert_allclose(found.radii, m / (10 ** (1 / q) * size), rtol=1e-4)
    np.testing.assert_allclose(found.uniform, m[:, 0] / np.linalg.norm(weight, q), rtol=1e-6)
    ratio = np.mean(size**q) ** (1 / q) / np.exp(np.log(size).mean())
    np.testing.assert_allclose(found.mean_radius / found.uniform, ratio, rtol=1e-6)
    assert found.certified.all()
    # The shape does not depend on the image.
    np.testing.assert_allclose(certify.cosine_similarity_matrix(found.radii), 1, atol=1e-6)


def test_multiplier_of_linear_model(float64):
    """``-pixels / (m - delta)`` in logits, so -1 in the search's units."""
    logits_fn, images, labels, _, _ = linear_problem(1)
    question = question_of(logits_fn, images, labels, Linf(9.0, bounds=None), DELTA)
    radii = certify.uniform_radius(logits_fn, images, labels, question.threat)[:, None] * jnp.ones_like(images)
    constants, state = start_at(question, PENALTY, radii, optimizer=ADAM)
    state = iterate(minimise(FAST_LIN, ADAM), constants, state, 1000)
    np.testing.assert_allclose(state.multipliers, jax.nn.one_hot(1 - labels, 2) * -1.0, atol=1e-4)


# The augmented Lagrangian


def lagrangian(d, c, multipliers, rho):
    e = d - c
    return (multipliers * e).sum(-1) + rho / 2 * (e**2).sum(-1)


def test_best_slack_variable_by_hand_and_by_brute_force():
    multipliers, rho, d = np.array([0, -0.5, -2]), 4.0, np.array([-1, 0.05, 0.8])
    c, e = np.array([0, 0, 0.3]), np.array([-1, 0.05, 0.5])
    np.testing.assert_allclose(multipliers_after(jnp.asarray(multipliers), jnp.asarray(rho), jnp.asarray(d)),
                               [-4, -0.3, 0], atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(multipliers + rho * e, [-4, -0.3, 0], atol=1e-12)
    np.testing.assert_allclose(rho / 2 * e**2 + multipliers * e, [2, -0.02, -0.5], atol=1e-12)
    grid = np.linspace(0, 2, 2001)
    values = lagrangian(d[:, None, None], grid[:, None], multipliers[:, None, None], rho)
    np.testing.assert_allclose(grid[values.argmin(-1)], c, atol=1e-3)


def test_gradient_by_finite_differences(float64):
    """Of the whole objective; without multipliers it is ``-sum log radii + rho / 2 |min(d, 0)|^2``."""
    logits_fn = network(0, dtype=np.float64)
    images, labels = data(0, logits_fn, 3, dtype=np.float64)
    question = question_of(logits_fn, images, labels, L2(9.0, bounds=None), DELTA)
    rng, rho, others = np.random.default_rng(1), 0.7, labels[:, None] != jnp.arange(3)
    radii = jnp.asarray(rng.uniform(0.2, 0.6, images.shape))
    tiny = optax.sgd(1e-6)  # so that no zeta is cut at half of itself
    penalty = PENALTY._replace(rho=rho, max_gradient_norm=math.inf)
    constants, state = start_at(question, penalty, radii, optimizer=tiny)
    step = jax.jit(minimise(FAST_LIN, tiny))

    @jax.jit
    def objectives(zeta, multipliers):
        d = slack(FAST_LIN, question, constants.radius[:, None] * zeta**2) / constants.margin[:, None]
        penalised = lagrangian(d, jnp.maximum(0, d + multipliers / rho), multipliers, rho)
        volume = jnp.log(zeta**2).sum(-1)
        return 5 * penalised - volume, 2.5 * rho * (jnp.minimum(d, 0) ** 2).sum(-1) - volume

    some = jnp.where(others, -rng.uniform(size=(3, 3)), 0)
    for multipliers, which in ((some, 0), (0 * some, 0), (0 * some, 1)):
        moved = step(constants, state._replace(multipliers=multipliers))
        h = 1e-6
        by_differences = np.stack(
            [
                (
                    objectives(state.zeta + h * e, multipliers)[which]
                    - objectives(state.zeta - h * e, multipliers)[which]
                )
                for e in np.eye(5)
            ],
            -1,
        )
        np.testing.assert_allclose((state.zeta - moved.zeta) / 1e-6, by_differences / (2 * h), rtol=1e-4, atol=1e-5)
    assert (np.asarray(slack(FAST_LIN, question, radii)).min(-1) < 0).any()  # the penalty has a part in it


# Soundness


def sampled(kind, radii, count, seed=0):
    """Points of the box, half of them corners, or of the ellipsoid, half of them on its surface: ``[count, *images]``."""
    rng = np.random.default_rng(seed)
    inside = rng.uniform(-1, 1, size=(count, *radii.shape))
    if kind is Linf:
        inside[: count // 2] = np.sign(inside[: count // 2])
    else:
        direction = rng.normal(size=inside.shape)
        direction /= np.linalg.norm(direction.reshape(count, len(radii), -1), axis=-1).reshape(count, len(radii), 1)
        inside = direction * np.where(np.arange(count) < count // 2, 1, rng.uniform(size=count))[:, None, None]
    return np.asarray(radii) * inside


@functools.cache
def small(kind, steps=STEPS):
    """A network, images with the network's labels but for the first, which is misclassified, and the result."""
    logits_fn = network(3)
    images, labels = data(3, logits_fn)
    labels = labels.at[0].add(1) % 3
    threat = kind(2.0, bounds=None)
    return logits_fn, images, labels, certify.nonuniform(logits_fn, images, labels, threat, steps=steps)


@pytest.mark.parametrize("kind", [Linf, pytest.param(L2, marks=pytest.mark.slow)])
def test_certified_sets_are_safe(kind):
    logits_fn, images, labels, found = small(kind)
    assert found.certified.tolist() == [False, *[True] * 5]
    threat = NonUniform(kind, found.radii, bounds=None)
    margins = np.array(certify.margins(logits_fn, images, labels, threat, method="fast-lin"))
    margins[np.arange(6), labels] = np.inf
    margins = margins.min(-1)
    assert (margins[1:] >= 0.99 * DELTA).all()
    assert margins[1:].max() < 0.02  # and as large as they can be
    np.testing.assert_array_equal(
        certify.certified(logits_fn, images, labels, threat, method="fast-lin"), found.certified
    )
    points = np.asarray(images) + sampled(kind, np.asarray(found.radii), 2000)
    predicted = logits_fn(jnp.asarray(points.reshape(-1, 5), jnp.float32)).argmax(-1).reshape(2000, 6)
    np.testing.assert_array_equal(predicted[:, 1:], np.broadcast_to(labels[1:], (2000, 5)))


@pytest.mark.parametrize("kind", [Linf, L2])
def test_misclassified_images_have_no_radii(kind):
    *_, found = small(kind)
    np.testing.assert_array_equal(found.radii[0], 0)
    assert found.mean_radius[0] == 0
    assert found.uniform[0] == 0
    assert all(np.isfinite(field).all() for field in found)


def test_margins_below_delta_are_not_certified():
    logits_fn, images, labels, _ = small(Linf)
    logits = np.sort(logits_fn(images), -1)
    clean = logits[:, -1] - logits[:, -2]
    delta = float(np.median(clean[1:]))
    found = certify.nonuniform(logits_fn, images, labels, Linf(2.0, bounds=None), steps=STEPS, delta=delta)
    np.testing.assert_array_equal(found.certified[1:], clean[1:] > delta)
    assert 1 < found.certified.sum() < 5


# How large the sets are


@pytest.mark.parametrize("kind", [Linf, L2])
def test_never_smaller_than_the_uniform_set(kind):
    for steps in (0, STEPS):
        *_, found = small(kind, steps)
        assert (found.mean_radius >= found.uniform * (1 - 1e-6)).all()
        np.testing.assert_allclose(found.mean_radius, certify.geometric_mean(found.radii), rtol=1e-6)
    assert (found.mean_radius[1:] > 1.01 * found.uniform[1:]).all()


@pytest.mark.parametrize("kind", [pytest.param(Linf, marks=pytest.mark.slow), L2])
def test_two_pixels_by_brute_force(kind):
    """No rectangle or ellipse of any proportions is larger; the objective is not concave."""
    logits_fn = network(5, (2, 6, 4))
    images, labels = data(5, logits_fn, 12, (2,))
    threat = kind(30.0, bounds=None)
    question = question_of(logits_fn, images, labels, threat, DELTA)
    largest = np.zeros(12)
    for t in np.linspace(-3, 3, 61):
        direction = jnp.broadcast_to(jnp.exp(jnp.asarray([t, -t], jnp.float32)), images.shape)
        largest = np.maximum(largest, largest_scale(FAST_LIN, question, direction, 0, 30))
    found = certify.nonuniform(logits_fn, images, labels, threat, steps=400)
    assert (found.mean_radius >= 0.999 * largest).all()
    assert (largest >= 0.98 * np.asarray(found.mean_radius)).all()


def test_bounding_logits_is_looser_than_bounding_margins():
    logits_fn, images, labels, found = small(Linf)
    looser = certify.nonuniform(logits_fn, images, labels, Linf(2.0, bounds=None), elide=False, steps=STEPS)
    assert (looser.uniform <= found.uniform).all()
    assert (looser.uniform[1:] < 0.99 * found.uniform[1:]).any()
    assert (looser.mean_radius >= looser.uniform).all()
    threat = NonUniform(Linf, looser.radii, bounds=None)
    bounds = certify.linear_bounds(logits_fn, images, threat, method="fast-lin")
    lower = np.take_along_axis(np.asarray(bounds.lower), np.asarray(labels)[:, None], 1)
    upper = np.where(np.arange(3) == np.asarray(labels)[:, None], -np.inf, bounds.upper)
    assert ((lower - upper).min(-1)[1:] >= 0.99 * DELTA).all()


@pytest.mark.parametrize(
    ("method", "elide"),
    [
        ("interval", True),
        ("interval", False),
        pytest.param(("crown", "interval"), True, marks=pytest.mark.slow),
        pytest.param("forward-backward", False, marks=pytest.mark.slow),
    ],
)
def test_other_methods(method, elide):
    logits_fn, images, labels, _ = small(Linf)
    found = certify.nonuniform(
        logits_fn, images, labels, Linf(2.0, bounds=None), method=method, elide=elide, steps=STEPS
    )
    assert found.certified[1:].all()
    assert (found.mean_radius >= found.uniform).all()
    threat = NonUniform(Linf, found.radii, bounds=None)
    assert certify.certified(logits_fn, images, labels, threat, method=method)[1:].all()


# What the result does not depend on


def test_images_do_not_influence_each_other(float64):
    """Whatever the optimizer, even one that takes norms over all that it is given."""
    logits_fn = network(3, dtype=np.float64)
    images, labels = data(3, logits_fn, dtype=np.float64)
    labels = labels.at[0].add(1) % 3
    threat = L2(2.0, bounds=None)
    usual = certify.nonuniform(logits_fn, images, labels, threat, steps=STEPS, optimizer=CLIPPED)
    others = images.at[:3].multiply(3), labels.at[1].add(1) % 3
    changed = certify.nonuniform(logits_fn, *others, threat, steps=STEPS, optimizer=CLIPPED)
    for ours, theirs in zip(usual, changed, strict=True):
        np.testing.assert_allclose(ours[3:], theirs[3:], rtol=1e-9)
    assert usual.certified[3:].all()
    assert not changed.certified[1]


def test_units(float64):
    """Radii grow with the images; the scale of logits, and of the margin with them, does not matter."""
    logits_fn = network(3, dtype=np.float64)
    images, labels = data(3, logits_fn, dtype=np.float64)
    (first, *offset), *middle, (last, bias) = logits_fn.args[0]

    def found(parameters, scale, delta):
        threat = L2(scale * 2.0, bounds=None)
        network = functools.partial(mlp, [tuple(layer) for layer in parameters])
        return certify.nonuniform(network, scale * images, labels, threat, delta=delta, steps=STEPS, optimizer=CLIPPED)

    usual = found(logits_fn.args[0], 1.0, DELTA)
    wider = found([(first / 8, *offset), *middle, (last, bias)], 8.0, DELTA)
    louder = found([(first, *offset), *middle, (100 * last, 100 * bias)], 1.0, 100 * DELTA)
    np.testing.assert_allclose(wider.radii, 8 * usual.radii, rtol=1e-6)
    np.testing.assert_allclose(louder.radii, usual.radii, rtol=1e-6)


def test_inside_jit():
    logits_fn, images, labels, found = small(L2)

    @jax.jit
    def inside(parameters, images, labels, eps):
        network = functools.partial(mlp, parameters)
        return certify.nonuniform(network, images, labels, L2(eps, bounds=None), steps=STEPS)

    for ours, usual in zip(inside(logits_fn.args[0], images, labels, 2.0), found, strict=True):
        np.testing.assert_allclose(ours, usual, rtol=1e-3)


def test_new_parameters_compile_nothing():
    """Nor do a new radius and new settings of the search."""
    *_, usual = small(Linf)
    other = network(4)
    images, labels = data(4, other)
    TRACES.clear()
    found = certify.nonuniform(
        other, images, labels, Linf(0.9, bounds=None), steps=STEPS, rho=2.0, delta=1e-3, dual_every=2
    )
    assert found.certified.all()
    assert (found.uniform != usual.uniform).all()
    assert len(TRACES) <= 1  # the check of the number of classes traces


# Boxes and limits


def test_pixels_without_influence_end_at_the_width_of_the_box():
    weight = jnp.asarray([1.0, 0.0, -2.0])
    logits_fn = functools.partial(linear, weight, jnp.asarray(0.9))
    images, labels = jnp.asarray([[0.5, 0.5, 0.5]]), jnp.asarray([0])
    found = certify.nonuniform(logits_fn, images, labels, Linf(1.0), steps=300)
    np.testing.assert_allclose(found.radii, [[0.2, 1.0, 0.1]], rtol=2e-3)  # a margin of 0.4
    limited = certify.nonuniform(logits_fn, images, labels, Linf(1.0, bounds=None), steps=300, max_radius=0.15)
    np.testing.assert_allclose(limited.radii, [[0.15, 0.15, 0.125]], rtol=2e-3)
    np.testing.assert_allclose(limited.uniform, 0.4 / 3, rtol=1e-3)


def test_the_box_bounds_what_perturbations_can_do():
    """A pixel on the edge of the box moves one way only."""
    weight = jnp.asarray([1.0, 1.0])
    logits_fn = functools.partial(linear, weight, jnp.asarray(0.5))
    images, labels = jnp.asarray([[0.0, 0.5]]), jnp.asarray([0])
    found = certify.nonuniform(logits_fn, images, labels, Linf(1.0), steps=300)
    np.testing.assert_allclose(found.radii, [[1.0, 1.0]], rtol=1e-3)  # x = (0, 0) still has the margin 0.5


def test_scales():
    weight = jnp.asarray([1.0, -3.0])
    logits_fn = functools.partial(linear, weight, jnp.asarray(1.0))
    images, labels = jnp.zeros((2, 2)), jnp.asarray([0, 1])
    question = question_of(logits_fn, images, labels, Linf(9.0, bounds=None), 0.0)
    radii = jnp.ones_like(images)
    # A margin of 1 falls by 4 per unit.
    np.testing.assert_allclose(largest_scale(FAST_LIN, question, radii, 0, 9), [0.25, 0], rtol=2e-4)
    np.testing.assert_array_equal(largest_scale(FAST_LIN, question, radii, 0, 0.125), [0.125, 0])
    np.testing.assert_array_equal(largest_scale(FAST_LIN, question, radii, 1, 2), [1, 1])
    limited = question._replace(largest=jnp.asarray(0.0625))
    np.testing.assert_array_equal(scaled(limited, radii, jnp.asarray([0.03125, 2])), [[0.03125] * 2, [0.0625] * 2])
    # The published way: 0.99^139 > 0.2475 > 0.99^140.
    factor = 0.99 ** math.ceil(math.log(0.25 * (1 - 1e-4)) / math.log(0.99))
    np.testing.assert_allclose(shrunk(FAST_LIN, question, radii), [[factor] * 2, [0, 0]], rtol=1e-4)


def test_published_end():
    logits_fn, images, labels, found = small(Linf)
    question = question_of(logits_fn, images, labels, Linf(2.0, bounds=None), DELTA)
    start = scaled(question, jnp.ones_like(images), found.uniform)
    last, _ = search(FAST_LIN, question, PENALTY, ADAM, start, STEPS)
    published = certify.nonuniform(
        logits_fn, images, labels, Linf(2.0, bounds=None), steps=STEPS, optimizer=ADAM, shrink="published"
    )
    factors = np.asarray(published.radii[1:] / last[1:])
    times = np.log(factors) / np.log(0.99)
    np.testing.assert_allclose(times, np.round(times), atol=0.05)
    assert published.certified.tolist() == [False, *[True] * 5]
    assert (published.mean_radius <= found.mean_radius * (1 + 1e-3)).all()


# Starts


def test_common_direction_as_start(float64):
    logits_fn, images, labels, *_ = linear_problem(0)
    threat = Linf(9.0, bounds=None)
    best = certify.nonuniform(logits_fn, images, labels, threat)
    common = certify.common_direction(best.radii[:2])
    np.testing.assert_allclose(jnp.linalg.norm(common), 1, rtol=1e-5)
    start = certify.nonuniform(logits_fn, images, labels, threat, steps=0, initial=common)
    np.testing.assert_allclose(start.radii, best.radii, rtol=1e-3)  # the shape is the same for all images
    # A start that is worse than equal radii is not taken.
    poor = certify.nonuniform(logits_fn, images, labels, threat, steps=0, initial=1 / common**2)
    np.testing.assert_allclose(poor.mean_radius, poor.uniform, rtol=1e-5)
    np.testing.assert_array_equal(poor.uniform, start.uniform)


# Measures


def test_measures_by_hand():
    radii = jnp.asarray([[[3.0], [4.0]], [[4.0], [3.0]], [[1.0], [1.0]]])
    matrix = certify.cosine_similarity_matrix(radii)
    half = 7 / 50**0.5
    np.testing.assert_allclose(matrix, [[1, 0.96, half], [0.96, 1, half], [half, half, 1]], rtol=1e-6)
    pairs = certify.pair_similarity(radii)
    np.testing.assert_allclose(pairs, [(0.96 + 2 * half) / 3, 0.96], rtol=1e-6)
    np.testing.assert_allclose(certify.geometric_mean(radii), [12**0.5, 12**0.5, 1], rtol=1e-6)
    np.testing.assert_allclose(certify.common_direction(radii), np.full((2, 1), 0.5**0.5), rtol=1e-6)
    np.testing.assert_allclose(certify.geometric_mean(jnp.full((1, 3000), 1e-30)), 1e-30, rtol=1e-4)
    np.testing.assert_array_equal(certify.cosine_similarity_matrix(jnp.asarray([[0.0, 0], [1, 0]])), [[0, 0], [0, 1]])


def test_cosine_of_random_vectors():
    radii = jnp.asarray(np.random.default_rng(0).uniform(size=(400, 784)), jnp.float32)
    assert abs(certify.pair_similarity(radii).mean - 0.75) < 1e-3


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps"),
        ({"dual_every": 0}, "dual_every"),
        ({"rho": 0.0}, "rho"),
        ({"rho_factor": 0.5}, "rho_factor"),
        ({"delta": -1.0}, "delta"),
        ({"max_radius": 0.0}, "max_radius"),
        ({"shrink": "loop"}, "choose one of bisection, published"),
        ({"method": "linear"}, "unknown method"),
        ({"method": ("crown", "interval"), "elide": False}, "elide"),
        ({"method": "alpha-crown"}, "derivatives"),
        ({"initial": np.ones(4, np.float32)}, "shape of one image"),
        ({"initial": np.zeros(5, np.float32)}, "positive"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    logits_fn, images, labels, _ = small(Linf)
    with pytest.raises(ValueError, match=message):
        certify.nonuniform(logits_fn, images, labels, Linf(2.0, bounds=None), **{"steps": 3, **settings})


def test_inputs_that_make_no_sense():
    logits_fn, images, labels, found = small(Linf)
    with pytest.raises(ValueError, match="Linf, L2 or L1"):
        certify.nonuniform(logits_fn, images, labels, NonUniform(Linf, found.radii, bounds=None))
    with pytest.raises(ValueError, match=r"\[0"):
        certify.nonuniform(logits_fn, images, labels, Linf(2.0))  # pixels outside the box
    with pytest.raises(ValueError, match="two"):
        certify.pair_similarity(found.radii[:1])


def test_l1(float64):
    """Its margins are not smooth, so that the search is slow, but what it finds is certified and larger."""
    logits_fn, images, labels, weight, margin = linear_problem(0)
    found = certify.nonuniform(logits_fn, images, labels, L1(9.0, bounds=None), steps=400)
    exact = (margin[:, None] - DELTA) / np.abs(weight)
    assert (np.abs(weight * found.radii).max(-1) <= margin - DELTA).all()
    assert (found.mean_radius <= certify.geometric_mean(exact)).all()
    assert (found.mean_radius >= 0.95 * certify.geometric_mean(exact)).all()


def convolutional(parameters, x):
    first, second, last = parameters
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, first, (1, 1), "SAME", dimension_numbers=numbers))
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, second, (2, 2), "SAME", dimension_numbers=numbers))
    return x.reshape(len(x), -1) @ last


def test_convolutional_network():
    rng = np.random.default_rng(0)
    shapes = ((3, 3, 1, 2), (3, 3, 2, 3), (12, 3))
    parameters = [jnp.asarray(rng.normal(size=s) / math.prod(s[:-1]) ** 0.5, jnp.float32) for s in shapes]
    logits_fn = functools.partial(convolutional, parameters)
    images = jnp.asarray(rng.uniform(size=(3, 4, 4, 1)), jnp.float32)
    labels = logits_fn(images).argmax(-1)
    found = certify.nonuniform(logits_fn, images, labels, Linf(1.0), steps=STEPS)
    assert found.radii.shape == images.shape
    assert found.certified.all()
    assert (found.mean_radius > 1.01 * found.uniform).all()
