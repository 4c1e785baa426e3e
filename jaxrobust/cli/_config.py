"""What the commands can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxrobust.reporting import option

AttackChoice = Literal[
    "standard", "plus", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square", "fgsm", "pgd", "carlini-wagner", "deepfool",
]  # fmt: skip


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained network on a data set: clean accuracy and robust accuracy under an attack.

    Writes report.md, results.npz (per example: label, prediction, robust or not, distance, adversarial image), a figure of
    adversarial examples beside their originals, config.json and timings.json. An evaluation that is interrupted or killed
    continues when the same command is given again.

    Examples: jaxrobust evaluate runs/train/my_run/checkpoints/best --eps 8/255; jaxrobust evaluate weights.safetensors --model mlp --options widths=256,128 --dataset mnist --norm linf --eps 0.1
    """

    weights: Annotated[Path, tyro.conf.Positional]
    """Trained weights: the folder of a training run (its last network; RUN/checkpoints/best for its best), or a file: safetensors or npz (ours, or with PyTorch's names and layout), pt, pth or bin (a PyTorch state dict, read weights-only; needs torch)."""
    eps: Annotated[str, option("RADIUS")]
    """Radius of the threat model, for pixels in [0, 1]: a number or a fraction such as 8/255."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the threat model."""
    attack: AttackChoice = "standard"
    """standard: AutoAttack, the number to report. plus: its longer version. Single attacks of AutoAttack: apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square. Others: fgsm, pgd (20 steps), and for linf and l2 carlini-wagner and deepfool."""
    model: Annotated[str | None, option("NAME", "that of the training run")] = None
    """Network: linear, mlp, small_cnn, cnn4, cnn6, cnn8, preact_resnet18, resnet10, resnet18, resnet50, wide_resnet, wrn_28_10, wrn_34_10, vit_small, vit_b16, swin_t, swin_b, convnext_tiny, convnext_base, m5."""
    dataset: Annotated[
        str | None,
        option("NAME|FOLDER|FILE", "that of the training run, else digits"),
    ] = None
    """Data set, whose test part is evaluated: digits, digits_dct16, digits28 (bundled), mnist, cifar10 and others (prepared with TFDS), or a folder or npz file as for training."""
    examples: Annotated[int | None, option("N", "all")] = None
    """Only the first N test images."""
    options: Annotated[tuple[str, ...], option("NAME=VALUE ...", "the network's own")] = ()
    """Options of the network, e.g. --options widths=256,128 batch_norm=True mean=0.49,0.48,0.45 std=0.25,0.24,0.26."""
    key_map: Annotated[Path | None, option("FILE", "the customary names")] = None
    """JSON file from our parameter names to those in a PyTorch state dict, where these are not the customary ones."""
    seed: int = 0
    """Seed of the attack's random numbers."""
    batch_size: int = 250
    """Images per batch; it changes speed and memory, not the result."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""
    output: Annotated[Path | None, option("FOLDER", "runs/evaluate/...")] = None
    """Folder for report, results and figures."""
