"""Part ``bands``: accuracy under noise in one frequency band (Observation II, figures 4.5, 4.6 and 4.17)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from experiments.study import LABELS, STYLES, Claim, Section, estimate, holds, paired_difference, verdict, verdict_alike
from jaxrobust import attacks, data, evaluation, frequency
from jaxrobust.reporting import Table, save_figure, subplots

from .config import Setting
from .networks import Networks, in_order

BANDS = 10
DRAWS = 10
FILLED_VARIANCE = 0.3
FILLED_DRAWS = 50
"""Noise on the frequencies that hold the image: from draw to draw its effect varies by more than a point."""
ORIGINAL_SIZE = 8
"""Size of the digits before they were upsampled in the DCT domain."""


def _noises(setting: Setting, dataset: data.Dataset) -> dict[str, np.ndarray]:
    """Name of each noise to its draws ``[draws, height, width, channels]``, the same for all images and networks."""
    height, width, channels = dataset.image_shape
    shape = (height, width, channels)
    masks = frequency.band_masks((height, width), BANDS)
    bands = frequency.band_noises(jax.random.key(0), masks, setting.band_variance, DRAWS, shape)
    noises = {f"band {number}": np.asarray(noise) for number, noise in enumerate(bands)}
    if setting.empty_variances:
        empty = frequency.empty_frequencies(ORIGINAL_SIZE, shape[0])
        for name, mask, variances, draws in (
            ("empty", empty, setting.empty_variances, DRAWS),
            ("filled", ~empty, (FILLED_VARIANCE,), FILLED_DRAWS),
        ):
            for number, variance in enumerate(variances):
                key = jax.random.fold_in(jax.random.key(1), number)
                noise = frequency.band_noises(key, np.asarray(mask)[None], variance, draws, shape)
                noises[f"{name} {variance:g}"] = np.asarray(noise[0])
    return noises


def _changes(logits_fn: attacks.LogitsFn, dataset: data.Dataset, noises: dict[str, np.ndarray]) -> dict[str, float]:
    """Clean accuracy minus accuracy under each noise, in points: equation (4.5). Pixels are not clipped."""

    def correct(logits_fn: Any, keys: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        del keys
        clean = _is_correct(logits_fn, images, labels)
        return clean, *(frequency.noise_correct(logits_fn, images, labels, draws).T for draws in noises.values())

    clean, *noisy = evaluation.map_batches(
        correct, logits_fn, dataset.test_images, dataset.test_labels, key=jax.random.key(0)
    )
    return {name: float(frequency.accuracy_change(clean, found.T)) for name, found in zip(noises, noisy, strict=True)}


@jax.jit
def _is_correct(logits_fn: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    return logits_fn(images).argmax(-1) == labels


def measure(networks: Networks, setting: Setting, optimizer: str) -> dict[str, Any]:
    """The cell of one optimizer: change of accuracy per noise, one value per seed."""

    def compute() -> dict[str, Any]:
        dataset = networks.dataset(setting.dataset)
        noises = _noises(setting, dataset)
        changes: dict[str, list[float]] = {}
        for logits_fn in networks.logits_fns(setting, optimizer):
            for name, change in _changes(logits_fn, dataset, noises).items():
                changes.setdefault(name, []).append(change)
        weights = [_empty_weight_norm(variables) for variables in networks.variables(setting, optimizer)]
        return {"change": changes, **({"empty_weight_norm": weights} if setting.model == "linear" else {})}

    return networks.run.cell(f"bands/{setting.name}/{optimizer}", compute)


def _empty_weight_norm(variables: dict[str, Any]) -> float:
    """Norm of a linear model's weights on the empty frequencies."""
    kernel = next(leaf for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "kernel")
    size = math.isqrt(kernel.shape[0])
    if size * size != kernel.shape[0] or kernel.ndim != 2:
        return math.nan
    images = np.asarray(kernel).T.reshape(-1, size, size, 1)
    empty = np.asarray(frequency.empty_frequencies(ORIGINAL_SIZE, size))
    return float(np.linalg.norm(np.asarray(frequency.dct2(images))[:, empty]))


def run(networks: Networks, settings: list[Setting]) -> Section:
    """Band curves, noise on empty frequencies, and their claims."""
    section = Section(
        "Noise in one frequency band",
        text=[
            "Change of accuracy in points, clean minus noisy (positive: a drop), under Gaussian noise on the DCT "
            f"coefficients of one of {BANDS} bands of equal size, band 0 lowest; {DRAWS} draws, the same for all images and "
            "networks; nothing is clipped. *Empty* and *filled* are the coefficients that digits upsampled in the DCT "
            f"domain leave exactly empty, or fill ({FILLED_DRAWS} draws); the number behind is the variance per "
            "coefficient.",
        ],
    )
    curves = {}
    for setting in settings:
        cells = {name: measure(networks, setting, name) for name in in_order(setting.rates)}
        changes = {name: cell["change"] for name, cell in cells.items()}
        curves[setting.name] = changes
        section.tables.append(_table(setting, cells))
        section.claims += _claims(setting, changes)
    masks = "figures/band_masks"
    _mask_figure(networks, settings[-1], networks.run.folder / masks)
    path = "figures/bands"
    _figure(curves, networks.run.folder / path)
    section.figures += [
        (
            path,
            "Change of accuracy under noise in each band; shading: standard error over seeds (figure 4.6).",
        ),
        (masks, f"The {BANDS} bands of {settings[-1].dataset} and one noise of each (figure 4.5)."),
    ]
    return section


