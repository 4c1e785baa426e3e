"""How a row is trained: objective, optimizer and labels, as the study's text and code have them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.study import Recipe
from jaxrobust import Linf, attacks, data, edges, schedules, training
from jaxrobust.training import AdversarialObjective, Objective

from .rows import Labels, Row, Setting, Target

TRAINING_STEPS = 3
"""Of the attack in adversarial training; each is 2/3 of the radius."""
FINAL_RATE = 1e-5
WEIGHT_DECAY = 0.05
MIXUP, SMOOTHING = 0.8, 0.1
MEAN_DEVIATION = 0.225
"""What the text divides the radius by, where it differentiates by normalised images."""


def recipe(setting: Setting, row: Row, model: Any, dataset: data.Dataset) -> Recipe:
    """The recipe of a row. Equal rows get the same functions, so that nothing is compiled twice."""
    per_epoch = data.steps_per_epoch(len(dataset.train_labels), row.batch_size, drop_last=True)
    row = replace(row, name="", label="", seeds=(), judged=None, radii=())
    return Recipe(
        model=model,
        objective=objective(replace(setting, name="", rows=()), row, per_epoch, dataset.image_shape),
        optimizer=optimizer(row, per_epoch, setting.imagenet),
        learning_rate=row.learning_rate,
        epochs=row.epochs,
        batch_size=row.batch_size,
        drop_last=True,
        augment=_imagenet_augment() if setting.imagenet else None,
        mix=mix(row.labels, dataset.num_classes, setting.imagenet),
        averaging=None if row.decay is None else _average(row.decay),
        accumulate=setting.accumulate,
        engine=setting.engine,
    )


@functools.cache
def optimizer(row: Row, steps_per_epoch: int, imagenet: bool) -> training.OptimizerFactory:
    """``learning rate -> optimizer``. The rate changes from epoch to epoch, as the study has it."""

    def schedule(rate: Any) -> Any:
        if row.schedule == "constant":
            return rate
        cosine = schedules.cosine_with_warmup(
            rate,
            row.schedule_epochs or row.epochs,
            warmup_epochs=min(row.warmup_epochs, row.epochs - 1) if row.schedule_epochs is None else row.warmup_epochs,
            warmup_rate=row.warmup_rate,
            final_rate=FINAL_RATE,
        )
        return schedules.per_epoch(cosine, steps_per_epoch)

    def make(rate: Any) -> optax.GradientTransformation:
        if row.optimizer == "sgd":
            chosen = optax.sgd(schedule(rate), momentum=0.9)
        else:
            mask = _not_one_dimensional if imagenet else None
            chosen = optax.adamw(schedule(rate), weight_decay=WEIGHT_DECAY, mask=mask)
        return chosen if row.clip is None else optax.chain(optax.clip_by_global_norm(row.clip), chosen)

    return make


def _not_one_dimensional(params: Any) -> Any:
    """timm decays neither biases nor what norms learn."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


@functools.cache
def objective(setting: Setting, row: Row, steps_per_epoch: int, image_shape: tuple[int, ...]) -> Objective:
    """What is minimised. On ImageNet batch norm keeps its pretrained running statistics throughout."""
    threat, ramp = Linf(setting.eps), row.warmup_epochs * steps_per_epoch
    made: Objective
    if row.method == "natural":
        made = training.standard()
    elif row.method == "gradient_norm":
        weight: Any = row.penalty_weight
        made = training.gradient_norm(
            threat,
            loss_weight=row.loss_weight,
            penalty_weight=optax.linear_schedule(0.0, weight, ramp) if ramp else weight,
            scale=jnp.asarray(data.IMAGENET_STD) / MEAN_DEVIATION if setting.imagenet else None,
        )
    elif row.method == "adversarial":
        made = adversarial(threat, row.warmup_epochs, steps_per_epoch)
    else:
        first, each, most = row.edge_weight

        def weight_at(step: Any) -> jax.Array:
            return jnp.minimum(first + each * jnp.asarray(step, jnp.float32) / steps_per_epoch, most)

        made = training.edge_alignment(
            weight=weight_at,
            target=target_maps(row.target, edge_maps(setting), image_shape),
            signed=row.target != "magnitude",
        )
    return in_evaluation_mode(made) if setting.imagenet else made


