import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust.data._imagenet import imagenet_augment, imagenet_mix
from jaxrobust.data._mix import _box, _soft_labels, cutmix, mix, mixup

CLASSES = 5
IMAGES = np.random.default_rng(0).uniform(size=(6, 9, 12, 3)).astype(np.float32)
BATCH = {"images": jnp.asarray(IMAGES), "labels": jnp.arange(6) % CLASSES, "rows": jnp.arange(6)}
SMOOTH = np.float32(0.9) * np.eye(CLASSES, dtype=np.float32)[np.arange(6) % CLASSES] + np.float32(0.1 / CLASSES)
QUANTILES = np.linspace(0.05, 0.95, 10)
SOME = jax.random.split(jax.random.key(3), 5)

recipe = jax.jit(mix(CLASSES))


@pytest.fixture(scope="module")
def many():
    """Images and labels for many keys; the share of mixup in each, NaN for other methods; boxes of replaced pixels."""
    mixer = mix(CLASSES, mixup_alpha=0.4, probability=0.8, switch_probability=0.25)
    draw = jax.jit(jax.vmap(lambda key: mixer(key, BATCH)))
    found = {name: np.asarray(array) for name, array in draw(jax.random.split(jax.random.key(4), 3000)).items()}
    taken = (found["images"] - IMAGES) / (IMAGES[::-1] - IMAGES)  # by each pixel from its partner
    share = 1 - np.median(taken, (1, 2, 3, 4))
    # Half of the pixels or more from either image: a box if those that are not are from the other one.
    constant = np.abs(taken - (1 - share)[:, None, None, None, None]).max((1, 2, 3, 4)) < 1e-2
    mixed = constant & (share > 1e-4) & (share < 1 - 1e-4)
    return found, np.where(mixed, share, np.nan), taken[:, 0, :, :, 0] > 0.5


def test_mixup_is_the_closed_form(many):
    found, share, _ = many
    mixed = ~np.isnan(share)
    part = share[mixed][:, None, None]
    np.testing.assert_allclose(found["labels"][mixed], part * SMOOTH + (1 - part) * SMOOTH[::-1], atol=2e-4)
    part = part[..., None, None]
    np.testing.assert_allclose(found["images"][mixed], part * IMAGES + (1 - part) * IMAGES[::-1], atol=2e-4)


def test_cutmix_replaces_one_box_and_counts_its_pixels(many):
    found, share, taken = many
    rest, taken = np.isnan(share), taken[np.isnan(share)]
    images = np.where(taken[:, None, :, :, None], IMAGES[::-1], IMAGES)
    np.testing.assert_allclose(found["images"][rest], images, atol=2e-4)  # the share of mixup may be within 1e-4 of 1
    np.testing.assert_array_equal(taken.sum((1, 2)), taken.any(1).sum(1) * taken.any(2).sum(1))
    stays = (1 - taken.mean((1, 2)))[:, None, None]
    np.testing.assert_allclose(found["labels"][rest], stays * SMOOTH + (1 - stays) * SMOOTH[::-1], atol=2e-4)


def test_how_often_which_method(many):
    _, share, taken = many
    assert (~np.isnan(share)).mean() == pytest.approx(0.8 * 0.75, abs=0.03)
    boxes = np.isnan(share) & taken.any((1, 2)) & ~taken.all((1, 2))
    # A box of less than one row or column is none.
    assert 0.8 * 0.25 * 0.8 < boxes.mean() < 0.8 * 0.25 + 0.02


def test_shares_of_mixup_are_beta_distributed(many):
    share = many[1][~np.isnan(many[1])]
    expected = np.random.default_rng(0).beta(0.4, 0.4, 200_000)
    expected = expected[(expected > 1e-4) & (expected < 1 - 1e-4)]
    np.testing.assert_allclose(np.quantile(share, QUANTILES), np.quantile(expected, QUANTILES), atol=0.05)


def test_labels_sum_to_one_and_other_entries_stay(many):
    labels = many[0]["labels"]
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)
    assert labels.min() >= 0.1 / CLASSES - 1e-7
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(many[0]["rows"], np.broadcast_to(np.arange(6), (3000, 6)))


