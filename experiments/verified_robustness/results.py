"""What the cells of a setting hold, by row and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from experiments.study import estimate
from jaxrobust.certify import ExactStatus

from . import measures
from .measures import Cell
from .networks import Networks
from .rows import PROVABLE, Row, Setting

Column = Literal["clean", "pgd", "linear", "interval"]
Values = list[float]
"""A number of each network, by seed."""
SPARSE = 1e-2
"""Parameters below this count as nothing."""


class Results:
    """Reads finished cells, and makes those that are missing."""

    def __init__(self, networks: Networks, setting: Setting) -> None:
        self.networks, self.setting = networks, setting

    @property
    def provable(self) -> tuple[Row, ...]:
        """The rows that are trained for provable robustness."""
        return tuple(row for row in self.setting.rows if row.method in PROVABLE)

    def arrays(self, measure: measures.Measure, row: Row) -> dict[str, np.ndarray]:
        """The arrays of a row's cell, ``[seeds, n]``."""
        found: dict[str, np.ndarray] = measure(self.networks, self.setting, row)["arrays"]
        return found

    def cell(self, measure: measures.Measure, row: Row) -> Cell:
        """A row's cell."""
        return measure(self.networks, self.setting, row)

    def flags(self, row: Row, column: Column) -> np.ndarray:
        """Which test images are classified correctly, survive PGD, or are certified, bool ``[seeds, n]``."""
        found: np.ndarray = self.arrays(measures.errors, row)[column]
        return found

    def error(self, row: Row, column: Column) -> Values:
        """Per cent of the test images for which that is not so, by seed."""
        return (100 - 100 * self.flags(row, column).mean(1)).tolist()

    def certified_error(self, row: Row) -> Values:
        """Per cent that neither linear bounds nor intervals certify."""
        both = self.flags(row, "linear") | self.flags(row, "interval")
        return (100 - 100 * both.mean(1)).tolist()

    def bound(self, row: Row, column: Column) -> Values:
        """Average certified bound of a one-shot certifier: the radius times the share that it certifies."""
        return (self.setting.eps * self.flags(row, column).mean(1)).tolist()

    def radii(self, row: Row) -> np.ndarray:
        """Radii by PEC, ``[seeds, n]``: from the envelope of Fast-Lin, and of sigmoid and tanh networks from CROWN as well."""
        found = self.arrays(measures.errors, row)["radius"]
        whole = np.where(self.flags(row, "linear"), np.float32(self.setting.eps), 0)
        return np.maximum(found, whole) if self.setting.smooth else found

    def envelope(self, row: Row) -> Values:
        """Average certified bound by PEC."""
        return self.radii(row).mean(1, dtype=np.float64).tolist()

    def analytic_error(self, row: Row) -> Values:
        """Per cent that the analytic bounds do not certify, on which the networks are trained."""
        whole = self.arrays(measures.errors, row)["radius"] >= np.float32(self.setting.eps)
        return (100 - 100 * whole.mean(1)).tolist()

    def partial(self, row: Row) -> Values:
        """Per cent that are not certified but have a radius above 0."""
        part = (self.radii(row) > 0) & ~self.flags(row, "linear")
        return (100 * part.mean(1)).tolist()

    def exact(self, row: Row) -> tuple[Values, Values]:
        """Least and largest exact error in per cent, by seed: what is not known counts for the second alone."""
        status = self.arrays(measures.exact, row)["status"]
        least, most = status == ExactStatus.FALSIFIED, status != ExactStatus.VERIFIED
        return (100 * least.mean(1)).tolist(), (100 * most.mean(1)).tolist()

    def beside_exact(self, row: Row, column: Column) -> Values:
        """Per cent of errors of a column on the images that have an exact answer."""
        count = self.arrays(measures.exact, row)["status"].shape[1]
        return (100 - 100 * self.flags(row, column)[:, :count].mean(1)).tolist()

    def ratio(self, row: Row) -> Values:
        """Mean number of bounds that PEC needs in the search, over that of binary search, by seed."""
        found = self.arrays(measures.search, row)
        evaluations = (found[f"{name}_evaluations"].mean(1, dtype=np.float64) for name in ("envelope", "binary"))
        ours, theirs = evaluations
        return (ours / theirs).tolist()

    def mean_parameter(self, row: Row) -> Values:
        """Mean absolute value of weights and biases, by seed."""
        return np.abs(self.networks.parameters(self.setting, row)).mean(1, dtype=np.float64).tolist()

    def sparsity(self, row: Row) -> Values:
        """Per cent of them that are nearly zero."""
        return (100 * (np.abs(self.networks.parameters(self.setting, row)) < SPARSE).mean(1)).tolist()

    def beyond(self, row: Row, factor: float) -> Values:
        """Per cent of the images whose largest certified radius is above so many times the radius, by seed."""
        return (100 * (self.arrays(measures.search, row)["envelope"] > factor * self.setting.eps).mean(1)).tolist()

    def judged(self, row: Row) -> Values:
        """What the study ranks methods by: the exact error where there is one, its largest value, else the certified one."""
        return self.exact(row)[1] if self.setting.exact_images else self.error(row, "linear")

    def smallest(self, rows: Sequence[Row], values: Callable[[Row], Values]) -> Row:
        """The row of the smallest mean."""
        return min(rows, key=lambda row: float(np.mean(values(row))))

    def largest(self, rows: Sequence[Row], values: Callable[[Row], Values]) -> Row:
        """The row of the largest mean."""
        return max(rows, key=lambda row: float(np.mean(values(row))))


def is_per(row: Row) -> bool:
    """Whether a row is one of the study's own methods."""
    return row.method in ("per", "per_at")


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard error over seeds."""
    mean, error = estimate(list(values))
    return f"{mean:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")
