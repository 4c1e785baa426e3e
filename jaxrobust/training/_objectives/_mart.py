"""MART: misclassification-aware adversarial training."""

from __future__ import annotations

from functools import partial

from jaxrobust import losses
from jaxrobust.attacks import Attack

from ._base import AdversarialObjective, BatchNormMode, clean_and_adversarial


def mart(
    attack: Attack,
    *,
    beta: float = 5.0,
    label_smoothing: float = 0.0,
    attack_batch_norm: BatchNormMode = "running",
) -> AdversarialObjective:
    """Boosted cross-entropy on adversarial images plus ``beta * KL(p(x) || p(x')) * (1 - p_y(x))``: MART.

    The mean of :func:`jaxrobust.losses.mart`, which says where it departs from the published code. Clean and adversarial
    images pass the network one after the other, in this order, and batch norm's running statistics are updated by both.
    Metrics: ``loss``, ``accuracy``, ``robust_accuracy``. Cost: the attack plus two forward and two backward passes.
    Source: Wang et al., 2020.

    Args:
        attack: the paper's is :func:`~jaxrobust.attacks.pgd`.
        beta: weight of the divergence, 5 in the paper.
        label_smoothing: of the boosted cross-entropy's first term; 0 in the paper.
        attack_batch_norm: see :func:`adversarial`; the paper's code attacks in evaluation mode (``"running"``).

    Raises:
        ValueError: for a negative ``beta``.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta}")
    loss = partial(losses.mart, beta=beta, label_smoothing=label_smoothing)
    return clean_and_adversarial(attack, attack_batch_norm, loss)
