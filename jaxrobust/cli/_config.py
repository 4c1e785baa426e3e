"""What the commands about trained networks can be told."""

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
class Trained:
    """A trained network, the images that it is judged on, and the threat model."""

    weights: Annotated[Path, tyro.conf.Positional]
    """Trained weights: the folder of a training run (its last network; RUN/checkpoints/best for its best), or a file: safetensors or npz (ours, or with PyTorch's names and layout), pt, pth or bin (a PyTorch state dict, read weights-only; needs torch)."""
    eps: Annotated[str, option("RADIUS")]
    """Radius of the threat model, for pixels in [0, 1]: a number or a fraction such as 8/255."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the threat model."""
    model: Annotated[str | None, option("NAME", "that of the training run")] = None
    """Network: linear, mlp, small_cnn, cnn4, cnn6, cnn8, preact_resnet18, resnet10, resnet18, resnet50, wide_resnet, wrn_28_10, wrn_34_10, vit_small, vit_b16, swin_t, swin_b, convnext_tiny, convnext_base, m5."""
    options: Annotated[tuple[str, ...], option("NAME=VALUE ...", "the network's own")] = ()
    """Options of the network, e.g. --options widths=256,128 batch_norm=True mean=0.49,0.48,0.45 std=0.25,0.24,0.26."""
    key_map: Annotated[Path | None, option("FILE", "the customary names")] = None
    """JSON file from our parameter names to those in a PyTorch state dict, where these are not the customary ones."""
    dataset: Annotated[str | None, option("NAME|FOLDER|FILE", "that of the training run, else digits")] = None
    """Data set: digits, digits_dct16, digits28 (bundled), mnist, cifar10 and others (prepared with TFDS), or a folder or npz file as for training."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""
    examples: Annotated[int | None, option("N", "all")] = None
    """Only the first N images."""


@dataclass(frozen=True)
class Evaluate(Trained):
    """Evaluate a trained network on a data set's test part: clean accuracy and robust accuracy under an attack.

    Writes report.md, results.npz (per example: label, prediction, robust or not, distance, adversarial image), a figure of
    adversarial examples beside their originals, config.json and timings.json. An evaluation that is interrupted or killed
    continues when the same command is given again.

    Examples: jaxrobust evaluate runs/train/my_run/checkpoints/best --eps 8/255; jaxrobust evaluate weights.safetensors --model mlp --options widths=256,128 --dataset mnist --norm linf --eps 0.1
    """

    attack: AttackChoice = "standard"
    """standard: AutoAttack, the number to report. plus: its longer version. Single attacks of AutoAttack: apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square. Others: fgsm, pgd (20 steps), and for linf and l2 carlini-wagner and deepfool."""
    seed: int = 0
    """Seed of the attack's random numbers."""
    batch_size: int = 250
    """Images per batch; it changes speed and memory, not the result."""
    output: Annotated[Path | None, option("FOLDER", "runs/evaluate/...")] = None
    """Folder for report, results and figures."""


@dataclass(frozen=True)
class Certify(Trained):
    """Certify a trained network on a data set: accuracy and radii that are proved to hold against every perturbation.

    Writes report.md, certificates.npz (per image: label, prediction, certified or not and radius by each method), figures,
    config.json and timings.json. A run that is interrupted or killed continues when the same command is given again, and
    further methods, a search or maps are added to what is there.

    Examples: jaxrobust certify runs/train/my_run/checkpoints/best --eps 2/255; jaxrobust certify weights.safetensors --model mlp --options widths=256,128 --dataset mnist --eps 0.1 --methods interval,crown,envelope --search
    """

    split: Literal["test", "train"] = "test"
    """Part of the data set."""
    methods: Annotated[tuple[str, ...], option("NAME,NAME,...")] = ("crown", "envelope")
    """Methods, separated by commas or spaces, from fast and loose to slow and tight: interval (IBP), forward, forward-adaptive, forward-backward, fast-lin-interval, crown-interval, fast-lin-tangent, fast-lin, crown, crown-midpoint, alpha-crown. envelope: at least what fast-lin certifies, and for other images a smaller radius, the distance to the polyhedral envelope."""
    search: bool = False
    """Also search the largest radius that each method can certify, image by image."""
    search_to: Annotated[str | None, option("RADIUS", "four times eps")] = None
    """Largest radius of the search."""
    precision: float = 1e-4
    """The search ends where a radius is known this closely."""
    maps: Annotated[int | None, option("N", "none")] = None
    """Also robustness maps of the first N correctly classified images: a radius for each pixel, so that the certified set is as large as possible (by fast-lin). Small radii are those of pixels on which the network relies."""
    map_steps: int = 400
    """Optimization steps of the maps."""
    batch_size: int = 50
    """Images per batch; it changes speed and memory, and results by rounding only, which moves single radii of maps by some per cent."""
    rows_at_once: Annotated[int | None, option("N", "all")] = None
    """How many units of a dense layer are bounded at a time; fewer save memory. Convolutions need a smaller batch instead."""
    output: Annotated[Path | None, option("FOLDER", "runs/certify/...")] = None
    """Folder for report, certificates and figures."""
