"""What was found of a row's networks: one number per seed for everything that is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrobust import certify, data

from . import statistics
from .certificates import Certificates, Starts, certificates, starts
from .networks import Networks
from .presets import MAIN, Row, Setting, Variant

Values = Mapping[str, list[float]]
"""Quantity to one number per seed."""


@dataclass(frozen=True)
class Outcome:
    """A row's networks.

    Attributes:
        row: how they were trained.
        accuracies: ``clean`` and ``pgd``, in per cent of all test images.
        found: certificates of each variant, seed by seed.
        values: of each variant: ``images`` with a certificate, ``left_out`` and ``fooled`` ones, ``uniform`` and
            ``nonuniform`` mean radius, ``gain`` (by how many per cent the second is larger), ``mean_cosine``, ``min_cosine``
            and ``shuffled_cosine``, ``spread``, ``neighbours``, ``largest`` (mean over images of the largest radius), and
            ``contrast`` for two classes.
        starts: mean radius from different starts, in per cent more than the uniform one.
    """

    row: Row
    accuracies: Values
    found: Mapping[Variant, list[Certificates]]
    values: Mapping[Variant, Values]
    starts: Values

    def main(self, name: str) -> list[float]:
        """A quantity of the main variant, seed by seed."""
        return self.values[MAIN][name]


Outcomes = Mapping[str, Outcome]
"""By the name of the row."""


def collect(networks: Networks, setting: Setting) -> dict[str, Outcome]:
    """Gather the setting's rows; what is not on disk yet is trained and certified."""
    outcomes = {}
    for row in setting.rows:
        found = {variant: certificates(networks, setting, row, variant) for variant in row.variants}
        numbers = _numbers(networks, setting, row, found)
        outcomes[row.name] = Outcome(row, numbers["accuracies"], found, numbers["values"], numbers["starts"])
    return outcomes


def _numbers(
    networks: Networks, setting: Setting, row: Row, found: Mapping[Variant, list[Certificates]]
) -> dict[str, Any]:
    """The cell of a row's numbers."""

    def compute() -> dict[str, Any]:
        masks = None
        if setting.classes is not None and len(setting.classes) == 2:
            dataset = networks.dataset(setting)
            masks = statistics.stroke_masks(data.to_float(np.asarray(dataset.train_images)), dataset.train_labels)
        right = networks.accuracy(setting, row)["arrays"]
        tried = [starts(networks, setting, row, index) for index in range(len(setting.seeds))]
        return {
            "accuracies": {name: (100 * values.mean(1)).tolist() for name, values in right.items()},
            "values": {
                variant: _by_name([_measured(one, masks) for one in several]) for variant, several in found.items()
            },
            "starts": _by_name([_gains(one) for one in tried]),
        }

    return networks.run.cell(f"numbers/{setting.name}/{row.name}", compute)


def _by_name(seeds: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [values[name] for values in seeds] for name in seeds[0]}


def _measured(one: Certificates, masks: tuple[np.ndarray, np.ndarray] | None) -> dict[str, float]:
    pairs = certify.pair_similarity(jnp.asarray(one.radii))
    found = {
        "images": len(one.numbers),
        "left_out": one.left_out,
        "fooled": one.fooled,
        "uniform": float(one.uniform.mean(dtype=np.float64)),
        "nonuniform": float(one.nonuniform.mean(dtype=np.float64)),
        "gain": statistics.gain(one.uniform, one.nonuniform),
        "mean_cosine": float(pairs.mean),
        "min_cosine": float(pairs.smallest),
        "shuffled_cosine": statistics.shuffled_cosine(one.radii),
        "spread": statistics.spread(one.radii),
        "neighbours": statistics.neighbour_correlation(one.radii),
        "largest": float(one.radii.reshape(len(one.radii), -1).max(1).mean()),
    }
    return found if masks is None else {**found, "contrast": statistics.contrast(one.radii, *masks)}


def _gains(one: Starts) -> dict[str, float]:
    return {name: statistics.gain(one.uniform, values) for name, values in one._asdict().items() if name != "uniform"}
