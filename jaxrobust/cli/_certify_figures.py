"""Figures of certified radii."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrobust.reporting import save_figure, subplots

from ._certificates import Certificates, Maps

SHOWN = 8
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--")


def save_histograms(path: Path, norm: str, found: Certificates) -> None:
    """How certified radii above 0 are distributed, by each method, with a line at eps.

    The radii of the search, if there was one.
    """
    shown = found.searched or found.radii
    columns = min(4, len(shown))
    figure, axes = subplots(-(-len(shown) // columns), columns, size=(3.2, 2.6), sharex=True, sharey=True)
    top = found.eps if found.search_to is None else max(found.eps, found.search_to)
    for axis, (method, radii) in zip(axes.flat, shown.items(), strict=False):
        positive = radii[radii > 0]
        bins = np.linspace(0, top * (1 + 1e-6), 41)
        axis.hist(positive, bins, weights=np.full(len(positive), 100 / len(radii)), color=COLORS[0])
        axis.axvline(found.eps, color=COLORS[1], linewidth=1)
        axis.set_title(f"{method} (radius 0: {100 * (radii == 0).mean():.1f} %)")
        axis.locator_params(axis="x", nbins=5)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel(f"certified {norm} radius")
    for axis in axes[:, 0]:
        axis.set_ylabel("images (%)")
    save_figure(figure, path)


def save_curves(path: Path, norm: str, found: Certificates, *, end: float) -> None:
    """Certified accuracy as a function of the radius, by the radii that the search found, with a line at eps.

    Up to the radius ``end``, above which the search could not tell.
    """
    figure, axes = subplots(size=(6.4, 3.6))
    axis = axes[0, 0]
    for number, (name, radii) in enumerate(found.searched.items()):
        radii = np.sort(radii[radii > 0])
        shares = 100 * np.arange(len(radii), 0, -1) / len(found.labels)
        style = {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number // len(COLORS) % len(LINES)]}
        shown = min(np.searchsorted(radii, end) + 1, len(radii))  # one step beyond the end, drawn as far as it
        x = np.append(0, np.minimum(radii[:shown], end))
        y = np.append(100 * found.correct.mean(), shares[:shown])
        axis.step(x, y, where="pre", label=name, **style)
    axis.axvline(found.eps, color="#999999", linewidth=1)
    axis.set_xlabel(f"{norm} radius")
    axis.set_ylabel("certified accuracy (%)")
    largest = max(float(radii.max()) for radii in found.searched.values())
    axis.set_xlim(0, min(end, max(found.eps, 1.05 * largest)))
    axis.set_ylim(0, 101)
    figure.legend(loc="outside right upper", fontsize=8)
    save_figure(figure, path)


def save_maps(path: Path, images: np.ndarray, labels: np.ndarray, maps: Maps) -> None:
    """The first images above their maps, in which lighter pixels have smaller radii, on one logarithmic scale.

    Of several channels it shows the geometric mean.
    """
    from matplotlib.colors import LogNorm

    positive = maps.radii[maps.radii > 0]
    if not len(positive):
        return
    count = min(SHOWN, len(maps.rows))
    figure, axes = subplots(2, count, size=(1.6, 1.8))
    scale = LogNorm(positive.min(), max(positive.max(), positive.min() * 1.01))
    for column, number in enumerate(maps.rows[:count]):
        image, radii = axes[:, column]
        image.imshow(np.clip(images[number], 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        image.set_title(f"{labels[number]}")
        with np.errstate(divide="ignore"):
            mean = np.exp(np.log(maps.radii[column]).mean(-1))
        shown = radii.imshow(mean, cmap="viridis_r", norm=scale, interpolation="nearest")
        radii.set_title(f"mean {maps.mean_radius[column]:.3g}\nuniform {maps.uniform[column]:.3g}", fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(shown, ax=axes[1], label="radius")
    save_figure(figure, path)
