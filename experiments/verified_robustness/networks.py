"""The study's trained networks, one cell for each row."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import Run, load_dataset, members, stacked_variables, train
from jaxrobust import attacks, data
from jaxrobust.reporting import CommandError

from .network import Network
from .recipes import recipe
from .rows import Row, Setting


class Networks:
    """Trains what is not on disk yet, and hands out networks as functions of images.

    Args:
        run: the study's folder.
        data_dir: TFDS folder, or ``None`` for the default.
    """

    def __init__(self, run: Run, data_dir: Path | None = None) -> None:
        self.run, self._data_dir = run, data_dir

    def prepare(self, setting: Setting) -> None:
        """Load the data set and look at the network's shapes, so that what does not fit is noticed before any work.

        Raises:
            CommandError: for a data set that cannot be read, or images that are too small for the network.
        """
        image = jnp.zeros((1, *self.dataset(setting).image_shape), jnp.float32)
        try:
            jax.eval_shape(self.model(setting).init, jax.random.key(0), image)
        except ValueError as error:
            raise CommandError(f"{setting.title}: {error}") from error

    def dataset(self, setting: Setting) -> data.Dataset:
        """The setting's images, loaded once."""
        return _dataset(setting.dataset, setting.pooled_test, setting.examples, self._data_dir)

    def model(self, setting: Setting) -> Network:
        """The setting's network, untrained."""
        return recipe(setting, setting.rows[0], self.dataset(setting)).model  # type: ignore[return-value]

    def trained(self, setting: Setting, row: Row) -> dict[str, Any]:
        """The cell of a row's networks, see :func:`experiments.study.train`."""
        dataset = self.dataset(setting)
        start = None
        if row.start is not None:
            before = self.trained(setting, setting.row(row.start))
            start = functools.partial(stacked_variables, before)
        name = f"train/{setting.name}/{row.name}"
        return train(self.run, name, recipe(setting, row, dataset), dataset, setting.seeds, start)

    def members(self, setting: Setting, row: Row) -> Iterator[attacks.LogitsFn]:
        """A row's networks as functions of images, seed by seed."""
        return members(self.trained(setting, row), self.model(setting))

    def parameters(self, setting: Setting, row: Row) -> np.ndarray:
        """All weights and biases of a row's networks, ``[seeds, n]``."""
        leaves = jax.tree.leaves(stacked_variables(self.trained(setting, row)))
        return np.concatenate([leaf.reshape(len(setting.seeds), -1) for leaf in leaves], 1)

    def test(self, setting: Setting, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The first so many of the test images, in [0, 1], and their labels."""
        dataset = self.dataset(setting)
        images, labels = dataset.test_images[: setting.tested][:count], dataset.test_labels[: setting.tested][:count]
        return np.asarray(data.to_float(jnp.asarray(images))), labels


@functools.cache
def _dataset(name: str, pooled_test: int | None, examples: int | None, data_dir: Path | None) -> data.Dataset:
    return load_dataset(name, data_dir, pooled_test=pooled_test, subset=examples)
