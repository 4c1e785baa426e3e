"""The data of a setting, and its sets of training images: random, least and most robust ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.study import Run
from jaxrobust import data, geometry

from .presets import Setting
from .setups import SIZES


@dataclass(frozen=True)
class Sets:
    """Sets of training images.

    Attributes:
        robustness: distance of every training image to the nearest differently labelled one, ``[m]``, in the norm of the
            threat model.
        members: name to the numbers of the images, the least or the most robust first.
    """

    robustness: np.ndarray
    members: Mapping[str, np.ndarray]

    @property
    def conflicting(self) -> int:
        """How many images coincide with a differently labelled one; they have no place in the order."""
        return int((self.robustness == 0).sum())

    def overlap(self, first: str, second: str) -> int:
        """How many images two sets share."""
        return len(np.intersect1d(self.members[first], self.members[second]))


def choose(robustness: np.ndarray, other: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """The sets of section 3.2 of the study: names to image numbers.

    ``v`` are the first images, ``v'`` as many others drawn with seed 0. ``s`` are the least robust images, by
    ``(robustness, other, number)``, and ``most`` the end of the same order. Images of robustness 0 are left out of it.

    Args:
        robustness: ``[m]``, in the norm of the threat model.
        other: ``[m]``, in the other norm: l-infinity distances of images have many ties.
        size: of v and s.
    """
    rest = np.arange(size, len(robustness))
    sets = {
        "v": np.arange(size),
        "2v": np.arange(2 * size),
        "v'": np.sort(np.random.default_rng(0).choice(rest, size, replace=False)),
    }
    ranked = np.flatnonzero(robustness > 0)
    distances, ties = robustness[ranked], other[ranked]
    for name in ("s", "2s", "4s"):
        sets[name] = ranked[geometry.least_robust(distances, SIZES[name] * size, ties=ties)]
    sets["most"] = ranked[geometry.most_robust(distances, size, ties=ties)]
    return sets


def sets(run: Run, setting: Setting, dataset: data.Dataset) -> Sets:
    """The setting's sets, a cell of the study: the same on every machine, and kept with the results."""

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        norms: tuple[Literal["l2", "linf"], ...] = ("linf", "l2") if setting.norm == "linf" else ("l2", "linf")
        distances, other = (
            geometry.robustness(dataset.train_images, dataset.train_labels, norm, progress=False).distances
            for norm in norms
        )
        chosen = choose(distances, other, setting.focus_size)
        values = {"images": len(distances), "conflicting": int((distances == 0).sum()), "smallest": distances.min()}
        return values, {"robustness": distances, **{f"set {name}": rows for name, rows in chosen.items()}}

    arrays = run.cell(f"sets/{setting.dataset}_{setting.norm}_{setting.focus_size}", compute)["arrays"]
    members = {name.removeprefix("set "): rows for name, rows in arrays.items() if name.startswith("set ")}
    return Sets(arrays["robustness"], members)
