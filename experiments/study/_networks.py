"""Networks trained by one recipe with several seeds: a cell of a study."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrobust import attacks, data, evaluation, models, training
from jaxrobust.reporting import CommandError

from ._run import Run


@dataclass(frozen=True)
class Recipe:
    """How one row's networks are trained. Functions are compared by identity: make them once (``functools.cache``).

    Attributes:
        model: the network.
        objective: what is minimised.
        optimizer: ``learning rate -> optimizer``.
        learning_rate: given to it.
        epochs: passes over the data.
        batch_size: images per update.
        drop_last: leave out the last, smaller batch of an epoch.
        augment, mix: see :func:`jaxrobust.training.make_train_step`.
        averaging: of the parameters; the average is what is kept. For ``engine="fit"``.
        accumulate: parts of a batch, for ``engine="fit"``.
        engine: ``"population"`` holds data and all seeds on one device; ``"fit"`` trains one seed after the other on
            all devices, with checkpoints, from any source of images.
        checkpoint_epochs: epochs between checkpoints of ``"fit"``.
        selection: with ``"fit"``: an attack on the data set's test images, which are held out then, after every epoch;
            the network of the epoch with the highest accuracy, the latest of equal ones, is kept instead of the last.
    """

    model: nn.Module
    objective: training.Objective
    optimizer: training.OptimizerFactory
    learning_rate: float
    epochs: int
    batch_size: int
    drop_last: bool = False
    augment: data.Augment | None = None
    mix: data.Mix | None = None
    averaging: training.Averaging | None = None
    accumulate: int = 1
    engine: Literal["population", "fit"] = "population"
    checkpoint_epochs: int = 1
    selection: attacks.Attack | None = None

    def steps(self, images: int) -> int:
        """Updates in all for so many training images."""
        return self.epochs * data.steps_per_epoch(images, self.batch_size, self.drop_last)


def load_dataset(
    name: str, data_dir: Path | None, *, pooled_test: int | None = None, subset: int | None = None
) -> data.Dataset:
    """A data set by name.

    Args:
        name: of the data set.
        data_dir: see :func:`jaxrobust.data.load`.
        pooled_test: put training and test images together and draw so many for the test, by class, with seed 0.
        subset: draw so many training images, by class, with seed 0; all where there are no more.

    Raises:
        CommandError: if it cannot be read, with the reason.
    """
    try:
        dataset = data.load(name, data_dir=data_dir)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if pooled_test is not None:
        pooled = replace(
            dataset,
            train_images=np.concatenate([dataset.train_images, dataset.test_images]),
            train_labels=np.concatenate([dataset.train_labels, dataset.test_labels]),
        )
        dataset = data.holdout(pooled, pooled_test)
    if subset is not None and subset < len(dataset.train_labels):
        part = data.holdout(dataset, subset)
        dataset = replace(dataset, train_images=part.test_images, train_labels=part.test_labels)
    return dataset


@functools.cache
def create_model(
    name: str, classes: int, image_shape: tuple[int, ...], options: tuple[tuple[str, Any], ...] = ()
) -> nn.Module:
    """A network by name: one object for equal arguments, so that compiled steps and attacks are shared.

    Raises:
        CommandError: if there is no such network, or it does not fit the images.
    """
    try:
        return models.create(name, classes=classes, image_shape=image_shape, **dict(options))
    except ValueError as error:
        raise CommandError(f"{name}: {error}") from error


def train(
    run: Run,
    name: str,
    recipe: Recipe,
    dataset: data.Dataset,
    seeds: Sequence[int],
    initial: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """The cell of one recipe's networks.

    Args:
        run: the study's folder.
        name: of the cell.
        recipe: how they are trained.
        dataset: its training images are used.
        seeds: of initialisation, data order and the objective's random numbers.
        initial: makes the variables to start from, every leaf ``[seeds, ...]``; random ones by default.

    Returns:
        ``{"history": {metric: [seed][epoch]}, "arrays": ...}``; :func:`members` takes the networks out of it.

    Raises:
        CommandError: if the loss becomes infinite or NaN in ``engine="fit"``, or a checkpoint cannot be written. A
            population goes on; a network that diverged has a loss that is not finite in its history.
    """

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        make = _population if recipe.engine == "population" else _fitted
        start = None if initial is None else initial()
        variables, history = make(recipe, dataset, seeds, start, run.checkpoints(name))
        arrays = flatten_dict(jax.tree.map(np.asarray, dict(variables)), sep="/")
        return {"seeds": list(seeds), "history": history}, arrays

    return run.cell(name, compute)


def stacked_variables(cell: dict[str, Any]) -> Any:
    """The variables of all networks of a cell of :func:`train`, every leaf ``[seeds, ...]``."""
    return unflatten_dict(cell["arrays"], sep="/")


def members(cell: dict[str, Any], model: nn.Module) -> Iterator[attacks.LogitsFn]:
    """Each seed's network in evaluation mode, as a function of images."""
    stacked = stacked_variables(cell)
    for index in range(len(cell["seeds"])):
        yield logits_fn(model, jax.tree.map(jnp.asarray, training.member(stacked, index)))


