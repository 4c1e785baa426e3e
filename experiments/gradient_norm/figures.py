"""The study's figures about robustness: gradients as pictures, accuracy by radius, training, and the controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.study import palette, pixels
from jaxrobust.reporting import save_figure, subplots

from . import measures, statistics
from .results import Results
from .rows import Row

STYLES = {
    "natural": (palette.BLACK, "s"),
    "gradient_norm": (palette.BLUE, "o"),
    "adversarial": (palette.RED, "^"),
    "edges": (palette.GREEN, "D"),
}
NAMES = {"natural": "natural", "gradient_norm": "gradient norm", "adversarial": "PGD-3 training"}

PICTURES = (
    "Loss gradients (upper rows) and PGD-10 perturbations (lower rows) at test images, first networks (figures 1.1 and 4.2). Grey is 0; "
    "each picture is scaled by the 0.99 quantile of its absolute values."
)
CURVE = (
    "Accuracy under PGD-100 by radius (figure 4.1): mean over networks, bands from the lowest to the highest. The published curves "
    "of Swin-B, read off, are dashed; their radii are divided so that 4/255 is ours."
)
EPOCHS = (
    "Training by gradient norm (in place of figure 4.3): accuracy on the mixed training images, and the penalty, by epoch and "
    "activation; mean over networks, bands from the lowest to the highest."
)
CONTROLS = (
    "Accuracy under AutoAttack by what logit gradients were aligned with (left), and the share of the gradients' norm that all "
    "classes have in common (right). Dots are networks, bars their mean; the line is training with nothing to align."
)


def pictures(results: Results, path: Path) -> bool:
    """Draw figures 1.1 and 4.2; ``False`` without rows for it."""
    rows = [row for row in results.three("robustness") if row is not None]
    if not rows:
        return False
    cells = {row: results.cell(measures.norms, row)["arrays"] for row in rows}
    images = cells[rows[0]]["images"]
    lines = 1 + 2 * len(rows)
    figure, axes = subplots(lines, len(images), size=(0.95, 0.95))
    for column, image in enumerate(images):
        _picture(axes[0][column], image)
        for number, row in enumerate(rows):
            _picture(axes[1 + number][column], _grey(cells[row]["gradients"][column]))
            _picture(axes[1 + len(rows) + number][column], _grey(cells[row]["perturbations"][column]))
    names = [NAMES[row.method] for row in rows]
    for line, text in enumerate(("image", *(f"∇L\n{n}" for n in names), *(f"PGD-10\n{n}" for n in names))):
        axes[line][0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    save_figure(figure, path)
    return True


def _grey(values: np.ndarray) -> np.ndarray:
    scale = np.quantile(np.abs(values), 0.99)
    return np.clip(0.5 + 0.5 * values / (scale if scale > 0 else 1.0), 0, 1)


def _picture(axis: Any, image: np.ndarray) -> None:
    axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def curve(results: Results, path: Path) -> bool:
    """Draw figure 4.1; ``False`` without rows for it."""
    from . import published

    rows = [row for row in results.three("robustness") if row is not None]
    if not rows:
        return False
    figure, axes = subplots(1, 1, size=(5.6, 3.8))
    axis = axes[0][0]
    for row in rows:
        found = results.cell(measures.curve, row)
        color, marker = STYLES[row.method]
        band(axis, np.asarray(found["radii"]), np.asarray(found["accuracy"]), color, NAMES[row.method], marker=marker)
        if row.method in published.FIGURE_4_1:
            radii = np.asarray(published.FIGURE_4_1["radius"]) / 4 * results.setting.eps
            keep = radii <= max(found["radii"])
            values = np.asarray(published.FIGURE_4_1[row.method])
            axis.plot(
                radii[keep], values[keep], "--", color=color, linewidth=1, label=f"{NAMES[row.method]}, published"
            )
    axis.axvline(results.setting.eps, color="0.8", linewidth=0.8, zorder=0)
    axis.set_xlabel(f"l∞ radius; trained at {pixels(results.setting.eps)}")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(0, 101)
    axis.legend(fontsize=8)
    save_figure(figure, path)
    return True


def epochs(results: Results, path: Path) -> bool:
    """Draw what stands for figure 4.3; ``False`` without rows for it."""
    rows = results.activations("gradient_norm")
    if len(rows) < 2:
        return False
    figure, axes = subplots(1, 2)
    for name, row in rows.items():
        history = results.networks.trained(results.setting, row)["history"]
        color = {"relu": palette.RED, "gelu": palette.BLUE, "silu": palette.GREEN}[name]
        for axis, metric, factor in zip(axes[0], ("accuracy", "penalty"), (100, 1), strict=True):
            values = factor * np.asarray(history[metric])
            band(axis, np.arange(1, values.shape[1] + 1), values, color, row.label.rpartition(", ")[2])
    for axis, text in zip(axes[0], ("accuracy (%)", "penalty"), strict=True):
        axis.set_xlabel("epoch")
        axis.set_ylabel(text)
    axes[0][0].legend()
    save_figure(figure, path)
    return True


def controls(results: Results, path: Path) -> bool:
    """Draw the controls of edge alignment; ``False`` without rows for it."""
    rows = [row for row in results.setting.of("edges") if row.method == "edges"]
    if len(rows) < 2:
        return False
    nothing = next((row for row in results.setting.of("edges") if row.name == "align_nothing"), None)
    figure, axes = subplots(1, 2, sharey=True, size=(4.4, 3.2))

    def common(row: Row) -> dict[int, float]:
        return results.mean(statistics.edge_agreement, row, "common")

    for axis, values, text in zip(
        axes[0], (results.robust, common), ("AutoAttack (%)", "share of the common mode"), strict=True
    ):
        for place, row in enumerate(rows):
            found = list(values(row).values())
            color = (
                palette.GREEN if row.target == "edges" else palette.RED if row.target == "magnitude" else palette.SKY
            )
            axis.barh(place, np.mean(found), color=color, alpha=0.5)
            axis.plot(found, [place] * len(found), "o", color=color, markersize=5, markeredgecolor="0.2")
        if nothing is not None:
            axis.axvline(float(np.mean(list(values(nothing).values()))), color="0.3", linewidth=1)
        axis.set_xlabel(text)
    axes[0][0].set_yticks(range(len(rows)), [row.label.removeprefix("aligned with ") for row in rows])
    axes[0][0].invert_yaxis()
    save_figure(figure, path)
    return True


def band(axis: Any, x: np.ndarray, values: np.ndarray, color: str, label: str, **options: Any) -> None:
    """Mean over networks, and from the lowest to the highest; ``values`` is ``[networks, points]``."""
    axis.plot(x, values.mean(0), color=color, label=label, markersize=4, **options)
    axis.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