def adversarial(threat: Linf, ramp_epochs: int, steps_per_epoch: int) -> AdversarialObjective:
    """PGD-3 from a random start; its step grows over the first epochs, once per epoch, from 0: in the first there is only the start."""
    full = 2 * threat.eps / TRAINING_STEPS
    if not ramp_epochs:
        return training.adversarial(attacks.pgd(threat, steps=TRAINING_STEPS, step_size=full))

    def ramped(step: jax.Array) -> AdversarialObjective:
        share = jnp.minimum(jnp.asarray(step // steps_per_epoch, jnp.float32) / ramp_epochs, 1)
        return training.adversarial(attacks.pgd(threat, steps=TRAINING_STEPS, step_size=full * share))

    return AdversarialObjective(
        lambda apply, variables, key, batch: ramped(batch["step"]).craft(apply, variables, key, batch),
        training.adversarial(attacks.pgd(threat, steps=TRAINING_STEPS, step_size=full)).loss,
    )


def in_evaluation_mode(objective: Objective) -> Objective:
    """The objective with the network in evaluation mode: running statistics are used and never updated."""

    def frozen(apply: training.Apply) -> training.Apply:
        return lambda variables, images, train=False, key=None: apply(variables, images, train=False, key=key)

    if isinstance(objective, AdversarialObjective):
        craft, loss = objective.craft, objective.loss
        return AdversarialObjective(
            lambda apply, *arguments: craft(frozen(apply), *arguments),
            lambda apply, *arguments: loss(frozen(apply), *arguments),
        )
    return lambda apply, *arguments: objective(frozen(apply), *arguments)


def edge_maps(setting: Setting) -> Callable[[jax.Array], jax.Array]:
    """Images ``[batch, height, width, channels]`` to the setting's edge maps ``[batch, height, width]``."""

    def maps(images: jax.Array) -> jax.Array:
        if setting.normalized_edges:
            images = (images - jnp.asarray(data.IMAGENET_MEAN)) / jnp.asarray(data.IMAGENET_STD)
        return edges.oriented_energy(images, **dict(setting.edge_options))

    return maps


def target_maps(
    target: Target, edge_maps: Callable[[jax.Array], jax.Array], image_shape: tuple[int, ...]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``(key, images) -> maps`` that gradients are aligned with: the image's edges or a control."""
    # One draw for the whole training and all images.
    signed = jax.random.normal(jax.random.key(0), image_shape[:2], jnp.float32)

    def maps(key: jax.Array, images: jax.Array) -> jax.Array:
        if target in ("edges", "magnitude"):
            return edge_maps(images)
        if target == "other_edges":
            # Two further on, not the next: mixup's partners are in reverse order, and no image may meet its own edges.
            return edge_maps(jnp.roll(images, 2, axis=0))
        if target == "image":
            return images
        fixed = {"ones": jnp.ones_like(signed), "noise": jnp.abs(signed), "signed_noise": signed}[target]
        return jnp.broadcast_to(fixed, images.shape[:3])

    return maps


@functools.cache
def mix(labels: Labels, num_classes: int, imagenet: bool) -> data.Mix | None:
    """What makes labels soft."""
    if labels == "hard":
        return None
    if imagenet and labels == "mixed":
        return data.imagenet_mix(num_classes)
    share = 1.0 if labels == "mixed" else 0.0
    return data.mix(num_classes, mixup_alpha=MIXUP, cutmix_alpha=0.0, probability=share, label_smoothing=SMOOTHING)


@functools.cache
def _imagenet_augment() -> data.Augment:
    return data.imagenet_augment()


@functools.cache
def _average(decay: float) -> training.Averaging:
    return training.ema(decay)
