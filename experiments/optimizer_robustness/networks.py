"""The trained networks of the study, each population a cell on disk, shared by all parts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.study import Run, create_model, load_dataset, logits_fn, population_checkpoints
from jaxrobust import attacks, data, evaluation, models, optimizers, schedules, training
from jaxrobust.reporting import CommandError

from . import heads
from .config import Setting


class Networks:
    """Trains what is not on disk yet and hands out networks as ``logits_fn`` functions.

    Args:
        run: the study's folder.
        data_dir: TFDS folder, or ``None`` for the default.
        vit_weights: checkpoint of the settings that train a head alone.
    """

    def __init__(self, run: Run, data_dir: Path | None = None, vit_weights: Path | None = None) -> None:
        self.run, self._data_dir, self._vit_weights = run, data_dir, vit_weights

    def prepare(self, setting: Setting) -> None:
        """Load what the setting needs, so that what is missing is noticed before any work.

        Raises:
            CommandError: for a data set or a checkpoint that cannot be read, or a network that does not fit the data.
        """
        self.dataset(setting.dataset)
        self.model(setting)
        self._encoder(setting)

    @functools.cache  # noqa: B019 - one object for the life of a study
    def dataset(self, name: str) -> data.Dataset:
        """The data set, loaded once."""
        return load_dataset(name, self._data_dir)

    def model(self, setting: Setting) -> nn.Module:
        """The setting's network, untrained."""
        dataset = self.dataset(setting.dataset)
        return create_model(
            setting.model, dataset.num_classes, dataset.image_shape, tuple(sorted(setting.options.items()))
        )

    @functools.cache  # noqa: B019 - one object for the life of a study
    def _pretrained(self, name: str, model: nn.Module, image_shape: tuple[int, ...]) -> Any:
        if self._vit_weights is None:
            raise CommandError(
                f"{name} trains the head of a pretrained network: name its checkpoint with --vit-weights"
            )
        try:
            return heads.encoder(self._vit_weights, model, image_shape)
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from error

    def _encoder(self, setting: Setting) -> dict[str, Any]:
        """Frozen parameters of a setting that trains the head alone; none otherwise."""
        if not setting.head_only:
            return {}
        shape = self.dataset(setting.dataset).image_shape
        return {"encoder": self._pretrained(setting.name, self.model(setting), shape)}

    def _member(self, setting: Setting, stacked: Any, index: int) -> dict[str, Any]:
        """One network's variables, the frozen ones included."""
        variables = jax.tree.map(jax.numpy.asarray, training.member(stacked, index))
        return {**variables, "params": {**variables["params"], **self._encoder(setting)}}

    def learning_rate(self, setting: Setting, optimizer: str) -> float:
        """The setting's learning rate: its only candidate, or the one chosen on held-out training data.

        Candidates are compared by held-out accuracy averaged over seeds. Differences of less than one held-out image
        are ties, and of tied candidates the smallest is taken. A network that diverged counts as wrong everywhere.
        """
        return self.selection(setting, optimizer)["chosen"]

    def selection(self, setting: Setting, optimizer: str) -> dict[str, Any]:
        """The cell behind :meth:`learning_rate`: candidates, their held-out accuracies, and the chosen one."""
        candidates = sorted(setting.rates[optimizer])
        if len(candidates) == 1:
            return {"candidates": candidates, "accuracies": None, "chosen": candidates[0]}

        def compute() -> dict[str, Any]:
            part = data.holdout(self.dataset(setting.dataset))
            pairs = [(rate, seed) for rate in candidates for seed in setting.selection_seeds]
            population = self._train(setting, optimizer, part, pairs, f"select/{setting.name}/{optimizer}")
            accuracies = np.asarray(
                [
                    evaluation.accuracy(
                        logits_fn(self.model(setting), self._member(setting, population.variables, index)),
                        part.test_images,
                        part.test_labels,
                        bounds=part.bounds,
                    )
                    for index in range(len(pairs))
                ]
            ).reshape(len(candidates), -1)
            means = accuracies.mean(1)
            tied = means > means.max() - 100 / len(part.test_labels)
            return {
                "candidates": candidates,
                "accuracies": accuracies.tolist(),
                "chosen": candidates[int(np.argmax(tied))],
            }

        return self.run.cell(f"select/{setting.name}/{optimizer}", compute)

    def trained(self, setting: Setting, optimizer: str) -> dict[str, Any]:
        """The cell of one trained population: learning rate, final training loss per seed, and all weights."""
        owner = setting.trained_as or setting.name

        def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
            rate = self.learning_rate(setting, optimizer)
            pairs = [(rate, seed) for seed in setting.seeds]
            name = f"train/{owner}/{optimizer}"
            population = self._train(setting, optimizer, self.dataset(setting.dataset), pairs, name)
            weights = flatten_dict(jax.tree.map(np.asarray, dict(population.variables)), sep="/")
            return {"learning_rate": rate, "train_loss": population.history["loss"][-1].tolist()}, weights

        return self.run.cell(f"train/{owner}/{optimizer}", compute)

    def variables(self, setting: Setting, optimizer: str) -> Iterator[dict[str, Any]]:
        """The variables of each seed's network."""
        stacked = unflatten_dict(self.trained(setting, optimizer)["arrays"], sep="/")
        for index in range(len(setting.seeds)):
            yield self._member(setting, stacked, index)

    def logits_fns(self, setting: Setting, optimizer: str) -> Iterator[attacks.LogitsFn]:
        """Each seed's network as a function of images."""
        for variables in self.variables(setting, optimizer):
            yield logits_fn(self.model(setting), variables)

    def _train(
        self,
        setting: Setting,
        optimizer: str,
        dataset: data.Dataset,
        pairs: list[tuple[float, int]],
        name: str,
    ) -> training.Population:
        folder = self.run.checkpoints(name)
        if not setting.head_only:
            return train(self.model(setting), dataset, dataset.train_images, setting, optimizer, pairs, folder)
        model, images = cast(models.ViT, self.model(setting)), dataset.train_images
        stored = self.run.cell(
            f"features/{setting.name}/{len(images)}_images",
            lambda: ({}, {"features": heads.features(model, self._encoder(setting), images, dataset.flip)}),
        )
        head = heads.Head(dataset.num_classes)
        population = train(head, dataset, stored["arrays"]["features"], setting, optimizer, pairs, folder)
        return population._replace(variables={"params": heads.params(population.variables)})


