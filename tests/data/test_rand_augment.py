from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxrobust.data._rand_augment import BLENDS, MOVES, OPERATIONS, TABLES, operate, rand_augment

FILL = (124, 116, 104)
STRENGTHS = (0.0, 2.2, 5.0, 9.0, 9.37)
NOISE = np.random.default_rng(0).integers(10, 200, (24, 33, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE[:4, :5]).resize((33, 24), Image.Resampling.BICUBIC))
IMAGES = {"noise": NOISE, "smooth": SMOOTH}


@partial(jax.jit, static_argnames="increasing")
def every_strength(image, operation, strengths, signs, increasing=True):
    one = jax.vmap(lambda strength, sign: operate(image, operation, strength, sign, increasing, FILL))
    return one(strengths, signs)


def ours(image, name, increasing=True):
    """Levels for all strengths, with sign 1 and -1: ``[strengths, 2, height, width, 3]``."""
    signs = np.tile(np.float32([1, -1]), len(STRENGTHS))
    found = every_strength(
        image.astype(np.float32), OPERATIONS.index(name), np.repeat(np.float32(STRENGTHS), 2), signs, increasing
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.round(found))
    return np.asarray(found).astype(int).reshape(len(STRENGTHS), 2, *image.shape)


def with_pil(image, name, strength, sign, increasing=True):
    """The same by Pillow's own functions, with timm's strengths."""
    image, part, signed = Image.fromarray(image), strength / 10, sign * strength / 10
    if name in ("auto_contrast", "equalize", "invert"):
        changed = {"auto_contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize, "invert": ImageOps.invert}
        return changed[name](image)
    if name == "posterize":
        bits = 4 - int(part * 4) if increasing else int(part * 4)
        # Pillow 13 refuses to keep no bit; before, the image became black.
        return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)
    if name == "solarize":
        return ImageOps.solarize(image, 256 - int(part * 256) if increasing else int(part * 256))
    if name == "solarize_add":
        return image.point([min(255, i + int(part * 110)) if i < 128 else i for i in range(256)] * 3)
    if name in BLENDS:
        factor = max(0.1, 1 + 0.9 * signed) if increasing else part * 1.8 + 0.1
        return getattr(ImageEnhance, name.capitalize())(image).enhance(factor)
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": FILL}
    if name == "rotate":
        return image.rotate(30 * signed, **options)
    affine = {
        "shear_x": (1, 0.3 * signed, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * signed, 1, 0),
        "translate_x": (1, 0, 0.45 * signed * image.width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.45 * signed * image.height),
    }
    return image.transform(image.size, Image.Transform.AFFINE, affine[name], **options)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_that_of_pil(name, image):
    """Equal up to one level where decimals are cut off, in double precision or in another: at few pixels."""
    found = ours(IMAGES[image], name)
    for strength, pair in zip(STRENGTHS, found, strict=True):
        for sign, result in zip((1, -1), pair, strict=True):
            difference = np.abs(result - np.asarray(with_pil(IMAGES[image], name, strength, sign)).astype(int))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.04
            if name in TABLES and name != "auto_contrast":
                assert difference.max() == 0


@pytest.mark.parametrize("name", [*BLENDS, "posterize", "solarize"])
def test_the_set_that_does_not_increase(name):
    for strength, (result, same) in zip(STRENGTHS, ours(NOISE, name, increasing=False), strict=True):
        expected = np.asarray(with_pil(NOISE, name, strength, 1, increasing=False)).astype(int)
        np.testing.assert_allclose(result, expected, atol=1)
        np.testing.assert_array_equal(result, same)


@pytest.mark.parametrize("name", [*BLENDS, *MOVES])
def test_no_strength_changes_nothing(name):
    np.testing.assert_array_equal(ours(NOISE, name)[0], np.broadcast_to(NOISE, (2, *NOISE.shape)))


@pytest.mark.parametrize("name", ["auto_contrast", "equalize"])
@pytest.mark.parametrize("levels", [[7], [7, 9], list(range(256))])
def test_few_or_all_levels(name, levels):
    image = np.resize(np.uint8(levels), NOISE.shape)
    difference = ours(image, name) - np.asarray(with_pil(image, name, 0, 1)).astype(int)
    assert np.abs(difference).max() == 0


def test_whole_translation_is_exact_and_filled():
    strength = np.float32([5.0])  # 0.225 of 40 pixels: 9
    image = np.random.default_rng(0).integers(0, 256, (8, 40, 3)).astype(np.float32)
    moved = every_strength(image, OPERATIONS.index("translate_x"), strength, np.float32([1]))[0]
    np.testing.assert_array_equal(moved[:, :31], image[:, 9:])
    np.testing.assert_array_equal(moved[:, 31:], np.broadcast_to(np.float32(FILL), (8, 9, 3)))


