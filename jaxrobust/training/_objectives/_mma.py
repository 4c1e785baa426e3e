"""MMA: max-margin adversarial training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.attacks import Attack, Loss, pgd
from jaxrobust.attacks._loop import misclassified
from jaxrobust.iteration import Closure, iterate
from jaxrobust.losses._expansion import with_radius
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import per_example

from .._state import Apply
from ._base import AdversarialObjective, Aux, Batch, accuracy, evaluated, logits_of_both


def mma(
    threat: ThreatModel,
    *,
    maximum: float,
    attack: Attack | None = None,
    bisections: int = 10,
    clean_weight: float = 1 / 3,
    loss: Loss = losses.cross_entropy,
) -> AdversarialObjective:
    """Max-margin adversarial training (Ding et al., 2020): every example is attacked as far as its own margin.

    ``clean_weight * loss(x) + (1 - clean_weight) * m``, means over the batch. ``m`` is the loss of the image itself
    where the network misclassifies it, the loss at the nearest adversarial image where one is found within ``maximum``,
    and 0 elsewhere: examples with a larger margin are left alone. Lowering the loss at the decision boundary pushes it
    away from the example.

    Departures from the publication:

    1. The nearest adversarial image is looked for once: an attack at radius ``maximum``, then bisection between the
       image and what it found. The publication attacks at the margin that the example had in the last epoch.

    Metrics: ``loss``, ``accuracy``, ``found``, the share of examples that are misclassified or whose adversarial image
    was found, and ``margin``, the mean of their margins in the threat model's norm, 0 for the misclassified ones. Cost:
    the attack, ``bisections + 2`` forward passes, and two forward and two backward passes.

    Args:
        threat: norm and box; its radius is replaced by ``maximum``.
        maximum: the largest margin that is trained for, ``d_max``.
        attack: finds adversarial images at radius ``maximum``; PGD with 10 steps by default.
        bisections: on the line from the image.
        clean_weight: in [0, 1], a third in the publication.
        loss: per-example loss.

    Raises:
        ValueError: for a maximum that is not positive, no bisection, or a weight outside [0, 1].
    """
    if not maximum > 0:
        raise ValueError(f"maximum must be above 0, got {maximum}")
    if bisections < 1:
        raise ValueError(f"bisections must be at least 1, got {bisections}")
    if not 0 <= clean_weight <= 1:
        raise ValueError(f"clean_weight must lie in [0, 1], got {clean_weight}")
    within = with_radius(threat, maximum)
    search = pgd(within, steps=10) if attack is None else attack

    def craft(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Batch:
        logits_fn = evaluated(apply, jax.lax.stop_gradient(variables))
        images, labels = batch["images"], batch["labels"]
        far = search(key, logits_fn, images, labels)
        constants = (Closure(logits_fn), images, far, labels)
        correct = ~misclassified(logits_fn(images), labels)
        reached = misclassified(logits_fn(far), labels)
        zero, one = jnp.zeros(len(labels), images.dtype), jnp.ones(len(labels), images.dtype)
        _, share = iterate(_bisect, constants, (zero, one), bisections)
        adversarial = jnp.where(per_example(correct, images), _between(images, far, share), images)
        found = {"adversarial": adversarial, "found": reached | ~correct}
        return {**batch, **jax.lax.stop_gradient(found)}

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        labels, found = batch["labels"], batch["found"]
        clean, adversarial, model_state = logits_of_both(apply, variables, key, batch)
        at_margin = jnp.where(found, loss(adversarial, labels), 0).mean()
        value = clean_weight * loss(clean, labels).mean() + (1 - clean_weight) * at_margin
        distance = within.norm(batch["adversarial"] - batch["images"])
        metrics = {
            "loss": value,
            "accuracy": accuracy(clean, labels),
            "margin": jnp.where(found, distance, 0).sum() / jnp.maximum(found.sum(), 1).astype(distance.dtype),
            "found": found.mean(dtype=jnp.float32),
        }
        return value, Aux(model_state, metrics)

    return AdversarialObjective(craft, objective)


Line = tuple[Closure, jax.Array, jax.Array, jax.Array]
"""Network, images, adversarial images and labels."""


def _between(images: jax.Array, far: jax.Array, share: jax.Array) -> jax.Array:
    return images + per_example(share, images) * (far - images)


def _bisect(line: Line, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Halve the part of the line that begins classified correctly and ends misclassified."""
    logits_fn, images, far, labels = line
    middle = (ends[0] + ends[1]) / 2
    wrong = misclassified(logits_fn(_between(images, far, middle)), labels)
    return jnp.where(wrong, ends[0], middle), jnp.where(wrong, middle, ends[1])
