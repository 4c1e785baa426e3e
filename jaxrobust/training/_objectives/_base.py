"""What an objective is, and the two stages of those with an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from jaxrobust import losses
from jaxrobust.attacks import Attack, LogitsFn

from .._state import Apply

Batch = Mapping[str, jax.Array]
"""``{"images": [batch, height, width, channels] in [0, 1], "labels": int [batch]}`` and what the method adds.

Where images are mixed, labels are the probability of each class, ``[batch, classes]``.

``"adversarial"`` are adversarial images, shaped as the images; ``"step"`` is the number of updates made, int32 scalar.
"""


class Aux(NamedTuple):
    """What an objective returns beside its value: the new model state and scalar metrics."""

    model_state: Any
    metrics: dict[str, jax.Array]


Objective = Callable[[Apply, Any, jax.Array, Batch], tuple[jax.Array, Aux]]
"""``(apply, variables, key, batch) -> (scalar, Aux)``."""

Craft = Callable[[Apply, Any, jax.Array, Batch], Batch]
"""``(apply, variables, key, batch) -> batch`` with adversarial images."""

BatchNormMode = Literal["running", "batch"]
"""What batch norm does during an attack: use running statistics, or those of the attacked batch."""

Weight: TypeAlias = float | optax.Schedule
"""A number, or a schedule of the number of updates made (``batch["step"]``)."""


@dataclass(frozen=True)
class AdversarialObjective:
    """An objective in two stages: an attack, and a loss that reads what the attack found.

    Called as any objective, it makes both stages with the two keys of :meth:`split`. A training step differentiates
    ``loss`` alone, so that the attack is not part of what is differentiated.

    Attributes:
        craft: adds ``"adversarial"`` images, constants for the gradient, to a batch. Parameters are constants for the
            attack, which computes no gradients for them and leaves running statistics as they are.
        loss: an :data:`Objective` of such a batch.
    """

    craft: Craft
    loss: Objective

    def __call__(self, apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        """Craft, then evaluate the loss."""
        craft_key, loss_key = self.split(key)
        return self.loss(apply, variables, loss_key, self.craft(apply, variables, craft_key, batch))

    @staticmethod
    def split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The keys of ``craft`` and of ``loss``."""
        craft_key, loss_key = jax.random.split(key)
        return craft_key, loss_key


def crafting(attack: Attack, batch_norm: BatchNormMode) -> Craft:
    """The stage that attacks ``batch["images"]``.

    With ``"running"`` the attack sees the network in evaluation mode. With ``"batch"`` it sees it in training mode, its
    new running statistics thrown away; dropout then has one mask for all steps of the attack, drawn from the key, and
    an example's result depends on the others in its batch.

    Raises:
        ValueError: for another mode.
    """
    if batch_norm not in get_args(BatchNormMode):
        raise ValueError(
            f"unknown attack_batch_norm {batch_norm!r}; choose one of {', '.join(get_args(BatchNormMode))}"
        )

    def craft(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Batch:
        attack_key, network_key = jax.random.split(key)
        constant = jax.lax.stop_gradient(variables)
        logits_fn = (
            evaluated(apply, constant)
            if batch_norm == "running"
            else partial(_batch_logits, apply, constant, network_key)
        )
        images = attack(attack_key, logits_fn, batch["images"], batch["labels"])
        return {**batch, "adversarial": jax.lax.stop_gradient(images)}

    return craft


def evaluated(apply: Apply, variables: Any) -> LogitsFn:
    """The network in evaluation mode."""
    return partial(_running_logits, apply, variables)


def _running_logits(apply: Apply, variables: Any, images: jax.Array) -> jax.Array:
    return apply(variables, images, train=False)[0]


def _batch_logits(apply: Apply, variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
    return apply(variables, images, train=True, key=key)[0]


def at_step(weight: Weight, batch: Batch) -> Any:
    """The number that a weight is in this step.

    Raises:
        ValueError: for a schedule, if the batch has no step.
    """
    if not callable(weight):
        return weight
    if "step" not in batch:
        raise ValueError('a weight that is a schedule needs the number of updates made as batch["step"]')
    return weight(batch["step"])


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Fraction of the batch that is classified as its label, or as the most probable class of a soft one, float32."""
    labels = losses.hard_labels(labels)
    return (logits.argmax(-1).astype(labels.dtype) == labels).mean(dtype=jnp.float32)


def logits_of_both(
    apply: Apply, variables: Any, key: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Logits of the images and of the adversarial images in training mode, and the new model state.

    Two passes, so that batch norm normalises either kind of images by its own statistics; its running statistics are
    updated by both, the clean ones first.
    """
    clean_key, adversarial_key = jax.random.split(key)
    clean, model_state = apply(variables, batch["images"], train=True, key=clean_key)
    variables = {**variables, **model_state}
    adversarial, model_state = apply(variables, batch["adversarial"], train=True, key=adversarial_key)
    return clean, adversarial, model_state


def clean_and_adversarial(
    attack: Attack, batch_norm: BatchNormMode, loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
) -> AdversarialObjective:
    """The mean of ``loss(clean logits, adversarial logits, labels)``, one value per example.

    The passes are those of :func:`logits_of_both`. Metrics: ``loss``, ``accuracy``, ``robust_accuracy``.
    """

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        clean, adversarial, model_state = logits_of_both(apply, variables, key, batch)
        labels = batch["labels"]
        value = loss(clean, adversarial, labels).mean()
        metrics = {
            "loss": value,
            "accuracy": accuracy(clean, labels),
            "robust_accuracy": accuracy(adversarial, labels),
        }
        return value, Aux(model_state, metrics)

    return AdversarialObjective(crafting(attack, batch_norm), objective)
