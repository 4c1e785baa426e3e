"""Oriented energy: closed forms, symmetries and the printed constants (gradient-norm study, 7.3)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxrobust.edges import oriented_energy

PRESETS = ["thesis", "released"]
SHAPE = (2, 12, 12, 3)


def photographs(*shape, dtype=np.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape).astype(dtype))


@functools.cache
def gaussian(sigma=1.0, radius=3):
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return offsets, weights / weights.sum()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_has_no_energy(preset, value):
    assert not np.asarray(oriented_energy(jnp.full(SHAPE, value), preset=preset)).any()


@pytest.mark.parametrize(("preset", "power"), [("thesis", 2), ("released", 1)])
def test_scaling_and_shifting_the_pixels(float64, preset, power):
    images = photographs(*SHAPE, dtype=np.float64)
    expected = abs(-0.7) ** power * oriented_energy(images, preset=preset)
    np.testing.assert_allclose(oriented_energy(-0.7 * images + 0.4, preset=preset), expected, rtol=1e-9)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "turn",
    [lambda x: np.rot90(x, axes=(1, 2)), lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: np.swapaxes(x, 1, 2)],
    ids=["rotation", "flip", "mirror", "transpose"],
)
def test_the_map_turns_with_the_image(float64, preset, turn):
    images = np.asarray(photographs(*SHAPE, dtype=np.float64))
    turned = oriented_energy(jnp.asarray(turn(images).copy()), preset=preset)
    np.testing.assert_allclose(
        turned, turn(np.asarray(oriented_energy(jnp.asarray(images), preset=preset))), rtol=1e-12
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_channels_are_exchangeable_and_images_independent(float64, preset):
    images = photographs(*SHAPE, dtype=np.float64)
    whole = oriented_energy(images, preset=preset)
    assert whole.shape == (2, 12, 12)
    np.testing.assert_allclose(oriented_energy(images[..., jnp.array([2, 0, 1])], preset=preset), whole, rtol=1e-12)
    np.testing.assert_array_equal(oriented_energy(images.at[0].set(0.5), preset=preset)[1], whole[1])
    mapped = jax.vmap(lambda image: oriented_energy(image[None], preset=preset)[0])(images)
    np.testing.assert_allclose(mapped, whole, rtol=1e-12)


def test_ramp(float64):
    """Interior of x = c * column: the derivative filters' gains."""
    ramp = jnp.broadcast_to(0.02 * jnp.arange(32.0), (32, 32))[None, :, :, None]
    inside = np.s_[0, 16, 10:22]
    np.testing.assert_allclose(oriented_energy(ramp, preset="released")[inside], 4 * 0.02, rtol=1e-12)
    squared = oriented_energy(ramp, preset="released", root=False, post_blur=False)
    np.testing.assert_allclose(squared[inside], 16 * 0.02**2, rtol=1e-12)
    np.testing.assert_allclose(oriented_energy(ramp, preset="thesis", root=True)[inside], 0.995912 * 0.02, rtol=1e-6)
    np.testing.assert_allclose(oriented_energy(ramp, preset="thesis")[inside], 0.991841 * 0.02**2, rtol=1e-6)


def test_vertical_step(float64):
    step = jnp.zeros((1, 32, 32, 1)).at[:, :, 16:].set(1.0)
    row = np.asarray(oriented_energy(step, preset="thesis"))[0, 16]
    np.testing.assert_allclose(row[15:17], 0.13202071, atol=5e-9)
    np.testing.assert_allclose(row[[14, 17]], 0.0147, atol=5e-5)
    np.testing.assert_allclose(row[[13, 18]], 2e-4, atol=5e-5)
    assert not row[:13].any()
    assert not row[19:].any()
    row = np.asarray(oriented_energy(step, preset="released"))[0, 16]
    np.testing.assert_allclose(row[[15, 14, 13, 12]], [1.0522, 0.6195, 0.2441, 0.0688], atol=5e-5)
    np.testing.assert_allclose(row[16:20], row[12:16][::-1], rtol=1e-12)


def test_impulse(float64):
    impulse = jnp.zeros((1, 32, 32, 1)).at[0, 7, 7, 0].set(1.0)
    found = np.asarray(oriented_energy(impulse, preset="thesis"))[0]
    assert found[7, 7] == 0
    np.testing.assert_allclose(found[7, 8], 0.00932859, atol=5e-9)
    offsets, g = gaussian()
    expected = np.multiply.outer(g, offsets * g) ** 2 + np.multiply.outer(offsets * g, g) ** 2
    np.testing.assert_allclose(found[4:11, 4:11], expected, rtol=1e-12)


