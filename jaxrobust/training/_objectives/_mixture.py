"""Adversarial training on clean and adversarial images."""

from __future__ import annotations

import jax

from jaxrobust import losses
from jaxrobust.attacks import Attack, Loss

from ._base import AdversarialObjective, BatchNormMode, clean_and_adversarial


def mixture(
    attack: Attack,
    loss: Loss = losses.cross_entropy,
    *,
    clean_weight: float = 0.5,
    attack_batch_norm: BatchNormMode = "running",
) -> AdversarialObjective:
    """``clean_weight * loss(clean) + (1 - clean_weight) * loss(adversarial)``, means over the batch.

    Source: Goodfellow et al., 2015, with ``alpha = clean_weight``. Clean and adversarial images pass the network one
    after the other, in this order, and batch norm's running statistics are updated by both. Metrics: ``loss``,
    ``accuracy``, ``robust_accuracy``. Cost: the attack plus two forward and two backward passes.

    Args:
        attack: finds the adversarial images.
        loss: of both kinds of images; the attack brings its own.
        clean_weight: in [0, 1].
        attack_batch_norm: see :func:`adversarial`.

    Raises:
        ValueError: for a weight outside [0, 1].
    """
    if not 0 <= clean_weight <= 1:
        raise ValueError(f"clean_weight must lie in [0, 1], got {clean_weight}")

    def values(clean: jax.Array, adversarial: jax.Array, labels: jax.Array) -> jax.Array:
        return clean_weight * loss(clean, labels) + (1 - clean_weight) * loss(adversarial, labels)

    return clean_and_adversarial(attack, attack_batch_norm, values)
