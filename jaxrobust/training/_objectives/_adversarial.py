"""Adversarial training on adversarial images alone."""

from __future__ import annotations

from typing import Any

import jax

from jaxrobust import losses
from jaxrobust.attacks import Attack, Loss

from .._state import Apply
from ._base import AdversarialObjective, Aux, Batch, BatchNormMode, accuracy, crafting


def adversarial(
    attack: Attack, loss: Loss = losses.cross_entropy, *, attack_batch_norm: BatchNormMode = "running"
) -> AdversarialObjective:
    """Mean loss on adversarial images: adversarial training (Madry et al., 2018).

    Metrics: ``loss``, ``robust_accuracy``, both on the adversarial images. Cost: the attack plus one forward and one
    backward pass.

    Args:
        attack: usually :func:`~jaxrobust.attacks.pgd`, or :func:`~jaxrobust.attacks.fgsm` with a random start.
        loss: on the adversarial images; the attack brings its own.
        attack_batch_norm: ``"running"``: the attack sees the network in evaluation mode; ``"batch"``: in training mode,
            with the statistics of the attacked batch and, where there is dropout, one mask for the whole attack. Running
            statistics are never touched by an attack.
    """

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits, model_state = apply(variables, batch["adversarial"], train=True, key=key)
        value = loss(logits, batch["labels"]).mean()
        return value, Aux(model_state, {"loss": value, "robust_accuracy": accuracy(logits, batch["labels"])})

    return AdversarialObjective(crafting(attack, attack_batch_norm), objective)
