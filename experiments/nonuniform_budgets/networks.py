"""The study's trained networks, one cell for each row."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from experiments.study import Recipe, Run, create_model, load_dataset, members, train
from jaxrobust import Linf, attacks, data, evaluation, optimizers, training
from jaxrobust.reporting import CommandError

from .presets import Row, Setting
from .published import TRAINING_EPS

SCALE = 2
"""Radii are reported for pixels in [-1, 1]; images lie in [0, 1], and networks map them to [-1, 1] first."""


class Networks:
    """Trains what is not on disk yet.

    Args:
        run: the study's folder.
        data_dir: TFDS folder, or ``None`` for the default.
    """

    def __init__(self, run: Run, data_dir: Path | None = None) -> None:
        self.run, self._data_dir = run, data_dir

    def prepare(self, setting: Setting) -> None:
        """Load the data set, so that what is missing is noticed before any work.

        Raises:
            CommandError: for a data set that cannot be read, or that has fewer test images than are to be certified.
        """
        count = len(self.dataset(setting).test_labels)
        if setting.images > count:
            raise CommandError(f"--images: {setting.name} has {count} test images, {setting.images} were asked for")

    @functools.cache  # noqa: B019 - one object for the life of a study
    def dataset(self, setting: Setting) -> data.Dataset:
        """The setting's images, of its classes alone."""
        return _restricted(load_dataset(setting.dataset, self._data_dir), setting.classes)

    def model(self, setting: Setting) -> nn.Module:
        """The setting's network, untrained."""
        dataset = self.dataset(setting)
        half = (0.5,) * dataset.image_shape[-1]
        options = (("mean", half), ("std", half), ("widths", setting.widths))
        return create_model("mlp", dataset.num_classes, dataset.image_shape, options)

    def trained(self, setting: Setting, row: Row) -> dict[str, Any]:
        """The cell of a row's networks, see :func:`experiments.study.train`."""
        dataset = self.dataset(setting)
        recipe = Recipe(
            model=self.model(setting),
            objective=_objective(row.eps, setting.attack_steps, setting.attack_step),
            optimizer=_adam(setting.b2, setting.weight_decay),
            learning_rate=setting.learning_rate,
            epochs=setting.epochs,
            batch_size=setting.batch_size,
            drop_last=setting.batch_size <= len(dataset.train_labels),  # a smaller batch would compile anew
        )
        return train(self.run, f"train/{setting.name}/{row.name}", recipe, dataset, setting.seeds)

    def logits_fns(self, setting: Setting, row: Row) -> Iterator[attacks.LogitsFn]:
        """A row's networks as functions of images, seed by seed."""
        return members(self.trained(setting, row), self.model(setting))

    def accuracy(self, setting: Setting, row: Row) -> dict[str, Any]:
        """The cell of which test images are classified correctly, as they are and under PGD: arrays ``[seeds, images]``."""

        def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
            dataset = self.dataset(setting)
            images, labels = np.asarray(dataset.test_images), dataset.test_labels
            found: dict[str, list[np.ndarray]] = {"clean": [], "pgd": []}
            for logits_fn in self.logits_fns(setting, row):
                for name, attack in (("clean", None), ("pgd", _pgd())):
                    right = evaluation.correct(logits_fn, images, labels, attack=attack, key=jax.random.key(0))
                    found[name].append(right)
            return {}, {name: np.stack(values) for name, values in found.items()}

        return self.run.cell(f"accuracy/{setting.name}/{row.name}", compute)


def _restricted(dataset: data.Dataset, classes: tuple[int, ...] | None) -> data.Dataset:
    """Of these classes alone, numbered anew."""
    if classes is None:
        return dataset
    parts = {}
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        kept = np.isin(labels, classes)
        parts[f"{part}_images"] = images[kept]
        parts[f"{part}_labels"] = np.asarray([classes.index(label) for label in labels[kept]], np.int32)
    return replace(dataset, **parts, num_classes=len(classes))


@functools.cache
def _objective(eps: float, steps: int, step: float) -> training.Objective:
    if not eps:
        return training.standard()
    radius = eps / SCALE
    return training.adversarial(attacks.pgd(Linf(radius), steps=steps, step_size=step * radius))


@functools.cache
def _adam(b2: float, weight_decay: float) -> training.OptimizerFactory:
    return functools.partial(optimizers.adam, b2=b2, weight_decay=weight_decay)


@functools.cache
def _pgd() -> attacks.Attack:
    """PGD-20 with the published training radius."""
    return attacks.pgd(Linf(TRAINING_EPS / SCALE), steps=20)
