"""What the pixels of ImageNet's images are like, which networks and augmentations need to know."""

from __future__ import annotations

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's pixels by channel, in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's pixels by channel, in [0, 1]."""
