"""Part ``frequencies``: training on images from which frequencies were removed (Observation I, figures 4.2 to 4.4)."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.study import Claim, Section, estimate, logits_fn, paired_difference, verdict, verdict_alike
from jaxrobust import data, evaluation, frequency, training
from jaxrobust.reporting import Table, save_figure, subplots

from .config import Setting
from .networks import Networks, train

PERCENTS = (10, 30, 50, 70, 80, 90)
SHOWN = (10, 30, 50, 70, 90)
FILTERS = {"energy": frequency.filter_by_energy, "frequency": frequency.filter_by_frequency}
BATCH = 1000


def filter_images(kind: str, images: np.ndarray, percent: int) -> np.ndarray:
    """Filtered images, float32, not clipped. Flips commute with both filters, so filtering once before is the same."""
    parts = [
        np.asarray(FILTERS[kind](data.to_float(images[begin : begin + BATCH]), percent))
        for begin in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts)


def measure(networks: Networks, setting: Setting, kind: str, percent: int) -> dict[str, Any]:
    """The cell of one filter: accuracy on the unmodified test images, one value per seed."""
    name = f"frequencies/{setting.name}/{kind}-{percent}" if percent else f"frequencies/{setting.name}/unfiltered"

    def compute() -> dict[str, Any]:
        dataset = networks.dataset(setting.dataset)
        rate = networks.learning_rate(setting, "sgd")
        images = filter_images(kind, dataset.train_images, percent) if percent else dataset.train_images
        pairs = [(rate, seed) for seed in setting.seeds]
        model = networks.model(setting)
        population = train(model, dataset, images, setting, "sgd", pairs, networks.run.checkpoints(name))
        return {
            "accuracy": [
                evaluation.accuracy(
                    logits_fn(model, training.member(population.variables, index)),
                    dataset.test_images,
                    dataset.test_labels,
                    bounds=dataset.bounds,
                )
                for index in range(len(setting.seeds))
            ]
        }

    return networks.run.cell(name, compute)


def run(networks: Networks, settings: list[Setting]) -> Section:
    """Accuracy against the percentage removed, claims, curves, examples and spectra."""
    section = Section(
        "Training on filtered images",
        text=[
            "A percentage of the DCT coefficients of every training image is removed, those of smallest magnitude (energy) "
            "or of highest frequency (frequency); the network is trained with SGD and tested on the unmodified test images. "
            "Accuracy in per cent, mean ± standard error over seeds. The study shows curves and no numbers: they are nearly "
            "flat up to and beyond 50 %.",
        ],
    )
    curves: dict[str, dict[str, dict[int, list[float]]]] = {}
    for setting in settings:
        plain = measure(networks, setting, "energy", 0)["accuracy"]
        curves[setting.name] = {
            kind: {0: plain, **{p: measure(networks, setting, kind, p)["accuracy"] for p in PERCENTS}}
            for kind in FILTERS
        }
        rows = [
            [kind, *(str(estimate(values)) for values in curve.values())]
            for kind, curve in curves[setting.name].items()
        ]
        section.tables.append(
            Table(
                f"{setting.name}: test accuracy by percentage removed",
                ["filter", *(f"{percent} %" for percent in (0, *PERCENTS))],
                rows,
            )
        )
        section.claims += _claims(setting, curves[setting.name])
        for path, caption, draw in (
            (
                f"figures/filters_{setting.name}",
                "Filtered images, absolute difference (x10) and mask (figure 4.4)",
                _filters,
            ),
            (
                f"figures/spectrum_{setting.name}",
                "Mean magnitude of the DCT coefficients (figure 4.2)",
                _spectrum,
            ),
        ):
            draw(networks.dataset(setting.dataset), networks.run.folder / path)
            section.figures.append((path, f"{caption}: {setting.dataset}."))
    path = "figures/frequencies"
    _figure(curves, networks.run.folder / path)
    section.figures.insert(0, (path, "Test accuracy against the percentage removed; stars: unfiltered (figure 4.3)."))
    return section


def _claims(setting: Setting, curves: dict[str, dict[int, list[float]]]) -> list[Claim]:
    claims = []
    for kind, curve in curves.items():
        change = paired_difference(curve[50], curve[0])
        text = f"{setting.name}: half of the coefficients can be removed by {kind} (within 1.5 points)"
        claims.append(Claim(text, "nearly flat", change.interval, "", verdict_alike(change, within=1.5)))
    for percent in (percent for percent in PERCENTS if percent >= 70):
        gap = paired_difference(curves["energy"][percent], curves["frequency"][percent])
        text = f"{setting.name}: removing {percent} % by energy costs less than by frequency"
        claims.append(Claim(text, "costs less", str(gap), "", verdict(gap)))
    return claims


def _figure(curves: dict[str, dict[str, dict[int, list[float]]]], path: Any) -> None:
    figure, axes = subplots(1, 2, sharey=True)
    for axis, kind in zip(axes[0], FILTERS, strict=True):
        for number, (setting, by_kind) in enumerate(curves.items()):
            percents = list(by_kind[kind])
            points = [estimate(values) for values in by_kind[kind].values()]
            errors = np.nan_to_num([point.standard_error for point in points])
            axis.errorbar(
                percents[1:],
                [point.mean for point in points][1:],
                errors[1:],
                marker="o",
                color=f"C{number}",
                label=setting,
            )
            axis.plot(0, points[0].mean, marker="*", markersize=11, color=f"C{number}")
        axis.set_xlabel("coefficients removed (%)")
        axis.set_title(f"removed by {kind}")
    axes[0][0].set_ylabel("test accuracy (%)")
    axes[0][0].legend()
    save_figure(figure, path)


def _show(axis: Any, image: np.ndarray, **options: Any) -> None:
    axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else np.clip(image, 0, 1), **options)
    axis.set_xticks([])
    axis.set_yticks([])


def _filters(dataset: data.Dataset, path: Any) -> None:
    image = np.asarray(data.to_float(dataset.train_images[:1]))
    figure, axes = subplots(6, len(SHOWN), size=(1.2, 1.2))
    low, high = (0.0, 1.0) if dataset.bounds is None else dataset.bounds
    for column, percent in enumerate(SHOWN):
        coefficients = frequency.dct2(image)
        masks = {
            "energy": frequency.energy_mask(coefficients, percent)[0],
            "frequency": frequency.frequency_mask((image.shape[1], image.shape[2]), percent),
        }
        for block, kind in enumerate(FILTERS):
            filtered = filter_images(kind, image, percent)
            rows = axes[3 * block : 3 * block + 3, column]
            _show(rows[0], filtered[0], cmap="gray", vmin=low, vmax=high)
            _show(rows[1], 10 * np.abs(filtered - image)[0], cmap="gray", vmin=low, vmax=high)
            _show(rows[2], np.asarray(masks[kind], float)[..., None], cmap="gray", vmin=0, vmax=1)
            if column == 0:
                for row, text in zip(rows, (kind, "difference x10", "mask"), strict=True):
                    row.set_ylabel(text, fontsize=7)
        axes[0][column].set_title(f"{percent} %", fontsize=8)
    save_figure(figure, path)


def _spectrum(dataset: data.Dataset, path: Any) -> None:
    images = data.to_float(dataset.train_images[:BATCH])
    spectrum = np.asarray(frequency.spectral_energy(images))
    figure, axes = subplots(1, 3)
    for axis, values, title in (
        (axes[0][0], spectrum, "mean |DCT|"),
        (axes[0][1], np.log10(np.maximum(spectrum, 1e-8)), "log10 of mean |DCT|"),
    ):
        shown = axis.imshow(values, cmap="viridis")
        figure.colorbar(shown, ax=axis)
        axis.set_title(title)
        axis.set_xlabel("frequency")
    axes[0][2].semilogy(np.maximum(np.diagonal(spectrum), 1e-8), marker="o", markersize=3)
    axes[0][2].set_title("diagonal")
    axes[0][2].set_xlabel("frequency")
    save_figure(figure, path)