def test_boxes_of_cutmix():
    height, width, count = 20, 30, 4000
    rng = np.random.default_rng(0)
    centres, given = rng.uniform(size=(count, 2)).astype(np.float32), rng.uniform(size=count).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(lambda centre, share: _box(centre, share, height, width)))(centres, given))

    side = np.sqrt(rng.uniform(size=100_000))

    def ends(length):
        whole = (length * side).astype(int)
        start = rng.integers(length, size=side.size) - whole // 2
        return np.clip(start, 0, length), np.clip(start + whole, 0, length)

    (top, bottom), (left, right) = ends(height), ends(width)
    area = (bottom - top) * (right - left) / (height * width)
    np.testing.assert_allclose(np.quantile(found.mean((1, 2)), QUANTILES), np.quantile(area, QUANTILES), atol=0.02)
    covered = found.mean(0)  # how often each pixel is replaced, by symmetry and against the same rule
    np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.06)
    rows = np.arange(height)[:, None]
    expected = ((rows >= top) & (rows < bottom) & (right > left)).mean(1)
    np.testing.assert_allclose(found.any(2).mean(0), expected, atol=0.03)


def test_hard_and_soft_labels():
    hard = _soft_labels(BATCH["labels"], 6, CLASSES, 0.1)
    np.testing.assert_allclose(hard, SMOOTH, atol=1e-7)
    one_hot = jax.nn.one_hot(BATCH["labels"], CLASSES, dtype=jnp.bfloat16)
    np.testing.assert_allclose(_soft_labels(one_hot, 6, CLASSES, 0.1), hard, atol=1e-7)


def test_an_odd_batch_and_other_dtypes():
    batch = {"images": BATCH["images"][:5].astype(jnp.bfloat16), "labels": jnp.arange(5)}
    for found in (recipe(key, batch) for key in SOME):
        assert found["images"].dtype == jnp.bfloat16
        np.testing.assert_allclose(found["labels"][2], SMOOTH[2], atol=1e-6)
        np.testing.assert_allclose(found["images"][2].astype(jnp.float32), IMAGES[2], atol=0.01)


def test_rows_that_are_sharded_over_devices():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharded = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec("data")))
    boxes = []
    for key in SOME:
        expected, found = recipe(key, BATCH), recipe(key, sharded)
        assert len(found["images"].sharding.device_set) == 2
        for name in BATCH:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
        boxes.append(np.isin(expected["images"], IMAGES).all())
    assert any(boxes)
    assert not all(boxes)


def test_one_method_alone():
    def program(mixer):
        return str(jax.make_jaxpr(mixer)(SOME[0], BATCH))

    assert program(mixup(CLASSES)) == program(mix(CLASSES, cutmix_alpha=0.0, label_smoothing=0.0))
    assert program(cutmix(CLASSES)) == program(mix(CLASSES, mixup_alpha=0.0, label_smoothing=0.0))
    batch = {"images": jnp.stack([jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))]), "labels": jnp.arange(2)}
    for mixer, by_box in ((mixup(2), False), (cutmix(2), True)):
        images = np.asarray(jax.jit(mixer)(SOME[0], batch)["images"])
        assert np.isin(images, [0, 1]).all() == by_box


def test_imagenet_recipe(key):
    """Images through everything, and the constants of mixing."""
    found = jax.jit(imagenet_augment(size=16))(key, jax.random.uniform(key, (4, 24, 24, 3)))
    assert found.shape == (4, 16, 16, 3)
    assert found.dtype == jnp.float32
    assert found.min() >= 0
    assert found.max() <= 1
    batch = {"images": found, "labels": jnp.array([0, 999, 3, 3])}
    constants = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 1.0, "switch_probability": 0.5}
    programs = [
        jax.make_jaxpr(one)(key, batch) for one in (imagenet_mix(), mix(1000, label_smoothing=0.1, **constants))
    ]
    assert str(programs[0]) == str(programs[1])
    assert programs[0].out_avals[1].shape == (4, 1000)


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
