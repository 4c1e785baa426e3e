"""The report of certificates: accuracies and radii."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.batching import to_float
from jaxrobust.files import write_atomically, write_text
from jaxrobust.reporting import Table, interval_of_percentage, print_table

from ._certificates import Certificates, Maps, with_together
from ._certify_figures import save_curves, save_histograms, save_maps
from ._config import Certify


def write_report(command: Certify, folder: Path, images: np.ndarray, found: Certificates) -> None:
    """Write report, results, figures and times, and show the tables."""
    results = folder / "certificates.npz"
    write_atomically(results, lambda file: np.savez_compressed(file, **dict[str, Any](found.arrays())))
    tables, figures, place = [_table(command, found)], {"radii": "histograms of certified radii"}, folder / "figures"
    save_histograms(place / "radii", command.norm, found)
    if found.search_to is not None:
        tables.append(_search_table(command, found))
        figures["certified_accuracy"] = "certified accuracy at each radius"
        save_curves(place / "certified_accuracy", command.norm, found, end=found.search_to - command.precision)
    if found.maps is not None:
        tables.append(_maps_table(found.maps))
        if images.ndim == 4 and found.maps.radii.any():
            figures["maps"] = "images and their robustness maps"
            save_maps(place / "maps", to_float(images), found.labels, found.maps)
    lines = [
        f"# {command.model} on {command.dataset}: certificates against {command.norm} perturbations of at most {command.eps}\n",
        f"Weights `{command.weights.name}`, the first {len(images)} {command.split} images.\n",
        *(table.markdown() for table in tables),
        _explanation(command, found),
        *(f"![{text}](figures/{name}.png)\n" for name, text in figures.items()),
    ]
    write_text(folder / "report.md", "\n".join(lines))
    # Times differ from run to run: they stay out of the report, so that a continued run gives the same one.
    write_text(folder / "timings.json", json.dumps(found.times, indent=1) + "\n")
    for table in tables:
        print_table(table)
    print("seconds: " + ", ".join(f"{name} {times['seconds']:.1f}" for name, times in found.times.items()))
    print(f"report:       {folder / 'report.md'}")
    print(f"certificates: {results}")
    print(f"figures:      {', '.join(f'{place / name}.png' for name in figures)}")


def _table(command: Certify, found: Certificates) -> Table:
    def percentage(chosen: np.ndarray) -> str:
        return interval_of_percentage(100 * float(chosen.mean()), len(chosen))

    rows = [("clean", percentage(found.correct), "", "")]
    for name, radii in with_together(found.radii).items():
        certified = found.certified(radii)
        rows.append((name, percentage(certified), _mean(radii), f"{100 * ((radii > 0) & ~certified).mean():.2f}"))
    return Table(
        f"Certified against {command.norm} perturbations of at most {command.eps}: accuracy in per cent, with 95 % intervals",
        ("", "accuracy", "mean certified radius", "only partly certified (%)"),
        rows,
    )


def _search_table(command: Certify, found: Certificates) -> Table:
    end = np.float32(found.search_to) - np.float32(command.precision)
    rows = []
    for name, radii in with_together(found.searched).items():
        counts = found.evaluations.get(name, np.zeros(0))
        rows.append(
            (
                name,
                _mean(radii),
                f"{np.median(radii):#.4g}",
                f"{100 * found.certified(radii).mean():.2f}",
                f"{100 * ((radii > 0) & (radii >= end)).mean():.2f}",
                f"{counts[counts > 0].mean():.2f}" if counts.any() else "",
            )
        )
    return Table(
        f"Largest certified {command.norm} radii, searched up to {found.search_to:g} to a precision of {command.precision:g}",
        ("", "mean", "median", f"at least {command.eps} (%)", "at the end of the search (%)", "bounds per image"),
        rows,
    )


def _maps_table(maps: Maps) -> Table:
    larger = maps.mean_radius.mean(dtype=np.float64) / maps.uniform.mean(dtype=np.float64) if maps.uniform.any() else 1
    return Table(
        "Certified sets with a radius for each pixel, by fast-lin",
        ("", "uniform radius", "geometric mean of the pixels' radii", "ratio"),
        [
            (
                f"mean of {len(maps.rows)} correctly classified images",
                _mean(maps.uniform),
                _mean(maps.mean_radius),
                f"{larger:.3f}",
            )
        ],
    )


def _mean(values: np.ndarray) -> str:
    return f"{values.mean(dtype=np.float64):#.4g}"


def _explanation(command: Certify, found: Certificates) -> str:
    parts = [
        "An image counts as certified if the method proves that no perturbation changes its label. Its certified radius is "
        f"then {command.eps}; by `envelope` it is only partly certified where its radius lies between 0 and that. Misclassified "
        "images have the radius 0, and count in all shares and means. All methods together: the best certificate that any of "
        "them gives for an image. Margins must exceed the rounding errors of single precision.\n"
    ]
    if found.search_to is not None:
        halvings = max(0, math.ceil(math.log2(found.search_to / command.precision)))
        parts.append(
            "The radii of the search were certified; larger ones may exist, also for images at the end of the search. Bounds per "
            f"image: how many times bounds were computed, a mean over correctly classified images. Halving alone takes {halvings} "
            "times.\n"
        )
    if found.maps is not None:
        parts.append(
            "In the maps lighter pixels have smaller radii: those on which the network relies. Each pixel moves by its radius "
            "times the entry of a perturbation of norm 1, all at the same time.\n"
        )
    return "\n".join(parts)
