"""The study's figures about input gradients: curvature, linearity, the attack's direction, edges and colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.study import palette
from jaxrobust.reporting import save_figure, subplots

from . import statistics
from .figures import NAMES, STYLES, band
from .results import Results, log10, profiles
from .rows import Row

GEOMETRY = (
    "Normalised curvature (figure A.1) and local linearity error (figure A.2) over test images and networks: the three kinds of "
    "training, and the robust two alone. Outermost two in a thousand left out."
)
PROFILE = (
    "Loss, ‖∇L‖₁ and normalised curvature (2 power iterations) along the direction of PGD-5, up to twice the attack (figure A.3): means over "
    "images; lines are means over networks, bands from the lowest to the highest. Left all, right the robust two; the "
    "grey line is the attack."
)
SCATTER = "Saliency against edge energy, one dot per pixel of the first test images, with least-squares lines (figure 5.1). First networks."
CHANNELS = "Histograms of the loss gradient's entries by colour channel (figure 4.4), first networks; exact zeros are left out."


def geometry(results: Results, path: Path) -> bool:
    """Draw figures A.1 and A.2; ``False`` without rows for it."""
    rows = _rows(results, "geometry")
    if not rows:
        return False
    figure, axes = subplots(2, 2, size=(4.4, 2.8))
    for line, (name, text) in zip(axes, (("curvature", "log10 C"), ("linearity", "log10 error")), strict=True):
        found = {
            row: log10(np.concatenate(list(results.images(statistics.geometry, row, name).values()))) for row in rows
        }
        for axis, shown in zip(line, (rows, [row for row in rows if row.method != "natural"]), strict=True):
            if not shown:
                continue
            low, high = np.quantile(np.concatenate([found[row] for row in shown]), (0.002, 0.998))
            edges = np.linspace(low, high, 41)
            for row in shown:
                axis.hist(
                    found[row],
                    edges,
                    histtype="step",
                    density=True,
                    color=STYLES[row.method][0],
                    label=NAMES[row.method],
                )
            axis.set_xlabel(text)
        line[0].set_ylabel("density")
    axes[0][0].legend(fontsize=8)
    save_figure(figure, path)
    return True


def profile(results: Results, path: Path) -> bool:
    """Draw figure A.3; ``False`` without rows for it."""
    rows = _rows(results, "geometry")
    if not rows:
        return False
    figure, axes = subplots(3, 2, size=(4.4, 2.4), sharex=True)
    for line, (name, text) in zip(axes, (("loss", "loss"), ("l1", "‖∇L‖₁"), ("curvature", "C")), strict=True):
        for axis, shown in zip(line, (rows, [row for row in rows if row.method != "natural"]), strict=True):
            for row in shown:
                x = np.asarray(results.cell(statistics.profile, row)["positions"])
                values = np.stack(list(profiles(results, row, name).values()))
                band(axis, x, values, STYLES[row.method][0], NAMES[row.method])
            axis.axvline(results.setting.eps, color="0.8", linewidth=0.8, zorder=0)
        line[0].set_ylabel(text)
    for axis in axes[-1]:
        axis.set_xlabel("distance along the attack")
        axis.locator_params(axis="x", nbins=5)
    axes[0][0].legend(fontsize=8)
    save_figure(figure, path)
    return True


def scatter(results: Results, path: Path) -> bool:
    """Draw figure 5.1; ``False`` without rows for it."""
    rows = _rows(results, "edges")
    aligned = next((row for row in results.setting.of("edges") if (row.method, row.target) == ("edges", "edges")), None)
    rows += [] if aligned is None else [aligned]
    if not rows:
        return False
    figure, axes = subplots(1, len(rows), sharex=True, sharey=True, size=(2.8, 2.8))
    for axis, row in zip(axes[0], rows, strict=True):
        found = results.cell(statistics.edge_agreement, row)["arrays"]
        x = np.log10(np.maximum(found["edge_maps"], 1e-3)).ravel()
        y = np.log10(np.maximum(found["saliency_maps"], 1e-38)).ravel()
        keep = y > -20
        color = STYLES[row.method][0]
        axis.plot(x[keep], y[keep], ".", color=color, markersize=2, alpha=0.25, rasterized=True)
        slope, intercept = np.polyfit(x[keep], y[keep], 1)
        ends = np.array([x.min(), x.max()])
        axis.plot(ends, slope * ends + intercept, color="0.2", linewidth=1.5)
        axis.set_title(f"{NAMES.get(row.method, 'aligned with edges')}\nslope {slope:+.2f}")
        axis.set_xlabel("log10 edge energy")
    axes[0][0].set_ylabel("log10 saliency")
    save_figure(figure, path)
    return True


def channels(results: Results, path: Path) -> bool:
    """Draw figure 4.4; ``False`` without rows for it."""
    rows = results.setting.of("colour")
    if not rows:
        return False
    figure, axes = subplots(1, len(rows), sharex=True, sharey=True, size=(3.2, 2.8))
    middles = np.linspace(-14, 2, 97)[:-1] + 1 / 12
    for axis, row in zip(axes[0], rows, strict=True):
        histograms = results.cell(statistics.channels, row)["arrays"]["histogram"]
        for number, (color, name) in enumerate(
            ((palette.RED, "red"), (palette.GREEN, "green"), (palette.BLUE, "blue")), 1
        ):
            if number < len(histograms):
                axis.plot(middles, histograms[number] / max(histograms[number].sum(), 1), color=color, label=name)
        axis.set_title(row.label)
        axis.set_xlabel("log10 |gradient|")
    axes[0][0].set_ylabel("share of entries")
    axes[0][0].legend(fontsize=8)
    save_figure(figure, path)
    return True


def _rows(results: Results, part: str) -> list[Row]:
    return [row for row in results.three(part) if row is not None]  # type: ignore[arg-type]
