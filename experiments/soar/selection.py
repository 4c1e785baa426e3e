"""Training that keeps the epoch of highest held-out accuracy under attack, as the study does for PGD10."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from experiments.study import Recipe, Run, logits_fn
from jaxrobust import attacks, data, evaluation, training
from jaxrobust.reporting import CommandError


def train(
    run: Run, name: str, recipe: Recipe, dataset: data.Dataset, seeds: Sequence[int], attack: attacks.Attack
) -> dict[str, Any]:
    """The cell of one recipe's networks, each that of its best epoch; to be read like one of :func:`experiments.study.train`.

    Args:
        run: the study's folder.
        name: of the cell.
        recipe: how they are trained, with the engine ``"fit"``, random initial weights and no averaging.
        dataset: its test images are the held-out ones.
        seeds: of initialisation, data order and the objective's random numbers.
        attack: the accuracy under it, after every epoch, decides; of equal ones the latest epoch is kept.

    Raises:
        CommandError: if the loss becomes infinite or NaN, or a checkpoint cannot be written.
    """
    folder = run.checkpoints(name)

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        fitted = [_fit(recipe, dataset, seed, folder / str(seed), attack) for seed in seeds]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(variables for variables, _ in fitted))
        history = {name: [found[name] for _, found in fitted] for name in fitted[0][1]}
        shutil.rmtree(folder, ignore_errors=True)  # only now: a study that is stopped between two seeds goes on
        return {"seeds": list(seeds), "history": history}, flatten_dict(stacked, sep="/")

    return run.cell(name, compute)


def _fit(
    recipe: Recipe, dataset: data.Dataset, seed: int, directory: Path, attack: attacks.Attack
) -> tuple[Any, dict[str, list[float]]]:
    epoch_steps = data.steps_per_epoch(len(dataset.train_labels), recipe.batch_size, recipe.drop_last)
    optimizer = recipe.optimizer(recipe.learning_rate)

    def measure(variables: Any) -> Mapping[str, float]:
        network = logits_fn(recipe.model, variables)
        images, labels = dataset.test_images, dataset.test_labels
        return {"robust": evaluation.accuracy(network, images, labels, attack=attack, key=jax.random.key(0))}

    step = training.make_train_step(
        training.linen_apply(recipe.model),
        recipe.objective,
        optimizer,
        augment=recipe.augment,
        accumulate=recipe.accumulate,
    )
    images = jnp.zeros((1, *dataset.image_shape), jnp.float32)
    order = functools.partial(
        data.batches,
        dataset.train_images,
        dataset.train_labels,
        recipe.batch_size,
        seed=seed,
        epochs=recipe.epochs,
        drop_last=recipe.drop_last,
    )
    try:
        training.fit(
            training.init_state(recipe.model, jax.random.key(seed), images, optimizer),
            step,
            lambda start_step: order(start_step=start_step),
            steps=recipe.epochs * epoch_steps,
            directory=directory,
            checkpoint_every=recipe.checkpoint_epochs * epoch_steps,
            log_every=epoch_steps,
            evaluation=training.Evaluation(measure, every=epoch_steps, select="robust"),
            progress=False,
        )
    except (training.NonFiniteLossError, training.CheckpointError) as error:
        raise CommandError(f"{directory.parent.name}, seed {seed}: {error}") from error
    variables = jax.tree.map(np.asarray, training.restore_variables(directory / "checkpoints" / "best"))
    records = training.read_metrics(directory / "metrics.jsonl")
    return variables, {
        "loss": [record["loss"] for record in records if "loss" in record],
        "held_out": [record["eval/robust"] for record in records if "eval/robust" in record],
    }
