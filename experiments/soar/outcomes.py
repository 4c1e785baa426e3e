"""What was measured on a row's networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .rows import Row


@dataclass(frozen=True)
class Outcome:
    """A row's networks.

    Attributes:
        row: how they were trained.
        correct: column to ``[seeds, images]`` bool; columns may have fewer images than others, the first ones.
        values: statistic to one number per seed.
    """

    row: Row
    correct: Mapping[str, np.ndarray]
    values: Mapping[str, list[float]]

    def __contains__(self, column: str) -> bool:
        return column in self.correct or column in self.values

    def column(self, name: str, images: int | None = None) -> list[float]:
        """Accuracy in per cent, on so many of the images, or the statistic, of each seed."""
        return (100 * self.correct[name][:, :images].mean(1)).tolist() if name in self.correct else self.values[name]

    def gap(self, first: str, second: str) -> list[float]:
        """Accuracy under the first minus accuracy under the second, on the images that both columns have."""
        a, b = self.correct[first], self.correct[second]
        count = min(a.shape[1], b.shape[1])
        return (100 * (a[:, :count].mean(1) - b[:, :count].mean(1))).tolist()

    def mean(self, name: str) -> float:
        """Mean of a column over seeds."""
        return float(np.mean(self.column(name)))


Outcomes = Mapping[str, Outcome]
"""By the name of the row."""
