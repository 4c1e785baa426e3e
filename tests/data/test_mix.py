import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust.data._imagenet import imagenet_augment, imagenet_mix
from jaxrobust.data._mix import _box, cutmix, mix, mixup
from jaxrobust.losses import smooth_labels

CLASSES = 5
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 9, 12, 3)), jnp.float32)
BATCH = {"images": IMAGES, "labels": jnp.arange(6) % CLASSES, "rows": jnp.arange(6)}
QUANTILES = np.linspace(0.05, 0.95, 10)


def shares(mixer, count=4000):
    """The share of its own label that the first of two examples of different classes keeps, for many keys."""
    batch = {"images": jnp.zeros((2, 20, 20, 1)), "labels": jnp.arange(2)}
    draw = jax.jit(jax.vmap(lambda key: mixer(key, batch)["labels"][0, 0]))
    return np.asarray(draw(jax.random.split(jax.random.key(3), count)))


def test_mixup_is_the_closed_form(key):
    found = jax.jit(mixup(CLASSES, 0.8, label_smoothing=0.1))(key, BATCH)
    smooth = np.asarray(smooth_labels(BATCH["labels"], CLASSES, 0.1))
    # The first and the last example have classes 0 and 0, so the share comes from the second and its partner.
    share = (found["labels"][1, 1] - smooth[4, 1]) / (smooth[1, 1] - smooth[4, 1])
    assert 0 < share < 1
    np.testing.assert_allclose(found["labels"], share * smooth + (1 - share) * smooth[::-1], atol=1e-6)
    np.testing.assert_allclose(found["images"], share * IMAGES + (1 - share) * IMAGES[::-1], atol=1e-6)
    np.testing.assert_array_equal(found["rows"], BATCH["rows"])


@pytest.mark.parametrize("number", range(4))
def test_cutmix_replaces_one_box_and_counts_its_pixels(number):
    found = jax.jit(cutmix(CLASSES))(jax.random.key(number), BATCH)
    replaced = np.asarray(found["images"] != IMAGES).any(-1)
    np.testing.assert_array_equal(found["images"], np.where(replaced[..., None], IMAGES[::-1], IMAGES))
    np.testing.assert_array_equal(replaced, np.broadcast_to(replaced[0], replaced.shape))  # one box per batch
    assert replaced[0].sum() == replaced[0].any(0).sum() * replaced[0].any(1).sum()
    stays = 1 - replaced[0].mean()
    labels = np.eye(CLASSES)[BATCH["labels"]]
    np.testing.assert_allclose(found["labels"], stays * labels + (1 - stays) * labels[::-1], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 2.0])
def test_shares_of_mixup_are_beta_distributed(alpha):
    found = shares(mixup(2, alpha))
    expected = np.quantile(np.random.default_rng(0).beta(alpha, alpha, 200_000), QUANTILES)
    np.testing.assert_allclose(np.quantile(found, QUANTILES), expected, atol=0.04)


def test_boxes_of_cutmix():
    height, width, count = 20, 30, 4000
    rng = np.random.default_rng(0)
    centres, given = rng.uniform(size=(count, 2)).astype(np.float32), rng.uniform(size=count).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(lambda centre, share: _box(centre, share, height, width)))(centres, given))

    side = np.sqrt(rng.uniform(size=100_000))

    def ends(length):
        half, centre = (length * side).astype(int) // 2, rng.integers(length, size=side.size)
        return np.clip(centre - half, 0, length), np.clip(centre + half, 0, length)

    (top, bottom), (left, right) = ends(height), ends(width)
    area = (bottom - top) * (right - left) / (height * width)
    np.testing.assert_allclose(np.quantile(found.mean((1, 2)), QUANTILES), np.quantile(area, QUANTILES), atol=0.02)
    covered = found.mean(0)  # how often each pixel is replaced, by symmetry and against the same rule
    np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.06)
    rows = np.arange(height)[:, None]
    expected = ((rows >= top) & (rows < bottom) & (right > left)).mean(1)
    np.testing.assert_allclose(found.any(2).mean(0), expected, atol=0.03)


