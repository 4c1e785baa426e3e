"""The study's trained networks, each row a cell on disk, shared by all parts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import Run, create_model, load_dataset, logits_fn, members, stacked_variables, train
from jaxrobust import attacks, data, models
from jaxrobust.reporting import CommandError

from .network import PlainCNN
from .recipes import recipe
from .rows import Row, Setting


class Networks:
    """Trains what is not on disk yet and hands out networks as functions of images.

    Args:
        run: the study's folder.
        data_dir: TFDS folder, or ``None`` for the default.
        weights: network to its file of pretrained weights.
    """

    def __init__(self, run: Run, data_dir: Path | None = None, weights: dict[str, Path] | None = None) -> None:
        self.run, self._data_dir, self._weights = run, data_dir, weights or {}

    def prepare(self, setting: Setting, rows: tuple[Row, ...]) -> None:
        """Load what the rows need, so that what is missing is noticed before any work.

        Raises:
            CommandError: for a data set or weights that cannot be read or do not fit, or too few images.
        """
        dataset = self.dataset(setting)
        for row in rows:
            self.model(setting, row)
            if row.start == "weights":
                self._pretrained(setting, row)
            if row.epochs and row.batch_size > len(dataset.train_labels):
                raise CommandError(
                    f"{setting.name}: {row.name} needs batches of {row.batch_size}, but there are only "
                    f"{len(dataset.train_labels)} training images"
                )

    def dataset(self, setting: Setting) -> data.Dataset:
        """The setting's images, loaded once."""
        return _dataset(setting.dataset, setting.subset, self._data_dir)

    def model(self, setting: Setting, row: Row) -> nn.Module:
        """The row's network, untrained; one object for equal networks, so that compiled steps and attacks are shared."""
        dataset = self.dataset(setting)
        options = {"activation": row.activation, **_normalisation(setting, dataset), **dict(row.options)}
        if row.model == "cnn":
            return _cnn(dataset.num_classes, tuple(sorted(options.items())))
        return create_model(row.model, dataset.num_classes, dataset.image_shape, tuple(sorted(options.items())))

    def trained(self, setting: Setting, row: Row) -> dict[str, Any]:
        """The cell of a row's networks, see :func:`experiments.study.train`."""
        initial = None
        if row.start == "weights":
            initial = functools.partial(self._pretrained_stack, setting, row)
        elif row.start is not None:
            before = replace(setting.row(row.start), seeds=row.seeds)
            initial = functools.partial(self._variables, setting, before)
        model, dataset = self.model(setting, row), self.dataset(setting)
        name = f"train/{setting.name}/{row.name}"
        return train(self.run, name, recipe(setting, row, model, dataset), dataset, row.seeds, initial)

    def members(self, setting: Setting, row: Row) -> Iterator[attacks.LogitsFn]:
        """Each seed's network in evaluation mode, as a function of images."""
        model = self.model(setting, row)
        if not row.epochs:
            variables = jax.tree.map(jnp.asarray, self._pretrained(setting, row))
            yield from (logits_fn(model, variables) for _ in row.seeds)
        else:
            yield from members(self.trained(setting, row), model)

    def _variables(self, setting: Setting, row: Row) -> Any:
        return stacked_variables(self.trained(setting, row))

    def _pretrained_stack(self, setting: Setting, row: Row) -> Any:
        return jax.tree.map(lambda leaf: np.stack([leaf] * len(row.seeds)), self._pretrained(setting, row))

    def _pretrained(self, setting: Setting, row: Row) -> Any:
        if row.model not in self._weights:
            raise CommandError(
                f"{row.name} starts from pretrained weights: name their file with --weights {row.model}=FILE, or choose "
                "other rows with --rows"
            )
        model, file = self.model(setting, row), self._weights[row.model]
        return _load(file, model, self.dataset(setting).image_shape)


@functools.cache
def _dataset(name: str, subset: int | None, data_dir: Path | None) -> data.Dataset:
    return load_dataset(name, data_dir, subset=subset)


@functools.lru_cache(maxsize=2)
def _load(file: Path, model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    try:
        return jax.tree.map(np.asarray, dict(models.load_variables(file, model, image_shape)))
    except (OSError, ValueError, ImportError) as error:
        raise CommandError(f"--weights: {error}") from error


@functools.cache
def _cnn(classes: int, options: tuple[tuple[str, Any], ...]) -> nn.Module:
    return PlainCNN(classes, **dict(options))


def _normalisation(setting: Setting, dataset: data.Dataset) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of the pixels by channel: ImageNet's, or those of the training images."""
    if setting.imagenet:
        return {"mean": data.IMAGENET_MEAN, "std": data.IMAGENET_STD}
    pixels = data.to_float(dataset.train_images)
    return {
        name: tuple(round(float(value), 4) for value in np.asarray(function(pixels, axis=(0, 1, 2), dtype=np.float64)))
        for name, function in (("mean", np.mean), ("std", np.std))
    }
