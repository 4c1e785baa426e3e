"""The study's figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.study import palette, pixels
from jaxrobust.reporting import save_figure, subplots

from . import measures
from .radius_claims import compared, curve_row
from .results import Results
from .rows import Row, Setting

ERRORS = (
    "Per cent of the test images, by training: misclassified, misclassified under PGD, and not certified; mean over networks. A network's true "
    "robust error lies between the second marker and the last two's smaller one."
)
CURVE = (
    "Certified radius by the radius that the bounds are made for (figure 3.6). Black and blue: the first correctly classified test image. Grey: PEC on the next "
    "nine. Both are the budget itself up to the peak, the largest radius that can be certified; then Fast-Lin certifies nothing, and PEC less and less."
)
PARAMETERS = "Weights and biases of all networks (figure 3.8), by training. The vertical axis is logarithmic; values beyond the edges are in the outermost bins."
RADII = "Largest certified radii of test images, all networks (figure 3.9). The red line is the radius that was trained for; misclassified images are at 0."
COLORS = {"kw": palette.ORANGE, "mmr_at": palette.GREEN, "l_per_at": palette.BLUE}
PANEL = (3.8, 3.0)


def errors(results: Results, path: Path) -> None:
    """Draw one line for each row: errors as they are, under attack, and what is not certified."""
    setting, rows = results.setting, results.setting.rows
    bound = "CROWN" if setting.smooth else "Fast-Lin"
    columns: list[tuple[str, str, str, Any]] = [
        ("clean error", "o", palette.GREEN, lambda row: results.error(row, "clean")),
        ("PGD", "s", palette.ORANGE, lambda row: results.error(row, "pgd")),
        (f"not certified by {bound}", ">", palette.BLUE, lambda row: results.error(row, "linear")),
        ("not certified by IBP", "X", palette.RED, lambda row: results.error(row, "interval")),
    ]
    figure, axes = subplots(1, 1, size=(6.4, 0.9 + 0.3 * len(rows)))
    axis = axes[0][0]
    places = np.arange(len(rows))
    values = {text: [float(np.mean(of(row))) for row in rows] for text, _, _, of in columns}
    low, high = values["PGD"], np.min([values[text] for text, *_ in columns[2:]], axis=0)
    axis.hlines(places, low, high, color="0.8", linewidth=5, zorder=0)
    for text, marker, color, _ in columns:
        axis.plot(values[text], places, marker, color=color, label=text, markeredgecolor="0.2", markeredgewidth=0.5)
    axis.set_yticks(places, [row.label for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(-2, 102)
    axis.set_xlabel("test images (%)")
    axis.set_title(setting.title)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)


def curve(results: Sequence[Results], path: Path) -> bool:
    """Draw figure 3.6, a panel for each setting; ``False`` without a row for it."""
    drawn = [(one, row) for one in results if (row := curve_row(one)) is not None]
    if not drawn:
        return False
    figure, axes = _panels(len(drawn))
    for axis, (one, row) in zip(axes, drawn, strict=True):
        found = one.arrays(measures.curve, row)
        eps = found["eps"]
        for other in found["envelope"][1:]:
            axis.plot(eps, other, color="0.85", linewidth=0.8, zorder=0)
        axis.plot(eps, eps, ":", color="0.5", linewidth=1)
        if not len(found["linear"]):
            continue
        axis.plot(eps, found["linear"][0], color=palette.BLACK, linewidth=2, label="Fast-Lin")
        axis.plot(eps, found["envelope"][0], "--", color=palette.SKY, linewidth=2, label="PEC")
        last = float(eps[(found["envelope"] > 0).any(0)].max(initial=eps[0]))
        axis.set_xlim(0, 1.1 * last)
        axis.set_ylim(0, 1.25 * float(found["envelope"].max()))
        axis.set_xlabel("radius of the budget")
        axis.set_ylabel("certified radius")
        axis.set_title(f"{_short(one.setting)}, {row.label}", fontsize=9)
    axes[0].legend(loc="upper right", fontsize=8)
    save_figure(figure, path)
    return True


def parameters(results: Sequence[Results], path: Path) -> bool:
    """Draw figure 3.8, a panel for each setting; ``False`` without rows for it."""

    def values(one: Results, row: Row) -> np.ndarray:
        return one.networks.parameters(one.setting, row).ravel()

    drawn = [one for one in results if compared(one)]
    if not drawn:
        return False
    figure, axes = _panels(len(drawn))
    for axis, one in zip(axes, drawn, strict=True):
        found = {row: values(one, row) for row in compared(one)}
        edge = float(np.quantile(np.abs(np.concatenate(list(found.values()))), 0.999))
        bins = np.linspace(-edge, edge, 81)
        _steps(axis, {row: np.clip(array, -edge, edge) for row, array in found.items()}, bins)
        axis.set_yscale("log")
        axis.locator_params(axis="x", nbins=5)
        axis.set_xlabel("value of the parameter")
        axis.set_title(_short(one.setting), fontsize=9)
    axes[0].set_ylabel("share of the parameters")
    axes[0].legend(fontsize=8)
    save_figure(figure, path)
    return True


def radii(results: Sequence[Results], path: Path) -> bool:
    """Draw figure 3.9, a panel for each setting; ``False`` without rows for it."""
    drawn = [one for one in results if compared(one) and one.setting.search_to is not None]
    if not drawn:
        return False
    figure, axes = _panels(len(drawn))
    for axis, one in zip(axes, drawn, strict=True):
        found = {row: one.arrays(measures.search, row)["envelope"].ravel() for row in compared(one)}
        edge = max(float(np.quantile(np.concatenate(list(found.values())), 0.995)), 1.2 * one.setting.eps)
        _steps(axis, {row: np.minimum(array, edge) for row, array in found.items()}, np.linspace(0, edge, 26))
        axis.axvline(one.setting.eps, color=palette.RED, linewidth=1.2)
        axis.set_xlabel("largest certified radius")
        axis.set_title(f"{_short(one.setting)}, ε = {pixels(one.setting.eps)}", fontsize=9)
    axes[0].set_ylabel("share of the images")
    axes[0].legend(fontsize=8)
    save_figure(figure, path)
    return True


def _steps(axis: Any, found: dict[Row, np.ndarray], bins: np.ndarray) -> None:
    """Histograms as lines, in shares."""
    for row, values in found.items():
        weights = np.full(len(values), 1 / len(values))
        axis.hist(
            values, bins, weights=weights, histtype="step", linewidth=1.5, color=COLORS[row.name], label=row.label
        )


def _panels(count: int) -> tuple[Any, list[Any]]:
    """A figure with so many panels, three in a line."""
    columns = min(count, 3)
    figure, axes = subplots(-(-count // columns), columns, size=PANEL)
    flat = list(axes.ravel())
    for spare in flat[count:]:
        spare.set_axis_off()
    return figure, flat[:count]


def _short(setting: Setting) -> str:
    """A setting's title without its radius."""
    return setting.title.partition(", ε")[0]
