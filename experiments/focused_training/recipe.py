"""What one update is: the pipeline of Wang et al. (2023), with a focus set (section 3.5 of the study)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import L2, Linf, attacks, data, losses, models, optimizers, schedules, training
from jaxrobust.threat import ThreatModel

from .presets import Setting
from .setups import Mode, Version


class Focus(NamedTuple):
    """The focus set that training sees.

    Attributes:
        clean: its images, ``[k, height, width, channels]``.
        crafted: the images under PGD-40, made anew in the beginning of every epoch; the clean ones before.
        labels: int32 ``[k]``.
    """

    clean: jax.Array
    crafted: jax.Array
    labels: jax.Array


def threat(setting: Setting, bounds: tuple[float, float] | None = (0.0, 1.0)) -> ThreatModel:
    """The setting's threat model."""
    return (L2 if setting.norm == "l2" else Linf)(setting.eps, bounds=bounds)


@functools.cache
def tracking_attack(setting: Setting) -> attacks.Attack:
    """PGD-40: the margin loss, cut off where an example is misclassified, from a random start in the ball."""
    return attacks.pgd(
        threat(setting), steps=setting.tracking_steps, step_size=setting.step_size, loss=losses.carlini_wagner
    )


def objective(setting: Setting, mode: Mode) -> training.AdversarialObjective:
    """TRADES, for a paired focus with the partners of :func:`paired`."""
    attack = attacks.trades_pgd(
        threat(setting),
        steps=setting.train_steps,
        step_size=setting.step_size if setting.training_step is None else setting.training_step,
        start="gaussian" if setting.norm == "l2" else "uniform",
    )
    trades = training.trades(
        attack, beta=setting.beta, label_smoothing=setting.label_smoothing, attack_batch_norm="batch"
    )
    return paired(trades) if mode == "emulate_pair" else trades


@functools.cache  # networks of one recipe share a compiled step
def training_step(
    model: nn.Module, setting: Setting, mode: Mode, version: Version, epochs: int
) -> tuple[training.TrainStep, Any, training.Averaging]:
    """The training step with its optimizer and the averaging of its weights.

    Args:
        model: the network.
        setting: its ``setups`` are not read.
        mode: what training does with the focus set.
        version: of the learning rate.
        epochs: in all.
    """
    momentum: Any = setting.momentum
    if setting.cycle_momentum:
        momentum = schedules.per_epoch(schedules.one_cycle_momentum(epochs), setting.epoch_steps)
    rate = schedules.one_cycle_version(version, setting.peak_rate, epochs)
    optimizer = optimizers.sgd(
        schedules.per_epoch(rate, setting.epoch_steps),
        momentum=momentum,
        nesterov=True,
        weight_decay=setting.weight_decay,
        weight_decay_mask=models.decay_mask,
    )
    averaging = training.ema(setting.decay, warmup_steps=setting.warmup_steps(epochs))
    augmentations = {"crop": data.random_crop, "flip": data.random_flip, "rotate": data.random_rotation(15)}
    augment = data.compose(*(augmentations[name] for name in setting.augment)) if setting.augment else None
    step = training.make_train_step(
        training.linen_apply(model),
        objective(setting, mode),
        optimizer,
        augment=augment,
        extend=None if mode == "monitor" else functools.partial(extend, mode),
        averaging=averaging,
        accumulate=setting.accumulate,
    )
    return step, optimizer, averaging


def extend(mode: Mode, state: training.TrainState, batch: training.Batch) -> training.Batch:
    """Add the focus images that the batch names, as they are, behind the augmented ones."""
    focus: Focus = state.memory.focus
    rows = batch["focus"]
    images = focus.crafted if mode == "emulate" else focus.clean
    extended = {
        **{name: array for name, array in batch.items() if name != "focus"},
        "images": jnp.concatenate([batch["images"], images[rows]]),
        "labels": jnp.concatenate([batch["labels"], focus.labels[rows]]),
    }
    return {**extended, "partners": focus.crafted[rows]} if mode == "emulate_pair" else extended


def paired(trades: training.AdversarialObjective) -> training.AdversarialObjective:
    """The objective with ``batch["partners"]`` as adversarial images of the last rows, which are not attacked."""

    def craft(apply: training.Apply, variables: Any, key: jax.Array, batch: training.Batch) -> training.Batch:
        partners = batch["partners"]
        ordinary = {name: batch[name][: -len(partners)] for name in ("images", "labels")}
        crafted = trades.craft(apply, variables, key, ordinary)["adversarial"]
        return {**batch, "adversarial": jnp.concatenate([crafted, partners])}

    return training.AdversarialObjective(craft, trades.loss)
