import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import L2, Linf, attacks

IMAGES = jnp.full((64, 16, 16, 1), 0.5)
LABELS = jnp.zeros(64, jnp.int32)


def test_gaussian_noise_parameter_is_the_variance(key):
    noisy = attacks.gaussian_noise(0.01, bounds=None)(key, jnp.sum, IMAGES, LABELS)
    assert abs(float((noisy - IMAGES).var()) - 0.01) < 5e-4
    assert abs(float((noisy - IMAGES).mean())) < 5e-3


def test_gaussian_noise_is_clipped_to_the_box(key):
    noisy = attacks.gaussian_noise(1.0)(key, jnp.sum, IMAGES, LABELS)
    assert float(noisy.min()) == 0.0
    assert float(noisy.max()) == 1.0


def test_zero_variance_is_the_identity(key):
    np.testing.assert_array_equal(attacks.gaussian_noise(0.0)(key, jnp.sum, IMAGES, LABELS), IMAGES)


def test_draw_depends_on_the_examples_own_key_only(key):
    keys = jax.random.split(key, 64)
    attack = attacks.gaussian_noise(0.1)
    whole = attack(keys, jnp.sum, IMAGES, LABELS)
    np.testing.assert_array_equal(attack(keys[10:12], jnp.sum, IMAGES[:2], LABELS[:2]), whole[10:12])


@pytest.mark.parametrize("threat", [Linf(0.2), L2(1.0)], ids=["Linf", "L2"])
def test_uniform_noise_fills_the_ball(threat, key):
    noise = attacks.uniform_noise(threat)(key, jnp.sum, IMAGES, LABELS) - IMAGES
    norms = threat.norm(noise)
    assert bool((norms <= threat.eps * 1.00001).all())
    assert float(norms.mean()) > 0.95 * threat.eps  # the volume lies near the surface


def test_negative_variance_is_refused():
    with pytest.raises(ValueError, match="variance must be at least 0, got -1"):
        attacks.gaussian_noise(-1)
