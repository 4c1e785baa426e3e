"""The ImageNet recipe against timm: operations and their strengths, windows, rectangles, mixing, learning rates."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _vision import import_vision
from PIL import Image

from jaxrobust import schedules
from jaxrobust.data._erasing import random_erasing
from jaxrobust.data._imagenet import IMAGENET_MEAN, IMAGENET_STD
from jaxrobust.data._mix import _box, _soft_labels
from jaxrobust.data._rand_augment import OPERATIONS, operate
from jaxrobust.data._resized_crop import _window

timm = import_vision("timm")
auto_augment = import_vision("timm.data.auto_augment")
pytestmark = pytest.mark.parity

FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)
COUNT = 6000
QUANTILES = np.linspace(0.05, 0.95, 10)


def same_distribution(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.quantile(ours, QUANTILES), np.quantile(theirs, QUANTILES), atol=tolerance)


def test_constants_and_operations():
    constants = import_vision("timm.data.constants")
    assert constants.IMAGENET_DEFAULT_MEAN == IMAGENET_MEAN
    assert constants.IMAGENET_DEFAULT_STD == IMAGENET_STD
    names = [name.replace("Increasing", "").replace("Rel", "") for name in auto_augment.rand_augment_choices("", True)]
    assert sorted(name.lower() for name in names) == sorted(name.replace("_", "") for name in OPERATIONS)


@pytest.mark.parametrize("increasing", [True, False])
def test_every_operation_at_every_strength(increasing, monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    apply = jax.jit(lambda number, strength, sign: operate(levels_float, number, strength, sign, increasing, FILL))
    levels_float = jnp.asarray(levels, jnp.float32)
    options = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    for name in auto_augment.rand_augment_choices("", increasing):
        plain = name.replace("Increasing", "").replace("Rel", "").lower()
        number = [one.replace("_", "") for one in OPERATIONS].index(plain)
        for strength in (0.0, 1.3, 5.0, 8.2, 9.0, 9.4, 10.0):
            if plain == "posterize" and int(strength / 10 * 4) == (4 if increasing else 0):
                continue  # no bit left, which Pillow 13 refuses
            for sign, draw in ((1, 0.1), (-1, 0.9)):
                monkeypatch.setattr(random, "random", lambda draw=draw: draw)
                reference = auto_augment.AugmentOp(name, prob=1.0, magnitude=strength, hparams=options)
                expected = np.asarray(reference(Image.fromarray(levels)), int)
                found = np.asarray(apply(number, np.float32(strength), np.float32(sign)))
                assert np.abs(found - expected).max() <= 1, (name, strength, sign)
                assert (found != expected).mean() < 0.06, (name, strength, sign)


@pytest.mark.parametrize("shape", [(256, 256), (60, 200)])
def test_windows(shape):
    crop = import_vision("timm.data.transforms").RandomResizedCropAndInterpolation
    random.seed(0)
    image = Image.new("RGB", shape[::-1])
    expected = np.array([crop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(COUNT)]).T
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(_window(key, *shape, (0.08, 1.0), (3 / 4, 4 / 3)))))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), COUNT))).T
    same_distribution(found, expected, 0.03 * max(shape))
    assert found[2:].mean() == pytest.approx(expected[2:].mean(), rel=0.01)


def test_rectangles_and_noise():
    torch = pytest.importorskip("torch")
    random.seed(0)
    erase = import_vision("timm.data.random_erasing").RandomErasing(probability=0.25, mode="pixel", device="cpu")
    torch.manual_seed(0)
    theirs = erase(torch.full((COUNT, 3, 32, 32), 100.0)).numpy().transpose(0, 2, 3, 1)
    images = jnp.full((COUNT, 32, 32, 3), 100.0)
    ours = jax.jit(random_erasing(IMAGENET_MEAN, IMAGENET_STD, clip=False))(jax.random.key(0), images)
    ours = np.where(ours == 100, 100, (ours - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD))
    masks = [(images != 100).any(-1) for images in (ours, theirs)]
    used = [mask.any((1, 2)) for mask in masks]
    assert used[0].mean() == pytest.approx(used[1].mean(), abs=0.025)
    sizes = [(mask.any(2).sum(1)[use], mask.any(1).sum(1)[use]) for mask, use in zip(masks, used, strict=True)]
    same_distribution(*sizes, 1.01)
    noise = [images[mask] for images, mask in zip((ours, theirs), masks, strict=True)]
    same_distribution(noise[0].T, noise[1].T, 0.02)
    np.testing.assert_allclose(masks[0].mean(0), masks[1].mean(0), atol=0.02)


def test_boxes_of_cutmix():
    bounding_box = import_vision("timm.data.mixup").cutmix_bbox_and_lam
    np.random.seed(0)  # noqa: NPY002 (timm draws from the global generator)
    shares = np.random.default_rng(0).uniform(size=COUNT).astype(np.float32)
    stays = np.array([bounding_box((3, 24, 40), share)[1] for share in 1 - shares])
    centres = np.random.default_rng(1).uniform(size=(COUNT, 2)).astype(np.float32)
    boxes = jax.jit(jax.vmap(lambda centre, share: _box(centre, share, 24, 40)))(centres, shares)
    same_distribution([1 - np.asarray(boxes).mean((1, 2))], [stays], 0.02)


def test_smoothed_labels_before_mixing():
    torch = pytest.importorskip("torch")
    labels = np.array([3, 0, 2, 2])
    expected = import_vision("timm.data.mixup").mixup_target(torch.tensor(labels), 5, lam=0.3, smoothing=0.1)
    soft = np.asarray(_soft_labels(jnp.asarray(labels), 4, 5, 0.1))
    np.testing.assert_allclose(0.3 * soft + 0.7 * soft[::-1], expected, atol=1e-6)


def test_learning_rates():
    torch = pytest.importorskip("torch")
    scheduler = import_vision("timm.scheduler.cosine_lr").CosineLRScheduler
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=6.25e-4)
    reference = scheduler(optimizer, 50, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    expected = []
    for epoch in range(55):
        reference.step(epoch)
        expected.append(optimizer.param_groups[0]["lr"])
    found = jax.vmap(schedules.cosine_with_warmup(6.25e-4, 50))(jnp.arange(55))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