def _table(setting: Setting, cells: dict[str, dict[str, Any]]) -> Table:
    columns = list(next(iter(cells.values()))["change"])
    extra = ["empty weights"] if setting.model == "linear" else []
    rows = []
    for name, cell in cells.items():
        row = [LABELS[name], *(str(estimate(cell["change"][column])) for column in columns)]
        if extra:
            row.append(f"{np.mean(cell['empty_weight_norm']):.3g}")
        rows.append(row)
    caption = (
        f"{setting.name}: change of accuracy in points; variance per coefficient {setting.band_variance:g} in bands"
    )
    return Table(caption, ["optimizer", *columns, *extra], rows)


def _claims(setting: Setting, changes: dict[str, dict[str, list[float]]]) -> Iterator[Claim]:
    adaptive = [name for name in changes if name not in ("sgd", "momentum")]
    for variance in setting.empty_variances:
        column = f"empty {variance:g}"
        own = changes["sgd"][column]
        if setting.model == "linear":
            yield Claim(
                f"{setting.name}: {column}, SGD's accuracy does not change",
                "0",
                f"{np.abs(own).max():.2f}",
                f"{np.abs(own).max():+.2f}",
                holds(float(np.abs(own).max()) == 0),
            )
        for name in adaptive:
            difference = paired_difference(changes[name][column], own)
            text = f"{setting.name}: {column}, {LABELS[name]} drops more than SGD"
            yield Claim(text, "drops more", str(difference), "", verdict(difference))
    relevant = f"filled {FILLED_VARIANCE:g}" if setting.empty_variances else "band 0"
    for name in adaptive:
        low = paired_difference(changes[name][relevant], changes["sgd"][relevant])
        yield Claim(
            f"{setting.name}: {relevant} hits SGD and {LABELS[name]} alike (within 3 points)",
            "alike",
            low.interval,
            "",
            verdict_alike(low, within=3),
        )
    if setting.empty_variances:
        return
    upper = [f"band {number}" for number in range(BANDS // 2, BANDS)]
    averaged = {name: np.mean([changes[name][band] for band in upper], axis=0).tolist() for name in changes}
    for name in adaptive:
        difference = paired_difference(averaged[name], averaged["sgd"])
        text = f"{setting.name}: upper half of the bands, {LABELS[name]} drops more than SGD"
        yield Claim(text, "drops more", str(difference), "", verdict(difference))


def _figure(curves: dict[str, dict[str, dict[str, list[float]]]], path: Any) -> None:
    figure, axes = subplots(1, len(curves))
    seen: set[str] = set()
    for axis, (setting, changes) in zip(axes[0], curves.items(), strict=True):
        for name, values in changes.items():
            points = [estimate(values[f"band {band}"]) for band in range(BANDS)]
            means = np.asarray([point.mean for point in points])
            errors = np.nan_to_num([point.standard_error for point in points])
            style = STYLES[name]
            label = None if name in seen else LABELS[name]
            axis.plot(range(BANDS), means, label=label, markersize=4, **style)
            axis.fill_between(
                range(BANDS), means - errors, means + errors, color=style["color"], alpha=0.2, linewidth=0
            )
            seen.add(name)
        axis.set_title(setting)
        axis.set_xlabel("band (0 = lowest)")
        axis.set_xticks(range(BANDS))
    axes[0][0].set_ylabel("drop of accuracy (points)")
    figure.legend(loc="outside lower center", ncols=7)
    save_figure(figure, path)


def _mask_figure(networks: Networks, setting: Setting, path: Any) -> None:
    height, width, channels = networks.dataset(setting.dataset).image_shape
    masks = np.asarray(frequency.band_masks((height, width), BANDS))
    noises = np.asarray(frequency.band_noises(jax.random.key(0), masks, 1.0, 1, (height, width, channels)))[:, 0]
    figure, axes = subplots(2, BANDS, size=(1.0, 1.05))
    for band in range(BANDS):
        axes[0][band].imshow(masks[band], cmap="gray", vmin=0, vmax=1)
        axes[1][band].imshow(noises[band].mean(-1), cmap="gray")
        axes[0][band].set_title(f"band {band}", fontsize=7)
        for axis in axes[:, band]:
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0][0].set_ylabel("mask", fontsize=7)
    axes[1][0].set_ylabel("noise", fontsize=7)
    save_figure(figure, path)
