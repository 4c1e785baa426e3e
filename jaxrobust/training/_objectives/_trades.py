"""TRADES."""

from __future__ import annotations

from functools import partial

from jaxrobust import losses
from jaxrobust.attacks import Attack

from ._base import AdversarialObjective, BatchNormMode, clean_and_adversarial


def trades(
    attack: Attack,
    *,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
    attack_batch_norm: BatchNormMode = "running",
) -> AdversarialObjective:
    """Cross-entropy on clean images plus ``beta * KL(p(x) || p(x'))``: TRADES (Zhang et al., 2019).

    The mean of :func:`jaxrobust.losses.trades`, differentiated through both arguments of the divergence. Clean and
    adversarial images pass the network one after the other, in this order, and batch norm's running statistics are
    updated by both. Metrics: ``loss``, ``accuracy``, ``robust_accuracy``. Cost: the attack plus two forward and two
    backward passes.

    Args:
        attack: the paper's is :func:`~jaxrobust.attacks.trades_pgd`, which maximises the same divergence.
        beta: the paper's ``1 / lambda``: 6 and 1 there, 5 in Wang et al. (2023) for CIFAR-10.
        label_smoothing: of the cross-entropy; 0 in the paper, 0.1 in Wang et al. (2023).
        attack_batch_norm: see :func:`adversarial`. The paper's code attacks in evaluation mode (``"running"``), that of
            Wang et al. (2023) in training mode (``"batch"``).

    Raises:
        ValueError: for a negative ``beta``.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta}")
    loss = partial(losses.trades, beta=beta, label_smoothing=label_smoothing)
    return clean_and_adversarial(attack, attack_batch_norm, loss)