def logits_fn(model: nn.Module, variables: Any) -> attacks.LogitsFn:
    """A network in evaluation mode with its variables bound."""
    return cast(attacks.LogitsFn, functools.partial(_forward(model), variables))


@functools.cache
def _forward(model: nn.Module) -> Any:
    # Traced once per shape, where every evaluation would trace the network anew: a third of a small study's time.
    return jax.jit(model.apply, inline=True)


@contextmanager
def population_checkpoints(folder: Path, images: np.ndarray, epochs: int) -> Iterator[training.Checkpoints | None]:
    """Where a population keeps its progress, about every twentieth of the way; removed where the block ends well.

    ``None`` where training takes seconds: checkpoints would cost more than they save.
    """
    if images.nbytes * epochs <= 2e9:
        yield None
        return
    checkpoints = training.Checkpoints(folder, every=max(1, epochs // 20))
    try:
        yield checkpoints
    finally:
        checkpoints.close()
    shutil.rmtree(folder, ignore_errors=True)


def _population(
    recipe: Recipe, dataset: data.Dataset, seeds: Sequence[int], initial: Any, folder: Path
) -> tuple[Any, dict[str, Any]]:
    with population_checkpoints(folder, dataset.train_images, recipe.epochs) as checkpoints:
        population = training.train_population(
            recipe.model,
            dataset.train_images,
            dataset.train_labels,
            optimizer=recipe.optimizer,
            learning_rates=[recipe.learning_rate] * len(seeds),
            seeds=seeds,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            objective=recipe.objective,
            augment=recipe.augment,
            mix=recipe.mix,
            initial=initial,
            drop_last=recipe.drop_last,
            checkpoints=checkpoints,
        )
    return population.variables, {name: values.T.tolist() for name, values in population.history.items()}


def _fitted(
    recipe: Recipe, dataset: data.Dataset, seeds: Sequence[int], initial: Any, folder: Path
) -> tuple[Any, dict[str, Any]]:
    epoch_steps = data.steps_per_epoch(len(dataset.train_labels), recipe.batch_size, recipe.drop_last)
    optimizer = recipe.optimizer(recipe.learning_rate)
    step = training.make_train_step(
        training.linen_apply(recipe.model),
        recipe.objective,
        optimizer,
        augment=recipe.augment,
        mix=recipe.mix,
        averaging=recipe.averaging,
        accumulate=recipe.accumulate,
    )
    found, histories = [], []
    for index, seed in enumerate(seeds):
        images = jnp.zeros((1, *dataset.image_shape), jnp.float32)
        state = training.init_state(
            recipe.model,
            jax.random.key(seed),
            images,
            optimizer,
            averaging=recipe.averaging,
            variables=None if initial is None else training.member(initial, index),
        )
        order = functools.partial(
            data.batches,
            dataset.train_images,
            dataset.train_labels,
            recipe.batch_size,
            seed=seed,
            epochs=recipe.epochs,
            drop_last=recipe.drop_last,
        )
        directory = folder / str(seed)
        try:
            state = training.fit(
                state,
                step,
                lambda start_step, order=order: order(start_step=start_step),  # type: ignore[misc]
                steps=recipe.epochs * epoch_steps,
                directory=directory,
                checkpoint_every=recipe.checkpoint_epochs * epoch_steps,
                log_every=epoch_steps,
                evaluation=None if recipe.selection is None else _selection(recipe, dataset, epoch_steps),
                progress=False,
            )
        except (training.NonFiniteLossError, training.CheckpointError) as error:
            raise CommandError(f"{folder.name}, seed {seed}: {error}") from error
        variables = state.averaged_variables
        if recipe.selection is not None:
            variables = training.restore_variables(directory / "checkpoints" / "best")
        found.append(jax.tree.map(np.asarray, variables))
        histories.append(training.read_metrics(directory / "metrics.jsonl"))
    names = {name for record in histories[0] for name in record} - {"step"}
    history = {
        name: [[record[name] for record in records if name in record] for records in histories]
        for name in sorted(names)
    }
    # Only now: a study that is stopped between two seeds continues with the second.
    shutil.rmtree(folder, ignore_errors=True)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found), history


def _selection(recipe: Recipe, dataset: data.Dataset, epoch_steps: int) -> training.Evaluation:
    def measure(variables: Any) -> dict[str, float]:
        images, labels = dataset.test_images, dataset.test_labels
        network = logits_fn(recipe.model, variables)
        key = jax.random.key(0)
        return {"held_out": evaluation.accuracy(network, images, labels, attack=recipe.selection, key=key)}

    return training.Evaluation(measure, every=epoch_steps, select="held_out")