def test_reflection_leaves_no_derivative_across_the_border():
    found = np.asarray(oriented_energy(photographs(*SHAPE), preset="thesis"))
    assert not found[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert (found[:, 1:-1, 1:-1] > 0).all()
    # With columns that differ and equal rows, the left and right border have no energy either.
    columns = jnp.broadcast_to(photographs(1, 1, 12, 1), SHAPE)
    found = np.asarray(oriented_energy(columns, preset="thesis"))
    assert not found[:, :, [0, -1]].any()
    assert (found[:, :, 1:-1] > 0).all()


@pytest.mark.parametrize("options", [{"sigma": 0.7, "radius": 2}, {"sigma": 1.0}, {"sigma": 1.4}], ids=str)
def test_agrees_with_scipy(float64, options):
    images = np.asarray(photographs(*SHAPE, dtype=np.float64))
    sigma = options["sigma"]
    radius = options.get("radius", int(np.ceil(3 * sigma)))
    expected = np.zeros((12, 12))
    for channel in np.moveaxis(images[0], -1, 0):
        for order in ((0, 1), (1, 0)):
            response = scipy.ndimage.gaussian_filter(channel, sigma, order, mode="mirror", radius=radius)
            expected += response**2
    np.testing.assert_allclose(
        oriented_energy(jnp.asarray(images), preset="thesis", **options)[0], expected, rtol=1e-10
    )


def test_released_steps_agree_with_scipy(float64):
    image = np.asarray(photographs(1, 32, 32, 1, dtype=np.float64))
    h = np.array([0.00817355, 0.05005046, 0.20837538, 0.46680122, 0.20837538, 0.05005046, 0.00817355])
    blur = lambda x: functools.reduce(lambda x, a: scipy.ndimage.correlate1d(x, h, a, mode="mirror"), (0, 1), x)  # noqa: E731
    blurred = blur(image[0, :, :, 0])
    expected = blur(np.hypot(*(scipy.ndimage.sobel(blurred, a, mode="mirror") / 2 for a in (0, 1))))
    np.testing.assert_allclose(oriented_energy(jnp.asarray(image), preset="released")[0], expected, rtol=1e-7)


def test_options_on_digits():
    """The map of the study on 8 x 8 digits, and that the options do what they say."""
    digits = photographs(4, 8, 8, 1)
    options = {"preset": "thesis", "sigma": 0.7, "radius": 2}
    squared = oriented_energy(digits, **options)
    rooted = oriented_energy(digits, **options, root=True)
    np.testing.assert_allclose(rooted**2, squared, rtol=1e-6)
    blurred = np.asarray(oriented_energy(digits, **options, post_blur=True))
    _, g = gaussian(0.7, 2)
    expected = scipy.ndimage.correlate1d(scipy.ndimage.correlate1d(squared, g, 1, mode="mirror"), g, 2, mode="mirror")
    np.testing.assert_allclose(blurred, expected, rtol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_gradient_is_finite_at_zero_energy(preset):
    total = lambda x: oriented_energy(x, preset=preset, root=True).sum()  # noqa: E731
    flat = jnp.full((1, 8, 8, 1), 0.5)
    assert not np.asarray(jax.jit(jax.grad(total))(flat)).any()


def test_no_convolution_in_the_program():
    """XLA's CPU backend runs convolutions slowly inside loops; precision and dtype follow the images."""
    for preset in PRESETS:
        program = jax.make_jaxpr(functools.partial(oriented_energy, preset=preset))(
            jnp.zeros((1, 8, 8, 1), jnp.float16)
        )
        assert "conv_general_dilated" not in str(program)
        assert program.out_avals[0].dtype == jnp.float16


def test_errors_say_what_is_wanted():
    images = jnp.zeros((1, 8, 3, 1))
    with pytest.raises(ValueError, match="too small to be reflected by 3 pixels"):
        oriented_energy(images)
    assert jax.eval_shape(lambda x: oriented_energy(x, radius=2), images).shape == (1, 8, 3)
    with pytest.raises(ValueError, match="unknown preset 'sobel'; choose one of released, thesis"):
        oriented_energy(images, preset="sobel")
    with pytest.raises(ValueError, match="must be positive, got 0"):
        oriented_energy(images, sigma=0)
    with pytest.raises(ValueError, match="radius must be at least 1"):
        oriented_energy(images, radius=0)
    with pytest.raises(ValueError, match=r"\[batch, height, width, channels\]"):
        oriented_energy(images[0])
    with pytest.raises(TypeError, match="floating point"):
        oriented_energy(images.astype(jnp.uint8))
