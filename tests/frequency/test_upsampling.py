"""Upsampled digits: what the small reproduction of the optimizer-robustness study is trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from sklearn.datasets import load_digits

from jaxrobust import frequency


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images[..., None] / 16).astype(np.float32)


@pytest.fixture(scope="module")
def enlarged(digits):
    return np.asarray(frequency.upsample_dct(digits, 16))


def test_upsampled_digits_have_192_empty_frequencies(digits, enlarged):
    assert enlarged.shape == (1797, 16, 16, 1)
    empty = np.asarray(frequency.empty_frequencies(8, 16))
    assert empty.sum() == 192
    coefficients = np.asarray(frequency.dct2(enlarged))
    # Rounding is relative to the largest coefficient, the constant part of about 8.
    assert np.abs(coefficients[:, empty]).max() < 1e-6 * coefficients.max()
    assert np.asarray(frequency.spectral_energy(enlarged))[empty].max() < 1e-6
    original = scipy.fft.dctn(digits, norm="ortho", axes=(1, 2))
    np.testing.assert_allclose(coefficients[:, :8, :8], 2 * original, atol=1e-5)


def test_upsampling_keeps_the_mean_and_leaves_the_pixel_range(digits, enlarged):
    np.testing.assert_allclose(enlarged.mean(axis=(1, 2)), digits.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(np.square(enlarged).sum(), 4 * np.square(digits).sum(), rtol=1e-5)
    # The range that the study's small reproduction reports.
    assert enlarged.min() == pytest.approx(-0.40, abs=0.01)
    assert enlarged.max() == pytest.approx(1.36, abs=0.01)


def test_noise_on_the_empty_frequencies_misses_the_digits(enlarged, key):
    noise = np.asarray(frequency.band_noise(key, frequency.empty_frequencies(8, 16), 2.0, (20, 16, 16, 1)))
    np.testing.assert_allclose(enlarged.reshape(-1, 256) @ noise.reshape(20, 256).T, 0, atol=1e-4)
    assert np.square(noise).sum() / 20 == pytest.approx(2.0 * 192, rel=0.1)


@pytest.mark.usefixtures("float64")
def test_rectangles_channels_and_exact_zeros():
    images = np.random.default_rng(0).random((2, 3, 4, 2))
    enlarged = frequency.upsample_dct(images, (6, 9))
    assert enlarged.dtype == jnp.float64
    expected = np.zeros((2, 6, 9, 2))
    expected[:, :3, :4] = np.sqrt(54 / 12) * scipy.fft.dctn(images, norm="ortho", axes=(1, 2))
    found = scipy.fft.dctn(np.asarray(enlarged), norm="ortho", axes=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    assert frequency.empty_frequencies((3, 4), (6, 9)).tolist() == (expected[0, ..., 0] == 0).tolist()


def test_same_size_changes_nothing_and_jit_takes_a_static_size(digits, enlarged):
    np.testing.assert_allclose(frequency.upsample_dct(digits[:3], 8), digits[:3], atol=1e-6)
    assert not np.any(frequency.empty_frequencies(8, 8))
    jitted = jax.jit(frequency.upsample_dct, static_argnums=1)
    np.testing.assert_allclose(jitted(digits[:3], 16), enlarged[:3], atol=1e-6)


def test_errors(digits):
    with pytest.raises(ValueError, match="only enlarges"):
        frequency.upsample_dct(digits[:1], (16, 7))
    with pytest.raises(ValueError, match="only enlarges"):
        frequency.empty_frequencies(8, 4)
    with pytest.raises(ValueError, match="channel axis"):
        frequency.upsample_dct(digits[0, ..., 0], 16)
