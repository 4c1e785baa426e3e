"""Local linearity error and attack profiles against closed forms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf
from jaxrobust.curvature import input_gradient
from jaxrobust.curvature._hessian import make_problem, normalized_curvature
from jaxrobust.curvature._linearity import attack_profile, interpolation_error, local_linearity_error
from jaxrobust.losses import cross_entropy

SHAPE, CLASSES, SIZE = (3, 3, 2), 4, 5
FEATURES = math.prod(SHAPE)


def mlp(first, second, images):
    return jnp.tanh(images.reshape(len(images), -1) @ first) @ second


def network(seed, dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(FEATURES, 12)) / 2, scale * rng.normal(size=(12, CLASSES)) / 2
    return functools.partial(mlp, *(array.astype(dtype) for array in weights))


def batch(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(SIZE, *SHAPE)).astype(dtype), rng.integers(0, CLASSES, SIZE).astype(np.int32)


def polynomial(slope, curvature, images):
    """``b . x + c |x|^2 / 2`` as the only logit."""
    return (images @ slope + 0.5 * curvature * jnp.square(images).sum(-1))[:, None]


def only_logit(logits, labels):
    del labels
    return logits[:, 0]


def finite_inside(images):
    inside = (images >= 0).all(-1) & (images <= 1).all(-1)
    return jnp.where(inside, 0.0, jnp.inf)[:, None]


# --- local linearity error ---


def test_affine_losses_are_linear_and_quadratic_ones_have_a_closed_form(float64, key):
    """E = c^2 eps^4 / 120 (16/15 D + 4/9 D (D - 1)) for c |x|^2 / 2, whatever its slope and the image."""
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(4000, 5)), np.zeros(4000, np.int32)
    eps, c, features = 0.1, 2.0, 5

    def error(curvature):
        logits_fn = functools.partial(polynomial, rng.normal(size=5), np.float64(curvature))
        return np.asarray(local_linearity_error(key, only_logit, logits_fn, images, labels, Linf(eps), draws=20))

    assert error(0.0).max() < 1e-28
    expected = c**2 * eps**4 / 120 * (16 / 15 * features + 4 / 9 * features * (features - 1))
    assert expected == pytest.approx(4.7407e-5, rel=1e-4)
    found = error(c)
    np.testing.assert_allclose(found.mean(), expected, rtol=4 * found.std() / expected / math.sqrt(len(found)))
    np.testing.assert_allclose(found.mean(), expected, rtol=0.02)
    np.testing.assert_allclose(error(2 * c), 4 * found, rtol=1e-6)  # the same draws


def test_the_two_points_have_the_same_part(float64):
    rng = np.random.default_rng(1)
    images, labels = batch(1)
    problem = make_problem(cross_entropy, network(1), images, labels)
    weight, noise = rng.uniform(size=SIZE), rng.uniform(-0.1, 0.1, size=(2, SIZE, *SHAPE))
    one_way = jax.jit(interpolation_error)(problem, weight, noise[0], noise[1])
    other_way = jax.jit(interpolation_error)(problem, 1 - weight, noise[1], noise[0])
    np.testing.assert_allclose(one_way, other_way, rtol=1e-9)
    losses = [cross_entropy(mlp(*network(1).args, images + n), jnp.asarray(labels)) for n in (noise[0], noise[1])]
    share = weight[:, None, None, None]
    between = cross_entropy(
        mlp(*network(1).args, images + share * noise[0] + (1 - share) * noise[1]), jnp.asarray(labels)
    )
    np.testing.assert_allclose(one_way, weight * losses[0] + (1 - weight) * losses[1] - between, rtol=1e-9)


def test_noisy_images_leave_the_box_unless_clipped(key):
    images, labels = np.array([[0.0, 1.0], [0.5, 0.5]], np.float32), np.zeros(2, np.int32)
    for clip in (False, True):
        error = local_linearity_error(key, only_logit, finite_inside, images, labels, Linf(0.1), draws=4, clip=clip)
        assert np.isfinite(error).tolist() == [clip, True]


def test_draws_depend_on_the_example_alone(key):
    logits_fn, (images, labels) = network(2, np.float32), batch(2, np.float32)
    keys, order = jax.random.split(key, SIZE), np.array([3, 1, 1, 0, 2])
    measure = functools.partial(local_linearity_error, threat=L2(0.5), draws=2)
    whole = measure(keys, cross_entropy, logits_fn, images, labels)
    again = measure(keys[order], cross_entropy, logits_fn, images[order], labels[order])
    np.testing.assert_allclose(again, whole[order], rtol=1e-3)
    assert (np.asarray(whole) > 0).all()


# --- attack profile ---


@pytest.fixture(scope="module")
def attacked():
    """Network, images, labels, adversarial images of one step, and their profile in double precision."""
    with jax.enable_x64(True):
        logits_fn, (images, labels) = network(3), batch(3)
        threat = Linf(0.05, bounds=None)
        gradient = np.asarray(input_gradient(cross_entropy, logits_fn, jnp.asarray(images), labels))
        adversarial = images + 0.05 * np.sign(gradient)
        profile = attack_profile(cross_entropy, logits_fn, images, labels, adversarial, threat, points=5)
        return logits_fn, images, labels, adversarial, gradient, jax.tree.map(np.asarray, profile)


def test_profile_from_the_image_through_the_attack(float64, attacked):
    logits_fn, images, labels, adversarial, gradient, profile = attacked
    assert profile.positions.tolist() == [0, 0.5, 1, 1.5, 2]
    assert profile.loss.shape == profile.gradient_norm.shape == profile.curvature.shape == (SIZE, 5)
    points = [images, adversarial, 2 * adversarial - images]  # the last one beyond the attack, unclipped
    losses = jax.jit(jax.vmap(lambda x: cross_entropy(logits_fn(x), labels)))(np.stack(points))
    np.testing.assert_allclose(profile.loss[:, [0, 2, 4]].T, losses, rtol=1e-12)
    assert (profile.loss[:, 2] >= profile.loss[:, 0]).all()
    np.testing.assert_allclose(profile.gradient_norm[:, 0], np.abs(gradient).sum((1, 2, 3)), rtol=1e-12)
    expected = normalized_curvature(None, cross_entropy, logits_fn, images, labels, steps=2, start="gradient")
    np.testing.assert_allclose(profile.curvature[:, 0], expected, rtol=1e-10)


def test_gradient_norms_of_a_profile_obey_hoelder(float64, attacked):
    logits_fn, images, labels, adversarial, _, profile = attacked
    l2 = attack_profile(cross_entropy, logits_fn, images, labels, adversarial, L2(1.0), points=5).gradient_norm
    assert (l2 <= profile.gradient_norm).all()
    assert (profile.gradient_norm <= math.sqrt(FEATURES) * l2).all()
    assert math.sqrt(224 * 224 * 3) == pytest.approx(387.98, abs=5e-3)


@pytest.mark.parametrize("scale", [0.0, 1e5], ids=["constant network", "saturated logits"])
def test_no_nan_in_degenerate_cases(key, scale):
    logits_fn = network(4, np.float32, scale)
    images, labels = (array[:1] for array in batch(4, np.float32))  # a batch of one
    images = np.full_like(images, 0.5)  # a constant image
    labels = np.asarray(mlp(*logits_fn.args, images)).argmax(-1).astype(np.int32)
    profile = attack_profile(cross_entropy, logits_fn, images, labels, images, Linf(0.1), points=3)
    error = local_linearity_error(key, cross_entropy, logits_fn, images, labels, Linf(0.001))
    for array in (*profile, error):
        assert array.dtype == jnp.float32
        assert np.isfinite(array).all()
    if not scale:
        assert not np.stack([profile.gradient_norm, profile.curvature]).any()


def test_errors_say_what_is_wanted(key):
    logits_fn, (images, labels) = network(5, np.float32), batch(5, np.float32)
    arguments = (cross_entropy, logits_fn, images, labels)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        local_linearity_error(key, *arguments, Linf(0.1), draws=0)
    with pytest.raises(ValueError, match="before any mean"):
        local_linearity_error(key, lambda *pair: cross_entropy(*pair).mean(), *arguments[1:], Linf(0.1))
    with pytest.raises(TypeError, match="floating point"):
        local_linearity_error(key, *arguments[:2], images.astype(np.uint8), labels, Linf(0.1))
    with pytest.raises(ValueError, match="must have the images' shape"):
        attack_profile(*arguments, images[:1], Linf(0.1))
    with pytest.raises(TypeError, match="must have the images' dtype"):
        attack_profile(*arguments, images.astype(np.float16), Linf(0.1))
    with pytest.raises(ValueError, match="points must be at least 2"):
        attack_profile(*arguments, images, Linf(0.1), points=1)
