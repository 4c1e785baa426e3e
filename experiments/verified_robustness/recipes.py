"""How a row is trained: objective and optimizer, as the study's text has them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.study import Recipe
from jaxrobust import L2, Linf, attacks, data, optimizers, schedules, training
from jaxrobust.threat import ThreatModel

from .network import Network
from .rows import Row, Setting

TRAINING_STEPS = 10
"""Of PGD in training; each is a fifth of the radius."""
DOUBLINGS = 4
RISE = 0.1
"""Share of the epochs in which the weight of MMR grows from 0."""
BOUNDARIES = (0.1, 0.02)
"""Share of the hidden units whose boundaries count in MMR, at the first and at the last step."""
FINAL_FACTOR = 0.1


def recipe(setting: Setting, row: Row, dataset: data.Dataset) -> Recipe:
    """The recipe of a row. Equal rows get the same functions, so that nothing is compiled twice."""
    size = len(dataset.train_labels)
    drop_last = setting.batch_size <= size  # a last, smaller batch would be compiled for itself
    steps = setting.epochs * data.steps_per_epoch(size, setting.batch_size, drop_last)
    bare = replace(row, name="", label="", theirs=None, start=None, learning_rate=None)
    return Recipe(
        model=model(dataset.num_classes, setting.channels, setting.widths, setting.activation),
        objective=objective(bare, threat(setting), setting.ramp, steps),
        optimizer=optimizer(setting.final_share, steps),
        learning_rate=row.learning_rate or setting.learning_rate,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        drop_last=drop_last,
        engine=setting.engine,
        checkpoint_epochs=5,
    )


def threat(setting: Setting) -> Linf | L2:
    """What is defended against, in training and in the test."""
    return Linf(setting.eps) if setting.norm == "linf" else L2(setting.eps)


@functools.cache
def model(classes: int, channels: tuple[int, ...], widths: tuple[int, ...], activation: Any) -> Network:
    """One object for equal networks, so that compiled steps, attacks and bounds are shared."""
    return Network(classes, channels, widths, activation)


@functools.cache
def optimizer(final_share: float, steps: int) -> training.OptimizerFactory:
    """Adam, with a tenth of the rate in the last share of the steps."""

    def make(rate: Any) -> optax.GradientTransformation:
        if not final_share:
            return optimizers.adam(rate)
        last = round((1 - final_share) * steps)

        def schedule(step: jax.typing.ArrayLike) -> jax.Array:
            current = jnp.asarray(rate, jnp.float32)
            return jnp.where(jnp.asarray(step) < last, current, FINAL_FACTOR * current)

        return optimizers.adam(schedule)

    return make


@functools.cache
def objective(row: Row, threat: Linf | L2, ramp: tuple[float, float], steps: int) -> training.Objective:
    """What is minimised in so many steps."""
    eps = radius(row, steps)
    match row.method:
        case "plain":
            return training.standard()
        case "at":
            return training.adversarial(ten_steps(threat))
        case "kw":
            return training.kw(threat, eps=eps, subset=row.subset)
        case "kw_at":
            return training.kw(threat, eps=eps, subset=row.subset, attack=ten_steps)
        case "ibp":
            return training.ibp(threat, **_ramps(threat.eps, ramp, steps), subset=row.subset)
        case "crown_ibp":
            schedule = _ramps(threat.eps, ramp, steps)
            return training.crown_ibp(threat, beta=_linear(1.0, 0.0, ramp, steps), **schedule, subset=row.subset)
        case "mmr" | "mmr_at":
            make: Any = training.mmr if row.method == "mmr" else training.mmr_at
            return make(
                threat,
                boundary_gamma=row.gamma,
                decision_gamma=row.gamma,
                weight=_linear(0.0, row.weight, (0.0, RISE), steps),
                boundaries=_linear(*BOUNDARIES, (0.0, 1.0), steps),
            )
        case "per" | "per_at":
            make = training.per if row.method == "per" else training.per_at
            return make(threat, alpha=row.alpha, beta=row.beta, eps=eps, method=row.bounds, subset=row.subset)


def ten_steps(threat: ThreatModel) -> attacks.Attack:
    """PGD of training, from a random start."""
    return attacks.pgd(threat, steps=TRAINING_STEPS, step_size=threat.eps / 5)


def radius(row: Row, steps: int) -> optax.Schedule | float | None:
    """The radius of the envelope, and of the attack, by step; ``None`` for the threat model's own."""
    if row.first_eps is None:
        return row.eps
    return schedules.doubling(row.first_eps, every=max(1, steps // (DOUBLINGS + 1)), times=DOUBLINGS)


def _ramps(eps: float, ramp: tuple[float, float], steps: int) -> dict[str, optax.Schedule]:
    """Of IBP: the radius grows from 0 while the share of the images' own loss falls from 1 to a half."""
    return {"eps": _linear(0.0, eps, ramp, steps), "kappa": _linear(1.0, 0.5, ramp, steps)}


def _linear(first: float, last: float, ramp: tuple[float, float], steps: int) -> optax.Schedule:
    begin, end = (round(share * steps) for share in ramp)
    return optax.linear_schedule(first, last, max(1, end - begin), begin)
