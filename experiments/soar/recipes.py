"""What the rows minimise, and how."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.study import Recipe, create_model
from jaxrobust import L2, Linf, attacks, data, optimizers, training
from jaxrobust.reporting import CommandError

from .presets import Setting
from .rows import Row


def recipe(setting: Setting, row: Row, dataset: data.Dataset) -> Recipe:
    """How a row's networks are trained.

    Raises:
        CommandError: for a network that does not fit the images.
    """
    drop_last = setting.batch_size <= len(dataset.train_labels)  # a last, smaller batch would be compiled for itself
    threat, step = threat_and_step(setting, row, dataset, row.steps)
    options = setting.options if row.options is None else row.options
    steps = row.epochs * data.steps_per_epoch(len(dataset.train_labels), setting.batch_size, drop_last)
    # What is equal in two rows is one object for both, whatever else they differ in.
    trained = replace(
        row,
        name="",
        text="",
        start=None,
        epochs=0,
        learning_rate=0.0,
        drops=(),
        model=None,
        options=None,
        measures=(),
        brief=False,
        seed_offset=0,
        select=False,
        shown=True,
    )
    return Recipe(
        model=create_model(row.model or setting.model, dataset.num_classes, dataset.image_shape, options),
        objective=_objective(trained, threat, step),
        optimizer=_optimizer(row.drops, steps, setting.momentum, setting.weight_decay),
        learning_rate=row.learning_rate,
        epochs=row.epochs,
        batch_size=setting.batch_size,
        drop_last=drop_last,
        augment=_augmentation() if setting.augment else None,
        engine=setting.engine,
        checkpoint_epochs=5,
    )


def threat_and_step(setting: Setting, row: Row, dataset: data.Dataset, steps: int) -> tuple[Linf | L2, float]:
    """What a row is trained for, and the step size of PGD with so many steps there."""
    if row.norm == "l2":
        eps = setting.l2_radii[-1]
        return L2(eps, dataset.bounds), 2.5 * eps / steps
    return Linf(setting.eps, dataset.bounds), setting.step_size


@functools.cache
def _objective(row: Row, threat: Linf | L2, step: float) -> training.Objective:
    steps = row.steps
    match row.method:
        case "standard":
            return training.standard()
        case "adversarial" if steps == 1:
            return training.adversarial(attacks.fgsm(_scaled(threat, row.radius), random_start=True))
        case "adversarial":
            return training.adversarial(attacks.pgd(_scaled(threat, row.radius), steps=steps, step_size=step))
        case "trades":
            attack = attacks.trades_pgd(threat, steps=steps, step_size=step, start="gaussian")
            return training.trades(attack, beta=row.beta)
        case "mart":
            return training.mart(attacks.pgd(threat, steps=steps, step_size=step), beta=row.beta)
        case "mma":
            return training.mma(threat, maximum=row.radius * threat.eps)
        case "foar":
            return training.foar(threat, point=row.point)
        case "soar":
            objective = training.soar(threat, point=row.point, product=row.product, clip=row.clip)
            return objective if row.mean_clip is None else _mean_clipped(objective, row.mean_clip)
    raise CommandError(f"{row.name}: unknown method {row.method!r}")


def _scaled(threat: Linf | L2, factor: float) -> Linf | L2:
    return replace(threat, eps=factor * threat.eps)


def _mean_clipped(objective: training.AdversarialObjective, limit: float) -> training.AdversarialObjective:
    """The objective with the batch's mean penalty limited, another reading of "clipping of 10"."""

    def loss(
        apply: training.Apply, variables: Any, key: jax.Array, batch: training.Batch
    ) -> tuple[jax.Array, training.Aux]:
        value, aux = objective.loss(apply, variables, key, batch)
        penalty = aux.metrics["penalty"]
        value = value - penalty + jnp.where(penalty < limit, penalty, limit)
        return value, aux._replace(metrics={**aux.metrics, "loss": value})

    return training.AdversarialObjective(objective.craft, loss)


@functools.cache
def _optimizer(
    drops: tuple[tuple[float, float], ...], steps: int, momentum: float, weight_decay: float
) -> training.OptimizerFactory:
    boundaries = [(round(fraction * steps), factor) for fraction, factor in drops]

    def make(rate: Any) -> optax.GradientTransformation:
        def schedule(step: jax.typing.ArrayLike) -> jax.Array:
            current = jnp.asarray(rate, jnp.float32)
            for boundary, factor in boundaries:
                current = jnp.where(jnp.asarray(step) < boundary, current, current * factor)
            return current

        return optimizers.sgd(schedule, momentum=momentum, weight_decay=weight_decay)

    return make


@functools.cache
def _augmentation() -> data.Augment:
    return data.compose(data.random_crop, data.random_flip)
