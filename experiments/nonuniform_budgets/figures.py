"""The study's figures: radii of single pixels as histograms and as maps, and what training does to volume and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.study import palette
from jaxrobust import data
from jaxrobust.reporting import save_figure, subplots

from .networks import Networks
from .outcomes import Outcome, Outcomes
from .presets import VARIANTS, Setting, Variant

HISTOGRAMS = (
    "Figure 3.4: certified radii of the pixels of one test image, first networks; dashed lines are the radii that networks were "
    "trained for. Radii are on a logarithmic scale."
)
MAPS = (
    "Figure 3.5: test images, and maps of their certified radii, first networks. Lighter pixels have a smaller radius; each map has "
    "a logarithmic scale of its own, from its smallest to its largest radius."
)
TRAINING = (
    "Non-uniform over uniform radius, and cosines of the radii of different images, by the radius of PGD training. Dots are "
    "networks, lines their means."
)
COLORS = (palette.BLACK, palette.ORANGE, palette.RED, palette.PURPLE)
STYLES: dict[Variant, tuple[str, str]] = {
    "linf": (palette.BLUE, "o"),
    "linf_logits": (palette.SKY, "v"),
    "l2": (palette.GREEN, "s"),
}


def common_images(outcomes: Outcomes) -> list[int]:
    """Numbers of the test images that the first network of every row has a certificate for."""
    found = [set(outcome.found["linf"][0].numbers.tolist()) for outcome in outcomes.values()]
    return sorted(set.intersection(*found))


def _map(outcome: Outcome, image: int) -> np.ndarray:
    """Radii of the first network at a test image."""
    first = outcome.found["linf"][0]
    return first.radii[int(np.flatnonzero(first.numbers == image)[0])]


def histograms(outcomes: Outcomes, path: Path) -> bool:
    """Draw figure 3.4; ``False`` where no image is common to all rows."""
    images = common_images(outcomes)
    if not images:
        return False
    radii = {name: np.log10(_map(outcome, images[0]).ravel()) for name, outcome in outcomes.items()}
    every = np.concatenate(list(radii.values()))
    bins = np.linspace(every.min(), every.max(), 40)
    figure, axes = subplots(len(radii), 1, size=(5.4, 1.4), sharex=True)
    for axis, (name, values), color in zip(axes[:, 0], radii.items(), COLORS, strict=False):
        row = outcomes[name].row
        axis.hist(values, bins, color=color)
        axis.set_title(row.label, loc="left", fontsize=9, pad=2)
        axis.yaxis.get_major_locator().set_params(integer=True)
        if row.eps:
            axis.axvline(np.log10(row.eps), color="0.4", linestyle="--", linewidth=1)
        axis.set_ylabel("pixels")
    every_tick = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]
    ticks = [tick for tick in every_tick if bins[0] <= np.log10(tick) <= bins[-1]]
    axes[-1, 0].set_xticks(np.log10(ticks), [f"{tick:g}" for tick in ticks])
    axes[-1, 0].set_xlabel("certified radius")
    save_figure(figure, path)
    return True


def maps(networks: Networks, setting: Setting, outcomes: Outcomes, path: Path) -> bool:
    """Draw figure 3.5: an image of each of up to four classes; ``False`` where no image is common to all rows."""
    dataset = networks.dataset(setting)
    chosen: dict[int, int] = {}
    for image in common_images(outcomes):
        chosen.setdefault(int(dataset.test_labels[image]), image)
    if not chosen:
        return False
    images = [chosen[label] for label in sorted(chosen)][:4]
    figure, axes = subplots(len(images), 1 + len(outcomes), size=(1.5, 1.5))
    for line, image in enumerate(images):
        picture = data.to_float(np.asarray(dataset.test_images[image]))
        _picture(axes[line][0], picture[..., 0] if picture.shape[-1] == 1 else picture, "gray")
        for column, outcome in enumerate(outcomes.values(), start=1):
            _picture(axes[line][column], np.log(_map(outcome, image)).mean(-1), "Greys")
    for axis, text in zip(axes[0], ("image", *(outcome.row.label for outcome in outcomes.values())), strict=True):
        axis.set_title(text, fontsize=9)
    save_figure(figure, path)
    return True


def _picture(axis: Any, values: np.ndarray, colors: str) -> None:
    axis.imshow(values, cmap=colors, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("0.7")
        spine.set_visible(True)


def training(outcomes: Outcomes, path: Path) -> bool:
    """Draw ratios and cosines by training radius; ``False`` with fewer than three rows."""
    rows = list(outcomes.values())
    if len(rows) < 3:
        return False
    figure, axes = subplots(1, 2, size=(4.4, 3.4))
    for variant, (color, marker) in STYLES.items():
        having = [one for one in rows if variant in one.values]
        if having:
            ratios = [[1 + value / 100 for value in one.values[variant]["gain"]] for one in having]
            _points(axes[0][0], having, ratios, color, marker, VARIANTS[variant])
    for name, text, color, marker in (
        ("mean_cosine", "mean", palette.BLUE, "o"),
        ("min_cosine", "smallest", palette.RED, "v"),
        ("shuffled_cosine", "mean, shuffled pixels", "0.6", "x"),
    ):
        _points(axes[0][1], rows, [one.main(name) for one in rows], color, marker, text)
    axes[0][0].set_ylabel("non-uniform / uniform radius")
    axes[0][0].axhline(1, color="0.8", linewidth=0.8, zorder=0)
    axes[0][1].set_ylabel("cosine (l∞, margins)")
    for axis in axes[0]:
        axis.set_xticks([one.row.eps for one in rows])
        axis.set_xlabel("radius of PGD training")
        axis.legend(fontsize=8)
    save_figure(figure, path)
    return True


def _points(axis: Any, rows: list[Outcome], values: list[list[float]], color: str, marker: str, text: str) -> None:
    radii = [one.row.eps for one in rows]
    axis.plot(radii, [np.mean(seeds) for seeds in values], color=color, label=text, linewidth=1.2)
    for eps, seeds in zip(radii, values, strict=True):
        axis.plot([eps] * len(seeds), seeds, marker, color=color, markersize=3.5, alpha=0.7)
