"""What the cells of a setting hold, by row and seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from experiments.study import PairedDifference, estimate, paired_difference

from . import measures, statistics
from .measures import Cell, Measure
from .networks import Networks
from .rows import Part, Row, Setting, find

Values = dict[int, float]
"""A number of each network, by seed."""


class Results:
    """Reads finished cells, and makes those that are missing."""

    def __init__(self, networks: Networks, setting: Setting) -> None:
        self.networks, self.setting = networks, setting

    def cell(self, measure: Measure, row: Row) -> Cell:
        """A row's cell of a measure."""
        return measure(self.networks, self.setting, row)

    def accuracy(self, row: Row, name: str) -> Values:
        """``clean``, ``pgd`` (in per cent) or ``l1``, on test images."""
        return dict(zip(row.seeds, self.cell(measures.accuracies, row)[name], strict=True))

    def pgd_beside(self, row: Row) -> Values:
        """Accuracy under PGD on the images that AutoAttack gets, of the judged networks."""
        count = self.cell(measures.auto_attack, row)["images"]
        flags = self.cell(measures.accuracies, row)["arrays"]["robust"]
        return {seed: 100 * float(one[:count].mean()) for seed, one in zip(row.judged_seeds, flags, strict=False)}

    def robust(self, row: Row, radius: float = 1.0) -> Values:
        """Accuracy under AutoAttack of the judged networks, at a radius in units of the setting's."""
        found = self.cell(measures.auto_attack, row)["radii"][f"{radius:g}"]["robust"]
        return dict(zip(row.judged_seeds, found, strict=True))

    def images(self, measure: Measure, row: Row, name: str) -> dict[int, np.ndarray]:
        """An array with one entry per image, by seed."""
        return dict(zip(row.seeds, self.cell(measure, row)["arrays"][name], strict=True))

    def mean(
        self, measure: Measure, row: Row, name: str, of: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> Values:
        """The mean over images of a function of them, by seed, images without a value left out."""
        return {seed: float(np.nanmean(of(values))) for seed, values in self.images(measure, row, name).items()}

    def three(self, part: Part) -> tuple[Row | None, Row | None, Row | None]:
        """Natural training, gradient norm and adversarial training of a part, of its first network."""
        rows = self.setting.of(part)
        same = {"model": rows[0].model, "activation": "gelu"}
        return (
            find(rows, method="natural", **same),
            find(rows, method="gradient_norm", **same),
            find(rows, method="adversarial", **same),
        )

    def activations(self, method: str) -> dict[str, Row]:
        """The rows of a method by activation, of the network that has several."""
        rows = self.setting.of("robustness")
        return {row.activation: row for row in rows if row.method == method and row.model == rows[-1].model}


def log10(values: np.ndarray) -> np.ndarray:
    """Logarithm of errors and norms, as published: ``log10(value + 1e-17)``."""
    return np.log10(np.asarray(values, np.float64) + 1e-17)


def difference(a: Values, b: Values) -> PairedDifference:
    """``a - b`` over the seeds that both have."""
    seeds = [seed for seed in a if seed in b]
    return paired_difference([a[seed] for seed in seeds], [b[seed] for seed in seeds])


def shown(values: Values) -> str:
    """Mean and standard error over seeds; empty for no network."""
    return str(estimate(list(values.values()))) if values else ""


def norms_by_outcome(results: Results, row: Row) -> dict[int, tuple[float, float, float]]:
    """Mean l1 norm over all images, where PGD-10 fails and where it succeeds, by seed."""
    from jaxrobust.curvature import conditional_norms

    norms, robust = (results.images(measures.norms, row, name) for name in ("l1", "robust"))
    return {seed: tuple(conditional_norms(norms[seed], robust[seed])[:3]) for seed in row.seeds}  # type: ignore[misc]


def profiles(results: Results, row: Row, name: str) -> dict[int, np.ndarray]:
    """Means along the direction of the attack, ``[points]`` by seed."""
    return dict(zip(row.seeds, results.cell(statistics.profile, row)["arrays"][name], strict=True))
