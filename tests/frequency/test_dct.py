"""The cosine transform: closed forms, scipy, symmetries, energies."""

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import frequency

SMALL_IMAGES = arrays.arrays(
    np.float32,
    st.sampled_from([(4, 3, 2), (2, 1, 5, 1)]),
    elements=st.floats(0, 1, width=32),
)


def random_images(*shape, dtype=np.float32):
    return np.random.default_rng(0).random(shape).astype(dtype)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [1, 3, 8, 28, 32, 224])
def test_matrix_is_orthogonal_and_equals_scipy(size):
    matrix = np.asarray(frequency.dct_matrix(size, jnp.float64))
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), rtol=0, atol=1e-12)
    expected = scipy.fft.dct(np.eye(size), type=2, norm="ortho", axis=0)
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-14)
    signs = (-1.0) ** np.arange(size)[:, None]
    np.testing.assert_array_equal(matrix[:, ::-1], signs * matrix)


@pytest.mark.usefixtures("float64")
def test_matrix_of_three_points():
    matrix = np.asarray(frequency.dct_matrix(3, jnp.float64))
    third, half, sixth = np.sqrt([1 / 3, 1 / 2, 1 / 6])
    expected = [[third, third, third], [half, 0, -half], [sixth, -2 * sixth, sixth]]
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-15)
    assert matrix[1, 1] == 0
    assert np.linalg.det(matrix) == pytest.approx(-1, abs=1e-12)


def test_matrix_defaults_to_float32_and_can_be_built_inside_jit():
    assert frequency.dct_matrix(5).dtype == jnp.float32
    np.testing.assert_array_equal(jax.jit(lambda: frequency.dct_matrix(5))(), frequency.dct_matrix(5))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_dct_along_an_axis_equals_scipy(axis):
    x = random_images(4, 7, 3, dtype=np.float64)
    coefficients = frequency.dct(x, axis=axis)
    np.testing.assert_allclose(coefficients, scipy.fft.dct(x, norm="ortho", axis=axis), rtol=0, atol=1e-13)
    np.testing.assert_allclose(frequency.idct(coefficients, axis=axis), x, rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.sum(np.square(coefficients)), np.sum(x**2), rtol=1e-13)


def test_dct_of_a_vector_is_the_matrix_product():
    x = random_images(9)
    np.testing.assert_allclose(frequency.dct(x), frequency.dct_matrix(9) @ x, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(1, 5, 9, 1), (2, 3, 4, 6, 2)])
def test_dct2_equals_scipy_and_keeps_the_energy(shape):
    images = random_images(*shape, dtype=np.float64)
    coefficients = frequency.dct2(images)
    assert coefficients.dtype == jnp.float64
    expected = scipy.fft.dctn(images, norm="ortho", axes=(-3, -2))
    np.testing.assert_allclose(coefficients, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(frequency.idct2(coefficients), images, rtol=0, atol=1e-12)
    np.testing.assert_allclose(frequency.energy(coefficients), frequency.energy(images), rtol=1e-12)


@settings(max_examples=15, deadline=None)
@given(SMALL_IMAGES)
def test_round_trips(images):
    np.testing.assert_allclose(frequency.idct2(frequency.dct2(images)), images, atol=2e-6)
    np.testing.assert_allclose(frequency.dct2(frequency.idct2(images)), images, atol=2e-6)


def test_the_forward_transform_is_not_its_inverse():
    images = random_images(2, 8, 8, 1)
    assert np.abs(frequency.dct2(frequency.dct2(images)) - np.asarray(images)).max() > 0.1


def test_constant_image_has_only_a_constant_part():
    coefficients = frequency.dct2(jnp.full((1, 8, 8, 2), 0.3))
    expected = np.zeros((1, 8, 8, 2))
    expected[:, 0, 0] = 0.3 * 8
    np.testing.assert_allclose(coefficients, expected, atol=1e-6)


def test_horizontal_flip_changes_signs_of_odd_columns():
    images = random_images(2, 8, 8, 3)
    signs = (-1.0) ** np.arange(8, dtype=np.float32)[:, None]
    np.testing.assert_allclose(frequency.dct2(images[:, :, ::-1]), frequency.dct2(images) * signs, atol=1e-6)


def test_checkerboard_peaks_at_the_highest_frequency_and_fills_the_last_band():
    position = np.arange(32)
    board = ((-1.0) ** (position[:, None] + position)).astype(np.float32)[..., None]
    energies = np.asarray(frequency.dct2(board))[..., 0] ** 2
    assert np.unravel_index(energies.argmax(), (32, 32)) == (31, 31)
    last = np.asarray(frequency.band_masks(32)[9])
    assert energies[last].sum() / energies.sum() == pytest.approx(0.956, abs=5e-4)


def test_energy_is_one_number_per_example():
    assert frequency.energy(jnp.asarray([[1.0, 2.0], [3.0, 4.0]])).tolist() == [5.0, 25.0]
    assert frequency.energy(jnp.asarray([2.0, 3.0])).tolist() == [4.0, 9.0]


def test_spectral_energy_is_the_mean_magnitude_and_ignores_signs_and_flips():
    images = random_images(4, 6, 6, 3)
    expected = np.abs(scipy.fft.dctn(images, norm="ortho", axes=(1, 2))).mean(axis=(0, 3))
    spectrum = frequency.spectral_energy(images)
    np.testing.assert_allclose(spectrum, expected, atol=1e-6)
    np.testing.assert_allclose(frequency.spectral_energy(-images[:, :, ::-1]), spectrum, atol=1e-6)
    # Opposite images would cancel if magnitudes were taken after the mean.
    opposite = np.concatenate([images, -images])
    np.testing.assert_allclose(frequency.spectral_energy(opposite), spectrum, atol=1e-6)
    assert frequency.spectral_energy(images[0]).shape == (6, 6)


def test_transforms_are_linear_under_jit_vmap_and_grad():
    images = random_images(3, 4, 5, 2)
    direct = frequency.dct2(images)
    np.testing.assert_allclose(jax.jit(frequency.dct2)(images), direct, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(frequency.dct2)(images), direct, atol=1e-6)
    weights = random_images(3, 4, 5, 2) + 1
    gradient = jax.grad(lambda x: jnp.sum(weights * frequency.dct2(x)))(images)
    np.testing.assert_allclose(gradient, frequency.idct2(weights), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: frequency.dct_matrix(0), ValueError, "at least 1"),
        (lambda: frequency.dct(jnp.zeros(3), axis=1), ValueError, "axis 1"),
        (lambda: frequency.dct(jnp.zeros(3, jnp.int32)), TypeError, "floating point"),
        (lambda: frequency.dct2(jnp.zeros((4, 4))), ValueError, "channel axis"),
        (lambda: frequency.idct2(jnp.zeros((4, 4))), ValueError, "coefficients"),
        (lambda: frequency.dct2(jnp.zeros((4, 4, 1), jnp.uint8)), TypeError, "255"),
        (lambda: frequency.energy(jnp.asarray(1.0)), ValueError, "batch"),
        (lambda: frequency.energy(jnp.zeros(3, jnp.uint8)), TypeError, "floating point"),
        (lambda: frequency.spectral_energy(jnp.zeros((4, 4))), ValueError, "channel axis"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
