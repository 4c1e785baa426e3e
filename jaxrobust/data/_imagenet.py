"""The augmentation that ImageNet networks are fine-tuned with, from images to mixed labels."""

from __future__ import annotations

from jaxrobust._imagenet import IMAGENET_MEAN, IMAGENET_STD

from ._augment import Augment, compose, random_flip
from ._erasing import random_erasing
from ._mix import Mix, mix
from ._rand_augment import rand_augment
from ._resized_crop import random_resized_crop


def imagenet_augment(size: int = 224) -> Augment:
    """Random resized crop, flip, RandAugment and random erasing, in timm's order and with its constants.

    The recipe of Liu et al. (2023) for adversarial training and of the gradient-norm study: a bicubic crop of 8 to 100 per
    cent of the image, a flip with probability 1/2, RandAugment ``rand-m9-mstd0.5-inc1`` (which turns the listed colour
    jitter off) and noise in a rectangle with probability 1/4, clipped to [0, 1].

    The window is cut from the image that is stored. :class:`~jaxrobust.data.ImageFolder` stores the central square, so
    give it a ``size`` above that of the crop, equal to its ``resize``, to keep what it can.

    Args:
        size: side of the result in pixels.

    Returns:
        Augmentation of RGB images ``[batch, height, width, 3]`` in [0, 1] to ``[batch, size, size, 3]``.
    """
    return compose(
        random_resized_crop(size),
        random_flip,
        rand_augment(fill=IMAGENET_MEAN),
        random_erasing(IMAGENET_MEAN, IMAGENET_STD),
    )


def imagenet_mix(num_classes: int = 1000) -> Mix:
    """Mixup with alpha 0.8 or CutMix with alpha 1, each for half of the batches, and label smoothing 0.1: :func:`mix`."""
    return mix(num_classes)