@pytest.mark.parametrize(("probability", "switch", "mixed", "cut"), [(1.0, 0.5, 1.0, 0.5), (0.4, 0.25, 0.4, 0.1)])
def test_how_often_which_method(probability, switch, mixed, cut):
    batch = {"images": jnp.arange(2.0)[:, None, None, None] * jnp.ones((2, 16, 16, 1)), "labels": jnp.arange(2)}
    mixer = mix(2, probability=probability, switch_probability=switch, label_smoothing=0.0)
    draw = jax.jit(jax.vmap(lambda key: mixer(key, batch)["images"][0, :, :, 0]))
    found = np.asarray(draw(jax.random.split(jax.random.key(5), 3000)))
    changed = (found > 0).any((1, 2))
    by_mixup = changed & (found == found[:, :1, :1]).all((1, 2)) & (found[:, 0, 0] < 1)
    assert by_mixup.mean() == pytest.approx(mixed - cut, abs=0.03)
    # A box smaller than two pixels, or outside, is none: few, but some.
    assert mixed - 0.03 - cut * 0.1 < changed.mean() < mixed + 0.03


def test_labels_sum_to_one_and_are_smoothed_where_nothing_is_mixed(key):
    found = mix(CLASSES, probability=0.0)(key, BATCH)
    np.testing.assert_array_equal(found["images"], IMAGES)
    np.testing.assert_allclose(found["labels"], smooth_labels(BATCH["labels"], CLASSES, 0.1), atol=1e-7)
    mixed = jax.jit(jax.vmap(lambda key: mix(CLASSES)(key, BATCH)["labels"]))(jax.random.split(key, 50))
    np.testing.assert_allclose(mixed.sum(-1), 1, atol=1e-6)
    assert mixed.min() >= 0.1 / CLASSES - 1e-7
    assert mixed.dtype == jnp.float32


def test_soft_labels_are_mixed_likewise(key):
    hard = jax.jit(mix(CLASSES))(key, BATCH)
    soft = jax.jit(mix(CLASSES))(key, {**BATCH, "labels": jax.nn.one_hot(BATCH["labels"], CLASSES)})
    np.testing.assert_allclose(soft["labels"], hard["labels"], atol=1e-7)


def test_an_odd_batch_and_other_dtypes(key):
    batch = {"images": IMAGES[:5].astype(jnp.bfloat16), "labels": jnp.arange(5)}
    found = mix(CLASSES, label_smoothing=0.0)(key, batch)
    assert found["images"].dtype == jnp.bfloat16
    assert found["labels"][2].tolist() == [0, 0, 1, 0, 0]


def test_rows_that_are_sharded_over_devices(key):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    for mixer in (mixup(CLASSES), cutmix(CLASSES)):
        expected = jax.jit(mixer)(key, BATCH)
        found = jax.jit(mixer, out_shardings=rows)(key, jax.device_put(BATCH, rows))
        assert len(found["images"].sharding.device_set) == 2
        for name in BATCH:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_imagenet_recipe(key):
    """Images through everything: the last operation is noise, so values need not be multiples of 1/255."""
    images = jax.random.uniform(key, (4, 24, 24, 3))
    keys = jax.random.split(key, 4)
    augment = jax.jit(imagenet_augment(size=16))
    found = augment(keys, images)
    assert found.shape == (4, 16, 16, 3)
    assert found.dtype == jnp.float32
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(augment(keys[1:3], images[1:3]), found[1:3], atol=1e-6)
    batch = imagenet_mix()(key, {"images": found, "labels": jnp.array([0, 999, 3, 3])})
    assert batch["labels"].shape == (4, 1000)
    np.testing.assert_allclose(batch["labels"][:, 7], 0.1 / 1000, rtol=1e-4)


def test_errors(key):
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        mixup(0)
    with pytest.raises(ValueError, match="cutmix_alpha must be 0"):
        cutmix(3, -1)
    with pytest.raises(ValueError, match="mixup_alpha or cutmix_alpha must be above 0"):
        mixup(3, 0)
    for name in ("probability", "switch_probability", "label_smoothing"):
        with pytest.raises(ValueError, match=rf"^{name} must lie in \[0, 1\], got 1.5"):
            mix(3, **{name: 1.5})
    with pytest.raises(ValueError, match=r"images must be floating-point .* got uint8"):
        mix(5)(key, {**BATCH, "images": jnp.zeros((6, 2, 2, 1), jnp.uint8)})
    for labels in (jnp.zeros((6, 4)), jnp.zeros(6), jnp.zeros(5, jnp.int32), jnp.zeros((6, 5), jnp.int32)):
        with pytest.raises(ValueError, match=r"labels must be integer classes \[batch\] or floating-point"):
            mix(5)(key, {**BATCH, "labels": labels})
