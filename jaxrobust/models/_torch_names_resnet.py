"""What PyTorch implementations call the parts of a ResNet."""

from __future__ import annotations

_BLOCKS = {f"conv_{number}": f"conv{number + 1}" for number in range(3)}
_BLOCKS |= {f"norm_{number}": f"bn{number + 1}" for number in range(3)}

RESNET = {
    "stem": "conv1",
    "stem_norm": "bn1",
    **_BLOCKS,
    "shortcut": "downsample.0",
    "shortcut_norm": "downsample.1",
    "head": "fc",
}
"""Torchvision and timm."""

RESNET_OF_CIFAR = {**RESNET, "shortcut": "shortcut.0", "shortcut_norm": "shortcut.1", "head": "linear"}
"""Most code for CIFAR."""