def test_each_operation_is_drawn_equally_often(key):
    """Without randomness of the strength the results are few, and each is that of one operation.

    Equalising needs more than 255 pixels to change anything.
    """
    image, count = NOISE[:6, :6].astype(np.float32), 6000
    augment = rand_augment(1, 9, magnitude_std=0, fill=[level / 255 for level in FILL])
    found = jax.jit(augment)(key, jnp.broadcast_to(image / 255, (count, 6, 6, 3)))
    found = np.round(np.asarray(found) * 255)
    unchanged = (found == image).all((1, 2, 3))
    assert unchanged.mean() == pytest.approx(0.5 + 1 / 30, abs=0.025)
    strengths, signs = np.tile(np.float32([9]), 2 * len(STRENGTHS)), np.tile(np.float32([1, -1]), len(STRENGTHS))
    shares = []
    for number in range(len(OPERATIONS)):
        results = np.asarray(every_strength(image, number, strengths, signs))[:2]
        shares.append([(np.abs(found - result).max((1, 2, 3)) <= 1).mean() for result in results])
    shares = np.delete(np.array(shares), OPERATIONS.index("equalize"), axis=0)
    unsigned, signed = np.split(shares, [len(TABLES) - 1])
    np.testing.assert_allclose(unsigned, 1 / 30, atol=0.01)
    np.testing.assert_allclose(signed, 1 / 60, atol=0.007)
    # They are different results, and there are no others.
    assert unchanged.mean() + unsigned[:, 0].sum() + signed.sum() == pytest.approx(1, abs=1e-9)


def test_distribution_of_the_strength(key):
    """The first column that a translation of a ramp shows tells by how much it moved."""
    ramp = jnp.broadcast_to(jnp.arange(200.0)[:, None] / 255, (1, 200, 3))
    images = jnp.broadcast_to(ramp, (4000, 1, 200, 3))
    augment = rand_augment(1, 9, probability=1.0, fill=(1, 1, 1))
    found = np.round(np.asarray(jax.jit(augment)(key, images))[:, 0, :, 0] * 255)
    moved = found[(found[:, -1] == 255) & (np.abs(np.diff(found[:, :100]) - 1).max(1) == 0)][:, 0]
    strengths = (moved + 0.5) / 200 / 0.45 * 10
    assert 90 < len(strengths) < 180  # 4000 / 30
    assert strengths.mean() == pytest.approx(9, abs=0.2)
    assert 0.35 < strengths.std() < 0.6
    assert strengths.max() < 10.1


def test_range_dtype_and_levels(key):
    images = jax.random.uniform(key, (30, 9, 12, 3), jnp.float32)
    augment = jax.jit(rand_augment(3))
    found = augment(key, images)
    assert found.shape == images.shape
    assert found.dtype == jnp.float32
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(found * 255, jnp.round(found * 255), atol=1e-4)
    assert jax.eval_shape(augment, key, images.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    keys = jax.random.split(key, 30)
    other = jax.random.split(key, 60)[30:].at[7:9].set(keys[7:9])
    np.testing.assert_array_equal(augment(other, images)[7:9], augment(keys, images)[7:9])


def test_nothing_drawn_rounds_to_eight_bits(key):
    images = jax.random.uniform(key, (2, 5, 5, 3))
    np.testing.assert_allclose(rand_augment(0)(key, images), jnp.round(images * 255) / 255, atol=1e-7)


@pytest.mark.parametrize("name", ["equalize", "sharpness", "rotate"])
def test_tiny_images(name):
    assert np.isfinite(ours(NOISE[:1, :2], name)).all()


def test_errors(key):
    with pytest.raises(ValueError, match="operations must be at least 0, got -1"):
        rand_augment(-1)
    with pytest.raises(ValueError, match=r"magnitude must lie in \[0, 10\], got 11"):
        rand_augment(2, 11)
    with pytest.raises(ValueError, match="magnitude_std must be a finite number of at least 0, got inf"):
        rand_augment(magnitude_std=float("inf"))
    with pytest.raises(ValueError, match="probability must lie in"):
        rand_augment(probability=2)
    with pytest.raises(ValueError, match="fill must be three numbers"):
        rand_augment(fill=(124, 116, 104))
    with pytest.raises(ValueError, match="needs RGB images"):
        rand_augment()(key, jnp.zeros((1, 4, 4, 1)))
