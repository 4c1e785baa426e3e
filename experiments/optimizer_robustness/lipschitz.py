"""Part ``lipschitz``: upper bounds on the networks' Lipschitz constants (table 4.1, section 4.6)."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from experiments.study import LABELS, STYLES, Section, above, estimate, paired_difference
from jaxrobust import curvature, models
from jaxrobust.reporting import Table, save_figure, subplots

from . import published
from .config import Setting
from .networks import Networks, in_order


def measure(networks: Networks, setting: Setting, optimizer: str) -> dict[str, Any]:
    """The cell of one optimizer: logarithms of the products of layer norms, one per seed."""

    def compute() -> dict[str, Any]:
        shape = networks.dataset(setting.dataset).image_shape
        logs: dict[str, list[float]] = {"2": [], "inf": []}
        per_layer = []
        for variables in networks.variables(setting, optimizer):
            layers = models.lipschitz_layers(networks.model(setting), variables, shape)
            norms = [float(norm) for norm in curvature.layer_norms(layers, 2, key=jax.random.key(0))]
            logs["2"].append(sum(map(math.log, norms)))
            logs["inf"].append(sum(math.log(float(norm)) for norm in curvature.layer_norms(layers, math.inf)))
            per_layer.append(norms)
        return {"log_product": logs, "layer_norms": per_layer}

    return networks.run.cell(f"lipschitz/{setting.name}/{optimizer}", compute)


def run(networks: Networks, settings: list[Setting]) -> Section:
    """Bounds of all settings, their table, claims and bars."""
    section = Section(
        "Lipschitz upper bound",
        text=[
            "Product of the norms of all layers: for convolutions the exact operator norm for the layer's input size, by "
            "power iteration; a residual block counts shortcut plus branch. The scale of the published numbers is not "
            "stated; the natural logarithm of the 2-norm product fits them best, so differences of logarithms are compared, "
            "and the claim is the order, which does not depend on the scale: SGD's bound is the smallest.",
        ],
    )
    rows, bars = [], {}
    for setting in settings:
        cells = {name: measure(networks, setting, name) for name in in_order(setting.rates)}
        logs = {name: cell["log_product"]["2"] for name, cell in cells.items()}
        bars[setting.name] = logs
        reference = published.LIPSCHITZ.get(setting.reference, {})
        for name, values in logs.items():
            row_published = f"{reference[name]:.2f} ({setting.reference})" if name in reference else ""
            infinite = [value / math.log(10) for value in cells[name]["log_product"]["inf"]]
            rows.append(
                [
                    f"{setting.name}, {LABELS[name]}",
                    row_published,
                    f"{np.mean(np.exp(values)):.4g}",
                    str(estimate(values)),
                    str(estimate(infinite)),
                ]
            )
        for name in logs:
            if name not in ("sgd", "momentum"):
                difference = paired_difference(logs[name], logs["sgd"])
                gap = reference[name] - reference["sgd"] if name in reference else None
                section.claims.append(
                    above(
                        f"{setting.name}: log 2-norm product, {LABELS[name]} above SGD",
                        difference,
                        None if gap is None else (gap, setting.reference),
                    )
                )
    section.tables.append(
        Table(
            "Products of layer norms",
            ("network", "published", "2-norm product", "its natural log", "log10 of the inf-norm product"),
            rows,
        )
    )
    _figure(bars, networks.run.folder / "figures/lipschitz")
    section.figures.append(
        (
            "figures/lipschitz",
            "Natural logarithm of the product of the layers' 2-norms; bars: standard error over seeds.",
        )
    )
    return section


def _figure(bars: dict[str, dict[str, list[float]]], path: Any) -> None:
    figure, axes = subplots(1, 1, size=(1.7 * len(bars) + 1.5, 3.2))
    axis, seen = axes[0][0], set()
    for group, logs in enumerate(bars.values()):
        width = 0.8 / len(logs)
        for number, (name, values) in enumerate(logs.items()):
            mean, error = estimate(values)
            axis.bar(
                group + (number - (len(logs) - 1) / 2) * width,
                mean,
                0.9 * width,
                yerr=None if math.isnan(error) else error,
                color=STYLES[name]["color"],
                label=None if name in seen else LABELS[name],
                capsize=2,
            )
            seen.add(name)
    axis.set_xticks(range(len(bars)), list(bars), fontsize=8)
    axis.set_ylabel("log of the 2-norm product")
    axis.set_title("Lipschitz upper bound")
    figure.legend(loc="outside lower center", ncols=4)
    save_figure(figure, path)
