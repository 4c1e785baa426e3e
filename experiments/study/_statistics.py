"""Means, intervals and tests over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over seeds with its standard error ``std / sqrt(n)`` (NaN for one seed)."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if math.isnan(self.standard_error) else f"{self.mean:.2f} ± {self.standard_error:.2f}"


class PairedDifference(NamedTuple):
    """Mean of ``a - b`` over paired seeds, its two-sided interval, and the one-sided p-value for ``a > b``.

    Interval and p-value come from Student's t and are NaN for a single pair.
    """

    mean: float
    low: float
    high: float
    p_value: float

    @property
    def interval(self) -> str:
        """Mean and interval as text: what says whether ``a`` and ``b`` are alike, on which the p-value is silent."""
        if math.isnan(self.mean):
            return "not defined for every seed"
        return f"{self.mean:+.2f}" + ("" if math.isnan(self.low) else f" [{self.low:+.2f}, {self.high:+.2f}]")

    def __str__(self) -> str:
        return self.interval + ("" if math.isnan(self.p_value) else f", p = {self.p_value:.2g}")


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of one value per seed."""
    array = np.asarray(values, float)
    if not array.size:
        raise ValueError("no values to average")
    error = array.std(ddof=1) / math.sqrt(array.size) if array.size > 1 else math.nan
    return Estimate(float(array.mean()), float(error))


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> PairedDifference:
    """Paired t-test of ``a`` against ``b``, given seed by seed."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"a and b must hold one value per seed, got {first.shape} and {second.shape}")
    difference = first - second
    mean, error = estimate(difference.tolist())
    if math.isnan(error):
        return PairedDifference(mean, math.nan, math.nan, math.nan)
    if error == 0:
        return PairedDifference(mean, mean, mean, 0.0 if mean > 0 else 1.0 if mean < 0 else 0.5)
    from scipy.stats import t

    freedom = first.size - 1
    half = float(t.ppf(0.5 + level / 2, freedom)) * error
    return PairedDifference(mean, mean - half, mean + half, float(t.sf(mean / error, freedom)))