def train(
    model: nn.Module,
    dataset: data.Dataset,
    images: np.ndarray,
    setting: Setting,
    optimizer: str,
    pairs: list[tuple[float, int]],
    folder: Path,
) -> training.Population:
    """Train one population by the study's recipe; ``images`` replace the data set's training images.

    Progress is kept in ``folder``, see :func:`experiments.study.population_checkpoints`.
    """
    total = setting.epochs * data.steps_per_epoch(len(images), setting.batch_size, setting.drop_last)
    with population_checkpoints(folder, images, setting.epochs) as checkpoints:
        return training.train_population(
            model,
            images,
            dataset.train_labels,
            optimizer=_optimizer(optimizer, setting.schedule, total),
            learning_rates=[rate for rate, _ in pairs],
            seeds=[seed for _, seed in pairs],
            epochs=setting.epochs,
            batch_size=setting.batch_size,
            drop_last=setting.drop_last,
            augment=data.random_flip if dataset.flip else None,
            checkpoints=checkpoints,
        )


@functools.cache
def _optimizer(name: str, schedule: str, total: int) -> training.OptimizerFactory:
    # One function per recipe, so that populations that differ in nothing but their data share compiled steps.
    factory = optimizers.by_name(name)
    make_schedule = schedules.step_decay if schedule == "step" else schedules.warmup_cosine
    return lambda rate: factory(make_schedule(rate, total))


def in_order(rates: Mapping[str, Any]) -> list[str]:
    """Optimizers of a setting, SGD first: it is what the others are compared with."""
    return sorted(rates, key=lambda name: (name != "sgd", list(optimizers.OPTIMIZERS).index(name)))
