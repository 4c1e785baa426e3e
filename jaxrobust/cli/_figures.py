"""Adversarial examples beside their originals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrobust.attacks import AutoAttackResult
from jaxrobust.reporting import save_figure, subplots

SHOWN = 8


def save_examples(path: Path, images: np.ndarray, labels: np.ndarray, result: AutoAttackResult) -> int:
    """Write a figure of the first examples that were broken: original, adversarial image, perturbation.

    Perturbations are drawn around grey, each stretched by its own largest entry, which its title names.

    Returns:
        How many examples it shows; none, and no figure, where nothing was broken.
    """
    broken = np.flatnonzero(~result.robust & (result.distances > 0))[:SHOWN]
    if not len(broken):
        return 0
    figure, axes = subplots(3, len(broken), size=(1.5, 1.7))
    for column, number in enumerate(broken):
        original, adversarial = images[number], result.images[number]
        perturbation = adversarial - original
        largest = float(np.abs(perturbation).max())
        shown = (
            (original, f"{labels[number]}"),
            (adversarial, f"{result.predictions[number]}"),
            (0.5 + perturbation / (2 * largest), f"max {largest:.3g}"),
        )
        for row, (image, title) in enumerate(shown):
            axis = axes[row, column]
            axis.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
    for row, name in enumerate(("original:\nlabel", "adversarial:\nprediction", "perturbation")):
        axes[row, 0].set_ylabel(name)
    save_figure(figure, path)
    return len(broken)
