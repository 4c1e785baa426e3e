"""The study's trained networks, one cell for each row."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from experiments.study import Run, load_dataset, members, stacked_variables, train
from jaxrobust import attacks, data

from . import recipes
from .presets import Setting
from .rows import Row

HELD_OUT = 0.02
"""Share of the training images that the best epoch is chosen by, where one is chosen."""


class Networks:
    """Trains what is not on disk yet.

    Args:
        run: the study's folder.
        data_dir: TFDS folder, or ``None`` for the default.
    """

    def __init__(self, run: Run, data_dir: Path | None = None) -> None:
        self.run, self._data_dir = run, data_dir

    def prepare(self, setting: Setting) -> None:
        """Load the data set and make all networks, so that what is missing or does not fit is noticed before any work.

        Raises:
            CommandError: for a data set that cannot be read, or a network that does not fit it.
        """
        for row in setting.rows:
            self.model(setting, row)

    def dataset(self, setting: Setting) -> data.Dataset:
        """The setting's images."""
        return self._dataset(setting.dataset, setting.pooled_test, setting.subset)

    @functools.cache  # noqa: B019 - one object for the life of a study
    def _dataset(self, name: str, pooled_test: int | None, subset: int | None) -> data.Dataset:
        return load_dataset(name, self._data_dir, pooled_test=pooled_test, subset=subset)

    def model(self, setting: Setting, row: Row) -> nn.Module:
        """A row's network, untrained."""
        return recipes.recipe(setting, row, self.dataset(setting)).model

    def trained(self, setting: Setting, row: Row) -> dict[str, Any]:
        """The cell of a row's networks, see :func:`experiments.study.train`."""
        dataset = self.dataset(setting)
        seeds = [seed + row.seed_offset for seed in setting.seeds]
        name = f"train/{setting.name}/{row.name}"
        if row.select and setting.engine == "fit":
            held = data.holdout(dataset, HELD_OUT)
            threat, step = recipes.threat_and_step(setting, row, dataset, steps=20)
            attack = attacks.pgd(threat, steps=20, step_size=step)
            return train(self.run, name, replace(recipes.recipe(setting, row, held), selection=attack), held, seeds)
        start = None
        if row.start is not None:
            begin = self.trained(setting, setting.row(row.start))

            def start() -> Any:
                return stacked_variables(begin)

        return train(self.run, name, recipes.recipe(setting, row, dataset), dataset, seeds, start)

    def logits_fns(self, setting: Setting, row: Row) -> Iterator[attacks.LogitsFn]:
        """A row's networks as functions of images, seed by seed."""
        return members(self.trained(setting, row), self.model(setting, row))

    def test(self, setting: Setting, count: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The first so many test images, and their labels."""
        dataset = self.dataset(setting)
        return np.asarray(dataset.test_images[:count]), dataset.test_labels[:count]

    def sample(self, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """The training images that the objective is averaged over, in [0, 1], and their labels."""
        dataset = self.dataset(setting)
        images = np.asarray(data.to_float(jnp.asarray(dataset.train_images[: setting.sampled])))
        return images, dataset.train_labels[: setting.sampled]
